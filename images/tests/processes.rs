//! The store among several processes, some of which are killed: this binary is tests and child in one.
//!
//! `processes --child VERB ROOT …` does one thing to the store at ROOT and says what came of it.

#[path = "../src/sample.rs"]
#[allow(dead_code)]
mod sample;
#[path = "registry/server.rs"]
#[allow(dead_code)]
mod server;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bulkhead_images::layers::{Begin, LayerDisks, LayerKey};
use bulkhead_images::store::{ContainerUse, Force};
use bulkhead_images::{Digest, Platform, Reference, RegistryOptions, Store, load_stream, pull};
use libtest_mimic::{Arguments, Trial};
use sample::{Sample, hex, sha};
use serde_json::json;
use server::{Body, Reply, Server, site};

const CHILD: &str = "--child";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == CHILD) {
        let arguments: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
        return match child(&arguments) {
            Ok(said) => {
                println!("{said}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let tests: [(&str, fn()); 10] = [
        (
            "a_killed_writer_leaves_the_old_state_or_the_new",
            a_killed_writer_leaves_the_old_state_or_the_new,
        ),
        ("a_killed_pull_is_resumed", a_killed_pull_is_resumed),
        (
            "a_killed_converter_frees_its_layer",
            a_killed_converter_frees_its_layer,
        ),
        (
            "two_processes_pull_a_layer_once",
            two_processes_pull_a_layer_once,
        ),
        (
            "two_processes_load_and_remove_at_once",
            two_processes_load_and_remove_at_once,
        ),
        (
            "a_pull_keeps_its_blobs_from_a_removal",
            a_pull_keeps_its_blobs_from_a_removal,
        ),
        ("a_full_disk_fails_cleanly", a_full_disk_fails_cleanly),
        ("a_credential_helper_is_asked", a_credential_helper_is_asked),
        (
            "a_failing_credential_helper_is_named",
            a_failing_credential_helper_is_named,
        ),
        (
            "a_helper_without_a_login_means_anonymous",
            a_helper_without_a_login_means_anonymous,
        ),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

type Failure = Box<dyn std::error::Error>;

/// What the child does; the text goes to its standard output, an error with its causes to the other.
fn child(arguments: &[&str]) -> Result<String, Failure> {
    let platform = Platform::parse("linux/amd64")?;
    match arguments {
        ["pull", root, name] => {
            let store = Store::open(Path::new(root))?;
            let options = RegistryOptions {
                certs_dirs: Vec::new(),
                ..RegistryOptions::default()
            };
            let pulled = pull(
                &store,
                &Reference::parse(name)?,
                &platform,
                &options,
                &|_| {},
            );
            let pulled = pulled.map_err(|error| {
                format!(
                    "{}\nhint: {}",
                    causes(&error),
                    error.hint().unwrap_or_default()
                )
            })?;
            Ok(pulled.image.id.to_string())
        }
        ["load", root] => {
            let store = Store::open(Path::new(root))?;
            let loaded = load_stream(&store, std::io::stdin().lock(), &platform);
            let loaded = loaded.map_err(|error| {
                format!(
                    "{}\nhint: {}",
                    causes(&error),
                    error.hint().unwrap_or_default()
                )
            })?;
            Ok(loaded.iter().map(ToString::to_string).collect())
        }
        ["churn", root, name, rounds] => churn(Path::new(root), name, rounds.parse()?),
        ["convert", root] => {
            let disks = LayerDisks::open(Path::new(root))?;
            let Begin::Pending(pending) = disks.begin(&layer_key())? else {
                return Ok("ready".to_owned());
            };
            pending.file().set_len(1 << 20)?;
            println!("begun");
            std::io::stdout().flush()?;
            // Killed here.
            std::io::stdin().read_to_end(&mut Vec::new())?;
            Ok("not killed".to_owned())
        }
        _ => Err(format!("no such child: {arguments:?}").into()),
    }
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Loads, tags and removes two images that share a layer, for some rounds.
fn churn(root: &Path, name: &str, rounds: usize) -> Result<String, Failure> {
    let store = Store::open(root)?;
    let platform = Platform::parse("linux/amd64")?;
    for round in 0..rounds {
        let own = format!("{name} {}", round % 2).into_bytes();
        let image = Sample::new(&[&big(200_000), &own]);
        let first = format!("{name}:{}", round % 2);
        load_stream(
            &store,
            image.docker_archive(&[&first]).as_slice(),
            &platform,
        )?;
        let second = format!("{name}:other-{}", round % 2);
        store.tag(&first, &Reference::parse(&second)?)?;
        println!("round {round}");
        std::io::stdout().flush()?;
        store.remove(&first, Force::No, &nobody)?;
        store.remove(&second, Force::No, &nobody)?;
    }
    Ok("done".to_owned())
}

fn nobody() -> Result<Vec<ContainerUse>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Vec::new())
}

fn layer_key() -> LayerKey {
    LayerKey {
        diff_id: Digest::of(b"diff"),
        blob: Digest::of(b"blob"),
    }
}

fn big(size: usize) -> Vec<u8> {
    (0..size)
        .map(|index| u8::try_from(index % 251).unwrap())
        .collect()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .arg(CHILD)
        .args(arguments)
        .env("HOME", "/nonexistent")
        .env_remove("DOCKER_CONFIG");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn wait_for(child: &mut Child, line: &str) {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut read = String::new();
    while out.read_line(&mut read).unwrap() > 0 {
        if read.contains(line) {
            child.stdout = Some(out.into_inner());
            return;
        }
    }
    panic!("the child ended without saying {line}: {read}");
}

/// Kills with SIGKILL and waits for the end.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Every blob is what its name says, every image is whole, and nothing is held.
fn check(root: &Path) {
    let store = Store::open(root).unwrap();
    let listing = store.list().unwrap();
    assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
    for image in &listing.images {
        for layer in &image.layers {
            assert_eq!(
                store.blob(&layer.blob).unwrap().metadata().unwrap().len(),
                layer.size
            );
        }
    }
    for entry in std::fs::read_dir(root.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let content = std::fs::read(&path).unwrap();
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), hex(&content));
    }
    for entry in std::fs::read_dir(root.join("ingest")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with("load-"), "{name}");
    }
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn a_killed_writer_leaves_the_old_state_or_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let platform = Platform::parse("linux/amd64").unwrap();
    let kept = Sample::new(&[&big(200_000), b"kept"]).docker_archive(&["kept"]);
    load_stream(&store, kept.as_slice(), &platform).unwrap();
    for round in 0..30 {
        let mut child = command(&["churn", root, "x", "1000000"]).spawn().unwrap();
        wait_for(&mut child, "round");
        std::thread::sleep(Duration::from_millis(round * 3));
        kill(child);
        check(dir.path());
        assert_eq!(store.resolve("kept").unwrap().layers.len(), 2);
    }
    // What the dead left behind can be removed, and nothing else is.
    for image in store.list().unwrap().images {
        if image.tags.iter().all(|tag| tag.familiar() != "kept:latest") {
            store
                .remove(&image.id.to_string(), Force::Yes, &nobody)
                .unwrap();
        }
    }
    store.collect(&nobody).unwrap();
    assert_eq!(count(&dir.path().join("blobs/sha256")), 4);
    check(dir.path());
}

fn a_killed_pull_is_resumed() {
    let layer = big(100_000);
    let image = Sample::new(&[&layer, b"small"]);
    let site = site(&image);
    let (hanging, half) = (AtomicUsize::new(0), layer[..60_000].to_vec());
    let path = hex(&layer);
    let server = Server::start(move |request| {
        if request.path.ends_with(&path) && hanging.fetch_add(1, Ordering::SeqCst) == 0 {
            return Reply::new(200, Body::Stalled(100_000, half.clone()));
        }
        site(request)
    });
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let child = command(&["pull", root, &server.name("x")]).spawn().unwrap();
    let partial = dir.path().join("ingest").join(hex(&layer));
    while partial.metadata().map_or(0, |metadata| metadata.len()) < 60_000 {
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(child);
    check(dir.path());
    assert!(
        Store::open(dir.path())
            .unwrap()
            .list()
            .unwrap()
            .images
            .is_empty()
    );
    let output = command(&["pull", root, &server.name("x")])
        .output()
        .unwrap();
    assert_eq!(succeeded(&output), image.id());
    let requests = server.requests_for(&hex(&layer));
    assert_eq!(
        requests.last().unwrap().header("range"),
        Some("bytes=60000-")
    );
    assert_eq!(count(&dir.path().join("ingest")), 0);
    check(dir.path());
}

fn a_killed_converter_frees_its_layer() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let mut child = command(&["convert", root]).spawn().unwrap();
    wait_for(&mut child, "begun");
    assert_eq!(count(dir.path()), 1);
    // While it lives, opening the cache leaves its file alone.
    let disks = LayerDisks::open(dir.path()).unwrap();
    assert_eq!(count(dir.path()), 1);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| disks.begin(&layer_key()));
        kill(child);
        let Begin::Pending(pending) = waiting.join().unwrap().unwrap() else {
            panic!("the killed converter finished")
        };
        assert_eq!(pending.file().metadata().unwrap().len(), 0);
        pending.file().set_len(4096).unwrap();
        pending.commit(4096).unwrap();
    });
    assert_eq!(
        succeeded(&command(&["convert", root]).output().unwrap()),
        "ready"
    );
    assert_eq!(count(dir.path()), 1);
}

fn two_processes_pull_a_layer_once() {
    let layer = big(500_000);
    let image = Sample::new(&[&layer]);
    let (site, path) = (site(&image), hex(&layer));
    let server = Server::start(move |request| {
        if request.path.ends_with(&path) {
            std::thread::sleep(Duration::from_millis(200));
        }
        site(request)
    });
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let children = [(); 3].map(|()| command(&["pull", root, &server.name("x")]).spawn().unwrap());
    for child in children {
        assert_eq!(succeeded(&child.wait_with_output().unwrap()), image.id());
    }
    assert_eq!(server.requests_for(&sha(&layer)).len(), 1);
    check(dir.path());
}

fn two_processes_load_and_remove_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let children =
        ["a", "b", "c"].map(|name| command(&["churn", root, name, "20"]).spawn().unwrap());
    for child in children {
        assert!(succeeded(&child.wait_with_output().unwrap()).ends_with("done"));
    }
    check(dir.path());
    let store = Store::open(dir.path()).unwrap();
    assert!(store.list().unwrap().images.is_empty());
    store.collect(&nobody).unwrap();
    assert_eq!(count(&dir.path().join("blobs/sha256")), 0);
}

fn a_pull_keeps_its_blobs_from_a_removal() {
    // The pull finds its first layer in the store, then waits for the second; meanwhile the only image
    // that has the first is removed.
    let (shared, slow) = (b"shared".to_vec(), big(50_000));
    let image = Sample::new(&[&shared, &slow]);
    let (site, path) = (site(&image), hex(&slow));
    let (reached, go_on) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    let gates = std::sync::Arc::new((reached, go_on));
    let inside = std::sync::Arc::clone(&gates);
    let server = Server::start(move |request| {
        if request.path.ends_with(&path) {
            inside.0.wait();
            inside.1.wait();
        }
        site(request)
    });
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let other = Sample::new(&[&shared]).docker_archive(&["other"]);
    load_stream(
        &store,
        other.as_slice(),
        &Platform::parse("linux/amd64").unwrap(),
    )
    .unwrap();
    let root = dir.path().to_str().unwrap();
    let child = command(&["pull", root, &server.name("x")]).spawn().unwrap();
    gates.0.wait();
    store.remove("other", Force::No, &nobody).unwrap();
    assert!(store.blob(&Digest::of(&shared)).is_ok());
    gates.1.wait();
    assert_eq!(succeeded(&child.wait_with_output().unwrap()), image.id());
    store.collect(&nobody).unwrap();
    check(dir.path());
    assert_eq!(store.list().unwrap().images.len(), 1);
    assert_eq!(count(&dir.path().join("blobs/sha256")), 4);
}

/// Runs a child on a file system of 1 MiB, which needs no root: a user and a mount namespace of its own.
fn on_small_disk(dir: &Path, script: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg(format!("mount -t tmpfs -o size=1m none \"$0\" && {script}"))
        .arg(dir)
        .arg(std::env::current_exe().unwrap())
        .args(arguments)
        .env("HOME", "/nonexistent");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The child may well end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn a_full_disk_fails_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let large = Sample::new(&[&big(2 << 20)]);
    // $0 is the mount, $1 this binary. What is left is listed after the failure.
    let script = "\"$1\" --child load \"$0/store\"; echo status $?; find \"$0/store/blobs\" \"$0/store/ingest\" -type f";
    let output = on_small_disk(dir.path(), script, &[], &large.docker_archive(&["large"]));
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(out, "status 1", "{error}");
    assert!(error.contains("no space left to write"), "{error}");
    assert!(error.contains("hint: free some disk space"), "{error}");

    let server = Server::start(site(&large));
    let script =
        "\"$1\" --child pull \"$0/store\" \"$2\"; echo status $?; find \"$0/store/ingest\" -type f";
    let output = on_small_disk(dir.path(), script, &[&server.name("x")], b"");
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(out, "status 1", "{error}");
    assert!(error.contains("no space left to write"), "{error}");
}

/// A directory with a credential helper and a config.json that names it; also the child's environment.
fn with_helper(command: &mut Command, dir: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let helper = dir.join("docker-credential-test");
    std::fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(
        dir.join("config.json"),
        json!({"credsStore": "test"}).to_string(),
    )
    .unwrap();
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env("DOCKER_CONFIG", dir);
}

/// Serves `sample` to those who know the password, or to all who log in not at all.
fn guarded(sample: &Sample, optional: bool) -> Server {
    let site = site(sample);
    Server::start(move |request| match request.header("authorization") {
        Some("Basic bWU6c2VjcmV0") => site(request),
        None if optional => site(request),
        _ => Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Basic realm=\"x\""),
    })
}

fn pull_with_helper(server: &Server, script: &str) -> (Output, String) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let mut command = command(&["pull", root.to_str().unwrap(), &server.name("x")]);
    with_helper(&mut command, dir.path(), script);
    let output = command.output().unwrap();
    let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap_or_default();
    (output, asked)
}

fn a_credential_helper_is_asked() {
    let image = Sample::new(&[b"one"]);
    let server = guarded(&image, false);
    let script = "echo \"$1 $(cat)\" >> \"$(dirname \"$0\")/asked\"\n\
                  echo '{\"ServerURL\":\"x\",\"Username\":\"me\",\"Secret\":\"secret\"}'";
    let (output, asked) = pull_with_helper(&server, script);
    assert_eq!(succeeded(&output), image.id());
    assert_eq!(asked, format!("get {}\n", server.host()));
    // Whoever isn't asked for a login starts no helper.
    let open = guarded(&image, true);
    let (output, asked) = pull_with_helper(&open, script);
    assert_eq!((succeeded(&output), asked.as_str()), (image.id(), ""));
}

fn a_failing_credential_helper_is_named() {
    let server = guarded(&Sample::new(&[b"one"]), false);
    let (output, _) = pull_with_helper(
        &server,
        "cat > /dev/null\nprintf 'the \\033[31mvault is locked'\nexit 1",
    );
    let error = text(&output.stderr);
    assert!(!output.status.success());
    assert!(
        error.contains(
            "the credential helper docker-credential-test failed: the \\u{1b}[31mvault is locked"
        ),
        "{error}"
    );
    assert!(error.contains("hint: run the helper by hand"), "{error}");
    let (output, _) = pull_with_helper(&server, "cat > /dev/null\necho nonsense");
    let error = text(&output.stderr);
    assert!(error.contains("gave a malformed answer"), "{error}");
}

fn a_helper_without_a_login_means_anonymous() {
    let server = guarded(&Sample::new(&[b"one"]), false);
    let script = "cat > /dev/null\necho credentials not found in native keychain\nexit 1";
    let (output, _) = pull_with_helper(&server, script);
    let error = text(&output.stderr);
    assert!(
        error.contains("hint: log in with: bulkhead login"),
        "{error}"
    );
}
