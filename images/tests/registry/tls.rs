//! Certificates, and where plain HTTP is allowed.

use std::path::Path;
use std::sync::Arc;

use bulkhead_images::registry::RegistryError;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use serde_json::json;

use crate::client::{Client, sample};
use crate::server::{Reply, Server, site};

/// A TLS server's settings.
fn settings(certificate: &rcgen::Certificate, key: &rcgen::KeyPair) -> rustls::ServerConfig {
    settings_for(WebPkiClientVerifier::no_client_auth(), certificate, key)
}

/// Those of one that is for these clients.
fn settings_for(
    clients: Arc<dyn ClientCertVerifier>,
    certificate: &rcgen::Certificate,
    key: &rcgen::KeyPair,
) -> rustls::ServerConfig {
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap()
}

/// A certificate authority, and a TLS server's settings with a certificate from it.
fn authority() -> (String, rustls::ServerConfig) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (ca_certificate.pem(), settings(&certificate, &key))
}

/// A self-signed certificate that calls itself an authority, as Docker's recipe makes it.
fn self_signed(name: &str) -> (String, rustls::ServerConfig) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), settings(&certificate, &key))
}

#[test]
fn a_self_signed_certificate_is_trusted_when_it_is_given() {
    let pull_given = |client: &mut Client, server: &Server, pem: &str| {
        let file = client.dir.path().join("ca.pem");
        std::fs::write(&file, pem).unwrap();
        client.options.ca_files = vec![file];
        client.pull(&server.name("x"))
    };
    let (pem, tls) = self_signed("127.0.0.1");
    let server = Server::start_tls(tls, site(&sample()));
    pull_given(&mut Client::new(), &server, &pem).unwrap();
    // For another host, or another one for the same host, it is not.
    let (other, _) = self_signed("127.0.0.1");
    let error = pull_given(&mut Client::new(), &server, &other).unwrap_err();
    assert!(
        matches!(error, RegistryError::Certificate { .. }),
        "{error}"
    );
    let (pem, tls) = self_signed("127.0.0.2");
    let server = Server::start_tls(tls, site(&sample()));
    let error = pull_given(&mut Client::new(), &server, &pem).unwrap_err();
    assert!(
        matches!(error, RegistryError::Certificate { .. }),
        "{error}"
    );
}

#[test]
fn certificates_are_checked_against_dockers_directories_and_given_files() {
    let (pem, tls) = authority();
    let server = Server::start_tls(tls, site(&sample()));
    let error = Client::new().refused(&server.name("x"));
    assert!(
        matches!(error, RegistryError::Certificate { .. }),
        "{error}"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains(&format!("/etc/docker/certs.d/{}/ca.crt", server.host()))
    );
    assert!(server.requests().is_empty());

    let write = |path: &Path, content: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    let mut by_file = Client::new();
    let file = by_file.dir.path().join("my-ca.pem");
    write(&file, &pem);
    by_file.options.ca_files = vec![file];
    by_file.pull(&server.name("x")).unwrap();

    let mut by_directory = Client::new();
    let certs = by_directory.dir.path().join("certs.d");
    by_directory.options.certs_dirs = vec![certs.clone()];
    write(&certs.join("other.host").join("ca.crt"), &pem);
    write(&certs.join(server.host()).join("README"), "no certificate");
    let error = by_directory.refused(&server.name("x"));
    assert!(
        matches!(error, RegistryError::Certificate { .. }),
        "{error}"
    );
    write(&certs.join(server.host()).join("ca.crt"), &pem);
    by_directory.pull(&server.name("x")).unwrap();
    write(
        &certs.join(server.host()).join("bad.crt"),
        "-----BEGIN NOTHING-----",
    );
    assert!(matches!(
        by_directory.pull(&server.name("x")),
        Err(RegistryError::Ca { .. })
    ));
}

#[test]
fn a_registry_that_asks_who_we_are_is_shown_the_certificate_of_its_directory() {
    let made = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.self_signed(&key).unwrap(), key)
    };
    let ((own, own_key), (user, user_key)) = (made("127.0.0.1"), made("user"));
    let mut users = rustls::RootCertStore::empty();
    users.add(user.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let users = WebPkiClientVerifier::builder_with_provider(users.into(), provider);
    let tls = settings_for(users.build().unwrap(), &own, &own_key);
    let server = Server::start_tls(tls, site(&sample()));

    let mut client = Client::new();
    let certs = client.dir.path().join("certs.d");
    let folder = certs.join(server.host());
    client.options.certs_dirs = vec![certs];
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("ca.crt"), own.pem()).unwrap();
    client.refused(&server.name("x"));
    std::fs::write(folder.join("client.cert"), user.pem()).unwrap();
    let error = client.refused(&server.name("x"));
    assert!(
        matches!(error, RegistryError::ClientCertificate { .. }),
        "{error}"
    );
    std::fs::write(folder.join("client.key"), user_key.serialize_pem()).unwrap();
    client.pull(&server.name("x")).unwrap();
    std::fs::write(folder.join("second.cert"), user.pem()).unwrap();
    let error = client.pull(&server.name("x")).unwrap_err();
    assert!(
        matches!(error, RegistryError::ClientCertificate { .. }),
        "{error}"
    );
}

#[test]
fn https_does_not_lead_to_http() {
    let (pem, tls) = authority();
    let plain = Server::start(site(&sample()));
    let target = format!("http://{}/", plain.host());
    let site = site(&sample());
    let server = Server::start_tls(tls, move |request| {
        if request.path.contains("token-please") {
            let challenge = format!("Bearer realm=\"{target}token\"");
            return Reply::error(401, "X").with("WWW-Authenticate", &challenge);
        }
        if request.path.contains("/blobs/") {
            return Reply::redirect(&format!("{target}{}", request.path.trim_start_matches('/')));
        }
        site(request)
    });
    let mut client = Client::with_login(&server.host(), json!({"auth": "bWU6c2VjcmV0"}));
    let file = client.dir.path().join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    client.options.ca_files = vec![file];
    let error = client.refused(&server.name("x"));
    assert!(
        error
            .to_string()
            .ends_with("the redirect would leave HTTPS"),
        "{error}"
    );
    let error = client.refused(&server.name("token-please"));
    assert!(
        error
            .to_string()
            .ends_with("it is not HTTPS, but the registry is"),
        "{error}"
    );
    assert!(plain.requests().is_empty());
}

#[test]
fn plain_http_is_for_this_machine_and_named_registries_only() {
    let server = Server::start(site(&sample()));
    // 127.0.0.1 in a form that is not taken for this machine.
    let port = server.host().rsplit(':').next().unwrap().to_owned();
    let host = format!("[::ffff:7f00:1]:{port}");
    let error = Client::new().refused(&format!("{host}/x"));
    assert!(
        matches!(error, RegistryError::Unreachable { .. }),
        "{error}"
    );
    assert!(server.requests().is_empty());
    let mut client = Client::new();
    client.options.insecure = vec![host.clone()];
    client.pull(&format!("{host}/x")).unwrap();
}
