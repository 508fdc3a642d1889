//! Whom we trust: the host's certificate authorities, Docker's certs.d for the registry, and files named
//! by the user.
//!
//! Used by `http` when a client is made. Verification is never switched off; a registry with a
//! self-signed certificate is trusted by putting that in certs.d.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::error::{Cause, RegistryError};
use crate::limits::CA_BYTES;

/// Where CA certificates come from, besides the host's own.
#[derive(Debug, Clone, Default)]
pub(super) struct Authorities<'a> {
    /// PEM files.
    pub(super) files: &'a [PathBuf],
    /// Directories of Docker's layout: `<host[:port]>/*.crt`.
    pub(super) directories: &'a [PathBuf],
}

/// Makes the TLS settings for a session with the registry `host`.
pub(super) fn config(
    authorities: &Authorities<'_>,
    host: &str,
) -> Result<ClientConfig, RegistryError> {
    let mut roots = RootCertStore::empty();
    // A host without certificates, or with some bad ones, can still use plain HTTP and certs.d; what is
    // missing shows as an untrusted certificate.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for file in authorities.files {
        add(&mut roots, file)?;
    }
    for directory in authorities.directories {
        // A registry's host has no path separator: `Reference` allows letters, digits, dots, dashes,
        // colons and brackets, and no component of dots alone.
        let directory = directory.join(host);
        for file in crt_files(&directory).map_err(|source| RegistryError::Ca {
            path: directory.clone(),
            source,
        })? {
            add(&mut roots, &file)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RegistryError::Setup(Cause::of(&error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn crt_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "crt") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), RegistryError> {
    let read = || -> io::Result<Vec<CertificateDer<'static>>> {
        let mut pem = Vec::new();
        std::fs::File::open(path)?
            .take(CA_BYTES)
            .read_to_end(&mut pem)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certificates = certificates.map_err(|error| invalid(&error.to_string()))?;
        if certificates.is_empty() {
            return Err(invalid("it holds no certificate"));
        }
        Ok(certificates)
    };
    let failed = |source| RegistryError::Ca {
        path: path.to_owned(),
        source,
    };
    for certificate in read().map_err(failed)? {
        roots
            .add(certificate)
            .map_err(|error| failed(invalid(&error.to_string())))?;
    }
    Ok(())
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}
