//! Connections that break, and servers that can or can't go on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bulkhead_images::Digest;
use bulkhead_images::registry::{LayerState, RegistryError};
use bulkhead_images::store::Begin;

use crate::client::{Client, big, except, is_blob, sample};
use crate::sample::{Sample, hex, sha};
use crate::server::{Body, Reply, Request, Server, site};

/// A server that breaks the first `times` requests for `layer` with `broken`.
fn breaking(
    image: &Sample,
    layer: &[u8],
    times: usize,
    broken: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> Server {
    let (layer, count) = (layer.to_vec(), AtomicUsize::new(0));
    except(image, move |request| {
        (is_blob(request, &layer) && count.fetch_add(1, Ordering::SeqCst) < times)
            .then(|| broken(request))
    })
}

fn ranges(server: &Server, layer: &[u8]) -> Vec<Option<String>> {
    let requests = server.requests_for(&hex(layer));
    requests
        .iter()
        .map(|request| request.header("range").map(str::to_owned))
        .collect()
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let layer = big(100_000);
    let image = Sample::new(&[&layer]);
    let half = layer[..40_000].to_vec();
    let server = breaking(&image, &layer, 1, move |_| {
        Reply::new(200, Body::Cut(100_000, half.clone()))
    });
    Client::new().pull(&server.name("x")).unwrap();
    assert_eq!(
        ranges(&server, &layer),
        [None, Some("bytes=40000-".to_owned())]
    );
}

#[test]
fn a_server_error_in_the_middle_is_put_up_with() {
    let layer = big(100_000);
    let image = Sample::new(&[&layer]);
    let (half, count) = (layer[..40_000].to_vec(), AtomicUsize::new(0));
    let server = breaking(&image, &layer, 3, move |_| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            Reply::new(200, Body::Cut(100_000, half.clone()))
        } else {
            Reply::error(500, "UNKNOWN")
        }
    });
    let client = Client::new();
    let states = Mutex::new(Vec::new());
    client
        .pull_for("linux/amd64", &server.name("x"), &|event| {
            states.lock().unwrap().push(event.state)
        })
        .unwrap();
    let resumed = Some("bytes=40000-".to_owned());
    assert_eq!(
        ranges(&server, &layer),
        [None, resumed.clone(), resumed.clone(), resumed]
    );
    assert!(states.into_inner().unwrap().contains(&LayerState::Retrying));
}

#[test]
fn a_later_pull_goes_on_where_an_earlier_one_failed() {
    let layer = big(100_000);
    let image = Sample::new(&[&layer]);
    let half = layer[..40_000].to_vec();
    let (count, gone) = (AtomicUsize::new(0), 4);
    let server = breaking(&image, &layer, gone, move |_| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            Reply::new(200, Body::Cut(100_000, half.clone()))
        } else {
            Reply::error(503, "UNAVAILABLE")
        }
    });
    let client = Client::new();
    let error = client.refused(&server.name("x"));
    assert_eq!(
        error.to_string(),
        format!(
            "{} answered the request for layer {} with HTTP status 503: UNAVAILABLE it is",
            server.host(),
            sha(&layer)
        )
    );
    assert_eq!(client.partials(), 1);
    client.pull(&server.name("x")).unwrap();
    assert_eq!(
        ranges(&server, &layer).last().unwrap().as_deref(),
        Some("bytes=40000-")
    );
}

#[test]
fn errors_that_stay_end_after_a_few_tries() {
    for path in ["/manifests/", "/blobs/"] {
        let server = except(&sample(), move |request| {
            request
                .path
                .contains(path)
                .then(|| Reply::error(500, "UNKNOWN"))
        });
        let error = Client::new().refused(&server.name("x"));
        assert!(
            matches!(error, RegistryError::Status { status: 500, .. }),
            "{error}"
        );
        assert_eq!(server.requests_for(path).len(), 4);
        assert!(error.hint().is_some());
    }
}

#[test]
fn servers_that_cannot_resume_start_over() {
    let layer = big(50_000);
    let image = Sample::new(&[&layer]);
    for kind in 0..4 {
        let whole = layer.clone();
        let count = AtomicUsize::new(0);
        let server = breaking(&image, &layer, 3, move |request| {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                return Reply::new(200, Body::Cut(50_000, whole[..20_000].to_vec()));
            }
            if request.header("range").is_none() {
                return Reply::ok(whole.clone());
            }
            match kind {
                // Ranges are not known: all of it.
                0 => Reply::ok(whole.clone()),
                // Another part than was asked for.
                1 => Reply::new(206, Body::Whole(whole[10_000..].to_vec()))
                    .with("Content-Range", "bytes 10000-49999/50000"),
                // A part of something else.
                2 => Reply::new(206, Body::Whole(whole[20_000..].to_vec()))
                    .with("Content-Range", "bytes 20000-49999/60000"),
                _ => Reply::error(416, "RANGE_INVALID"),
            }
        });
        let client = Client::new();
        client
            .pull(&server.name("x"))
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(client.partials(), 0);
    }
}

#[test]
fn a_partial_download_with_wrong_content_is_thrown_away() {
    let layer = big(50_000);
    let image = Sample::new(&[&layer]);
    let server = Server::start(site(&image));
    let client = Client::new();
    match client.store.begin(&Digest::of(&layer), 50_000).unwrap() {
        Begin::Writer(mut writer) => writer.write(&[0xee; 30_000]).unwrap(),
        other => panic!("{other:?}"),
    }
    client.pull(&server.name("x")).unwrap();
    assert_eq!(
        ranges(&server, &layer),
        [Some("bytes=30000-".to_owned()), None]
    );
}
