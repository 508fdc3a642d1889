//! Pushes that go well: what arrives, what is not sent, and what is remembered.

use std::sync::Mutex;

use bulkhead_images::registry::{LayerPush, PushState};
use bulkhead_images::{Digest, Reference};
use serde_json::{Value, json};

use crate::client::{Client, sample};
use crate::inbox::Inbox;
use crate::sample::{MANIFEST, Sample, sha};
use crate::server::{Reply, Request, Server};

/// A registry that takes everything.
pub(crate) fn taking() -> (Server, Inbox) {
    let inbox = Inbox::default();
    let taken = inbox.clone();
    (Server::start(move |request| taken.reply(request)), inbox)
}

/// An image whose layers are packed already, as far as anyone can tell.
pub(crate) fn packed(layers: &[&[u8]]) -> Sample {
    let diff_ids: Vec<String> = (0..layers.len())
        .map(|index| sha(format!("content {index}").as_bytes()))
        .collect();
    Sample::of_config(
        json!({"architecture": "amd64", "os": "linux", "config": {},
               "rootfs": {"type": "layers", "diff_ids": diff_ids}}),
        layers,
    )
}

fn manifest(inbox: &Inbox, repository: &str, tag: &str) -> (Vec<u8>, Value) {
    let bytes = inbox.manifest(repository, tag).expect("a manifest");
    let value = serde_json::from_slice(&bytes).unwrap();
    (bytes, value)
}

fn reference(name: &str) -> Reference {
    Reference::parse(name).unwrap()
}

/// Who is asked for a token.
fn challenge(request: &Request) -> Reply {
    let host = request.header("host").unwrap();
    let realm = format!("Bearer realm=\"http://{host}/token\"");
    Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", &realm)
}

#[test]
fn plain_layers_arrive_compressed_and_the_second_time_nothing_is_sent() {
    let (server, inbox) = taking();
    let client = Client::new();
    let name = server.name("team/x:1");
    client.load(&sample(), &name);
    let pushed = client.push(&name).unwrap();
    let (bytes, document) = manifest(&inbox, "team/x", "1");
    assert_eq!(pushed.digest, Digest::of(&bytes));
    assert_eq!(pushed.size, bytes.len() as u64);
    assert_eq!(document["mediaType"], MANIFEST);
    let layers = document["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    for layer in layers {
        assert_eq!(
            layer["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
        let blob = inbox
            .blob("team/x", layer["digest"].as_str().unwrap())
            .unwrap();
        // RFC 1952, 2.3.1; no name and no time, so that it is the same each time.
        assert_eq!(blob[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
        assert_eq!(layer["size"], blob.len());
    }
    assert_eq!(
        document["config"]["digest"].as_str(),
        Some(sha(&sample().config).as_str())
    );
    // It is known under what the registry has, and a pull of that brings nothing.
    let by_digest = reference(&name).with_digest(pushed.digest);
    let image = client.store.find(&by_digest).unwrap().unwrap();
    assert_eq!(image.repo_digests, [by_digest]);
    let pulled = client.pull(&name).unwrap();
    assert_eq!(pulled.status, bulkhead_images::PullStatus::UpToDate);

    let before = server.requests().len();
    assert_eq!(client.push(&name).unwrap(), pushed);
    let methods: Vec<String> = server.requests()[before..]
        .iter()
        .filter(|request| !request.path.ends_with("/v2/"))
        .map(|request| request.method.clone())
        .collect();
    assert_eq!(methods, ["HEAD", "HEAD", "HEAD", "PUT"]);

    // Another store makes the same of it.
    let other = Client::new();
    other.load(&sample(), &name);
    assert_eq!(other.push(&name).unwrap(), pushed);
    assert_eq!(inbox.count("team/x"), 3);
    // Nothing is left behind here.
    assert_eq!((client.partials(), other.partials()), (0, 0));
}

#[test]
fn another_image_with_the_same_config_is_not_pushed_in_ones_place() {
    let (server, inbox) = taking();
    let (good, evil) = (packed(&[b"good"]), packed(&[b"evil"]));
    assert_eq!(good.config, evil.config);
    for (number, order) in [[&good, &evil], [&evil, &good]].into_iter().enumerate() {
        let client = Client::new();
        let name_of = |sample: &Sample| match sample.manifest == good.manifest {
            true => server.name(&format!("good:{number}")),
            false => server.name(&format!("evil:{number}")),
        };
        for sample in order {
            client.load(sample, &name_of(sample));
        }
        let name = name_of(&good);
        client.push(&name).unwrap();
        let (bytes, _) = manifest(&inbox, "good", &number.to_string());
        assert_eq!(bytes, good.manifest);
        let by_digest = reference(&name).with_digest(Digest::of(&bytes));
        let image = client.store.find(&by_digest).unwrap().unwrap();
        assert_eq!(image.manifest_digest, Digest::of(&bytes));
        let pulled = client.pull(&name).unwrap();
        assert_eq!(pulled.image.manifest_digest, Digest::of(&bytes));
    }
}

#[test]
fn a_pulled_image_goes_on_byte_for_byte() {
    let (server, inbox) = taking();
    let plain = sample();
    let from = Server::start(crate::server::site(&plain));
    let client = Client::new();
    client.pull(&from.name("x:1")).unwrap();
    let name = server.name("y:1");
    client
        .store
        .tag(&from.name("x:1"), &reference(&name))
        .unwrap();
    client.push(&name).unwrap();
    // Its layers are plain, but that is how its author has them.
    assert_eq!(inbox.manifest("y", "1").unwrap(), plain.manifest);
    let packed = packed(&[b"one", b"two"]);
    client.load(&packed, &server.name("z:1"));
    let pushed = client.push(&server.name("z:1")).unwrap();
    assert_eq!(inbox.manifest("z", "1").unwrap(), packed.manifest);
    assert_eq!(pushed.digest, Digest::of(&packed.manifest));
}

#[test]
fn a_docker_manifest_stays_one() {
    let (server, inbox) = taking();
    let mut image = sample();
    let text = String::from_utf8(image.manifest.clone()).unwrap();
    let docker = text
        .replace(
            MANIFEST,
            "application/vnd.docker.distribution.manifest.v2+json",
        )
        .replace(
            crate::sample::CONFIG,
            "application/vnd.docker.container.image.v1+json",
        )
        .replace(
            crate::sample::LAYER,
            "application/vnd.docker.image.rootfs.diff.tar",
        );
    image.manifest = docker.into_bytes();
    let client = Client::new();
    let name = server.name("x:1");
    client.load(&image, &name);
    client.push(&name).unwrap();
    let (_, document) = manifest(&inbox, "x", "1");
    assert_eq!(
        document["mediaType"],
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    for layer in document["layers"].as_array().unwrap() {
        assert_eq!(
            layer["mediaType"],
            "application/vnd.docker.image.rootfs.diff.tar.gzip"
        );
    }
}

#[test]
fn a_layer_of_another_repository_is_mounted() {
    let (server, inbox) = taking();
    let client = Client::new();
    let (first, second) = (server.name("a/x:1"), server.name("b/y:1"));
    client.load(&sample(), &first);
    client.push(&first).unwrap();
    client.store.tag(&first, &reference(&second)).unwrap();
    let states = Mutex::new(Vec::new());
    let before = server.requests().len();
    client
        .push_told(&second, &|layer: LayerPush| {
            states.lock().unwrap().push(layer.state);
        })
        .unwrap();
    let states = states.into_inner().unwrap();
    let mounted = PushState::Mounted("a/x".to_owned());
    assert_eq!(states.iter().filter(|state| **state == mounted).count(), 2);
    let uploads = server.requests()[before..]
        .iter()
        .filter(|request| request.method == "PATCH" || request.method == "PUT")
        .count();
    // The config and the manifest.
    assert_eq!(uploads, 2);
    assert_eq!(inbox.count("b/y"), 3);
    assert_eq!(inbox.manifest("a/x", "1"), inbox.manifest("b/y", "1"));

    // What is not there any more is sent.
    let third = server.name("c/z:1");
    client.store.tag(&first, &reference(&third)).unwrap();
    let (empty, inbox) = taking();
    let moved = empty.name("c/z:1");
    client.store.tag(&first, &reference(&moved)).unwrap();
    client.push(&moved).unwrap();
    assert_eq!(inbox.count("c/z"), 3);
}

/// A push of the sample to a repository, after one to each of `others`, and what was asked meanwhile.
#[track_caller]
fn pushed_after(client: &Client, server: &Server, others: &[String], name: &str) -> Vec<Request> {
    for other in others {
        client.load(&sample(), other);
        client.push(other).unwrap();
    }
    let before = server.requests().len();
    client.load(&sample(), name);
    client.push(name).unwrap();
    server.requests().split_off(before)
}

fn count(requests: &[Request], method: &str, part: &str) -> usize {
    let meant = requests
        .iter()
        .filter(|request| request.method == method && request.path.contains(part));
    meant.count()
}

#[test]
fn a_mount_that_fails_is_asked_for_once_and_the_bytes_go() {
    for status in [400, 429, 503] {
        let inbox = Inbox::default();
        let taken = inbox.clone();
        let server = Server::start(move |request| match request.path.contains("?mount=") {
            true => Reply::error(status, "NO_MOUNT").with("Retry-After", "60"),
            false => taken.reply(request),
        });
        let client = Client::new();
        let others = [server.name("a/x:1")];
        let asked = pushed_after(&client, &server, &others, &server.name("b/y:1"));
        assert_eq!(inbox.count("b/y"), 3, "{status}");
        assert_eq!(count(&asked, "POST", "?mount="), 2, "{status}");
        assert_eq!(inbox.open_uploads(), 0);
    }
}

#[test]
fn an_upload_that_was_opened_in_place_of_a_mount_is_used() {
    let inbox = Inbox::default();
    let taken = inbox.clone();
    // One that knows no mounts (distribution spec 1.1, "Mounting a blob from another repository").
    let server = Server::start(move |request| {
        let mut request = request.clone();
        if let Some((path, _)) = request.path.split_once("?mount=") {
            request.path = path.to_owned();
        }
        taken.reply(&request)
    });
    let client = Client::new();
    let image = packed(&[b"one", b"two"]);
    for name in ["a/x:1", "b/y:1"] {
        client.load(&image, &server.name(name));
        client.push(&server.name(name)).unwrap();
    }
    let asked = server.requests_for("/b/y/");
    assert_eq!(count(&asked, "POST", "?mount="), 2);
    // And that of the config.
    assert_eq!(count(&asked, "POST", "/uploads/"), 3);
    assert_eq!(count(&asked, "DELETE", ""), 0);
    assert_eq!((inbox.count("b/y"), inbox.open_uploads()), (3, 0));

    // Of several that were opened, one is used; none is left open where the layer is yet to be packed.
    let others = [server.name("c/1:1"), server.name("c/2:1")];
    let asked = pushed_after(&client, &server, &others, &server.name("d/z:1"));
    assert_eq!(count(&asked, "DELETE", "/d/z/"), 4);
    assert_eq!((inbox.count("d/z"), inbox.open_uploads()), (3, 0));
}

#[test]
fn a_token_is_asked_for_few_repositories_and_layers_come_from_those() {
    let inbox = Inbox::default();
    let taken = inbox.clone();
    let server = Server::start(move |request| {
        if request.path.starts_with("/token") {
            return Reply::ok("{\"token\":\"t\"}");
        }
        if request.header("authorization").is_some() {
            return taken.reply(request);
        }
        challenge(request)
    });
    let client = Client::new();
    let layers: Vec<Vec<u8>> = (0..18_u8).map(|index| vec![index; 100]).collect();
    for (index, layer) in layers.iter().enumerate() {
        let name = server.name(&format!("o{index:02}/x:1"));
        client.load(&Sample::new(&[layer]), &name);
        client.push(&name).unwrap();
    }
    let before = server.requests().len();
    let slices: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let name = server.name("all/x:1");
    client.load(&Sample::new(&slices), &name);
    client.push(&name).unwrap();
    let asked = server.requests().split_off(before);
    let tokens: Vec<_> = asked
        .iter()
        .filter(|request| request.path.starts_with("/token"))
        .collect();
    assert!(!tokens.is_empty());
    for token in tokens {
        assert_eq!(
            token.path.matches("scope=").count(),
            1 + 16,
            "{}",
            token.path
        );
    }
    assert_eq!(count(&asked, "POST", "?mount="), 16);
    assert_eq!(inbox.count("all/x"), 19);
}

#[test]
fn a_repository_that_may_not_be_read_is_not_mounted_from_and_the_push_goes_on() {
    for status in [401, 403] {
        let inbox = Inbox::default();
        let taken = inbox.clone();
        let server = Server::start(move |request| {
            if request.path.starts_with("/token") {
                let is_refused =
                    request.path.contains("all%2Fx") && request.path.contains("secret");
                return match is_refused {
                    true => Reply::error(status, "DENIED"),
                    false => Reply::ok("{\"token\":\"t\"}"),
                };
            }
            if request.header("authorization").is_some() {
                return taken.reply(request);
            }
            challenge(request)
        });
        let client = Client::new();
        let others = [server.name("secret/x:1")];
        let asked = pushed_after(&client, &server, &others, &server.name("all/x:1"));
        let tokens: Vec<&str> = asked
            .iter()
            .filter(|request| request.path.starts_with("/token"))
            .map(|request| request.path.as_str())
            .collect();
        assert_eq!(tokens.len(), 2, "{tokens:?}");
        assert_eq!(tokens[1], "/token?scope=repository%3Aall%2Fx%3Apull%2Cpush");
        assert_eq!(count(&asked, "POST", "?mount="), 0);
        assert_eq!(inbox.count("all/x"), 3);
        assert_eq!((inbox.open_uploads(), client.partials()), (0, 0));
    }
}

#[test]
fn states_are_told_in_order_and_the_topmost_layer_first() {
    let (server, _) = taking();
    let client = Client::new();
    let layers: Vec<Vec<u8>> = (0..8_u8).map(|index| vec![index; 100]).collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let name = server.name("x:1");
    client.load(&Sample::new(&layers), &name);
    let told = Mutex::new(Vec::new());
    client
        .push_told(&name, &|layer| told.lock().unwrap().push(layer))
        .unwrap();
    let told = told.into_inner().unwrap();
    let prepared: Vec<Digest> = told
        .iter()
        .filter(|layer| layer.state == PushState::Preparing)
        .map(|layer| layer.diff_id)
        .collect();
    let expected: Vec<Digest> = layers.iter().rev().map(|layer| Digest::of(layer)).collect();
    assert_eq!(prepared, expected);
    let of = |index: usize| -> Vec<&PushState> {
        let mut states: Vec<&PushState> = told
            .iter()
            .filter(|layer| layer.diff_id == expected[index])
            .map(|layer| &layer.state)
            .collect();
        states.dedup();
        states
    };
    use PushState::*;
    assert_eq!(of(0), [&Preparing, &Packing, &Pushing, &Pushed]);
    assert_eq!(of(7), [&Preparing, &Waiting, &Packing, &Pushing, &Pushed]);
}

#[test]
fn an_image_that_is_not_there_asks_nobody() {
    let (server, _) = taking();
    let error = Client::new().push(&server.name("x:1")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("No such image: {}", server.name("x:1"))
    );
    assert!(server.requests().is_empty());
}

#[test]
fn a_damaged_layer_is_not_pushed() {
    let (server, inbox) = taking();
    let client = Client::new();
    let image = sample();
    let name = server.name("x:1");
    client.load(&image, &name);
    let path = client.path(&format!("blobs/sha256/{}", &sha(&image.layers[0])[7..]));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"the first lay3r").unwrap();
    let error = client.push(&name).unwrap_err();
    assert!(error.to_string().ends_with("is damaged"), "{error}");
    assert_eq!(inbox.manifest("x", "1"), None);
}

/// Layers of several sizes around those of the pieces that are compressed one by one.
#[test]
fn what_was_compressed_is_what_was_there() {
    let (server, inbox) = taking();
    let client = Client::new();
    let noise = |size: usize| -> Vec<u8> {
        let mut state = 1_u32;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .take(size)
        .collect()
    };
    let layers = [
        b"x".to_vec(),
        crate::client::big(1 << 20),
        crate::client::big((1 << 20) - 1),
        noise((5 << 20) + 1),
        [noise(700_000), crate::client::big(2_000_000)].concat(),
    ];
    let slices: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let name = server.name("x:1");
    client.load(&Sample::new(&slices), &name);
    client.push(&name).unwrap();
    let (_, document) = manifest(&inbox, "x", "1");
    for (descriptor, layer) in document["layers"].as_array().unwrap().iter().zip(&layers) {
        let digest = descriptor["digest"].as_str().unwrap();
        let blob = inbox.blob("x", digest).unwrap();
        let mut content = Vec::new();
        // One member, and nothing behind it.
        let mut gzip = flate2::bufread::GzDecoder::new(blob.as_slice());
        std::io::Read::read_to_end(&mut gzip, &mut content).unwrap();
        assert!(content == *layer, "{} bytes", layer.len());
        assert!(gzip.into_inner().is_empty());
        assert!(blob.len() < layer.len() + layer.len() / 100 + 100);
    }
}
