//! Agents that lie to `cp`, `export`, `diff`, `commit` and `exec`, to a conversion, to what decompresses and to
//! the steps of a build. Each lie ends in one sentence and Docker's code, or is told as what it is; nothing of the host is
//! touched beside what was asked for, and nothing is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Invocation, Output, Sandbox, SmallDisk, hostile};
use rustix::process::Signal;

use super::SENTENCE_MAX;
use crate::hostile::verbs::measured;
use crate::world::World;

crate::tests![
    archives_that_lead_out_are_refused,
    archives_without_end_fill_no_more_than_there_is,
    what_is_exported_and_committed_is_whole,
    changes_are_of_the_containers_own_paths,
    what_is_copied_in_goes_nowhere_else,
    a_silent_agent_is_left_by_an_interrupt,
    other_processes_are_those_that_were_asked_for,
    a_running_container_lies_to_its_verbs,
    a_terminal_is_not_moved_by_names,
    a_conversion_that_is_none_makes_no_layer,
    what_is_decompressed_is_taken_for_no_more_than_bytes,
    a_build_that_is_none_makes_no_image,
];

/// Memory of a command that has no VM of its own.
const COMMAND_KIB_MAX: u64 = 96 << 10;

/// Longer than it takes to get to the lie where nothing else is done; what is checked then holds before, too.
const PAUSE: Duration = Duration::from_secs(10);

/// A container that is stopped, in a folder of the host with things that are none of its business.
struct Stopped {
    vm: Sandbox,
    guest: PathBuf,
}

impl Stopped {
    fn make(world: &World) -> Result<Self> {
        let vm = world.own()?;
        let create = ["create", "--name", "cc", "-m", "128m", "busybox", "true"];
        vm.bulkhead(create).output()?.code(0)?;
        fs::write(vm.work().join("secret"), "the host's").context("write a file")?;
        let guest = vm.folder().join("hostile");
        Ok(Self { vm, guest })
    }

    /// A command whose VMs have an agent that lies so.
    fn command(&self, lie: &str, words: &[&str]) -> Result<Invocation> {
        lying(&self.vm, &self.guest, lie, self.vm.bulkhead(words))
    }

    /// What is beside a copy is as it was.
    fn check(&self, made: &[&str]) -> Result<()> {
        let secret = fs::read_to_string(self.vm.work().join("secret"))?;
        ensure!(secret == "the host's", "{secret}");
        let mut names = Vec::new();
        for entry in fs::read_dir(self.vm.work()).context("read a folder")? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| name != "secret" && !made.contains(&name.as_str()));
        ensure!(names.is_empty(), "beside it there are {names:?}");
        for name in ["/escaped", "/tmp/bulkhead-escaped", "/tmp/escaped"] {
            ensure!(!Path::new(name).exists(), "{name} was made");
        }
        self.vm.wait_for_no_process()
    }
}

fn lying(vm: &Sandbox, guest: &Path, lie: &str, command: Invocation) -> Result<Invocation> {
    hostile::agent(&vm.guest(), guest, &format!("serve {lie}"))?;
    Ok(command
        .env("BULKHEAD_GUEST", guest)
        .env("BULKHEAD_TEMPLATES", "off"))
}

/// It failed with one sentence that has `text`, short and without what moves a cursor.
fn told(out: &Output, code: i32, text: &str) -> Result<()> {
    let lines = out.stderr.lines();
    let said: Vec<_> = lines
        .filter(|line| line.starts_with("bulkhead: "))
        .collect();
    let [sentence] = said.as_slice() else {
        anyhow::bail!("not one sentence: {out}");
    };
    ensure!(out.code == code, "{code} was to be the code: {out}");
    ensure!(sentence.contains(text), "{text:?} is not said: {out}");
    ensure!(out.stderr.len() <= SENTENCE_MAX, "too long: {out}");
    ensure!(!out.stderr.contains('\u{1b}'), "it moves the cursor: {out}");
    ensure!(!out.stderr.contains("panicked"), "{out}");
    Ok(())
}

/// What a copy of a folder says to each lie.
const COPIES: [(&str, &str); 14] = [
    ("dots", "a path that leads out"),
    ("dots-silent", "a path that leads out"),
    ("absolute", "a path that leads out"),
    ("through-link", "below a symbolic link"),
    ("through-root", "below a symbolic link"),
    ("hard-link", "a path that leads out"),
    ("other-top", "a path that was not asked for"),
    ("short", "a bad archive"),
    ("long", "a bad archive"),
    ("huge", "archive"),
    ("garbage", "a bad archive"),
    ("nothing", "a bad archive"),
    ("failed", "\u{fffd}[2J"),
    ("other-id", "broke the protocol"),
];

fn archives_that_lead_out_are_refused(world: &World) -> Result<()> {
    let container = Stopped::make(world)?;
    let to = container.vm.work().join("to");
    for (lie, text) in COPIES {
        fs::create_dir(&to).context("create a folder")?;
        let out = container.command(lie, &["cp", "cc:/dir", "to"])?.output()?;
        told(&out, 1, text).with_context(|| lie.to_owned())?;
        container.check(&["to"]).with_context(|| lie.to_owned())?;
        fs::remove_dir_all(&to).context("remove a folder")?;
    }
    // No device is made, and the rest is.
    fs::create_dir(&to).context("create a folder")?;
    let out = container.command("device", &["cp", "cc:/dir", "to"])?;
    let out = out.output()?.code(0)?;
    ensure!(out.stderr.contains("1 devices were left out"), "{out}");
    ensure!(fs::read_dir(to.join("dir"))?.count() == 0, "{out}");
    container.check(&["to"])
}

fn archives_without_end_fill_no_more_than_there_is(world: &World) -> Result<()> {
    let container = Stopped::make(world)?;
    let disk = SmallDisk::mount(&container.vm.work().join("small"), 8)?;
    let copy = ["cp", "cc:/file", "small/"];
    let export = ["export", "-o", "small/archive", "cc"];
    for words in [&copy[..], &export] {
        let out = container.command("endless", words)?.output()?;
        told(&out, 1, "No space left").with_context(|| format!("{words:?}"))?;
        container.check(&["small"])?;
        for entry in fs::read_dir(disk.path()).context("read a folder")? {
            let name = entry?.file_name();
            // A part of a file that was copied stays, as in Docker.
            ensure!(words[0] == "cp" && name == "file", "{name:?} is left");
        }
        let _ = fs::remove_file(disk.path().join("file"));
    }
    // Who reads it has enough.
    hostile::agent(&container.vm.guest(), &container.guest, "serve endless")?;
    for words in ["cp cc:/file -", "export cc"] {
        let script = format!("bulkhead {words} | head -c 1000000 | wc -c");
        let out = container.vm.shell(&script);
        let out = out
            .env("BULKHEAD_GUEST", &container.guest)
            .env("BULKHEAD_TEMPLATES", "off")
            .output()?;
        ensure!(out.stdout.trim() == "1000000", "{out}");
        container.check(&["small"])?;
    }
    drop(disk);
    Ok(())
}

fn what_is_exported_and_committed_is_whole(world: &World) -> Result<()> {
    let container = Stopped::make(world)?;
    let images = || -> Result<String> {
        let words = ["images", "-q", "--no-trunc"];
        container.vm.bulkhead(words).output()?.only_stdout()
    };
    let before = images()?;
    for (lie, text) in [
        ("failed", "\u{fffd}[2J"),
        ("other-id", "broke the protocol"),
    ] {
        for words in [
            &["export", "-o", "archive", "cc"][..],
            &["commit", "cc", "made"],
        ] {
            let out = container.command(lie, words)?.output()?;
            told(&out, 1, text).with_context(|| format!("{lie}, {words:?}"))?;
            container.check(&[])?;
            ensure!(images()? == before, "{lie}, {words:?}: an image was made");
            let ingest = container.vm.root().join("images/ingest");
            ensure!(fs::read_dir(ingest)?.count() == 0, "{lie}, {words:?}");
        }
    }
    // Bytes that are no layer make an image that does not run.
    for lie in ["garbage", "long", "huge"] {
        let commit = ["commit", "cc", "made"];
        container.command(lie, &commit)?.output()?.code(0)?;
        container.vm.run(["made", "true"])?.refusal("layer")?;
        container.vm.bulkhead(["rmi", "made"]).output()?.code(0)?;
        container.check(&[])?;
    }
    Ok(())
}

fn changes_are_of_the_containers_own_paths(world: &World) -> Result<()> {
    let container = Stopped::make(world)?;
    for (lie, text) in [
        ("changes-dots", "a path that leads out"),
        ("changes-relative", "without a root"),
        ("changes-kind", "unknown kind"),
        ("changes-half", "the end of a change"),
        ("changes-long", "more than 4096 bytes"),
        ("failed", "\u{fffd}[2J"),
        ("other-id", "broke the protocol"),
    ] {
        let out = container.command(lie, &["diff", "cc"])?.output()?;
        told(&out, 1, text).with_context(|| lie.to_owned())?;
        ensure!(!out.stdout.contains("passwd"), "{lie}: {out}");
        container.check(&[])?;
    }
    Ok(())
}

fn what_is_copied_in_goes_nowhere_else(world: &World) -> Result<()> {
    let container = Stopped::make(world)?;
    let large = container.vm.folder().join("large");
    fs::write(&large, vec![b'x'; 4 << 20]).context("write a file")?;
    let large = large.to_string_lossy().into_owned();
    for (lie, text) in [
        ("stat-mode", "Could not find the file"),
        ("stat-link", "Could not find the file"),
        ("take-nothing", "only a part"),
        ("failed", "\u{fffd}[2J"),
        ("other-id", "broke the protocol"),
        ("hello-again", "broke the protocol"),
    ] {
        let out = container.command(lie, &["cp", &large, "cc:/dir/"])?;
        told(&out.output()?, 1, text).with_context(|| lie.to_owned())?;
        container.check(&[])?;
    }
    Ok(())
}

fn a_silent_agent_is_left_by_an_interrupt(world: &World) -> Result<()> {
    let container = Stopped::make(world)?;
    fs::create_dir(container.vm.work().join("to")).context("create a folder")?;
    for words in [
        &["cp", "cc:/dir", "to"][..],
        &["export", "-o", "archive", "cc"],
    ] {
        let running = container.command("silent", words)?.spawn()?;
        container.vm.wait_for_process("__vmm")?;
        std::thread::sleep(PAUSE);
        running.signal(Signal::INT)?;
        let out = running.wait()?;
        ensure!(out.code != 0, "{out}");
        ensure!(!out.stderr.contains("panicked"), "{out}");
        // A file of `export` has no name before it is whole; a part of it may stay without one.
        container.vm.wait_for_no_process()?;
        ensure!(!container.vm.work().join("archive").exists(), "{out}");
    }
    // Its lock is free.
    let next = ["cp", "cc:/etc/passwd", "-"];
    container.vm.bulkhead(next).output()?.code(0)?;
    Ok(())
}

/// A container that runs and has an agent that lies so.
fn begin(container: &Stopped, lie: &str) -> Result<()> {
    let words = [
        "run", "-d", "--name", "lies", "-m", "128m", "busybox", "true",
    ];
    container.command(lie, &words)?.output()?.code(0)?;
    Ok(())
}

/// Runs the command on it, whose memory has a limit, and removes the container.
fn on_a_running_one(container: &Stopped, lie: &str, words: &[&str]) -> Result<Output> {
    begin(container, lie)?;
    let vm = &container.vm;
    let (out, kib) = measured(vm, words)?;
    ensure!(kib <= COMMAND_KIB_MAX, "{lie}: {kib} KiB of memory: {out}");
    if let Some(supervisor) = vm
        .processes()?
        .iter()
        .find(|process| process.has_verb("__supervisor"))
    {
        // It may just have gone.
        let kib = crate::limits::status_kib(supervisor.id, "VmHWM").unwrap_or_default();
        ensure!(kib <= crate::bare::SUPERVISOR_KIB, "{lie}: {kib} KiB");
    }
    vm.bulkhead(["rm", "-f", "lies"]).output()?.code(0)?;
    vm.wait_for_no_process()?;
    Ok(out)
}

fn other_processes_are_those_that_were_asked_for(world: &World) -> Result<()> {
    let container = Stopped::make(world)?;
    let words = ["exec", "lies", "true"];
    let out = on_a_running_one(&container, "exec", &words)?;
    ensure!(out.code == 9 && out.stdout.is_empty(), "{out}");
    let out = on_a_running_one(&container, "exec-failed", &words)?;
    ensure!(out.code == 127 && out.stderr.len() <= SENTENCE_MAX, "{out}");
    ensure!(!out.stderr.contains('\u{1b}'), "{out}");
    // These end the container, and what was asked of it with it.
    for lie in [
        "exec-twice",
        "exec-ended-twice",
        "exec-other",
        "exec-ended-other",
    ] {
        let out = on_a_running_one(&container, lie, &words)?;
        ensure!(out.code != 0 && out.stdout.is_empty(), "{lie}: {out}");
        ensure!(out.stderr.len() <= SENTENCE_MAX, "{lie}: {out}");
        ensure!(!out.stderr.contains("panicked"), "{lie}: {out}");
    }
    // Who reads it has enough, and the container goes on.
    begin(&container, "exec-flood")?;
    let script = "bulkhead exec lies true | head -c 1000000 | wc -c; \
                  bulkhead inspect -f '{{.State.Status}}' lies";
    let out = container.vm.shell(script).output()?;
    ensure!(out.stdout.trim() == "1000000\nrunning", "{out}");
    let vm = &container.vm;
    vm.bulkhead(["rm", "-f", "lies"]).output()?.code(0)?;
    container.check(&[])
}

fn a_running_container_lies_to_its_verbs(world: &World) -> Result<()> {
    let container = Stopped::make(world)?;
    fs::create_dir(container.vm.work().join("to")).context("create a folder")?;
    for (lie, words, text) in [
        (
            "dots",
            &["cp", "lies:/dir", "to"][..],
            "a path that leads out",
        ),
        (
            "dots-silent",
            &["cp", "lies:/dir", "to"],
            "a path that leads out",
        ),
        (
            "through-link",
            &["cp", "lies:/dir", "to"],
            "below a symbolic link",
        ),
        ("failed", &["cp", "lies:/dir", "to"], "\u{fffd}[2J"),
        ("changes-dots", &["diff", "lies"], "a path that leads out"),
        ("changes-long", &["diff", "lies"], "more than 4096 bytes"),
        (
            "failed",
            &["export", "-o", "archive", "lies"],
            "\u{fffd}[2J",
        ),
        ("failed", &["commit", "lies", "made"], "\u{fffd}[2J"),
        ("other-id", &["diff", "lies"], "the container has ended"),
        (
            "other-id",
            &["commit", "lies", "made"],
            "the container has ended",
        ),
    ] {
        let about = || format!("{lie}, {words:?}");
        let out = on_a_running_one(&container, lie, words).with_context(about)?;
        told(&out, 1, text).with_context(about)?;
        container.check(&["to"]).with_context(about)?;
        let _ = fs::remove_dir_all(container.vm.work().join("to/dir"));
    }
    Ok(())
}

/// Names are what they are where a program reads them, and nothing that moves a cursor at a terminal.
fn a_terminal_is_not_moved_by_names(world: &World) -> Result<()> {
    let container = Stopped::make(world)?;
    begin(&container, "changes-cursor")?;
    let diff = ["diff", "lies"];
    let vm = &container.vm;
    assert_eq!(
        vm.bulkhead(diff).output()?.only_stdout()?,
        "A /\u{1b}[2J\nD /etc\n"
    );
    let (code, text) = vm.terminal(diff)?.wait()?;
    assert_eq!((code, text.as_str()), (0, "A /\u{fffd}[2J\r\nD /etc\r\n"));
    vm.bulkhead(["rm", "-f", "lies"]).output()?.code(0)?;
    container.check(&[])
}

fn a_conversion_that_is_none_makes_no_layer(_: &World) -> Result<()> {
    let vm = Sandbox::with_busybox()?;
    let guest = vm.folder().join("hostile");
    let layers = || -> Result<usize> {
        let entries = fs::read_dir(vm.root().join("images/layers"));
        Ok(entries.into_iter().flatten().count())
    };
    for (lie, text) in [
        ("converted-0", "0 bytes"),
        ("converted-odd", "4097 bytes"),
        ("converted-huge", "18446744073709551615 bytes"),
        ("converted-above", "68719480832 bytes"),
        ("converting-beyond", "broke the protocol"),
        ("converting-back", "broke the protocol"),
        ("converted-held", "broke the protocol"),
        ("hello-again", "broke the protocol"),
        ("converted-failed", "\u{fffd}[2J"),
    ] {
        let run = vm.bulkhead(["run", "--rm", "busybox", "true"]);
        let out = lying(&vm, &guest, lie, run)?.output()?;
        told(&out, 125, text).with_context(|| lie.to_owned())?;
        vm.wait_for_no_process()?;
        ensure!(layers()? == 0, "{lie}: a layer was made");
    }
    assert_eq!(
        vm.run(["busybox", "echo", "next"])?.only_stdout()?,
        "next\n"
    );
    Ok(())
}

fn what_is_decompressed_is_taken_for_no_more_than_bytes(world: &World) -> Result<()> {
    let vm = world.own()?;
    let guest = vm.folder().join("hostile");
    let images = || -> Result<String> { vm.bulkhead(["images", "-aq"]).output()?.only_stdout() };
    let before = images()?;
    let mut packed = vec![b'x'; 4 << 20];
    packed[..3].copy_from_slice(b"\x1f\x8b\x08");
    fs::write(vm.work().join("packed"), packed).context("write a file")?;
    for (lie, words, text) in [
        ("garbage", &["import", "packed"][..], "is no tar"),
        ("endless", &["import", "packed"], "is no tar"),
        ("garbage", &["load", "-i", "packed"], "checksum"),
        ("nothing", &["load", "-i", "packed"], "so it is no image"),
        ("failed", &["import", "packed"], "\u{fffd}[2J"),
        ("hello-again", &["import", "packed"], "broke the protocol"),
        ("ended", &["import", "packed"], "the VM ended"),
    ] {
        let out = lying(&vm, &guest, lie, vm.bulkhead(words))?.output()?;
        told(&out, 1, text).with_context(|| format!("{lie}, {words:?}"))?;
        vm.wait_for_no_process()?;
        ensure!(images()? == before, "{lie}, {words:?}: an image was made");
        let ingest = vm.root().join("images/ingest");
        ensure!(fs::read_dir(ingest)?.count() == 0, "{lie}, {words:?}");
    }
    Ok(())
}

fn a_build_that_is_none_makes_no_image(world: &World) -> Result<()> {
    let vm = world.own()?;
    let guest = vm.folder().join("hostile");
    let dockerfile = "FROM busybox\nRUN true\nCOPY large /\n";
    fs::write(vm.work().join("Dockerfile"), dockerfile).context("write a file")?;
    fs::write(vm.work().join("large"), vec![b'x'; 4 << 20]).context("write a file")?;
    let before = vm.snapshot()?;
    for (lie, text) in [
        ("hello-again", "broke the protocol"),
        ("step-ended", "broke the protocol"),
        ("other-id", "broke the protocol"),
        ("take-nothing", "only a part"),
        ("failed", "\u{fffd}[2J"),
        // Whatever it says is a layer, and after it that it could not go on.
        ("sealed", "\u{fffd}[2J"),
    ] {
        let words = ["build", "-q", "--no-cache", "-t", "made", "."];
        let out = lying(&vm, &guest, lie, vm.bulkhead(words))?.output()?;
        told(&out, 1, text).with_context(|| lie.to_owned())?;
        vm.wait_for_no_process()?;
        let made = vm.bulkhead(["image", "inspect", "made"]).output()?;
        ensure!(made.code == 1, "{lie}: an image was made");
        let ingest = vm.root().join("images/ingest");
        ensure!(fs::read_dir(ingest)?.count() == 0, "{lie}: a half is left");
    }
    // Output without end is shown, not kept, until somebody has enough of it.
    let build = vm.shell("exec bulkhead build --no-cache --progress=plain . 2>/dev/null");
    let running = lying(&vm, &guest, "step-output", build)?.spawn()?;
    vm.wait_for_process("__vmm")?;
    std::thread::sleep(PAUSE);
    let kib = crate::limits::status_kib(running.id(), "VmHWM")?;
    ensure!(kib <= COMMAND_KIB_MAX, "a build of {kib} KiB");
    running.signal(Signal::INT)?;
    running.wait()?;
    vm.wait_for_no_process()?;
    vm.bulkhead(["builder", "prune", "-af"]).output()?.code(0)?;
    before.no_leftovers(&vm)
}
