//! Registries that bend the protocol itself: replies without end in other forms, headers that say something
//! else than the body, parts that nobody asked for.

use bulkhead_images::registry::RegistryError;

use crate::client::{Client, except, is_blob, sample};
use crate::sample::{hex, sha};
use crate::server::{Body, Reply, Server, site};

/// A chunk of 64 KiB (RFC 9112, section 7.1).
fn chunk() -> &'static [u8] {
    let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
    Box::leak(chunk.into_boxed_slice())
}

#[test]
fn chunks_without_end_end_at_the_limit() {
    for path in ["/manifests/", "/blobs/"] {
        let server = except(&sample(), move |request| {
            let reply = Reply::new(200, Body::Endless(chunk()));
            let asked = request.path.contains(path);
            asked.then(|| reply.with("Transfer-Encoding", "chunked"))
        });
        let error = Client::new().refused(&server.name("x"));
        assert!(
            matches!(error, RegistryError::TooLarge { .. }),
            "{path}: {error}"
        );
    }
}

#[test]
fn a_chunk_of_no_length_is_an_error() {
    for body in ["zz\r\nx\r\n0\r\n\r\n", "ffffffffffffffffff\r\nx", "-1\r\n"] {
        let server = except(&sample(), move |request| {
            let reply = Reply::new(200, Body::UntilClose(body.into()));
            let asked = request.path.contains("/manifests/");
            asked.then(|| reply.with("Transfer-Encoding", "chunked"))
        });
        let error = Client::new().refused(&server.name("x"));
        assert!(
            matches!(error, RegistryError::Broken { .. }),
            "{body:?}: {error}"
        );
    }
}

#[test]
fn a_head_of_ten_megabytes_is_an_error() {
    let long = "y".repeat(10 << 20);
    let server = except(&sample(), move |request| {
        let asked = request.path.contains("/manifests/");
        asked.then(|| Reply::ok("x").with("X", &long))
    });
    let error = Client::new().refused(&server.name("x"));
    assert!(matches!(error, RegistryError::Broken { .. }), "{error}");
}

#[test]
fn headers_that_say_something_else_are_not_believed() {
    let trap = Server::start(|_| Reply::ok("trapped"));
    let (image, elsewhere) = (sample(), format!("http://{}/", trap.host()));
    let good = site(&image);
    let zeros = format!("sha256:{}", "0".repeat(64));
    let server = Server::start(move |request| {
        good(request)
            .with("Docker-Content-Digest", &zeros)
            .with("ETag", &format!("\"{zeros}\""))
            .with("Link", &format!("<{elsewhere}next>; rel=\"next\""))
            .with("Content-Location", &elsewhere)
            .with("Refresh", &format!("0; url={elsewhere}"))
            .with("Alt-Svc", "h2=\"127.0.0.1:1\"")
            .with("Set-Cookie", "session=stolen")
    });
    let client = Client::new();
    let pulled = client.pull(&server.name("x")).unwrap();
    assert_eq!(pulled.image.id.to_string(), image.id());
    let digests = &pulled.image.repo_digests;
    assert!(digests[0].to_string().ends_with(&sha(&image.manifest)));
    assert!(trap.requests().is_empty());
    let cookies = server.requests();
    assert!(
        cookies
            .iter()
            .all(|request| request.header("cookie").is_none())
    );
}

#[test]
fn a_part_that_nobody_asked_for_is_refused() {
    let image = sample();
    let layer = image.layers[0].clone();
    let server = except(&image, move |request| {
        let range = format!("bytes 5-{}/{}", layer.len() - 1, layer.len());
        let part = Reply::new(206, Body::Whole(layer[5..].to_vec()));
        is_blob(request, &layer).then(|| part.with("Content-Range", &range))
    });
    let client = Client::new();
    client.refused(&server.name("x"));
    let blob = client.path("blobs/sha256").join(hex(&image.layers[0]));
    assert!(!blob.exists());
}

#[test]
fn a_reply_that_is_compressed_unasked_is_no_blob() {
    let image = sample();
    let layer = image.layers[0].clone();
    let server = except(&image, move |request| {
        assert!(
            request
                .header("accept-encoding")
                .is_none_or(|coding| coding == "identity")
        );
        let reply = Reply::ok(layer.clone()).with("Content-Encoding", "gzip");
        is_blob(request, &layer).then_some(reply)
    });
    // Nothing is decompressed on the way: the bytes are those of the digest.
    Client::new().pull(&server.name("x")).unwrap();
}
