//! Containers that live: in the background, stopped, started again, looked into.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::{POLL_INTERVAL, Sandbox, process};
use rustix::process::Signal;

use crate::world::World;

crate::tests![
    one_in_the_background_is_stopped_and_started_again,
    made_ones_wait_for_their_start,
    what_has_ended_is_told_to_who_waits,
    of_rm_goes_when_it_ends,
    a_process_that_ignores_the_stop_signal_is_killed,
    signals_reach_the_process,
    a_frozen_one_does_nothing,
    a_restart_is_another_life_of_the_same,
    policies_start_it_again,
    a_policy_ends_where_somebody_stops_it,
    another_process_runs_in_it,
    another_process_has_streams_of_its_own,
    another_process_has_a_terminal,
    the_output_of_another_process_is_complete,
    several_attach_to_one,
    detached_and_attached_again,
    a_log_is_shown_and_followed,
    a_log_has_limits,
    health_is_checked,
    a_killed_supervisor_is_seen_at_once_and_started_again,
    a_killed_vm_is_an_end,
];

/// A script that counts lines, and ends with 7 when it is asked to end.
const COUNTS: &str =
    "trap 'echo bye; exit 7' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done";

/// The output of a command that must succeed.
pub(crate) fn text(vm: &Sandbox, arguments: &[&str]) -> Result<String> {
    let out = vm.bulkhead(arguments).output()?.code(0)?;
    Ok(out.stdout)
}

/// A container in the background.
pub(crate) fn begin(vm: &Sandbox, name: &str, flags: &[&str], script: &str) -> Result<()> {
    let arguments = [
        &["run", "-d", "--name", name],
        flags,
        &["busybox", "sh", "-c", script],
    ];
    let id = text(vm, &arguments.concat())?;
    assert_eq!(id.trim_end().len(), 64, "{id}");
    Ok(())
}

pub(crate) fn status(vm: &Sandbox, name: &str) -> Result<String> {
    let format = "{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}";
    let text = text(vm, &["inspect", "-f", format, name])?;
    Ok(text.trim_end().to_owned())
}

/// How long things may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `look` returns something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until the log has this text.
fn until_logged(vm: &Sandbox, name: &str, wanted: &str) -> Result<String> {
    until(wanted, || {
        let log = text(vm, &["logs", name])?;
        Ok(log.contains(wanted).then_some(log))
    })
}

fn one_in_the_background_is_stopped_and_started_again(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    begin(&vm, "bg", &[], &format!("echo kept >>/file; {COUNTS}"))?;
    // It keeps nobody's folder busy.
    let supervisor = process_of(&vm, "__supervisor")?.id;
    let folder = std::fs::read_link(format!("/proc/{supervisor}/cwd"))?;
    assert_eq!(folder, Path::new("/"));
    assert_eq!(status(&vm, "bg")?, "running true 0");
    let list = text(
        &vm,
        &["ps", "--format", "{{.Names}} {{.State}} {{.Status}}"],
    )?;
    assert!(list.starts_with("bg running Up "), "{list}");
    until_logged(&vm, "bg", "3\n")?;
    // A running one is left alone.
    assert_eq!(text(&vm, &["start", "bg"])?, "bg\n");
    assert_eq!(text(&vm, &["stop", "bg"])?, "bg\n");
    assert_eq!(status(&vm, "bg")?, "exited false 7");
    assert!(text(&vm, &["logs", "bg"])?.ends_with("bye\n"));
    assert_eq!(text(&vm, &["stop", "bg"])?, "bg\n");
    assert_eq!(text(&vm, &["start", "bg"])?, "bg\n");
    assert_eq!(status(&vm, "bg")?, "running true 0");
    let file = text(&vm, &["exec", "bg", "cat", "/file"])?;
    assert_eq!(file, "kept\nkept\n");
    vm.bulkhead(["rm", "bg"])
        .output()?
        .code(1)?
        .stderr
        .find("is running")
        .context("no reason")?;
    assert_eq!(text(&vm, &["rm", "-f", "bg"])?, "bg\n");
    before.no_leftovers(&vm)
}

fn made_ones_wait_for_their_start(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script = "read x; echo got $x; exit 4";
    text(
        &vm,
        &[
            "create", "-i", "--name", "made", "busybox", "sh", "-c", script,
        ],
    )?;
    assert_eq!(status(&vm, "made")?, "created false 0");
    let out = vm
        .bulkhead(["start", "-ai", "made"])
        .stdin("word\n")
        .output()?
        .code(4)?;
    assert_eq!(out.stdout, "got word\n");
    assert_eq!(status(&vm, "made")?, "exited false 4");
    // One of --rm that was never started is there until it is.
    text(
        &vm,
        &[
            "create", "--rm", "--name", "once", "busybox", "echo", "here",
        ],
    )?;
    assert_eq!(
        text(&vm, &["ps", "-a", "--format", "{{.Names}}"])?,
        "once\nmade\n"
    );
    assert_eq!(text(&vm, &["start", "-a", "once"])?, "here\n");
    assert_eq!(
        text(&vm, &["ps", "-a", "--format", "{{.Names}}"])?,
        "made\n"
    );
    // What can't be started says so, and stays.
    text(
        &vm,
        &["create", "--name", "none", "busybox", "no-such-program"],
    )?;
    let out = vm.bulkhead(["start", "none"]).output()?.code(1)?;
    assert!(
        out.stderr.contains("executable file not found in $PATH"),
        "{out}"
    );
    assert_eq!(status(&vm, "none")?, "created false 127");
    Ok(())
}

fn what_has_ended_is_told_to_who_waits(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(
        &vm,
        "long",
        &[],
        "until [ -e /go ]; do sleep 0.1; done; exit 9",
    )?;
    begin(&vm, "short", &[], "exit 3")?;
    let mut waiting = vm.bulkhead(["wait", "long", "short"]).spawn()?;
    until("end", || {
        Ok((status(&vm, "short")? == "exited false 3").then_some(()))
    })?;
    assert!(!waiting.has_ended()?);
    text(&vm, &["exec", "-d", "long", "touch", "/go"])?;
    assert_eq!(waiting.wait()?.code(0)?.stdout, "9\n3\n");
    assert_eq!(text(&vm, &["wait", "short"])?, "3\n");
    let out = vm.bulkhead(["wait", "nobody"]).output()?.code(1)?;
    assert!(out.stderr.contains("No such container: nobody"), "{out}");
    Ok(())
}

fn of_rm_goes_when_it_ends(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    begin(
        &vm,
        "gone",
        &["--rm"],
        "until [ -e /go ]; do sleep 0.1; done; exit 5",
    )?;
    let waiting = vm.bulkhead(["wait", "gone"]).spawn()?;
    text(&vm, &["exec", "-d", "gone", "touch", "/go"])?;
    assert_eq!(waiting.wait()?.code(0)?.stdout, "5\n");
    assert_eq!(text(&vm, &["ps", "-aq"])?, "");
    // A restart is no end.
    begin(&vm, "again", &["--rm"], COUNTS)?;
    assert_eq!(text(&vm, &["restart", "again"])?, "again\n");
    assert_eq!(status(&vm, "again")?, "running true 0");
    assert_eq!(text(&vm, &["stop", "again"])?, "again\n");
    assert_eq!(text(&vm, &["ps", "-aq"])?, "");
    before.no_leftovers(&vm)
}

fn a_process_that_ignores_the_stop_signal_is_killed(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(
        &vm,
        "deaf",
        &["--stop-timeout", "-1"],
        "trap '' TERM; while :; do sleep 1; done",
    )?;
    let stopping = vm.bulkhead(["stop", "deaf"]).spawn()?;
    // Who has less patience decides.
    assert_eq!(text(&vm, &["stop", "-t", "1", "deaf"])?, "deaf\n");
    assert_eq!(stopping.wait()?.code(0)?.stdout, "deaf\n");
    assert_eq!(status(&vm, "deaf")?, "exited false 137");
    Ok(())
}

fn signals_reach_the_process(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script = "trap 'echo hup' HUP; trap 'echo usr1' USR1; echo up; while :; do sleep 0.1; done";
    begin(&vm, "ears", &[], script)?;
    until_logged(&vm, "ears", "up\n")?;
    for (signal, word) in [("HUP", "hup\n"), ("10", "usr1\n")] {
        assert_eq!(text(&vm, &["kill", "-s", signal, "ears"])?, "ears\n");
        until_logged(&vm, "ears", word)?;
    }
    vm.bulkhead(["kill", "-s", "NONSENSE", "ears"])
        .output()?
        .code(1)?;
    assert_eq!(text(&vm, &["kill", "ears"])?, "ears\n");
    assert_eq!(status(&vm, "ears")?, "exited false 137");
    let out = vm.bulkhead(["kill", "ears"]).output()?.code(1)?;
    assert!(out.stderr.contains("is not running"), "{out}");
    Ok(())
}

fn a_frozen_one_does_nothing(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "ice", &[], COUNTS)?;
    until_logged(&vm, "ice", "2\n")?;
    assert_eq!(text(&vm, &["pause", "ice"])?, "ice\n");
    assert_eq!(status(&vm, "ice")?, "paused true 0");
    let frozen = text(&vm, &["logs", "ice"])?;
    for (verb, part) in [
        ("pause", "already paused"),
        ("attach", "paused"),
        ("start", "paused"),
    ] {
        let out = vm.bulkhead([verb, "ice"]).output()?.code(1)?;
        assert!(out.stderr.contains(part), "{out}");
    }
    let out = vm.bulkhead(["exec", "ice", "true"]).output()?.code(1)?;
    assert!(
        out.stderr
            .contains("is paused, unpause the container before exec"),
        "{out}"
    );
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(text(&vm, &["logs", "ice"])?, frozen);
    assert_eq!(text(&vm, &["unpause", "ice"])?, "ice\n");
    let out = vm.bulkhead(["unpause", "ice"]).output()?.code(1)?;
    assert!(out.stderr.contains("is not paused"), "{out}");
    until("more", || {
        Ok((text(&vm, &["logs", "ice"])?.len() > frozen.len()).then_some(()))
    })?;
    // A stop goes through to a frozen one.
    text(&vm, &["pause", "ice"])?;
    assert_eq!(text(&vm, &["stop", "ice"])?, "ice\n");
    assert_eq!(status(&vm, "ice")?, "exited false 7");
    Ok(())
}

fn a_restart_is_another_life_of_the_same(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "again", &[], &format!("echo life; {COUNTS}"))?;
    let id = text(
        &vm,
        &["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", "again"],
    )?;
    assert_eq!(text(&vm, &["restart", "again"])?, "again\n");
    let now = text(
        &vm,
        &["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", "again"],
    )?;
    assert_eq!(now[..64], id[..64]);
    assert_ne!(now, id);
    let log = until_logged(&vm, "again", "bye\nlife\n")?;
    assert!(log.starts_with("life\n"), "{log}");
    text(&vm, &["stop", "again"])?;
    assert_eq!(text(&vm, &["restart", "again"])?, "again\n");
    assert_eq!(status(&vm, "again")?, "running true 0");
    assert_eq!(
        text(&vm, &["inspect", "-f", "{{.RestartCount}}", "again"])?,
        "0\n"
    );
    Ok(())
}

fn policies_start_it_again(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(
        &vm,
        "fails",
        &["--restart", "on-failure:2"],
        "echo try; exit 3",
    )?;
    // Who waits is told of the end of any life.
    until("the last life's end", || {
        Ok((status(&vm, "fails")? == "exited false 3").then_some(()))
    })?;
    assert_eq!(text(&vm, &["wait", "fails"])?, "3\n");
    assert_eq!(
        text(&vm, &["inspect", "-f", "{{.RestartCount}}", "fails"])?,
        "2\n"
    );
    assert_eq!(text(&vm, &["logs", "fails"])?, "try\ntry\ntry\n");
    // Whoever starts it again begins the count anew.
    let script = "test -e /failed && exec sleep 1000; touch /failed; exit 1";
    begin(&vm, "once", &["--restart", "on-failure:1"], script)?;
    let count = || {
        let format = "{{.State.Status}} {{.RestartCount}}";
        text(&vm, &["inspect", "-f", format, "once"])
    };
    until("its second life", || {
        Ok((count()? == "running 1\n").then_some(()))
    })?;
    text(&vm, &["restart", "-t", "0", "once"])?;
    assert_eq!(count()?, "running 0\n");
    begin(&vm, "well", &["--restart", "on-failure"], "exit 0")?;
    assert_eq!(text(&vm, &["wait", "well"])?, "0\n");
    assert_eq!(
        text(&vm, &["inspect", "-f", "{{.RestartCount}}", "well"])?,
        "0\n"
    );
    Ok(())
}

fn a_policy_ends_where_somebody_stops_it(world: &World) -> Result<()> {
    let vm = world.own()?;
    // Who waits is told of the end of a life.
    begin(&vm, "back", &["--restart", "always"], "sleep 2; exit 3")?;
    assert_eq!(text(&vm, &["wait", "back"])?, "3\n");
    text(&vm, &["rm", "-f", "back"])?;
    begin(&vm, "always", &["--restart", "always"], "echo life; exit 1")?;
    until("restarts", || {
        let count = text(&vm, &["inspect", "-f", "{{.RestartCount}}", "always"])?;
        Ok((count.trim_end().parse::<u32>()? >= 3).then_some(()))
    })?;
    assert_eq!(text(&vm, &["stop", "always"])?, "always\n");
    assert_eq!(status(&vm, "always")?, "exited false 1");
    // Each life ends once, also where the stop came between two.
    let count = |action: &str| -> Result<usize> {
        let filter = format!("event={action}");
        let since = ["events", "--since", "0", "--until", "0s"];
        let filters = ["-f", "container=always", "-f", &filter];
        Ok(text(&vm, &[&since[..], &filters].concat())?.lines().count())
    };
    assert_eq!(count("die")?, count("start")?);
    let log = text(&vm, &["logs", "always"])?;
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(text(&vm, &["logs", "always"])?, log);
    // So does a kill, of one that does not fail by itself.
    begin(&vm, "stays", &["--restart", "unless-stopped"], COUNTS)?;
    assert_eq!(text(&vm, &["kill", "stays"])?, "stays\n");
    assert_eq!(status(&vm, "stays")?, "exited false 137");
    Ok(())
}

fn another_process_runs_in_it(world: &World) -> Result<()> {
    let vm = world.own()?;
    let flags = ["-e", "A=main", "-w", "/tmp", "-h", "host"];
    begin(&vm, "in", &flags, COUNTS)?;
    let script = "echo $A $B $HOSTNAME $PWD $(id -u) $(cat /proc/1/comm); exit 3";
    let out = vm
        .bulkhead(["exec", "-e", "B=own", "in", "sh", "-c", script])
        .output()?
        .code(3)?;
    assert_eq!(out.stdout, "main own host /tmp 0 sh\n");
    let flags = ["exec", "-u", "12:34", "-w", "/bin", "-e", "A=x", "in"];
    let out = vm
        .bulkhead(flags)
        .args(["sh", "-c", "echo $A $PWD $(id -u):$(id -g)"])
        .output()?;
    assert_eq!(out.only_stdout()?, "x /bin 12:34\n");
    // Nothing is as good as no flag.
    let flags = ["exec", "-u", "", "-w", "", "--detach-keys", "", "in"];
    let out = vm
        .bulkhead(flags)
        .args(["sh", "-c", "echo $PWD $(id -u)"])
        .output()?;
    assert_eq!(out.only_stdout()?, "/tmp 0\n");
    let capabilities = ["grep", "-c", "CapEff:.*ffffffffff$", "/proc/self/status"];
    vm.bulkhead(["exec", "in"])
        .args(capabilities)
        .output()?
        .code(1)?;
    vm.bulkhead(["exec", "--privileged", "in"])
        .args(capabilities)
        .output()?
        .code(0)?;
    for (words, code, part) in [
        (
            &["in", "nosuch"][..],
            127,
            "executable file not found in $PATH",
        ),
        (&["in", "/etc/passwd"], 126, "permission denied"),
        (
            &["-u", "nobody2", "in", "true"],
            126,
            "unable to find user nobody2",
        ),
        (&["-w", "/nowhere", "in", "true"], 126, "/nowhere"),
        (&["nobody", "true"], 1, "No such container: nobody"),
    ] {
        let out = vm.bulkhead(["exec"]).args(words).output()?.code(code)?;
        assert!(out.stderr.contains(part), "{out}");
    }
    // In the background, and it goes with its container.
    text(
        &vm,
        &[
            "exec",
            "-d",
            "in",
            "sh",
            "-c",
            "echo x >/tmp/made; sleep 1000",
        ],
    )?;
    until("file", || {
        let out = vm.bulkhead(["exec", "in", "cat", "/tmp/made"]).output()?;
        Ok((out.stdout == "x\n").then_some(()))
    })?;
    text(&vm, &["stop", "in"])?;
    let out = vm.bulkhead(["exec", "in", "true"]).output()?.code(1)?;
    assert!(out.stderr.contains("is not running"), "{out}");
    Ok(())
}

fn another_process_has_streams_of_its_own(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "in", &[], "while :; do sleep 1; done")?;
    let out = vm
        .bulkhead(["exec", "-i", "in", "sh", "-c", "cat; echo err >&2"])
        .stdin("data")
        .output()?
        .code(0)?;
    assert_eq!(
        (out.stdout.as_str(), out.stderr.as_str()),
        ("data", "err\n")
    );
    // Without -i there is none.
    let out = vm.bulkhead(["exec", "in", "cat"]).stdin("data").output()?;
    assert_eq!(out.only_stdout()?, "");
    // What it leaves behind keeps nobody waiting for its end.
    let left = ["exec", "in", "sh", "-c", "sleep 1000 & echo left"];
    assert_eq!(text(&vm, &left)?, "left\n");
    // But what that says soon after is part of the output.
    let late = "(sleep 0.3; echo late) & echo now";
    assert_eq!(text(&vm, &["exec", "in", "sh", "-c", late])?, "now\nlate\n");
    // Nothing of it is in the container's log.
    assert_eq!(text(&vm, &["logs", "in"])?, "");
    text(&vm, &["rm", "-f", "in"])?;
    Ok(())
}

fn another_process_has_a_terminal(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "in", &[], "while :; do sleep 1; done")?;
    let mut terminal = vm.terminal(["exec", "-it", "in", "sh"])?;
    terminal.send("tty; echo $TERM; stty size\n")?;
    terminal.wait_for("/dev/pts/")?;
    terminal.wait_for("xterm")?;
    terminal.resize((40, 120))?;
    terminal.send("sleep 1; stty size\n")?;
    terminal.wait_for("40 120")?;
    terminal.send("exit 6\n")?;
    let (code, _) = terminal.wait()?;
    assert_eq!(code, 6);
    text(&vm, &["rm", "-f", "in"])?;
    Ok(())
}

fn the_output_of_another_process_is_complete(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "in", &[], "while :; do sleep 1; done")?;
    for _ in 0..3 {
        let out = vm
            .bulkhead(["exec", "in", "seq", "1", "300000"])
            .output()?
            .only_stdout()?;
        assert_eq!(out.lines().count(), 300_000);
        assert!(out.ends_with("\n300000\n"));
    }
    text(&vm, &["rm", "-f", "in"])?;
    Ok(())
}

fn several_attach_to_one(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(
        &vm,
        "many",
        &["-i"],
        "while read x; do echo $x; done; exit 8",
    )?;
    let first = vm.bulkhead(["attach", "--no-stdin", "many"]).spawn()?;
    let input = std::io::pipe().context("make a pipe")?;
    let second = vm
        .bulkhead(["attach", "many"])
        .stdin_from(input.0)
        .spawn()?;
    let mut typed = input.1;
    // Until both are attached.
    until("line", || {
        use std::io::Write;
        typed.write_all(b"line\n")?;
        let both = [&first, &second]
            .iter()
            .all(|running| running.stdout_so_far().contains("line\n"));
        Ok(both.then_some(()))
    })?;
    // Its input stays open for others when one closes it, and for one that has none.
    drop(typed);
    let third = vm
        .bulkhead(["attach", "many"])
        .stdin_from(std::fs::File::open("/dev/null")?)
        .spawn()?;
    let (input, mut typed) = std::io::pipe().context("make a pipe")?;
    let fourth = vm.bulkhead(["attach", "many"]).stdin_from(input).spawn()?;
    let all = [first, second, third, fourth];
    until("another line", || {
        use std::io::Write;
        typed.write_all(b"other\n")?;
        let all = all
            .iter()
            .all(|running| running.stdout_so_far().contains("other\n"));
        Ok(all.then_some(()))
    })?;
    text(&vm, &["kill", "many"])?;
    for running in all {
        running.wait()?.code(137)?;
    }
    let out = vm.bulkhead(["attach", "many"]).output()?.code(1)?;
    assert!(
        out.stderr
            .contains("You cannot attach to a stopped container"),
        "{out}"
    );
    Ok(())
}

fn detached_and_attached_again(world: &World) -> Result<()> {
    let vm = world.own()?;
    let mut terminal = vm.terminal(["run", "-it", "--name", "term", "busybox", "sh"])?;
    terminal.send("echo in$((1+1))\n")?;
    terminal.wait_for("in2")?;
    terminal.send("\u{10}\u{11}")?;
    let (code, _) = terminal.wait()?;
    assert_eq!(code, 0);
    assert_eq!(status(&vm, "term")?, "running true 0");
    // For what only attaches it is a failure, as in Docker.
    for words in [&["attach", "term"][..], &["exec", "-it", "term", "sh"]] {
        let mut terminal = vm.terminal(words)?;
        terminal.send("echo in$((1+2))\n")?;
        terminal.wait_for("in3")?;
        terminal.send("\u{10}\u{11}")?;
        let (code, text) = terminal.wait()?;
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("read escape sequence"), "{text}");
    }
    let mut terminal = vm.terminal(["attach", "term"])?;
    terminal.send("echo in$((2+2))\n")?;
    terminal.wait_for("in4")?;
    terminal.send("exit 5\n")?;
    let (code, _) = terminal.wait()?;
    assert_eq!(code, 5);
    assert_eq!(status(&vm, "term")?, "exited false 5");
    Ok(())
}

fn a_log_is_shown_and_followed(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script =
        "echo one; echo two >&2; printf part; until [ -e /go ]; do sleep 0.1; done; echo ed";
    begin(&vm, "log", &[], script)?;
    until_logged(&vm, "log", "one\n")?;
    let mut following = vm.bulkhead(["logs", "-f", "log"]).spawn()?;
    following.wait_for_stdout("one\n")?;
    text(&vm, &["exec", "-d", "log", "touch", "/go"])?;
    let out = following.wait()?.code(0)?;
    assert_eq!(
        (out.stdout.as_str(), out.stderr.as_str()),
        ("one\nparted\n", "two\n")
    );
    let tail = |count: &str| -> Result<String> {
        Ok(vm
            .bulkhead(["logs", "-n", count, "log"])
            .output()?
            .code(0)?
            .stdout)
    };
    assert_eq!(tail("1")?, "parted\n");
    assert_eq!(tail("0")?, "");
    assert_eq!(tail("all")?, "one\nparted\n");
    let stamped = text(&vm, &["logs", "-t", "-n", "1", "log"])?;
    let (time, line) = stamped.split_once(' ').context("no time")?;
    assert_eq!(
        (time.len(), line),
        ("2025-01-02T03:04:05.123456789Z".len(), "parted\n")
    );
    assert_eq!(
        text(&vm, &["logs", "--until", time, "log"])?,
        "one\nparted\n"
    );
    assert_eq!(text(&vm, &["logs", "--until", "1h", "log"])?, "");
    assert_eq!(
        text(&vm, &["logs", "--since", "1h", "log"])?,
        "one\nparted\n"
    );
    let out = vm
        .bulkhead(["logs", "--since", "nonsense", "log"])
        .output()?;
    out.code(1)?;
    begin(&vm, "none", &["--log-driver", "none"], "echo x")?;
    let out = vm.bulkhead(["logs", "none"]).output()?.code(1)?;
    assert!(out.stderr.contains("does not support reading"), "{out}");
    Ok(())
}

fn a_log_has_limits(world: &World) -> Result<()> {
    let vm = world.own()?;
    let flags = ["--log-opt", "max-size=20k", "--log-opt", "max-file=3"];
    begin(&vm, "much", &flags, "seq 1 5000; exit 0")?;
    assert_eq!(text(&vm, &["wait", "much"])?, "0\n");
    let log = text(&vm, &["logs", "much"])?;
    assert!(log.ends_with("\n4999\n5000\n"), "{}", log.len());
    let path = text(&vm, &["inspect", "-f", "{{.LogPath}}", "much"])?;
    let path = path.trim_end();
    let mut lens = Vec::new();
    for suffix in ["", ".1", ".2"] {
        lens.push(std::fs::metadata(format!("{path}{suffix}"))?.len());
    }
    assert!(lens.iter().all(|len| *len < 20_200), "{lens:?}");
    assert!(!std::path::Path::new(&format!("{path}.3")).exists());
    Ok(())
}

fn health_is_checked(world: &World) -> Result<()> {
    let vm = world.own()?;
    let flags = [
        "--health-cmd",
        "test -e /well && echo fine",
        "--health-interval",
        "500ms",
        "--health-retries",
        "2",
    ];
    begin(&vm, "ill", &flags, "while :; do sleep 1; done")?;
    let format = "{{.State.Health.Status}}";
    let health = |wanted: &str| {
        until(wanted, || {
            let now = text(&vm, &["inspect", "-f", format, "ill"])?;
            Ok((now.trim_end() == wanted).then_some(()))
        })
    };
    health("unhealthy")?;
    assert!(text(&vm, &["ps"])?.contains(" (unhealthy)"));
    text(&vm, &["exec", "ill", "touch", "/well"])?;
    health("healthy")?;
    let last = "{{(index .State.Health.Log 0).Output}}{{.State.Health.FailingStreak}}";
    let log = until("success", || {
        let log = text(&vm, &["inspect", "-f", last, "ill"])?;
        Ok(log.starts_with("fine").then_some(log))
    })?;
    assert_eq!(log, "fine\n0\n");
    text(&vm, &["rm", "-f", "ill"])?;
    let flags = [
        "--health-cmd",
        "sleep 1000; true",
        "--health-interval",
        "200ms",
        "--health-timeout",
        "1s",
        "--health-retries",
        "1",
    ];
    begin(&vm, "ill", &flags, "while :; do sleep 1; done")?;
    health("unhealthy")?;
    let last = "{{with index .State.Health.Log 0}}{{.ExitCode}} {{.Output}}{{end}}";
    let log = text(&vm, &["inspect", "-f", last, "ill"])?;
    assert_eq!(log, "-1 Health check exceeded timeout (1s)\n");
    text(&vm, &["rm", "-f", "ill"])?;
    Ok(())
}

/// The process of the sandbox's command with this hidden verb. A supervisor that starts a VM has a
/// child like itself until that executes its program.
pub(crate) fn process_of(vm: &Sandbox, verb: &str) -> Result<process::Process> {
    let mut all = process::executing(&vm.program())?;
    all.retain(|process| process.has_verb(verb));
    let ids: Vec<u32> = all.iter().map(|process| process.id).collect();
    all.retain(|process| !ids.contains(&process.parent));
    match all.pop() {
        Some(process) => Ok(process),
        None => bail!("no process {verb}"),
    }
}

fn a_killed_supervisor_is_seen_at_once_and_started_again(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    begin(&vm, "hit", &[], COUNTS)?;
    let waiting = vm.bulkhead(["wait", "hit"]).spawn()?;
    process_of(&vm, "__supervisor")?.signal(Signal::KILL)?;
    assert_eq!(waiting.wait()?.code(0)?.stdout, "137\n");
    assert_eq!(status(&vm, "hit")?, "exited false 137");
    assert_eq!(text(&vm, &["stop", "hit"])?, "hit\n");
    assert_eq!(text(&vm, &["start", "hit"])?, "hit\n");
    assert_eq!(status(&vm, "hit")?, "running true 0");
    assert_eq!(text(&vm, &["exec", "hit", "echo", "alive"])?, "alive\n");
    text(&vm, &["rm", "-f", "hit"])?;
    before.no_leftovers(&vm)
}

fn a_killed_vm_is_an_end(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "hit", &["--restart", "on-failure:1"], COUNTS)?;
    process_of(&vm, "__vmm")?.signal(Signal::KILL)?;
    until("restart", || {
        let count = text(
            &vm,
            &[
                "inspect",
                "-f",
                "{{.RestartCount}} {{.State.Status}}",
                "hit",
            ],
        )?;
        Ok((count == "1 running\n").then_some(()))
    })?;
    assert_eq!(text(&vm, &["exec", "hit", "echo", "alive"])?, "alive\n");
    process_of(&vm, "__vmm")?.signal(Signal::KILL)?;
    until("end", || {
        Ok(status(&vm, "hit")?
            .starts_with("exited false")
            .then_some(()))
    })?;
    let error = text(&vm, &["inspect", "-f", "{{.State.Error}}", "hit"])?;
    assert!(error.contains("VM"), "{error}");
    Ok(())
}
