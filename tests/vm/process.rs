//! The process: its exit code, signals, what can't be started.

use anyhow::Result;
use rustix::process::Signal;

use crate::world::World;

crate::tests![
    the_exit_code_comes_back,
    a_signal_is_128_and_its_number,
    pid_1_ignores_signals_it_does_not_handle,
    signals_are_forwarded,
    without_sig_proxy_signals_stay_outside,
    an_interrupt_of_the_command_ends_it_for_good,
    a_supervisor_that_is_asked_to_end_stops_its_process,
    what_is_not_found_is_127,
    what_is_not_executable_is_126,
    init_reaps_orphans,
    init_can_be_looked_at,
    the_root_is_entered_by_all,
];

fn the_exit_code_comes_back(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    for code in [0, 1, 125, 126, 127, 128, 255] {
        let out = vm.run(["busybox", "sh", "-c", &format!("exit {code}")])?;
        assert_eq!((out.code, out.stdout.as_str()), (code, ""), "{out}");
        assert_eq!(out.stderr, "", "{out}");
    }
    Ok(())
}

fn a_signal_is_128_and_its_number(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    for signal in [6, 9, 15] {
        // Behind --init the process is not PID 1 and dies as anywhere.
        let script = format!("kill -{signal} $$; sleep 100");
        let out = vm.run(["--init", "busybox", "sh", "-c", &script])?;
        assert_eq!(out.code, 128 + signal, "{out}");
    }
    Ok(())
}

fn pid_1_ignores_signals_it_does_not_handle(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "kill -9 $$; kill -15 $$; echo pid $$ lives";
    let out = vm.run(["busybox", "sh", "-c", script])?;
    assert_eq!(out.only_stdout()?, "pid 1 lives\n");
    Ok(())
}

/// Says `ready`, then says which signal came and ends with its number.
const CATCHER: &str = "for s in INT TERM HUP USR1 QUIT; do trap \"echo caught $s; exit 7\" $s; done
    echo ready; while :; do sleep 0.1; done";

fn signals_are_forwarded(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::USR1, "USR1"),
    ] {
        let mut running = vm
            .bulkhead(["run", "--rm", "busybox", "sh", "-c", CATCHER])
            .spawn()?;
        running.wait_for_stdout("ready\n")?;
        running.signal(signal)?;
        let out = running.wait()?;
        assert_eq!(out.stdout, format!("ready\ncaught {name}\n"), "{out}");
        assert_eq!(out.code, 7, "{out}");
    }
    Ok(())
}

fn a_supervisor_that_is_asked_to_end_stops_its_process(world: &World) -> Result<()> {
    let vm = world.own()?;
    let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    for (options, script, code, stdout) in [
        (&[][..], CATCHER, 7, "ready\ncaught TERM\n"),
        (
            &["--rm", "--stop-signal", "USR1"],
            CATCHER,
            7,
            "ready\ncaught USR1\n",
        ),
        (
            &["--rm", "--sig-proxy=false", "--stop-timeout", "1"],
            stubborn,
            137,
            "ready\n",
        ),
    ] {
        vm.wait_for_no_process()?;
        let mut running = vm
            .bulkhead(["run", "--name", "stopped"])
            .args(options)
            .args(["busybox", "sh", "-c", script])
            .spawn()?;
        running.wait_for_stdout("ready\n")?;
        vm.wait_for_process("__supervisor")?.signal(Signal::TERM)?;
        let out = running.wait()?;
        assert_eq!((out.code, out.stdout.as_str()), (code, stdout), "{out}");
        if !options.contains(&"--rm") {
            let state = ["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}"];
            let state = vm.bulkhead(state).arg("stopped").output()?;
            assert_eq!(state.only_stdout()?, "exited 7\n");
            vm.bulkhead(["rm", "stopped"]).output()?.code(0)?;
        }
    }
    Ok(())
}

fn without_sig_proxy_signals_stay_outside(world: &World) -> Result<()> {
    let vm = world.own()?;
    let mut running = vm
        .bulkhead([
            "run",
            "--sig-proxy=false",
            "--name",
            "kept",
            "busybox",
            "sh",
            "-c",
            CATCHER,
        ])
        .spawn()?;
    running.wait_for_stdout("ready\n")?;
    running.signal(Signal::TERM)?;
    let out = running.wait()?;
    assert!(!out.stdout.contains("caught"), "{out}");
    let state = vm.bulkhead(["inspect", "-f", "{{.State.Running}}", "kept"]);
    assert_eq!(state.output()?.only_stdout()?, "true\n");
    vm.bulkhead(["rm", "-f", "kept"]).output()?.code(0)?;
    Ok(())
}

/// As a Ctrl-C does, whatever the restart policy.
fn an_interrupt_of_the_command_ends_it_for_good(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script = "trap 'exit 7' INT; echo ready; while :; do sleep 0.1; done";
    let mut running = vm
        .bulkhead(["run", "--restart", "always", "--name", "server"])
        .args(["busybox", "sh", "-c", script])
        .spawn()?;
    running.wait_for_stdout("ready\n")?;
    running.signal(Signal::INT)?;
    running.wait()?.code(7)?;
    let format = "{{.State.Status}} {{.RestartCount}}";
    let state = vm.bulkhead(["inspect", "-f", format, "server"]).output()?;
    assert_eq!(state.only_stdout()?, "exited 0\n");
    Ok(())
}

fn what_is_not_found_is_127(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    for (words, text) in [
        (
            ["busybox", "no-such-program"],
            "executable file not found in $PATH",
        ),
        (["busybox", "/no/such/program"], "no such file or directory"),
        (
            ["probe", "/cases/no-interpreter"],
            "no such file or directory",
        ),
    ] {
        let out = vm.run(words)?.code(127)?;
        assert!(out.stderr.contains(text), "{out}");
        assert_eq!(out.stdout, "", "{out}");
    }
    before.no_leftovers(&vm)
}

fn what_is_not_executable_is_126(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    for (words, text) in [
        (&["busybox", "/etc"][..], "is a directory"),
        (&["probe", "/cases/not-executable"], "permission denied"),
        (
            &["-u", "app", "probe", "/cases/closed/probe"],
            "permission denied",
        ),
    ] {
        let out = vm.run(words)?.code(126)?;
        assert!(out.stderr.contains(text), "{out}");
        assert_eq!(out.stdout, "", "{out}");
    }
    before.no_leftovers(&vm)
}

fn init_reaps_orphans(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let out = vm.run(["--init", "probe", "/probe", "orphans", "20"])?;
    assert_eq!(out.only_stdout()?, "all reaped\n");
    // As PID 1 the program has to reap them itself, and it does not.
    let out = vm.run(["probe", "/probe", "orphans", "3"])?.code(1)?;
    assert!(out.stderr.contains("3 zombies stay"), "{out}");
    Ok(())
}

/// What stays in front of the program is a process as any: its streams can be opened, as by what logs to
/// `/proc/1/fd/1`, and scripts find its environment. Also for a user, and of the agent there is nothing.
fn init_can_be_looked_at(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "echo logged >/proc/1/fd/1; echo $$; cat /proc/1/comm; \
        tr '\\0' ' ' </proc/1/cmdline | cut -c 1-24; tr '\\0' '\\n' </proc/1/environ | grep A=";
    for user in ["0", "12:34"] {
        let run = ["--init", "-u", user, "-e", "A=own", "busybox"];
        let out = vm.run(run.into_iter().chain(["sh", "-c", script]))?;
        let want = "logged\n2\ndocker-init\n/sbin/docker-init -- sh \nA=own\n";
        assert_eq!(out.only_stdout()?, want, "{user}");
    }
    // A signal is the program's, and its end is the container's.
    let script = "trap 'exit 7' TERM; kill -TERM 1; while :; do sleep 0.1; done";
    vm.run(["--init", "busybox", "sh", "-c", script])?.code(7)?;
    Ok(())
}

/// As Docker has it: what a layer says of its own root is nobody's business.
fn the_root_is_entered_by_all(world: &World) -> Result<()> {
    let vm = world.own()?;
    let import = "mkdir -p closed/bin && bulkhead create --name from busybox && \
        bulkhead cp from:/bin/busybox closed/bin/ && ln -s busybox closed/bin/ls && \
        chmod 700 closed && tar -C closed -c . | bulkhead import - closed";
    vm.shell(import).output()?.code(0)?;
    let out = vm.run(["-u", "12", "closed", "/bin/ls", "-ld", "/"])?;
    let out = out.only_stdout()?;
    assert!(out.starts_with("drwxr-xr-x "), "{out}");
    Ok(())
}
