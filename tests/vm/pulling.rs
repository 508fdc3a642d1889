//! Pulling from a real registry, plain and with a password, and from one that goes wrong.

use std::fs;

use anyhow::{Context, Result, anyhow};
use fixtures::Recipe;
use fixtures::hostile::{self, Wrong};
use harness::fault::{Fault, FaultyRegistry};
use harness::registry::{Access, PASSWORD, Registry, USER, docker_config, free_port};
use harness::{Invocation, Sandbox, SmallDisk, images};
use rustix::process::Signal;

use crate::world::World;

crate::tests![
    images_come_from_an_open_registry,
    a_password_is_asked_for_and_taken,
    pull_policies_are_followed,
    an_unknown_image_is_refused,
    a_registry_that_is_down_is_told,
    a_registry_that_fails_in_the_middle_is_told,
    a_manifest_that_is_too_long_is_refused,
    images_that_cant_run_are_not_stored,
    a_killed_pull_is_resumed,
    a_killed_run_that_pulled_is_resumed,
    a_full_disk_is_told,
    progress_is_shown_on_a_terminal_and_elsewhere_in_lines,
    a_commit_is_pushed_and_runs_elsewhere,
    an_import_runs,
];

/// `oci-archive:` and where the image is.
fn source(recipe: Recipe, file: &str) -> Result<String> {
    Ok(format!(
        "oci-archive:{}",
        images::path(recipe, file)?.display()
    ))
}

fn images_come_from_an_open_registry(_: &World) -> Result<()> {
    let registry = Registry::start(Access::Open)?;
    let busybox = registry.push(
        &source(Recipe::Busybox, "busybox-oci.tar")?,
        "busybox:latest",
    )?;
    let debian = registry.push(&source(Recipe::Debian, "debian.tar")?, "team/debian:12")?;
    let vm = Sandbox::empty()?;
    let out = vm.bulkhead(["pull", &busybox]).output()?.code(0)?;
    assert!(out.stdout.contains(&busybox), "{out}");
    // `run` pulls what is missing.
    let out = vm
        .run([debian.as_str(), "python3", "-c", "print(6 * 7)"])?
        .code(0)?;
    assert_eq!(out.stdout, "42\n", "{out}");
    assert!(out.stderr.contains("Unable to find image"), "{out}");
    assert_eq!(
        vm.run([busybox.as_str(), "echo", "pulled"])?
            .only_stdout()?,
        "pulled\n"
    );
    // Another name of what is there.
    let format = "{{index .RepoDigests 0}}";
    let digest = vm
        .bulkhead(["inspect", "-f", format, &busybox])
        .output()?
        .only_stdout()?;
    let out = vm.run([digest.trim_end(), "echo", "by digest"])?;
    assert_eq!(out.only_stdout()?, "by digest\n");
    // What was pulled by its digest is listed as that, beside other names.
    let other = Sandbox::empty()?;
    let digest = digest.trim_end();
    for words in [&["pull", "-q", digest][..], &["tag", digest, "mine:1"]] {
        other.bulkhead(words).output()?.code(0)?;
    }
    let (repository, digest) = digest.split_once('@').context("a digest")?;
    let format = "{{.Repository}} {{.Tag}} {{.Digest}}";
    let listed = other.bulkhead(["images", "--digests", "--format", format]);
    assert_eq!(
        listed.output()?.only_stdout()?,
        format!("mine 1 <none>\n{repository} <none> {digest}\n")
    );
    Ok(())
}

fn a_password_is_asked_for_and_taken(_: &World) -> Result<()> {
    let registry = Registry::start(Access::Password)?;
    let name = registry.push(
        &source(Recipe::Busybox, "busybox-oci.tar")?,
        "busybox:latest",
    )?;
    let vm = Sandbox::empty()?;
    let before = vm.snapshot()?;
    let log_in = |password: &str| {
        fs::create_dir_all(vm.home().join(".docker"))?;
        let config = docker_config(&registry.address(), USER, password);
        fs::write(vm.home().join(".docker/config.json"), config)
    };
    vm.run([name.as_str(), "true"])?.code(125)?;
    log_in("wrong")?;
    let out = vm.run([name.as_str(), "true"])?.code(125)?;
    assert!(
        out.stderr.contains("401") || out.stderr.contains("unauthorized"),
        "{out}"
    );
    before
        .no_leftovers(&vm)
        .or_else(|error| stored_nothing(&vm, error))?;
    log_in(PASSWORD)?;
    vm.bulkhead(["pull", &name]).output()?.code(0)?;
    assert_eq!(
        vm.run([name.as_str(), "echo", "let in"])?.only_stdout()?,
        "let in\n"
    );
    // A real image, with layers that take their time.
    let debian = registry.push(&source(Recipe::Debian, "debian.tar")?, "team/debian:12")?;
    vm.bulkhead(["pull", "-q", &debian]).output()?.code(0)?;
    let id = ["inspect", "-f", "{{.Architecture}}", &debian];
    assert_eq!(vm.bulkhead(id).output()?.only_stdout()?, "amd64\n");
    Ok(())
}

/// The first use of a state root makes its folders; images and containers there are none.
fn stored_nothing(vm: &Sandbox, error: anyhow::Error) -> Result<()> {
    let blobs = vm.root().join("images/blobs/sha256");
    let blobs = fs::read_dir(blobs).map_or(0, Iterator::count);
    let ingest = fs::read_dir(vm.root().join("images/ingest")).map_or(0, Iterator::count);
    if blobs + ingest > 0 || !vm.processes()?.is_empty() {
        return Err(error);
    }
    Ok(())
}

fn pull_policies_are_followed(_: &World) -> Result<()> {
    let registry = Registry::start(Access::Open)?;
    let name = registry.push(
        &source(Recipe::Busybox, "busybox-oci.tar")?,
        "busybox:latest",
    )?;
    let vm = Sandbox::empty()?;
    vm.run(["--pull", "never", &name, "true"])?
        .refusal("No such image")?;
    vm.run(["--pull", "sometimes", &name, "true"])?
        .refusal("sometimes")?;
    let out = vm.run(["--pull", "always", "-q", &name, "echo", "first"])?;
    assert_eq!(out.only_stdout()?, "first\n");
    drop(registry);
    assert_eq!(
        vm.run([name.as_str(), "echo", "cached"])?.only_stdout()?,
        "cached\n"
    );
    vm.run(["--pull", "always", &name, "true"])?.code(125)?;
    Ok(())
}

fn an_unknown_image_is_refused(_: &World) -> Result<()> {
    let registry = Registry::start(Access::Open)?;
    let vm = Sandbox::empty()?;
    let name = registry.name("no/such/image:tag");
    let out = vm.run(["-q", &name, "true"])?;
    out.refusal("no/such/image")?;
    vm.run(["-q", "Not-A-Name", "true"])?
        .refusal("repository name (library/Not-A-Name) must be lowercase")?;
    Ok(())
}

fn a_registry_that_is_down_is_told(_: &World) -> Result<()> {
    let vm = Sandbox::empty()?;
    let name = format!("127.0.0.1:{}/busybox", free_port()?);
    let sentence = vm.run(["-q", &name, "true"])?.refusal("127.0.0.1")?;
    assert!(sentence.to_lowercase().contains("connect"), "{sentence}");
    Ok(())
}

fn a_registry_that_fails_in_the_middle_is_told(_: &World) -> Result<()> {
    let layout = tempfile::tempdir()?;
    hostile::write(layout.path(), Wrong::Nothing)?;
    let registry = FaultyRegistry::start(layout.path(), Fault::None)?;
    let name = registry.name(hostile::IMAGE);
    let vm = Sandbox::empty()?;
    for (fault, text) in [
        (Fault::Status(500), "500"),
        (Fault::LayerStatus(500), "500"),
        (Fault::LayerStatus(404), "is not on"),
        (Fault::WrongByte, "digest"),
        (Fault::ExtraBytes, "bytes"),
        (Fault::HalfLayers, "broke while layer "),
    ] {
        registry.set_fault(fault);
        let sentence = vm.run(["-q", &name, "true"])?.refusal("")?;
        assert!(sentence.contains(text), "{fault:?}: {sentence}");
        let found = vm.bulkhead(["images", "-q"]).output()?.only_stdout()?;
        assert_eq!(found, "", "{fault:?} leaves an image");
    }
    // After all that it works.
    registry.set_fault(Fault::None);
    vm.bulkhead(["pull", "-q", &name]).output()?.code(0)?;
    Ok(())
}

fn a_manifest_that_is_too_long_is_refused(_: &World) -> Result<()> {
    let layout = tempfile::tempdir()?;
    hostile::write(layout.path(), Wrong::Nothing)?;
    let registry = FaultyRegistry::start(layout.path(), Fault::LongManifest(hostile::LONG_BYTES))?;
    let vm = Sandbox::empty()?;
    let name = registry.name(hostile::IMAGE);
    vm.run(["-q", &name, "true"])?.refusal("manifest")?;
    Ok(())
}

/// What is wrong shows in manifest or configuration, so that no layer is fetched.
fn images_that_cant_run_are_not_stored(_: &World) -> Result<()> {
    let vm = Sandbox::empty()?;
    for (wrong, text) in [
        (Wrong::Platform, "arm64"),
        (Wrong::ManyLayers, "1000 layers, above the limit of 127"),
        (Wrong::LongManifest, "manifest"),
    ] {
        let layout = tempfile::tempdir()?;
        hostile::write(layout.path(), wrong)?;
        let registry = FaultyRegistry::start(layout.path(), Fault::None)?;
        let name = registry.name(hostile::IMAGE);
        let out = vm.run(["-q", &name, "true"])?;
        out.refusal(text).with_context(|| format!("{wrong:?}"))?;
        stored_nothing(&vm, anyhow!("{wrong:?} is stored"))?;
        let found = vm.bulkhead(["images", "-q"]).output()?.only_stdout()?;
        assert_eq!(found, "", "{wrong:?} leaves an image");
    }
    Ok(())
}

fn a_killed_pull_is_resumed(_: &World) -> Result<()> {
    kill_in_the_middle(&|vm, name| vm.bulkhead(["pull", name]))
}

fn a_killed_run_that_pulled_is_resumed(_: &World) -> Result<()> {
    kill_in_the_middle(&|vm, name| vm.bulkhead(["run", "--rm", "--cidfile", "id", name, "true"]))
}

/// Kills what pulls in the middle of a layer; the next one goes on from there.
fn kill_in_the_middle(pull: &dyn Fn(&Sandbox, &str) -> Invocation) -> Result<()> {
    let layout = images::path(Recipe::Busybox, "busybox-oci")?;
    let registry = FaultyRegistry::start(&layout, Fault::Slow)?;
    let name = registry.name("busybox:latest");
    let vm = Sandbox::empty()?;
    let running = pull(&vm, &name).spawn()?;
    let ingest = vm.root().join("images/ingest");
    let half_there = || {
        let files = fs::read_dir(&ingest).into_iter().flatten().flatten();
        files
            .filter_map(|file| file.metadata().ok())
            .any(|file| file.len() > 100_000)
    };
    crate::life::until("a part of a layer", || Ok(half_there().then_some(())))?;
    running.signal(Signal::KILL)?;
    running.wait()?;
    assert_eq!(vm.bulkhead(["images", "-q"]).output()?.only_stdout()?, "");
    assert_eq!(vm.bulkhead(["ps", "-aq"]).output()?.only_stdout()?, "");
    assert!(!vm.work().join("id").exists(), "the id of no container");
    registry.set_fault(Fault::None);
    pull(&vm, &name).output()?.code(0)?;
    let resumed = registry.requests();
    assert!(
        resumed
            .iter()
            .any(|request| request.first_byte.is_some_and(|first| first > 0)),
        "{resumed:?}"
    );
    assert_eq!(
        vm.run([name.as_str(), "echo", "whole"])?.only_stdout()?,
        "whole\n"
    );
    Ok(())
}

fn a_full_disk_is_told(_: &World) -> Result<()> {
    let registry = Registry::start(Access::Open)?;
    let name = registry.push(
        &source(Recipe::Busybox, "busybox-oci.tar")?,
        "busybox:latest",
    )?;
    let vm = Sandbox::empty()?;
    let disk = SmallDisk::mount(&vm.folder().join("small"), 1)?;
    for (arguments, code) in [
        (&["pull", "-q", &name][..], 1),
        (&["run", "-q", "--rm", &name, "true"], 125),
    ] {
        let out = vm
            .bulkhead(arguments)
            .env("BULKHEAD_ROOT", disk.path())
            .output()?
            .code(code)?;
        assert!(out.stderr.to_lowercase().contains("no space left"), "{out}");
        // What came whole may stay for the next try; nothing half there does.
        for folder in ["images/ingest", "containers"] {
            let folder = disk.path().join(folder);
            let files: Vec<_> = fs::read_dir(&folder)
                .with_context(|| format!("read {}", folder.display()))?
                .collect();
            assert!(files.is_empty(), "{arguments:?} left {files:?}");
        }
    }
    Ok(())
}

fn progress_is_shown_on_a_terminal_and_elsewhere_in_lines(_: &World) -> Result<()> {
    let layout = images::path(Recipe::Busybox, "busybox-oci")?;
    let registry = FaultyRegistry::start(&layout, Fault::Slow)?;
    let name = registry.name("busybox:latest");
    let vm = Sandbox::empty()?;
    let mut terminal = vm.terminal(["pull", &name])?;
    terminal.wait_for("Downloading")?;
    // A bar: so many bytes of so many.
    terminal.wait_for("KiB/")?;
    registry.set_fault(Fault::None);
    assert_eq!(terminal.wait()?.0, 0);

    let out = vm.bulkhead(["pull", &name]).output()?.code(0)?;
    assert!(out.stdout.contains(": Already exists\n"), "{out}");
    assert!(!out.stdout.contains("Downloading"), "{out}");
    vm.bulkhead(["rmi", &name]).output()?.code(0)?;
    let out = vm.bulkhead(["pull", &name]).output()?.code(0)?;
    assert!(out.stdout.contains(": Pull complete\n"), "{out}");
    Ok(())
}

fn a_commit_is_pushed_and_runs_elsewhere(world: &World) -> Result<()> {
    let registry = Registry::start(Access::Password)?;
    let name = registry.name("team/made:1");
    let vm = world.own()?;
    let script = "echo made >/made; head -c 3000000 /dev/urandom >/noise; md5sum </noise >/sum";
    vm.bulkhead(["run", "--name", "maker", "busybox", "sh", "-c", script])
        .output()?
        .code(0)?;
    vm.bulkhead(["commit", "maker", &name]).output()?.code(0)?;
    let log_in = |vm: &Sandbox| -> Result<()> {
        let server = registry.address();
        vm.bulkhead(["login", "-u", USER, "--password-stdin", &server])
            .stdin(PASSWORD)
            .output()?
            .code(0)?;
        Ok(())
    };
    vm.bulkhead(["push", &name]).output()?.code(1)?;
    log_in(&vm)?;
    let first = vm.bulkhead(["push", &name]).output()?.only_stdout()?;
    assert_eq!(first.matches(": Pushed\n").count(), 2, "{first}");
    let second = vm.bulkhead(["push", &name]).output()?.only_stdout()?;
    assert_eq!(
        second.matches(": Layer already exists\n").count(),
        2,
        "{second}"
    );
    assert_eq!(first.lines().last(), second.lines().last());
    // What is unpacked there is what was packed here.
    let other = Sandbox::empty()?;
    log_in(&other)?;
    let script = "cat /made; md5sum </noise | diff - /sum && echo same";
    let out = other.run([name.as_str(), "sh", "-c", script])?.code(0)?;
    assert_eq!(out.stdout, "made\nsame\n", "{out}");
    // The image that was pushed runs on, with its layers as they were.
    assert_eq!(
        vm.run([name.as_str(), "cat", "/made"])?.only_stdout()?,
        "made\n"
    );
    Ok(())
}

fn an_import_runs(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.bulkhead(["run", "--name", "source", "busybox", "touch", "/mark"])
        .output()?
        .code(0)?;
    let script = "bulkhead export source | bulkhead import -c 'CMD [\"ls\", \"/mark\"]' - flat";
    vm.shell(script).output()?.code(0)?;
    assert_eq!(vm.run(["flat"])?.only_stdout()?, "/mark\n");
    // Through an archive, too.
    vm.shell("bulkhead save flat | cat >flat.tar; bulkhead rmi flat >/dev/null; bulkhead load -qi flat.tar")
        .output()?
        .code(0)?;
    assert_eq!(vm.run(["flat"])?.only_stdout()?, "/mark\n");
    Ok(())
}
