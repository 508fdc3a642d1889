//! Registries that lie about content and sizes, never end, or point elsewhere.

use std::time::Duration;

use bulkhead_images::registry::{RegistryError, download, fetch};
use serde_json::json;

use crate::client::{Client, big, except, is_blob, sample};
use crate::sample::{Sample, hex, sha};
use crate::server::{Body, Reply, Server, site};

#[test]
fn a_layer_with_a_wrong_digest_is_refused() {
    let image = sample();
    let layer = image.layers[0].clone();
    let server = except(&image, move |request| {
        is_blob(request, &layer).then(|| Reply::ok(vec![b'x'; layer.len()]))
    });
    let client = Client::new();
    let error = client.refused(&server.name("x"));
    assert!(
        matches!(error, RegistryError::DigestMismatch { .. }),
        "{error}"
    );
    assert!(error.hint().is_some());
    assert!(!client.path("ingest").join(hex(&image.layers[0])).exists());
    assert_eq!(server.requests_for(&sha(&image.layers[0])).len(), 1);
}

#[test]
fn sizes_are_held_against_the_manifest() {
    let image = sample();
    let layer = image.layers[0].clone();
    let short = layer[..5].to_vec();
    let server = {
        let layer = layer.clone();
        except(&image, move |request| {
            is_blob(request, &layer).then(|| Reply::ok(short.clone()))
        })
    };
    let error = Client::new().refused(&server.name("x"));
    assert!(
        matches!(error, RegistryError::Short { expected: 15, .. }),
        "{error}"
    );

    let long: Vec<u8> = [layer.clone(), b" and more".to_vec()].concat();
    let server = except(&image, move |request| {
        is_blob(request, &layer).then(|| Reply::ok(long.clone()))
    });
    let error = Client::new().refused(&server.name("x"));
    assert!(
        error
            .to_string()
            .contains("has more than the 15 bytes expected"),
        "{error}"
    );

    let config = image.config.clone();
    let server = except(&image, move |request| {
        is_blob(request, &config).then(|| Reply::new(200, Body::UntilClose(config[..9].to_vec())))
    });
    assert!(matches!(
        Client::new().refused(&server.name("x")),
        RegistryError::SizeMismatch { .. }
    ));
}

#[test]
fn a_config_with_a_wrong_digest_is_refused() {
    let image = sample();
    let config = image.config.clone();
    let server = except(&image, move |request| {
        is_blob(request, &config).then(|| Reply::ok(vec![b' '; config.len()]))
    });
    let error = Client::new().refused(&server.name("x"));
    assert!(
        error
            .to_string()
            .starts_with("digest mismatch for the image config: got"),
        "{error}"
    );
}

#[test]
fn endless_replies_end_at_their_limits() {
    let endless = |path: &'static str, status: u16| {
        except(&sample(), move |request| {
            request
                .path
                .contains(path)
                .then(|| Reply::new(status, Body::Endless(&[b' '; 65_536])))
        })
    };
    let error = Client::new().refused(&endless("/manifests/", 200).name("x"));
    assert!(
        error
            .to_string()
            .ends_with("sent more than 4194304 bytes of the image manifest"),
        "{error}"
    );
    let server = endless("/manifests/", 500);
    assert!(matches!(
        Client::new().refused(&server.name("x")),
        RegistryError::Status { status: 500, .. }
    ));
    let server = endless("/blobs/", 200);
    assert!(matches!(
        Client::new().refused(&server.name("x")),
        RegistryError::TooLarge { limit, .. } if limit < 1000
    ));
}

#[test]
fn a_manifest_of_ten_megabytes_or_a_thousand_layers_is_refused() {
    let server = Server::start(|_| Reply::ok(vec![b' '; 10 << 20]));
    assert!(matches!(
        Client::new().refused(&server.name("x")),
        RegistryError::TooLarge { .. }
    ));
    let many = Sample::new(&vec![&b"x"[..]; 1000]);
    let server = Server::start(site(&many));
    let error = Client::new().refused(&server.name("x"));
    assert_eq!(
        error.to_string(),
        "the image has 1000 layers, above the limit of 127"
    );
    let most = Sample::new(&vec![&b"x"[..]; 127]);
    let server = Server::start(site(&most));
    assert_eq!(
        Client::new()
            .pull(&server.name("x"))
            .unwrap()
            .image
            .layers
            .len(),
        127
    );
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let layer = big(50_000);
    let image = Sample::new(&[&layer]);
    let some = layer[..100].to_vec();
    let stalled = layer.clone();
    let server = except(&image, move |request| {
        is_blob(request, &stalled).then(|| Reply::new(200, Body::Stalled(50_000, some.clone())))
    });
    let mut client = Client::new();
    client.options.patience.stall = Duration::from_millis(100);
    client.options.patience.attempts = 2;
    let error = client.refused(&server.name("x"));
    assert!(matches!(error, RegistryError::Stalled { .. }), "{error}");
    assert!(error.hint().unwrap().contains("kept"));
    assert_eq!(server.requests_for(&sha(&layer)).len(), 2);
}

#[test]
fn a_server_that_trickles_is_given_up() {
    let layer = big(50_000);
    let image = Sample::new(&[&layer]);
    let (blob, asked) = (layer.clone(), sha(&layer));
    let server = except(&image, move |request| {
        is_blob(request, &blob).then(|| Reply::new(200, Body::Trickle(50_000)))
    });
    let mut client = Client::new();
    // Some 30 bytes, where 8 KiB are wanted; each of them comes in time.
    client.options.patience.stall = Duration::from_millis(300);
    client.options.patience.attempts = 2;
    let error = client.refused(&server.name("x"));
    assert!(matches!(error, RegistryError::Stalled { .. }), "{error}");
    assert_eq!(server.requests_for(&asked).len(), 2);
    // Documents are shorter than that, and have a time limit of their own.
    for part in ["/manifests/", "/token"] {
        let server = except(&image, move |request| {
            if request.path.contains(part) {
                return Some(Reply::new(200, Body::Trickle(2000)));
            }
            let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host")?);
            (part == "/token").then(|| Reply::error(401, "X").with("WWW-Authenticate", &realm))
        });
        let mut client = Client::new();
        client.options.patience.document = Duration::from_millis(300);
        client.options.patience.attempts = 1;
        let error = client.refused(&server.name("x"));
        assert!(
            matches!(error, RegistryError::Stalled { .. }),
            "{part}: {error}"
        );
    }
}

#[test]
fn replies_that_are_no_http_are_errors() {
    let server = except(&sample(), |request| {
        request
            .path
            .contains("/manifests/")
            .then(|| Reply::new(200, Body::Whole(Vec::new())).with("Content-Length", "x"))
    });
    let error = Client::new().refused(&server.name("x"));
    assert!(matches!(error, RegistryError::Broken { .. }), "{error}");
}

#[test]
fn blobs_may_come_from_elsewhere_without_the_login() {
    let image = sample();
    let storage = Server::start(site(&image));
    let target = storage.host();
    let server = except(&image, move |request| {
        if request.header("authorization") != Some("Basic bWU6c2VjcmV0") {
            return Some(Reply::error(401, "X").with("WWW-Authenticate", "Basic realm=\"x\""));
        }
        let path = &request.path;
        path.contains("/blobs/")
            .then(|| Reply::redirect(&format!("http://{target}{path}?signed=1")))
    });
    let client = Client::with_login(&server.host(), json!({"auth": "bWU6c2VjcmV0"}));
    client
        .pull(&server.name("x"))
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(!storage.requests().is_empty());
    assert!(
        storage
            .requests()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
}

#[test]
fn redirects_that_lead_astray_are_refused() {
    for (location, expected) in [
        (
            "http://169.254.169.254/latest/meta-data/",
            "not on the registry's network",
        ),
        ("http://[fd00:ec2::254%25eth0]/", "no valid address"),
        ("http://0.0.0.0/", "not on the registry's network"),
        ("file:///etc/passwd", "neither HTTP nor HTTPS"),
        ("http://user:secret@127.0.0.1/", "a user name in it"),
        ("http://", "no valid address"),
    ] {
        let server = except(&sample(), move |request| {
            request
                .path
                .contains("/blobs/")
                .then(|| Reply::redirect(location))
        });
        let error = Client::new().refused(&server.name("x"));
        assert!(
            matches!(error, RegistryError::Forbidden { .. }),
            "{location}: {error}"
        );
        let text = error.to_string();
        assert!(
            text.contains(expected) && !text.contains("secret"),
            "{location}: {text}"
        );
    }
}

#[test]
fn a_circle_of_redirects_ends() {
    let server = except(&sample(), |request| {
        request
            .path
            .contains("/manifests/")
            .then(|| Reply::redirect(&request.path))
    });
    let error = Client::new().refused(&server.name("x"));
    assert!(
        error.to_string().ends_with("there were too many redirects"),
        "{error}"
    );
    assert_eq!(server.requests_for("/manifests/").len(), 6);
}

#[test]
fn addresses_in_a_manifest_are_never_asked() {
    let trap = Server::start(|_| Reply::ok("trapped"));
    let mut image = sample();
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][0]["urls"] = json!([format!("http://{}/layer", trap.host())]);
    image.manifest = serde_json::to_vec(&manifest).unwrap();
    let missing = image.layers[0].clone();
    let server = except(&image, move |request| {
        is_blob(request, &missing).then(|| Reply::error(404, "BLOB_UNKNOWN"))
    });
    Client::new().refused(&server.name("x"));
    assert!(trap.requests().is_empty());
}

/// What a download brings, as far as it comes.
fn fetched(address: &str) -> Result<std::io::Result<Vec<u8>>, RegistryError> {
    let mut options = Client::new().options;
    options.patience.stall = Duration::from_millis(300);
    fetch(address, &options, |reader| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(reader, &mut bytes).map(|_| bytes)
    })
}

#[test]
fn a_download_is_whole_or_an_error() {
    let content = big(300_000);
    let whole = content.clone();
    let server = Server::start(move |_| Reply::ok(whole.clone()));
    let got = fetched(&format!("http://{}/a.tar?b=c#d", server.host()));
    assert_eq!(got.unwrap().unwrap(), content);
    assert_eq!(server.requests()[0].path, "/a.tar?b=c");
    for body in [
        Body::Cut(1000, b"some".to_vec()),
        Body::Stalled(1000, b"some".to_vec()),
    ] {
        let server = Server::start(move |_| Reply::new(200, body.clone()));
        let got = fetched(&format!("http://{}/", server.host()));
        assert!(got.unwrap().is_err());
    }
    let server = Server::start(|_| Reply::redirect("http://169.254.169.254/"));
    let error = fetched(&format!("http://{}/", server.host())).unwrap_err();
    assert!(matches!(error, RegistryError::Forbidden { .. }), "{error}");
    for address in ["", "http://", "ftp://127.0.0.1/", "file:///etc/passwd", "x"] {
        let error = fetched(address).unwrap_err();
        assert!(
            matches!(error, RegistryError::Address(_)),
            "{address}: {error}"
        );
    }
}

#[test]
fn a_stranger_has_this_host_ask_nobody_who_is_private_to_it() {
    let server = Server::start(|_| Reply::ok(b"secret".to_vec()));
    let port = server.host().rsplit(':').next().unwrap().to_owned();
    let client = Client::new();
    let download = |address: &str| download(&client.store, address, &client.options);
    for host in [
        "127.0.0.1",
        "[::1]",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "[::ffff:192.0.0.192]",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "[64:ff9b::6464:64c8]",
        "[fe80::1]",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
    ] {
        let error = download(&format!("http://{host}:{port}/x")).unwrap_err();
        assert!(
            matches!(error, RegistryError::OutOfReach(_)),
            "{host}: {error}"
        );
    }
    // A name is looked up, and what it leads to counts.
    download(&format!("http://localhost:{port}/x")).unwrap_err();
    for address in ["file:///etc/shadow", "ftp://192.0.2.1/x", "x"] {
        let error = download(address).unwrap_err();
        assert!(
            matches!(error, RegistryError::Address(_)),
            "{address}: {error}"
        );
    }
    assert!(server.requests().is_empty());
}
