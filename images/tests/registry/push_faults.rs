//! Pushes to registries that fail, lie and lead astray.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_images::registry::{PushState, RegistryError};
use serde_json::json;

use crate::client::{Client, big};
use crate::inbox::Inbox;
use crate::push::packed;
use crate::sample::{Sample, sha};
use crate::server::{Body, PAUSE, Reading, Reply, Request, Server};

/// Bytes of a layer that is sent in more than one request.
const LARGE: usize = 3 << 20;

/// An image with one large layer, and that layer.
fn large() -> (Sample, Vec<u8>) {
    let layer = big(LARGE);
    (packed(&[&layer]), layer)
}

/// A registry that takes everything, but replies otherwise wherever `exception` has something to say.
fn except(
    exception: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> (Server, Inbox) {
    let inbox = Inbox::default();
    let taken = inbox.clone();
    let server =
        Server::start(move |request| exception(request).unwrap_or_else(|| taken.reply(request)));
    (server, inbox)
}

/// As [`except`], for the first `count` requests of a kind only.
fn at_first(
    count: usize,
    method: &'static str,
    part: &'static str,
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> (Server, Inbox) {
    let seen = AtomicUsize::new(0);
    except(move |request| {
        let is_meant = request.method == method && request.path.contains(part);
        (is_meant && seen.fetch_add(1, Ordering::SeqCst) < count).then(&reply)
    })
}

/// A push of a large image, which must arrive whole.
#[track_caller]
fn arrives(server: &Server, inbox: &Inbox) -> Client {
    let (image, layer) = large();
    let client = Client::new();
    let name = server.name("x:1");
    client.load(&image, &name);
    client.push(&name).unwrap();
    assert_eq!(inbox.manifest("x", "1").unwrap(), image.manifest);
    assert_eq!(inbox.blob("x", &sha(&layer)).unwrap(), layer);
    assert_eq!(inbox.open_uploads(), 0);
    client
}

/// A push of a large image that must fail, and leave nothing that could be taken for an image.
#[track_caller]
fn fails(server: &Server, inbox: &Inbox) -> RegistryError {
    let (image, _) = large();
    let client = Client::new();
    let name = server.name("x:1");
    client.load(&image, &name);
    let error = client.push(&name).unwrap_err();
    assert_eq!(inbox.manifest("x", "1"), None);
    let found = client.store.resolve(&name).unwrap();
    assert!(found.repo_digests.is_empty(), "{found:?}");
    assert_eq!(client.partials(), 0);
    error
}

/// Content-Range of each PATCH.
fn chunks(server: &Server) -> Vec<String> {
    let requests = server.requests();
    let patches = requests.iter().filter(|request| request.method == "PATCH");
    patches
        .map(|request| request.header("content-range").unwrap().to_owned())
        .collect()
}

fn range(from: usize) -> String {
    format!("{from}-{}", LARGE - 1)
}

/// A registry that reads the body of the first PATCH only so far.
fn reading_at_first(reading: Reading) -> (Server, Inbox) {
    let inbox = Inbox::default();
    let taken = inbox.clone();
    let first = Mutex::new(None);
    let server = Server::start_reading(
        move |request| {
            if request.method != "PATCH" {
                return Reading::Whole;
            }
            let range = request.header("content-range").map(str::to_owned);
            let mut first = first.lock().unwrap();
            // The server asks twice of the one that it cuts.
            match &*first {
                Some(before) if *before != range => Reading::Whole,
                _ => {
                    *first = Some(range);
                    reading
                }
            }
        },
        move |request| taken.reply(request),
    );
    (server, inbox)
}

#[test]
fn a_broken_upload_goes_on_where_it_was() {
    let (server, inbox) = reading_at_first(Reading::Cut(1_000_000));
    arrives(&server, &inbox);
    assert_eq!(chunks(&server), [range(0), range(1_000_000)]);
    let asked = server.requests_for("/uploads/u");
    assert!(asked.iter().any(|request| request.method == "GET"));
}

#[test]
fn connections_that_break_after_some_progress_are_no_tries() {
    const SIZE: usize = 12 << 20;
    const STEP: usize = 1_500_000;
    let layer = big(SIZE);
    let image = packed(&[&layer]);
    let inbox = Inbox::default();
    let taken = inbox.clone();
    let server = Server::start_reading(
        |request| {
            let range = request.header("content-range").unwrap_or_default();
            let from = range.split_once('-').map(|(from, _)| from.parse::<usize>());
            match from {
                Some(Ok(from)) if from + STEP < SIZE => Reading::Cut(STEP),
                _ => Reading::Whole,
            }
        },
        move |request| taken.reply(request),
    );
    let client = Client::new();
    let name = server.name("x:1");
    client.load(&image, &name);
    client.push(&name).unwrap();
    assert_eq!(inbox.blob("x", &sha(&layer)).unwrap(), layer);
    let expected: Vec<String> = (0..SIZE)
        .step_by(STEP)
        .map(|from| format!("{from}-{}", SIZE - 1))
        .collect();
    assert_eq!(chunks(&server), expected);
    let attempts = usize::try_from(client.options.patience.attempts).unwrap();
    assert!(expected.len() - 1 > attempts);
}

#[test]
fn an_upload_that_nobody_reads_is_tried_again() {
    let (image, layer) = {
        // More than the system's buffers take.
        let layer = big(24 << 20);
        (packed(&[&layer]), layer)
    };
    let (server, inbox) = reading_at_first(Reading::Stalled(1_000_000));
    let mut client = Client::new();
    client.options.patience.upload = Duration::from_millis(300);
    let name = server.name("x:1");
    client.load(&image, &name);
    client.push(&name).unwrap();
    assert_eq!(inbox.blob("x", &sha(&layer)).unwrap(), layer);
    assert_eq!(chunks(&server).len(), 2);
}

#[test]
fn an_upload_that_is_slow_goes_on() {
    // More than the system's buffers take, so that the rest waits for the server.
    let layer = big(24 << 20);
    let (server, inbox) = reading_at_first(Reading::Paused(1_000_000));
    let mut client = Client::new();
    // Longer than a download may be silent.
    client.options.patience.stall = PAUSE / 10;
    let name = server.name("x:1");
    client.load(&packed(&[&layer]), &name);
    client.push(&name).unwrap();
    assert_eq!(inbox.blob("x", &sha(&layer)).unwrap(), layer);
    assert_eq!(chunks(&server).len(), 1);
}

#[test]
fn the_last_of_an_upload_may_be_on_its_way_longer_than_a_reply() {
    let (server, inbox) = reading_at_first(Reading::Paused(LARGE - 1));
    let (image, _) = large();
    let mut client = Client::new();
    client.options.patience.reply = PAUSE / 3;
    let name = server.name("x:1");
    client.load(&image, &name);
    client.push(&name).unwrap();
    assert_eq!(inbox.manifest("x", "1").unwrap(), image.manifest);
    assert_eq!(chunks(&server).len(), 1);
}

#[test]
fn an_upload_is_taken_with_any_of_the_statuses_that_docker_takes() {
    // Amazon's registry says 201 of a part.
    for (method, status) in [
        ("PATCH", 200),
        ("PATCH", 201),
        ("PATCH", 204),
        ("PUT", 200),
        ("PUT", 202),
        ("PUT", 204),
    ] {
        let inbox = Inbox::default();
        let taken = inbox.clone();
        let server = Server::start(move |request| {
            let reply = taken.reply(request);
            match request.method == method && request.path.contains("/uploads/") {
                true => reply.with_status(status),
                false => reply,
            }
        });
        arrives(&server, &inbox);
        assert_eq!(chunks(&server), [range(0)], "{method} {status}");
    }
}

#[test]
fn passing_failures_are_put_up_with() {
    for (method, part) in [
        ("HEAD", "/blobs/"),
        ("POST", "/uploads/"),
        ("PATCH", "/uploads/"),
        ("PUT", "/uploads/"),
        ("PUT", "/manifests/"),
    ] {
        for status in [500, 503, 520, 530] {
            let (server, inbox) = at_first(2, method, part, move || Reply::error(status, "BUSY"));
            arrives(&server, &inbox);
        }
        let (server, inbox) = at_first(2, method, part, || {
            Reply::error(429, "TOOMANYREQUESTS").with("Retry-After", "0")
        });
        arrives(&server, &inbox);
    }
}

#[test]
fn failures_that_last_are_told_and_tries_are_counted() {
    let (server, inbox) = at_first(usize::MAX, "PATCH", "/uploads/", || {
        Reply::error(503, "BUSY")
    });
    let error = fails(&server, &inbox);
    assert!(
        matches!(error, RegistryError::Status { status: 503, .. }),
        "{error}"
    );
    assert_eq!(chunks(&server).len(), 4);
    // What was begun is taken back.
    assert_eq!(inbox.open_uploads(), 0);
    // Without a time to wait, and with one that is longer than anyone waits, it is told at once.
    for header in [None, Some("86400")] {
        let (server, inbox) = at_first(usize::MAX, "POST", "/uploads/", move || {
            let reply = Reply::error(429, "TOOMANYREQUESTS");
            match header {
                Some(seconds) => reply.with("Retry-After", seconds),
                None => reply,
            }
        });
        let error = fails(&server, &inbox);
        assert!(
            matches!(error, RegistryError::TooManyRequests { .. }),
            "{error}"
        );
        assert_eq!(server.requests_for("/uploads/").len(), 1);
    }
}

#[test]
fn the_next_push_sends_only_what_is_missing() {
    let image = Sample::new(&[&big(200_000), b"small"]);
    let inbox = Inbox::default();
    let (taken, is_down) = (inbox.clone(), Arc::new(AtomicUsize::new(1)));
    let down = Arc::clone(&is_down);
    let server = Server::start(move |request| {
        if request.path.contains("/manifests/") && down.load(Ordering::SeqCst) == 1 {
            return Reply::error(500, "DOWN");
        }
        taken.reply(request)
    });
    let client = Client::new();
    let name = server.name("x:1");
    client.load(&image, &name);
    let error = client.push(&name).unwrap_err();
    assert!(matches!(error, RegistryError::Status { status: 500, .. }));
    is_down.store(0, Ordering::SeqCst);
    let before = server.requests().len();
    let states = Mutex::new(Vec::new());
    client
        .push_told(&name, &|layer| states.lock().unwrap().push(layer.state))
        .unwrap();
    let states = states.into_inner().unwrap();
    let existed = states.iter().filter(|state| **state == PushState::Exists);
    assert_eq!(existed.count(), 2);
    let sent = server.requests()[before..]
        .iter()
        .filter(|request| !request.body.is_empty())
        .count();
    assert_eq!(sent, 1);
}

#[test]
fn a_registry_without_chunks_gets_one_request() {
    for status in [404, 405, 501] {
        let (server, inbox) = at_first(usize::MAX, "PATCH", "/uploads/", move || {
            Reply::error(status, "UNSUPPORTED")
        });
        arrives(&server, &inbox);
        let requests = server.requests();
        let put = requests
            .iter()
            .find(|request| request.method == "PUT" && request.body.len() == LARGE);
        assert!(put.is_some(), "{status}");
    }
}

#[test]
fn a_proxy_that_wants_small_requests_gets_them() {
    let layer = big(20 << 20);
    let image = packed(&[&layer]);
    let (server, inbox) = except(|request| {
        (request.method == "PATCH" && request.body.len() > 10 << 20)
            .then(|| Reply::error(413, "TOO_LARGE"))
    });
    let client = Client::new();
    let name = server.name("x:1");
    client.load(&image, &name);
    client.push(&name).unwrap();
    assert_eq!(inbox.blob("x", &sha(&layer)).unwrap(), layer);
    assert_eq!(chunks(&server).len(), 4);
}

#[test]
fn a_registry_that_takes_less_than_was_sent_gets_the_rest() {
    let inbox = Inbox::default();
    let taken = inbox.clone();
    let server = Server::start(move |request| {
        let mut request = request.clone();
        if request.method == "PATCH" && request.body.len() > 1 << 20 {
            request.body.truncate(1 << 20);
            request.is_cut = true;
        }
        taken.reply(&request)
    });
    arrives(&server, &inbox);
    assert_eq!(chunks(&server), [range(0), range(1 << 20), range(2 << 20)]);
}

#[test]
fn ranges_that_cannot_be_right_begin_the_upload_anew() {
    for header in ["0-99999999", "0-0", "0-18446744073709551615", "0-2"] {
        let (server, inbox) = at_first(2, "PATCH", "/uploads/", move || {
            Reply::new(202, Body::Whole(Vec::new())).with("Range", header)
        });
        arrives(&server, &inbox);
    }
    let (server, inbox) = at_first(usize::MAX, "PATCH", "/uploads/", || {
        Reply::new(202, Body::Whole(Vec::new())).with("Range", "0-99999999")
    });
    let error = fails(&server, &inbox);
    assert!(
        error
            .to_string()
            .ends_with("with a range of bytes that were not sent"),
        "{error}"
    );
    assert_eq!(chunks(&server).len(), 4);
}

#[test]
fn a_registry_that_takes_a_byte_at_a_time_is_given_up() {
    let (server, inbox) = except(|request| {
        let range = request.header("content-range")?;
        let (from, _) = range.split_once('-')?;
        let reply = Reply::new(202, Body::Whole(Vec::new()));
        Some(reply.with("Range", &format!("0-{from}")))
    });
    let error = fails(&server, &inbox);
    assert!(
        error.to_string().ends_with("with a range that hardly grew"),
        "{error}"
    );
    // Each from the beginning, as `0-0` may mean none.
    assert_eq!(chunks(&server), vec![range(0); 4]);
    assert_eq!(inbox.open_uploads(), 0);
}

#[test]
fn an_upload_that_is_forgotten_begins_anew() {
    let (server, inbox) = at_first(1, "PUT", "/uploads/", || {
        Reply::error(404, "BLOB_UPLOAD_UNKNOWN")
    });
    arrives(&server, &inbox);
    let (server, inbox) = at_first(1, "PATCH", "/uploads/", || {
        Reply::new(416, Body::Whole(Vec::new()))
    });
    arrives(&server, &inbox);
}

#[test]
fn what_the_registry_says_it_stored_is_compared() {
    let other = sha(b"another");
    for (part, what) in [
        ("/uploads/", "layer"),
        ("/manifests/", "the image manifest"),
    ] {
        let lie = other.clone();
        let (server, inbox) = at_first(usize::MAX, "PUT", part, move || {
            Reply::new(201, Body::Whole(Vec::new())).with("Docker-Content-Digest", &lie)
        });
        let error = fails(&server, &inbox);
        assert!(
            matches!(error, RegistryError::StoredDigest { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(what), "{error}");
    }
    // One that has another blob under a name does not have ours.
    let (server, inbox) = at_first(usize::MAX, "HEAD", "/blobs/", move || {
        Reply::new(200, Body::Whole(Vec::new())).with("Docker-Content-Digest", &other)
    });
    arrives(&server, &inbox);
}

#[test]
fn content_that_arrives_wrong_is_an_error() {
    let (server, inbox) = at_first(usize::MAX, "PUT", "/uploads/", || {
        Reply::error(400, "DIGEST_INVALID")
    });
    let error = fails(&server, &inbox);
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
    assert_eq!(inbox.open_uploads(), 0);
}

#[test]
fn logins_do_not_follow_an_upload_to_another_server() {
    let inbox = Inbox::default();
    let storage = {
        let inbox = inbox.clone();
        Server::start(move |request| inbox.reply(request))
    };
    let (taken, elsewhere) = (inbox.clone(), storage.host());
    let server = Server::start(move |request| {
        if request.header("authorization") != Some("Basic bWU6c2VjcmV0") {
            return Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if request.method == "POST" {
            return Reply::new(202, Body::Whole(Vec::new())).with(
                "Location",
                &format!("http://{elsewhere}{}", begun(&taken, request)),
            );
        }
        taken.reply(request)
    });
    let (image, layer) = large();
    let client = Client::with_login(&server.host(), json!({"auth": "bWU6c2VjcmV0"}));
    let name = server.name("x:1");
    client.load(&image, &name);
    client.push(&name).unwrap();
    assert_eq!(inbox.blob("x", &sha(&layer)).unwrap(), layer);
    let requests = storage.requests();
    assert!(requests.iter().any(|request| request.method == "PATCH"));
    for request in requests {
        assert_eq!(request.header("authorization"), None);
    }
}

/// Begins an upload and gives its path.
fn begun(inbox: &Inbox, request: &Request) -> String {
    let reply = inbox.reply(request);
    reply.header("Location").unwrap().to_owned()
}

#[test]
fn a_redirect_of_bytes_is_followed_without_the_login() {
    let inbox = Inbox::default();
    let storage = {
        let inbox = inbox.clone();
        Server::start(move |request| inbox.reply(request))
    };
    let (taken, elsewhere) = (inbox.clone(), storage.host());
    let server = Server::start(move |request| {
        if request.header("authorization").is_none() {
            return Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        match request.method.as_str() {
            "PATCH" => Reply::redirect(&format!("http://{elsewhere}{}", request.path)),
            _ => taken.reply(request),
        }
    });
    let (image, layer) = large();
    let client = Client::with_login(&server.host(), json!({"auth": "bWU6c2VjcmV0"}));
    let name = server.name("x:1");
    client.load(&image, &name);
    client.push(&name).unwrap();
    assert_eq!(inbox.blob("x", &sha(&layer)).unwrap(), layer);
    for request in storage.requests() {
        assert_eq!(request.header("authorization"), None);
    }
    // One that would make a GET of it is an error.
    let (server, inbox) = at_first(usize::MAX, "PATCH", "/uploads/", || {
        Reply::new(302, Body::Whole(Vec::new())).with("Location", "/elsewhere")
    });
    let error = fails(&server, &inbox);
    assert!(
        matches!(error, RegistryError::Status { status: 302, .. }),
        "{error}"
    );
}

#[test]
fn locations_that_lead_astray_are_refused() {
    for location in [
        "http://169.254.169.254/upload",
        "ftp://127.0.0.1/upload",
        "http://me:secret@127.0.0.1/upload",
        "http://[fe80::1]/upload",
        "file:///etc/passwd",
        "http://",
    ] {
        let (server, inbox) = at_first(usize::MAX, "POST", "/uploads/", move || {
            Reply::new(202, Body::Whole(Vec::new())).with("Location", location)
        });
        let error = fails(&server, &inbox);
        assert!(
            matches!(error, RegistryError::Forbidden { .. }),
            "{location}: {error}"
        );
    }
    let (server, inbox) = at_first(usize::MAX, "POST", "/uploads/", || {
        Reply::new(202, Body::Whole(Vec::new()))
    });
    let error = fails(&server, &inbox);
    assert!(error.to_string().ends_with("with no location"), "{error}");
}

/// A registry with tokens, each good for so many requests.
fn with_tokens(good_for: usize) -> (Server, Inbox) {
    let inbox = Inbox::default();
    let taken = inbox.clone();
    let (issued, used) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        if request.path.starts_with("/token") {
            used.store(0, Ordering::SeqCst);
            let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
            return Reply::ok(format!("{{\"token\":\"t{number}\"}}"));
        }
        let valid = format!("Bearer t{}", issued.load(Ordering::SeqCst));
        let is_valid = request.header("authorization") == Some(valid.as_str());
        if is_valid && used.fetch_add(1, Ordering::SeqCst) < good_for {
            return taken.reply(request);
        }
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"s\"",
            request.header("host").unwrap()
        );
        Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", &realm)
    });
    (server, inbox)
}

#[test]
fn a_token_that_expires_in_the_middle_is_renewed() {
    for good_for in 1..5 {
        let (server, inbox) = with_tokens(good_for);
        arrives(&server, &inbox);
        let tokens = server.requests_for("/token");
        assert!(tokens.len() > 1, "{good_for}");
        assert_eq!(
            tokens[0].path,
            "/token?scope=repository%3Ax%3Apull%2Cpush&service=s"
        );
    }
}

#[test]
fn whoever_may_read_only_is_told() {
    // 401 with a token, as token servers have it, and 403.
    for status in [401, 403] {
        let (server, inbox) = except(move |request| {
            if request.path.starts_with("/token") {
                return Some(Reply::ok("{\"token\":\"t\"}"));
            }
            let realm = format!(
                "Bearer realm=\"http://{}/token\"",
                request.header("host").unwrap()
            );
            let is_read = request.method == "GET" || request.method == "HEAD";
            match request.header("authorization") {
                None => Some(Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", &realm)),
                Some(_) if is_read => None,
                Some(_) => Some(
                    Reply::new(
                        status,
                        Body::Whole(
                            b"{\"errors\":[{\"code\":\"DENIED\",\"message\":\"requested access to the resource is denied\"}]}"
                                .to_vec(),
                        ),
                    )
                    .with("WWW-Authenticate", &realm),
                ),
            }
        });
        let error = fails(&server, &inbox);
        assert_eq!(
            error.to_string(),
            "denied: requested access to the resource is denied"
        );
        assert_eq!(
            error.hint().unwrap(),
            format!(
                "check the name; to push under it, log in with: bulkhead login {}",
                server.host()
            )
        );
    }
    let (server, inbox) = except(|_| {
        Some(Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Basic realm=\"x\""))
    });
    let error = fails(&server, &inbox);
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
}

#[test]
fn endless_words_of_refusal_are_cut() {
    let (server, inbox) = at_first(usize::MAX, "POST", "/uploads/", || {
        Reply::new(
            403,
            Body::Endless(b"{\"errors\":[{\"message\":\"no\x1b[2J\"},"),
        )
    });
    let error = fails(&server, &inbox);
    assert!(matches!(error, RegistryError::PushDenied { .. }), "{error}");
    assert!(error.to_string().len() < 1000);
}
