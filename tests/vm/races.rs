//! Two commands at once on one container, and kill -9 of its processes in each state: what is told
//! is true, nothing hangs, and the next command works.

use anyhow::{Context, Result, bail};
use harness::{Sandbox, process};
use rustix::process::Signal;

use crate::life::{begin, process_of, status, text, until};
use crate::world::World;

crate::tests![
    started_twice_at_once,
    named_twice_at_once,
    stopped_and_killed_at_once,
    stopped_and_restarted_at_once,
    killed_and_restarted_at_once,
    killed_while_it_starts,
    told_between_two_lives,
    restarted_twice_at_once,
    used_while_it_restarts,
    removed_while_it_starts,
    removed_twice_at_once,
    removed_while_it_is_waited_for,
    waited_for_when_it_ends,
    frozen_while_it_ends,
    processes_end_with_their_container,
    processes_end_with_a_life_of_it,
    killed_supervisors_of_any_state,
    killed_vms_of_any_state,
    followers_of_a_killed_one_end,
    after_a_reboot,
];

/// Hidden verbs of the command's own processes.
const SUPERVISOR: &str = "__supervisor";
const VMM: &str = "__vmm";

/// Deaf to the stop signal, as it is process 1.
const DEAF: &str = "echo begun; exec sleep 1000";

/// How many supervisors there are.
fn supervisors(vm: &Sandbox) -> Result<usize> {
    let all = process::executing(&vm.program())?;
    let all = all.iter().filter(|process| process.has_verb(SUPERVISOR));
    Ok(all.count())
}

/// It runs, once, and can be used.
fn runs(vm: &Sandbox, name: &str) -> Result<()> {
    assert_eq!(status(vm, name)?, "running true 0");
    assert_eq!(text(vm, &["exec", name, "echo", "alive"])?, "alive\n");
    assert_eq!(supervisors(vm)?, 1);
    Ok(())
}

/// Does both at once; their exit codes and what they say.
fn at_once(vm: &Sandbox, lines: [&[&str]; 2]) -> Result<[harness::Output; 2]> {
    let [one, other] = lines.map(|line| vm.bulkhead(line).spawn());
    let outputs = [one?.wait()?, other?.wait()?];
    for output in &outputs {
        assert!(!output.stderr.contains("panicked"), "{output}");
    }
    Ok(outputs)
}

fn started_twice_at_once(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    text(
        &vm,
        &["create", "--name", "both", "busybox", "sh", "-c", DEAF],
    )?;
    for output in at_once(&vm, [&["start", "both"], &["start", "both"]])? {
        assert_eq!(output.code(0)?.stdout, "both\n");
    }
    runs(&vm, "both")?;
    assert_eq!(text(&vm, &["logs", "both"])?, "begun\n");
    text(&vm, &["rm", "-f", "both"])?;
    before.no_leftovers(&vm)
}

fn named_twice_at_once(world: &World) -> Result<()> {
    let vm = world.own()?;
    let line = ["run", "-d", "--name", "same", "busybox", "sleep", "1000"];
    let outputs = at_once(&vm, [&line, &line])?;
    let mut codes = outputs.map(|output| output.code);
    codes.sort_unstable();
    assert_eq!(codes, [0, 125]);
    runs(&vm, "same")
}

fn stopped_and_killed_at_once(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "both", &[], DEAF)?;
    for output in at_once(&vm, [&["stop", "-t", "-1", "both"], &["kill", "both"]])? {
        output.code(0)?;
    }
    assert_eq!(status(&vm, "both")?, "exited false 137");
    assert_eq!(text(&vm, &["rm", "both"])?, "both\n");
    Ok(())
}

/// Whoever is later wins, and both return.
fn stopped_and_restarted_at_once(world: &World) -> Result<()> {
    let vm = world.own()?;
    for policy in ["no", "always"] {
        begin(&vm, policy, &["--restart", policy], DEAF)?;
        let stop = ["stop", "-t", "2", policy];
        let restart = ["restart", "-t", "2", policy];
        let [stop, restart] = at_once(&vm, [&stop, &restart])?;
        stop.code(0)?;
        restart.code(0)?;
        let told = status(&vm, policy)?;
        assert!(
            ["running true 0", "exited false 137"].contains(&&*told),
            "{told}"
        );
        text(&vm, &["rm", "-f", policy])?;
    }
    Ok(())
}

/// The kill ends the life that the restart waits for.
fn killed_and_restarted_at_once(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "both", &[], DEAF)?;
    let restart = vm.bulkhead(["restart", "-t", "100", "both"]).spawn()?;
    // It is asked to end, and is deaf.
    until("a signal", || {
        let events = [
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "event=kill",
        ];
        let told = text(&vm, &events)?;
        Ok(told.contains("signal=15").then_some(()))
    })?;
    text(&vm, &["kill", "both"])?;
    restart.wait()?.code(0)?;
    runs(&vm, "both")?;
    assert_eq!(text(&vm, &["logs", "both"])?, "begun\nbegun\n");
    Ok(())
}

/// The start comes first: what is killed has run.
fn killed_while_it_starts(world: &World) -> Result<()> {
    let vm = world.own()?;
    for verb in [&["kill", "both"][..], &["stop", "-t", "0", "both"]] {
        text(
            &vm,
            &["create", "--name", "both", "busybox", "sh", "-c", DEAF],
        )?;
        let start = vm.bulkhead(["start", "both"]).spawn()?;
        until(
            "a supervisor",
            || Ok((supervisors(&vm)? == 1).then_some(())),
        )?;
        let end = vm.bulkhead(verb).output()?;
        start.wait()?.code(0)?;
        end.code(0)?;
        assert_eq!(status(&vm, "both")?, "exited false 137");
        text(&vm, &["rm", "both"])?;
    }
    Ok(())
}

/// While there is no process, and while one is started.
fn told_between_two_lives(world: &World) -> Result<()> {
    let vm = world.own()?;
    for (name, verb) in [
        ("update", &["update", "--restart", "no", "update"][..]),
        ("kill", &["kill", "-s", "TERM", "kill"]),
    ] {
        bring(&vm, "restarting")?;
        text(&vm, &["rename", "restarting", name])?;
        text(&vm, verb)?;
        until("an end", || {
            Ok((status(&vm, name)? == "exited false 1").then_some(()))
        })?;
        assert_eq!(supervisors(&vm)?, 0);
        text(&vm, &["rm", name])?;
    }
    Ok(())
}

fn restarted_twice_at_once(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "both", &[], DEAF)?;
    let line = ["restart", "-t", "0", "both"];
    for output in at_once(&vm, [&line, &line])? {
        output.code(0)?;
    }
    runs(&vm, "both")?;
    // Of two at once, the second may find that the first is at it.
    let log = text(&vm, &["logs", "both"])?;
    assert!(
        log == "begun\nbegun\n" || log == "begun\nbegun\nbegun\n",
        "{log}"
    );
    Ok(())
}

fn used_while_it_restarts(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "both", &[], DEAF)?;
    let restart = ["restart", "-t", "0", "both"];
    for _ in 0..3 {
        let [restart, exec] = at_once(&vm, [&restart, &["exec", "both", "echo", "in"]])?;
        restart.code(0)?;
        match exec.code {
            0 => assert_eq!(exec.stdout, "in\n"),
            137 => assert_eq!(exec.stderr, ""),
            _ => {
                let exec = exec.code(1)?;
                let why = ["is not running", "is restarting"];
                assert!(why.iter().any(|why| exec.stderr.contains(why)), "{exec}");
            }
        }
        runs(&vm, "both")?;
    }
    Ok(())
}

fn removed_while_it_starts(world: &World) -> Result<()> {
    let vm = world.own()?;
    text(&vm, &["run", "--rm", "busybox", "true"])?;
    let before = vm.snapshot()?;
    for verb in [None, Some(SUPERVISOR), Some(VMM)] {
        text(
            &vm,
            &["create", "--name", "brief", "busybox", "sleep", "1000"],
        )?;
        let start = vm.bulkhead(["start", "-a", "brief"]).spawn()?;
        if let Some(verb) = verb {
            vm.wait_for_process(verb)?;
        }
        assert_eq!(text(&vm, &["rm", "-f", "brief"])?, "brief\n");
        let start = start.wait()?;
        match (verb, start.code) {
            // As for one that ran.
            (_, 137) => assert_eq!(start.stderr, ""),
            // It was gone before it was looked for, or taken.
            (None, 1) => assert!(
                ["No such container: brief", "the container was removed"]
                    .iter()
                    .any(|why| start.stderr.contains(why)),
                "{start}"
            ),
            _ => bail!("{verb:?}: {start}"),
        }
        before.no_leftovers(&vm)?;
    }
    // Who does not stay is told so, if it did not run by then.
    let image = ["busybox", "sleep", "1000"];
    let create = ["create", "--name", "brief"];
    for (verb, code) in [("start", 1), ("run", 125)] {
        let words = match verb {
            "start" => {
                text(&vm, &[&create[..], &image].concat())?;
                vec!["start", "brief"]
            }
            _ => [&["run", "-d", "--name", "brief"][..], &image].concat(),
        };
        let start = vm.bulkhead(words).spawn()?;
        vm.wait_for_process(SUPERVISOR)?;
        assert_eq!(text(&vm, &["rm", "-f", "brief"])?, "brief\n");
        let start = start.wait()?;
        if start.code == 0 {
            assert_ne!(start.stdout, "");
        } else {
            let told = "the container was removed meanwhile";
            assert!(start.code(code)?.stderr.contains(told), "{verb}");
        }
        before.no_leftovers(&vm)?;
    }
    Ok(())
}

fn removed_twice_at_once(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    begin(&vm, "both", &[], DEAF)?;
    let line = ["rm", "-f", "both"];
    for output in at_once(&vm, [&line, &line])? {
        output.code(0)?;
    }
    assert_eq!(text(&vm, &["ps", "-aq"])?, "");
    before.no_leftovers(&vm)
}

fn removed_while_it_is_waited_for(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "both", &[], DEAF)?;
    let [wait, rm] = at_once(&vm, [&["wait", "both"], &["rm", "-f", "both"]])?;
    rm.code(0)?;
    match wait.code {
        0 => assert_eq!(wait.stdout, "137\n"),
        _ => assert!(
            wait.code(1)?.stderr.contains("No such container: both"),
            "the only other end"
        ),
    }
    Ok(())
}

/// Whoever still found one of `--rm` is told its exit code.
fn waited_for_when_it_ends(world: &World) -> Result<()> {
    let vm = world.own()?;
    let begin = |name: &str| {
        let script = "until [ -e /go ]; do sleep 0.01; done; exit 5";
        begin(&vm, name, &["--rm"], script)
    };
    for round in 0..4 {
        begin("brief")?;
        let go = vm
            .bulkhead(["exec", "-d", "brief", "touch", "/go"])
            .spawn()?;
        std::thread::sleep(std::time::Duration::from_millis(40 * round));
        let waits: Vec<_> = (0..4)
            .map(|_| vm.bulkhead(["wait", "brief"]).spawn())
            .collect::<Result<_>>()?;
        for wait in waits {
            let wait = wait.wait()?;
            match wait.code {
                0 => assert_eq!(wait.stdout, "5\n"),
                _ => assert!(
                    wait.code(1)?.stderr.contains("No such container: brief"),
                    "the only other end"
                ),
            }
        }
        go.wait()?.code(0)?;
        vm.wait_for_no_process()?;
    }
    Ok(())
}

fn frozen_while_it_ends(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "both", &[], DEAF)?;
    let [pause, kill] = at_once(&vm, [&["pause", "both"], &["kill", "both"]])?;
    kill.code(0)?;
    if pause.code != 0 {
        let pause = pause.code(1)?;
        let why = ["is not running", "the container has ended"];
        assert!(why.iter().any(|why| pause.stderr.contains(why)), "{pause}");
    }
    assert_eq!(status(&vm, "both")?, "exited false 137");
    text(&vm, &["start", "both"])?;
    runs(&vm, "both")
}

fn processes_end_with_their_container(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "host", &[], DEAF)?;
    let line = ["exec", "host", "sh", "-c", "echo in; sleep 1000"];
    let mut all = [vm.bulkhead(line).spawn()?, vm.bulkhead(line).spawn()?];
    for running in &mut all {
        running.wait_for_stdout("in\n")?;
    }
    let stop = vm.bulkhead(["stop", "-t", "1", "host"]).spawn()?;
    // Comes before its end, or after.
    let late = vm.bulkhead(["exec", "host", "echo", "late"]).spawn()?;
    stop.wait()?.code(0)?;
    for running in all {
        let output = running.wait()?.code(137)?;
        assert_eq!(output.stdout, "in\n");
    }
    let late = late.wait()?;
    match late.code {
        0 => assert_eq!(late.stdout, "late\n"),
        137 => assert_eq!(late.stderr, ""),
        _ => assert!(late.code(1)?.stderr.contains("is not running"), "late"),
    }
    assert_eq!(status(&vm, "host")?, "exited false 137");
    Ok(())
}

/// The container goes on, its other processes don't.
fn processes_end_with_a_life_of_it(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script = "while ! test -e /end; do sleep 0.1; done; rm /end; exit 3";
    begin(&vm, "host", &["--restart", "always"], script)?;
    let line = ["exec", "host", "sh", "-c", "echo in; sleep 1000"];
    let mut running = vm.bulkhead(line).spawn()?;
    running.wait_for_stdout("in\n")?;
    text(&vm, &["exec", "-d", "host", "touch", "/end"])?;
    running.wait()?.code(137)?;
    let format = [
        "inspect",
        "-f",
        "{{.State.Status}} {{.RestartCount}}",
        "host",
    ];
    until("another life", || {
        Ok((text(&vm, &format)? == "running 1\n").then_some(()))
    })?;
    runs(&vm, "host")?;
    // A command of the last life is no longer at anything of this one.
    let mut running = vm.bulkhead(line).spawn()?;
    running.wait_for_stdout("in\n")?;
    text(&vm, &["restart", "-t", "0", "host"])?;
    running.wait()?.code(137)?;
    runs(&vm, "host")
}

/// Brings a new container into a state.
fn bring(vm: &Sandbox, state: &str) -> Result<()> {
    match state {
        "restarting" => begin(vm, state, &["--restart", "always"], "exit 1")?,
        _ => begin(vm, state, &[], DEAF)?,
    }
    if state == "paused" {
        text(vm, &["pause", state])?;
    }
    let format = ["inspect", "-f", "{{.State.Status}}", state];
    until(state, || {
        Ok((text(vm, &format)?.trim_end() == state).then_some(()))
    })
}

/// The states in which there is a supervisor.
const ALIVE: [&str; 3] = ["running", "paused", "restarting"];

/// One whose processes were killed has ended, and all verbs work on it.
fn has_ended(vm: &Sandbox, name: &str) -> Result<()> {
    let told = status(vm, name)?;
    assert_eq!(told, "exited false 137", "{name}");
    assert_eq!(text(vm, &["ps", "-q"])?, "");
    let listed = text(vm, &["ps", "-a", "--format", "{{.Names}} {{.Status}}"])?;
    let expected = format!("{name} Exited (137) ");
    assert!(
        listed.lines().any(|line| line.starts_with(&expected)),
        "{listed}"
    );
    assert!(!listed.contains("year"), "{listed}");
    for verb in ["kill", "pause", "unpause"] {
        let output = vm.bulkhead([verb, name]).output()?.code(1)?;
        assert!(output.stderr.contains(" is not "), "{output}");
    }
    assert_eq!(text(vm, &["stop", name])?, format!("{name}\n"));
    assert_eq!(text(vm, &["wait", name])?, "137\n");
    Ok(())
}

/// It is started again, and removed.
fn starts_again(vm: &Sandbox, name: &str) -> Result<()> {
    assert_eq!(text(vm, &["start", name])?, format!("{name}\n"));
    if name != "restarting" {
        runs(vm, name)?;
    }
    assert_eq!(text(vm, &["rm", "-f", name])?, format!("{name}\n"));
    Ok(())
}

fn killed_supervisors_of_any_state(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    for state in ALIVE {
        bring(&vm, state)?;
        process_of(&vm, SUPERVISOR)?.signal(Signal::KILL)?;
        until("its end", || Ok((supervisors(&vm)? == 0).then_some(())))?;
        has_ended(&vm, state)?;
        starts_again(&vm, state)?;
        before.no_leftovers(&vm)?;
    }
    Ok(())
}

fn killed_vms_of_any_state(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    for state in ["running", "paused"] {
        bring(&vm, state)?;
        process_of(&vm, VMM)?.signal(Signal::KILL)?;
        until("its end", || {
            Ok(status(&vm, state)?
                .starts_with("exited false")
                .then_some(()))
        })?;
        until("its supervisor's end", || {
            Ok((supervisors(&vm)? == 0).then_some(()))
        })?;
        assert_eq!(text(&vm, &["ps", "-q"])?, "");
        starts_again(&vm, state)?;
        before.no_leftovers(&vm)?;
    }
    Ok(())
}

fn followers_of_a_killed_one_end(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "one", &[], DEAF)?;
    let mut logs = vm.bulkhead(["logs", "-f", "one"]).spawn()?;
    logs.wait_for_stdout("begun\n")?;
    let attach = vm.bulkhead(["attach", "one"]).spawn()?;
    let exec = ["exec", "one", "sh", "-c", "echo in; sleep 1000"];
    let mut exec = vm.bulkhead(exec).spawn()?;
    exec.wait_for_stdout("in\n")?;
    process_of(&vm, SUPERVISOR)?.signal(Signal::KILL)?;
    assert_eq!(logs.wait()?.code(0)?.stdout, "begun\n");
    // What became of the process itself nobody knows; the other can't go on.
    let attach = attach.wait()?.code(1)?;
    assert!(attach.stderr.contains("supervisor died"), "{attach}");
    let exec = exec.wait()?.code(1)?;
    assert!(exec.stderr.contains("is not running"), "{exec}");
    has_ended(&vm, "one")?;
    starts_again(&vm, "one")
}

/// No process is left, but states, sockets and locks as they were.
fn after_a_reboot(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    for state in ALIVE {
        bring(&vm, state)?;
    }
    text(
        &vm,
        &[
            "run", "-d", "--rm", "--name", "gone", "busybox", "sleep", "1000",
        ],
    )?;
    // The supervisors first, so that none has the time to write of its VM's end.
    for verb in [SUPERVISOR, VMM] {
        for process in process::executing(&vm.program())? {
            if process.has_verb(verb) {
                process.kill()?;
            }
        }
    }
    vm.wait_for_no_process()?;
    let folder = std::fs::read_dir(vm.root().join("containers"))?
        .next()
        .context("no container")??
        .path();
    assert!(folder.join("control.sock").exists() && folder.join("state.json").exists());
    for state in ALIVE {
        has_ended(&vm, state)?;
    }
    let names = text(&vm, &["ps", "-a", "--format", "{{.Names}}"])?;
    assert_eq!(names, "restarting\npaused\nrunning\n");
    for state in ALIVE {
        starts_again(&vm, state)?;
    }
    before.no_leftovers(&vm)
}
