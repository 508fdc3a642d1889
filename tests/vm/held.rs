//! Containers that something else is at: frozen for a commit, their files held by a command, a volume
//! held by another container, a guest that answers nobody.

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Running, Sandbox, process};
use rustix::process::Signal;

use crate::life::{begin, status, text, until};
use crate::world::World;

crate::tests![
    a_commit_that_is_killed_lets_go,
    a_silent_guest_holds_up_nobody_and_is_ended,
    a_silent_guest_is_checked_once,
    a_check_that_a_pause_interrupts_does_not_count,
    files_that_are_held_are_waited_for,
    a_removal_by_force_ends_who_is_at_the_files,
    who_waits_for_a_volume_is_served,
    who_does_not_come_to_fill_a_volume_leaves_it_as_it_was,
];

const SLEEPS: &str = "sleep 1000";

fn a_commit_that_is_killed_lets_go(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script = "head -c 100000000 /dev/zero >/big; touch /tmp/ready; sleep 1000";
    begin(&vm, "cc", &["--tmpfs", "/tmp"], script)?;
    let wait = "until test -e /tmp/ready; do sleep 0.1; done";
    text(&vm, &["exec", "cc", "sh", "-c", wait])?;
    let id = text(&vm, &["inspect", "-f", "{{.Id}}", "cc"])?;
    let state = vm
        .root()
        .join("containers")
        .join(id.trim())
        .join("state.json");
    let commit = vm.bulkhead(["commit", "cc", "never"]).spawn()?;
    until("freezing", || {
        Ok(fs::read_to_string(&state)?
            .contains("\"paused\"")
            .then_some(()))
    })?;
    commit.signal(Signal::KILL)?;
    commit.wait()?.code(-9)?;
    until("going on", || {
        Ok((status(&vm, "cc")? == "running true 0").then_some(()))
    })?;
    assert_eq!(text(&vm, &["exec", "cc", "echo", "alive"])?, "alive\n");
    vm.bulkhead(["image", "inspect", "never"])
        .output()?
        .code(1)?;
    // What somebody paused is not a commit's to let go.
    text(&vm, &["pause", "cc"])?;
    text(&vm, &["commit", "cc", "frozen"])?;
    assert_eq!(status(&vm, "cc")?, "paused true 0");
    text(&vm, &["rm", "-f", "cc"])?;
    Ok(())
}

/// A VMM that is stopped is a guest that does nothing that it is asked for.
fn a_silent_guest_holds_up_nobody_and_is_ended(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    begin(&vm, "deaf", &["--restart", "always"], SLEEPS)?;
    begin(&vm, "well", &[], SLEEPS)?;
    let pid = text(&vm, &["inspect", "-f", "{{.State.Pid}}", "deaf"])?;
    vm.shell(&format!("kill -STOP {pid}")).output()?.code(0)?;
    let format = "{{.Name}} {{.MemPerc}}";
    let rows = text(&vm, &["stats", "--no-stream", "--format", format])?;
    let rows: Vec<&str> = rows.lines().collect();
    let [well, "deaf --"] = rows.as_slice() else {
        anyhow::bail!("{rows:?}");
    };
    assert!(well.starts_with("well ") && well.ends_with('%'), "{rows:?}");
    let top = vm.bulkhead(["top", "deaf"]).output()?.code(1)?;
    assert!(top.stderr.contains("did not answer in time"), "{top}");
    // So it outlives SIGKILL, but not its VM's end.
    let waiting = vm.bulkhead(["wait", "deaf"]).spawn()?;
    assert_eq!(text(&vm, &["stop", "-t", "0", "deaf"])?, "deaf\n");
    assert_eq!(waiting.wait()?.only_stdout()?, "137\n");
    assert_eq!(status(&vm, "deaf")?, "exited false 137");
    text(&vm, &["start", "deaf"])?;
    assert_eq!(text(&vm, &["exec", "deaf", "echo", "alive"])?, "alive\n");
    text(&vm, &["rm", "-f", "deaf", "well"])?;
    before.no_leftovers(&vm)
}

/// Checks that never end don't become many.
fn a_silent_guest_is_checked_once(world: &World) -> Result<()> {
    let vm = world.own()?;
    let flags = [
        "--health-cmd",
        "true",
        "--health-interval",
        "200ms",
        "--health-timeout",
        "2s",
        "--health-retries",
        "1",
    ];
    begin(&vm, "deaf", &flags, SLEEPS)?;
    let health = |wanted: &str| {
        let format = "{{.State.Health.Status}}{{range .State.Health.Log}};{{.Output}}{{end}}";
        until(wanted, || {
            let now = text(&vm, &["inspect", "-f", format, "deaf"])?;
            Ok(now.contains(wanted).then_some(now))
        })
    };
    health("healthy")?;
    let pid = text(&vm, &["inspect", "-f", "{{.State.Pid}}", "deaf"])?;
    vm.shell(&format!("kill -STOP {pid}")).output()?.code(0)?;
    let log = health("the last health check that exceeded its timeout has not ended")?;
    assert!(log.starts_with("unhealthy;"), "{log}");
    // It is checked again as soon as that one has ended.
    vm.shell(&format!("kill -CONT {pid}")).output()?.code(0)?;
    until("health", || {
        let format = "{{.State.Health.Status}}";
        Ok((text(&vm, &["inspect", "-f", format, "deaf"])? == "healthy\n").then_some(()))
    })?;
    text(&vm, &["rm", "-f", "deaf"])?;
    Ok(())
}

/// An export that is under way and waits for its reader.
fn export(vm: &Sandbox, name: &str) -> Result<(Running, std::io::PipeReader)> {
    let (mut reader, writer) = std::io::pipe().context("make a pipe")?;
    let output = File::from(std::os::fd::OwnedFd::from(writer));
    let running = vm.bulkhead(["export", name]).stdout_to(output).spawn()?;
    reader.read_exact(&mut [0; 512])?;
    Ok((running, reader))
}

/// Not even when the pause is longer than its time.
fn a_check_that_a_pause_interrupts_does_not_count(world: &World) -> Result<()> {
    let vm = world.own()?;
    let check = "touch /checked; until test -e /go; do sleep 0.1; done";
    let flags = [
        "--health-cmd",
        check,
        "--health-interval",
        "500ms",
        "--health-timeout",
        "10s",
        "--health-retries",
        "1",
    ];
    begin(&vm, "well", &flags, SLEEPS)?;
    let wait = "until test -e /checked; do sleep 0.1; done";
    text(&vm, &["exec", "well", "sh", "-c", wait])?;
    text(&vm, &["pause", "well"])?;
    std::thread::sleep(Duration::from_secs(11));
    text(&vm, &["unpause", "well"])?;
    text(&vm, &["exec", "well", "touch", "/go"])?;
    let format = "{{range .State.Health.Log}}{{.ExitCode}} {{end}}";
    let log = until("a check", || {
        let log = text(&vm, &["inspect", "-f", format, "well"])?;
        Ok((log.trim() != "").then_some(log))
    })?;
    assert!(log.starts_with("0 "), "{log}");
    text(&vm, &["rm", "-f", "well"])?;
    Ok(())
}

fn files_that_are_held_are_waited_for(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    vm.bulkhead(["run", "--name", "cc", "busybox", "touch", "/made"])
        .output()?
        .code(0)?;
    let id = text(&vm, &["inspect", "-f", "{{.Id}}", "cc"])?;
    let folder = vm.root().join("containers").join(id.trim());
    for words in [
        &["cp", "cc:/made", "out"][..],
        &["diff", "cc"],
        &["start", "-a", "cc"],
        &["rm", "cc"],
    ] {
        let (export, mut reader) = export(&vm, "cc")?;
        // It does not run, and who wants no more than to know that is told at once.
        assert_eq!(status(&vm, "cc")?, "exited false 0");
        assert_eq!(text(&vm, &["stop", "cc"])?, "cc\n");
        assert_eq!(text(&vm, &["wait", "cc"])?, "0\n");
        for verb in [
            &["pause", "cc"][..],
            &["exec", "cc", "true"],
            &["top", "cc"],
        ] {
            let out = vm.bulkhead(verb).output()?.code(1)?;
            assert!(out.stderr.contains("is not running"), "{out}");
        }
        let mut waiting = vm.bulkhead(words).spawn()?;
        process::wait_until(&vm.program(), "the command that waits", |all| {
            let same = all.iter().filter(|process| process.arguments == words);
            (same.count() == 1).then_some(())
        })?;
        assert!(folder.exists());
        assert!(!waiting.has_ended()?);
        std::io::copy(&mut reader, &mut std::io::sink())?;
        export.wait()?.code(0)?;
        waiting.wait()?.code(0)?;
    }
    fs::remove_file(vm.work().join("out"))?;
    before.no_leftovers(&vm)
}

fn a_removal_by_force_ends_who_is_at_the_files(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let make = ["run", "--name", "cc", "busybox", "true"];
    vm.bulkhead(make).output()?.code(0)?;
    let (out, mut reader) = export(&vm, "cc")?;
    assert_eq!(text(&vm, &["rm", "-f", "cc"])?, "cc\n");
    assert_eq!(text(&vm, &["ps", "-aq"])?, "");
    // Its name is free already.
    vm.bulkhead(make).output()?.code(0)?;
    std::io::copy(&mut reader, &mut std::io::sink())?;
    let out = out.wait()?.code(1)?;
    assert_eq!(
        out.stderr,
        "bulkhead: the container was removed meanwhile\n"
    );
    let (input, mut typed) = std::io::pipe().context("make a pipe")?;
    let into = vm
        .bulkhead(["cp", "-", "cc:/tmp"])
        .stdin_from(input)
        .spawn()?;
    vm.wait_for_process("__vmm")?;
    assert_eq!(text(&vm, &["rm", "-f", "cc"])?, "cc\n");
    process::wait_until(&vm.program(), "the end of its VM", |all| {
        let vms = all.iter().filter(|process| process.has_verb("__vmm"));
        (vms.count() == 0).then_some(())
    })?;
    let _ = std::io::Write::write_all(&mut typed, &[0; 1024]);
    drop(typed);
    let into = into.wait()?.code(1)?;
    assert_eq!(
        into.stderr,
        "bulkhead: the container was removed meanwhile\n"
    );
    before.no_leftovers(&vm)
}

fn who_waits_for_a_volume_is_served(world: &World) -> Result<()> {
    let vm = world.own()?;
    text(&vm, &["volume", "create", "data"])?;
    let before = vm.snapshot()?;
    // As a container that fills it.
    let marker = vm.root().join("volumes/data/copying");
    let filling = File::create(&marker)?;
    rustix::fs::flock(&filling, rustix::fs::FlockOperation::LockExclusive)?;
    let words = ["run", "-d", "--name", "cc", "-v", "data:/etc", "busybox"];
    let run = vm.bulkhead(words).args(["sleep", "1000"]).spawn()?;
    vm.wait_for_process("__supervisor")?;
    assert_eq!(status(&vm, "cc")?, "created false 0");
    let paused = vm.bulkhead(["pause", "cc"]).output()?.code(1)?;
    assert!(paused.stderr.contains("is not running"), "{paused}");
    assert_eq!(text(&vm, &["stop", "cc"])?, "cc\n");
    let run = run.wait()?.code(125)?;
    assert!(
        run.stderr
            .contains("was stopped while it waited for a volume"),
        "{run}"
    );
    let start = vm.bulkhead(["start", "cc"]).spawn()?;
    vm.wait_for_process("__supervisor")?;
    assert_eq!(text(&vm, &["rm", "-f", "cc"])?, "cc\n");
    assert_ne!(start.wait()?.code, 0);
    // That one is killed half-way: what it left is nobody's, once it is gone.
    let half = vm.root().join("volumes/data/_data/half");
    fs::write(&half, "half")?;
    let words = ["run", "--rm", "-v", "data:/etc", "busybox"];
    let mut run = vm.bulkhead(words).args(["ls", "/etc/passwd"]).spawn()?;
    vm.wait_for_process("__supervisor")?;
    assert!(half.exists());
    assert!(!run.has_ended()?);
    drop(filling);
    assert_eq!(run.wait()?.only_stdout()?, "/etc/passwd\n");
    assert!(!half.exists());
    assert!(!marker.exists());
    text(&vm, &["volume", "rm", "data"])?;
    text(&vm, &["volume", "create", "data"])?;
    before.no_leftovers(&vm)
}

fn who_does_not_come_to_fill_a_volume_leaves_it_as_it_was(world: &World) -> Result<()> {
    let vm = world.own()?;
    text(&vm, &["volume", "create", "aa"])?;
    text(&vm, &["volume", "create", "zz"])?;
    let before = vm.snapshot()?;
    let volumes = vm.root().join("volumes");
    let marker = volumes.join("aa/copying");
    // The second is held by another container.
    let other = File::create(volumes.join("zz/copying"))?;
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive)?;
    let words = ["run", "--name", "cc", "-v", "aa:/etc", "-v", "zz:/bin"];
    let run = vm.bulkhead(words).args(["busybox", "true"]).spawn()?;
    vm.wait_for_process("__supervisor")?;
    assert_eq!(text(&vm, &["stop", "cc"])?, "cc\n");
    run.wait()?.code(125)?;
    assert!(!marker.exists());
    text(&vm, &["rm", "cc"])?;
    drop(other);
    // A port that is taken: there is no VM.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = format!("127.0.0.1:{}:80", listener.local_addr()?.port());
    let words = ["run", "--rm", "-p", &port, "-v", "aa:/etc", "busybox"];
    vm.bulkhead(words)
        .arg("true")
        .output()?
        .refusal("address already in use")?;
    assert!(!marker.exists());
    // So what somebody puts there is kept, and nothing is added.
    fs::write(volumes.join("aa/_data/mine"), "mine")?;
    let words = ["run", "--rm", "-v", "aa:/etc", "busybox", "sh", "-c"];
    let script = "cat /etc/mine; test ! -e /etc/passwd";
    let out = vm.bulkhead(words).arg(script).output()?;
    assert_eq!(out.only_stdout()?, "mine");
    text(&vm, &["volume", "rm", "aa", "zz"])?;
    before.no_leftovers(&vm)
}
