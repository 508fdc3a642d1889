//! Whom we trust: the host's certificate authorities, Docker's certs.d for the registry, and files named
//! by the user. And who we are, where certs.d has a certificate for that.
//!
//! Used by `http` when a client is made. Verification is never switched off; a registry with a
//! self-signed certificate is trusted by putting that in certs.d. Docker's own recipe for a registry makes
//! such a certificate, which says of itself that it is an authority. Webpki takes none of those for a
//! server's, so one that is exactly a certificate given by the user is checked here: for its name and for
//! the key, not for its dates.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::error::{Cause, RegistryError};
use crate::limits::CA_BYTES;

/// Where CA certificates come from, besides the host's own.
#[derive(Debug, Clone, Default)]
pub(super) struct Authorities<'a> {
    /// PEM files.
    pub(super) files: &'a [PathBuf],
    /// Directories of Docker's layout: `<host[:port]>/*.crt`, and `*.cert` with `*.key` of who we are.
    pub(super) directories: &'a [PathBuf],
}

/// TLS settings of a session.
#[derive(Debug)]
pub(super) struct Settings {
    /// For the registry itself, which may ask who we are.
    pub(super) own: ClientConfig,
    /// For servers that the registry names.
    pub(super) other: ClientConfig,
}

/// Makes the TLS settings for a session with the registry `host`.
pub(super) fn config(authorities: &Authorities<'_>, host: &str) -> Result<Settings, RegistryError> {
    let mut given = Vec::new();
    let mut identity = None;
    for file in authorities.files {
        given.extend(read(file)?);
    }
    for directory in authorities.directories {
        // A registry's host has no path separator: `Reference` allows letters, digits, dots, dashes,
        // colons and brackets, and no component of dots alone.
        let directory = directory.join(host);
        let ca = |source| RegistryError::Ca {
            path: directory.clone(),
            source,
        };
        for file in files(&directory, "crt").map_err(ca)? {
            match read(&file) {
                Err(RegistryError::Ca { source, .. }) if is_for_others(&source) => {}
                read => given.extend(read?),
            }
        }
        for path in files(&directory, "cert").map_err(ca)? {
            let read = match identity {
                None => read_identity(&path),
                Some(_) => Err(invalid("there is another one for this registry")),
            };
            match read {
                Ok(found) => identity = Some(found),
                Err(source) if is_for_others(&source) => {}
                Err(source) => return Err(RegistryError::ClientCertificate { path, source }),
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(given, Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RegistryError::Setup(Cause::of(&error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let other = builder.clone().with_no_client_auth();
    let own = match identity {
        None => other.clone(),
        Some(Identity { path, chain, key }) => {
            let config = builder.with_client_auth_cert(chain, key);
            config.map_err(|error| RegistryError::ClientCertificate {
                path,
                source: invalid(&error.to_string()),
            })?
        }
    };
    Ok(Settings { own, other })
}

/// Who we are to a registry.
struct Identity {
    path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Webpki's verification, and before it that of certificates that the user gave us as they are.
#[derive(Debug)]
struct Verifier {
    given: Vec<CertificateDer<'static>>,
    /// `None` where there is no authority at all, which webpki refuses.
    webpki: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(
        given: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, RegistryError> {
        let mut roots = RootCertStore::empty();
        // A host without certificates, or with some bad ones, can still use plain HTTP and certs.d; what
        // is missing shows as an untrusted certificate. A given one that can't be an authority is still
        // good for being compared.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(given.iter().cloned());
        let webpki = if roots.is_empty() {
            None
        } else {
            let builder =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            Some(
                builder
                    .build()
                    .map_err(|error| RegistryError::Setup(Cause::of(&error)))?,
            )
        };
        Ok(Self {
            given,
            webpki,
            provider,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.given.iter().any(|given| given == certificate) {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        match &self.webpki {
            Some(webpki) => webpki.verify_server_cert(certificate, intermediates, name, ocsp, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Files of a registry's directory with this extension, in alphabetical order; none where the user may not
/// look. Docker's daemon, for which root puts them there, reads them as root: they are none of this user's.
fn files(directory: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file is not for this user to read, see [`files`].
fn is_for_others(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    read_pem(path)
        .and_then(|pem| certificates(&pem))
        .map_err(|source| RegistryError::Ca {
            path: path.to_owned(),
            source,
        })
}

/// A certificate, and its key, which Docker has beside it as `.key`.
fn read_identity(path: &Path) -> io::Result<Identity> {
    let chain = certificates(&read_pem(path)?)?;
    let file = path.with_extension("key");
    let key = read_pem(&file).and_then(|pem| {
        PrivateKeyDer::from_pem_slice(&pem).map_err(|error| invalid(&error.to_string()))
    });
    let key = key.map_err(|error| {
        let reason = format!("its key {}: {error}", file.display());
        io::Error::new(error.kind(), reason)
    })?;
    let path = path.to_owned();
    Ok(Identity { path, chain, key })
}

fn read_pem(path: &Path) -> io::Result<Vec<u8>> {
    let mut pem = Vec::new();
    std::fs::File::open(path)?
        .take(CA_BYTES)
        .read_to_end(&mut pem)?;
    Ok(pem)
}

fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| invalid(&error.to_string()))?;
    if certificates.is_empty() {
        return Err(invalid("it holds no certificate"));
    }
    Ok(certificates)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Does what is bound by permissions also where this is root.
    fn as_user<T: Send>(action: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let user = scope.spawn(|| {
                if nix::unistd::geteuid().is_root() {
                    // Of this thread alone.
                    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
                }
                action()
            });
            user.join().unwrap()
        })
    }

    #[test]
    fn what_the_user_may_not_read_is_passed_by() {
        let dir = tempfile::tempdir().unwrap();
        let docker = dir.path().join("docker");
        let certs = docker.join("certs.d");
        let folder = certs.join("h.io:5000");
        std::fs::create_dir_all(&folder).unwrap();
        let [ca, cert, key] = ["ca.crt", "me.cert", "me.key"].map(|name| folder.join(name));
        let pair = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["me".to_owned()]).unwrap();
        std::fs::write(&ca, "no certificate").unwrap();
        std::fs::write(&cert, params.self_signed(&pair).unwrap().pem()).unwrap();
        std::fs::write(&key, "no key").unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        set(dir.path(), 0o755);
        let config = || {
            let authorities = Authorities {
                files: &[],
                directories: std::slice::from_ref(&certs),
            };
            as_user(|| config(&authorities, "h.io:5000").map(drop))
        };
        for closed in [
            &[&docker][..],
            &[&certs],
            &[&folder],
            &[&ca, &cert],
            &[&ca, &key],
        ] {
            for path in closed {
                set(path, 0o000);
            }
            config().unwrap_or_else(|error| panic!("{closed:?}: {error}"));
            for path in closed {
                set(path, 0o755);
            }
        }
        // What can be read, and is nothing of the kind, is an error all the same.
        assert!(matches!(config(), Err(RegistryError::Ca { .. })));
        std::fs::remove_file(&ca).unwrap();
        let error = config().unwrap_err();
        assert!(
            matches!(error, RegistryError::ClientCertificate { .. }),
            "{error}"
        );
    }
}
