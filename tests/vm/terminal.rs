//! `run -it` driven by a terminal: job control, Ctrl-C, size, detaching, exit code.

use anyhow::Result;
use rustix::process::Signal;

use crate::life::{begin, process_of, until};
use crate::world::World;

crate::tests![
    a_shell_has_job_control,
    a_shell_behind_init_has_job_control,
    the_size_follows_the_terminal,
    the_exit_code_comes_back_from_a_terminal,
    the_detach_keys_leave_it_running,
    a_terminal_without_one_outside,
    a_terminal_that_is_closed_for_a_moment,
    who_lost_a_terminal_attaches_another,
    the_terminal_is_left_as_it_was_found,
];

fn a_shell_has_job_control(world: &World) -> Result<()> {
    let vm = world.debian()?;
    let mut terminal = vm.terminal(["run", "--rm", "-it", "-h", "box", "debian:12", "bash"])?;
    terminal.wait_for("root@box:/# ")?;
    terminal.send("tty; echo $TERM\r")?;
    terminal.wait_for("/dev/pts/0\r\n")?;
    terminal.wait_for("xterm\r\n")?;
    terminal.wait_for("# ")?;

    // Keys that come before a program is in the foreground are the shell's: the program says when
    // it is, in words that the echo of the line has not.
    terminal.send("sh -c 'echo $((41 + 1)) up; exec sleep 1000'\r")?;
    terminal.wait_for("42 up\r\n")?;
    terminal.send("\x03")?;
    terminal.wait_for("^C")?;
    terminal.wait_for("# ")?;
    terminal.send("echo code $?\r")?;
    terminal.wait_for("code 130\r\n")?;

    terminal.send("sh -c 'echo $((42 + 1)) up; exec cat'\r")?;
    terminal.wait_for("43 up\r\n")?;
    terminal.send("\x1a")?;
    terminal.wait_for("Stopped")?;
    terminal.wait_for("# ")?;
    terminal.send("sleep 2000 & jobs\r")?;
    terminal.wait_for("Running")?;
    terminal.wait_for("# ")?;
    terminal.send("fg %1\r")?;
    terminal.wait_for("exec cat'\r\n")?;
    terminal.send("typed\r")?;
    terminal.wait_for("typed\r\n")?;
    // The first is the echo.
    terminal.wait_for("typed\r\n")?;
    terminal.send("\x03")?;
    terminal.wait_for("# ")?;

    terminal.send("echo error >&2; exit\r")?;
    let (code, text) = terminal.wait()?;
    assert_eq!(code, 0, "{text}");
    // There is one stream, and lines end as a terminal ends them.
    assert!(text.contains("\rerror\r\n"), "{text}");
    Ok(())
}

fn a_shell_behind_init_has_job_control(world: &World) -> Result<()> {
    let vm = world.debian()?;
    let arguments = ["run", "--rm", "-it", "--init", "-h", "box", "debian:12"];
    let mut terminal = vm.terminal(arguments.into_iter().chain(["bash"]))?;
    terminal.wait_for("root@box:/# ")?;
    terminal.send("tty; echo shell $(($$ > 1))\r")?;
    terminal.wait_for("/dev/pts/0\r\n")?;
    terminal.wait_for("shell 1\r\n")?;
    terminal.wait_for("# ")?;
    terminal.send("sh -c 'echo $((41 + 1)) up; exec sleep 1000'\r")?;
    terminal.wait_for("42 up\r\n")?;
    terminal.send("\x1a")?;
    terminal.wait_for("Stopped")?;
    terminal.wait_for("# ")?;
    terminal.send("fg %1\r")?;
    terminal.wait_for("exec sleep 1000'\r\n")?;
    terminal.send("\x03")?;
    terminal.wait_for("^C")?;
    terminal.wait_for("# ")?;
    terminal.send("exit 7\r")?;
    let (code, text) = terminal.wait()?;
    assert_eq!(code, 7, "{text}");
    // No shell: the program is in the foreground from its first instruction on.
    let arguments = ["run", "--rm", "-it", "--init", "debian:12", "echo", "done"];
    let (code, text) = vm.terminal(arguments)?.wait()?;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("done\r\n"), "{text}");
    Ok(())
}

fn the_size_follows_the_terminal(world: &World) -> Result<()> {
    let vm = world.debian()?;
    let mut terminal = vm.terminal(["run", "--rm", "-it", "debian:12", "bash", "--norc"])?;
    terminal.wait_for("# ")?;
    terminal.send("stty size\r")?;
    terminal.wait_for("24 80\r\n")?;
    // The shell's own word that it has done so: what is typed shows before.
    terminal.send("trap 'echo size $(stty size)' WINCH; echo tra''pped\r")?;
    terminal.wait_for("trapped\r\n")?;
    terminal.resize((50, 132))?;
    terminal.wait_for("size 50 132\r\n")?;
    terminal.send("exit\r")?;
    assert_eq!(terminal.wait()?.0, 0);
    Ok(())
}

fn the_exit_code_comes_back_from_a_terminal(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let mut terminal = vm.terminal(["run", "--rm", "-it", "busybox"])?;
    terminal.wait_for("# ")?;
    terminal.send("exit 42\r")?;
    let (code, text) = terminal.wait()?;
    assert_eq!(code, 42, "{text}");
    let (code, text) = vm
        .terminal(["run", "--rm", "-it", "busybox", "no-such-program"])?
        .wait()?;
    assert_eq!(code, 127, "{text}");
    assert!(
        text.contains("executable file not found in $PATH"),
        "{text}"
    );
    Ok(())
}

fn the_detach_keys_leave_it_running(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.run(["busybox", "true"])?.code(0)?;
    let before = vm.snapshot()?;
    let mut terminal = vm.terminal(["run", "-it", "--name", "left", "busybox"])?;
    terminal.wait_for("# ")?;
    terminal.send("\x10\x11")?;
    let (code, text) = terminal.wait()?;
    assert_eq!(code, 0, "{text}");
    let running = vm.bulkhead(["ps", "--format", "{{.Names}}"]).output()?;
    assert_eq!(running.only_stdout()?, "left\n");
    vm.bulkhead(["rm", "-f", "left"]).output()?.code(0)?;
    before.no_leftovers(&vm)
}

fn a_terminal_without_one_outside(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    // -t alone needs none outside; standard error is in the one stream.
    let out = vm.run(["-t", "busybox", "sh", "-c", "tty; echo error >&2"])?;
    assert_eq!(out.only_stdout()?, "/dev/pts/0\r\nerror\r\n");
    let out = vm
        .bulkhead(["run", "--rm", "-it", "busybox", "true"])
        .stdin("")
        .output()?
        .code(1)?;
    assert!(
        out.stderr.contains("the input device is not a TTY"),
        "{out}"
    );
    Ok(())
}

fn a_terminal_that_is_closed_for_a_moment(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "exec <&- >&- 2>&-; sleep 1; echo here >/dev/console; exit 3";
    let out = vm.run(["-t", "busybox", "sh", "-c", script])?.code(3)?;
    assert_eq!(out.stdout, "here\r\n");
    Ok(())
}

fn who_lost_a_terminal_attaches_another(world: &World) -> Result<()> {
    let vm = world.own()?;
    let mut lost = vm.terminal(["run", "-it", "--name", "lost", "busybox", "sh"])?;
    lost.wait_for("/ # ")?;
    process_of(&vm, "run")?.kill()?;
    let mut other = vm.terminal(["attach", "lost"])?;
    other.send("echo $((40 + 2))\r")?;
    other.wait_for("42\r\n")?;
    other.send("exit 5\r")?;
    assert_eq!(other.wait()?.0, 5);
    Ok(())
}

fn the_terminal_is_left_as_it_was_found(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "on", &[], "sleep 1000")?;
    let words = ["exec", "-it", "on", "sh", "-c", "echo up; sleep 1000"];
    let mut terminal = vm.terminal(words)?;
    terminal.wait_for("up\r\n")?;
    assert!(!terminal.edits_lines()?);
    process_of(&vm, "exec")?.signal(Signal::TERM)?;
    until("the terminal's modes", || {
        Ok(terminal.edits_lines()?.then_some(()))
    })?;
    assert_eq!(terminal.wait()?.0, 143);
    Ok(())
}
