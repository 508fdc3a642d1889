//! Standard streams: apart, complete, in both directions, small and long.

use std::fs::{self, File};
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Running, Sandbox};

use crate::life::{begin, status, text};
use crate::world::World;

crate::tests![
    a_long_stream_comes_in_whole,
    a_long_stream_goes_out_whole,
    a_gigabyte_is_out_before_the_exit_is_told,
    what_is_read_when_the_vm_has_ended_is_whole,
    a_stop_does_not_wait_for_who_does_not_read,
    bytes_go_through_unchanged,
    output_and_error_are_apart_and_complete,
    input_ends_when_ours_does,
    without_interactive_there_is_no_input,
    a_reader_may_leave_early,
    a_reader_that_stalls_hides_no_end,
    a_reader_that_stalls_keeps_no_stop_from_a_clean_end,
    attach_chooses_streams,
    who_only_types_leaves_when_it_is_typed,
];

/// Lines of the long stream: 168 MB.
const LINES: u64 = 20_000_000;

/// For so much data on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// `seq 1 LINES | md5sum` on the host.
fn expected(vm: &harness::Sandbox) -> Result<String> {
    let sum = vm.shell(&format!("seq 1 {LINES} | md5sum")).output()?;
    sum.only_stdout()
}

fn a_long_stream_comes_in_whole(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = format!("seq 1 {LINES} | bulkhead run --rm -i busybox md5sum");
    let out = vm.shell(&script).timeout(PATIENCE).output()?;
    assert_eq!(out.only_stdout()?, expected(vm)?);
    Ok(())
}

fn a_long_stream_goes_out_whole(world: &World) -> Result<()> {
    // busybox's seq counts in floating point, which takes minutes where that is emulated.
    let vm = world.debian()?;
    let script = format!("bulkhead run --rm debian:12 seq 1 {LINES} | md5sum");
    let out = vm.shell(&script).timeout(PATIENCE).output()?;
    assert_eq!(out.only_stdout()?, expected(vm)?);
    Ok(())
}

/// The process is gone long before its output is, which a slow reader holds up.
fn a_gigabyte_is_out_before_the_exit_is_told(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let mib: u64 = 1100;
    let script = format!(
        "bulkhead run --rm busybox sh -c \
            'dd if=/dev/zero bs=1M count={mib} 2>/dev/null; echo end; exit 9' \
            | {{ sleep 2; tail -c +{}; }}; echo ${{PIPESTATUS[0]}}",
        mib * 1024 * 1024 + 1
    );
    let out = vm
        .shell("exec bash -s")
        .stdin(script)
        .timeout(PATIENCE)
        .output()?;
    assert_eq!(out.only_stdout()?, "end\n9\n");
    Ok(())
}

/// More than the sockets on the way hold and not so much that the process would have to wait: its VM
/// has long ended when somebody reads.
fn what_is_read_when_the_vm_has_ended_is_whole(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    for bytes in [450_000, 600_000, 1_600_000, 1_750_000] {
        let script = format!(
            "bulkhead run --rm busybox sh -c 'head -c {bytes} /dev/zero; echo end; exit 9' \
                | {{ sleep 10; tail -c +{}; }}; echo ${{PIPESTATUS[0]}}",
            bytes + 1
        );
        let out = vm
            .shell("exec bash -s")
            .stdin(script)
            .timeout(PATIENCE)
            .output()?;
        assert_eq!(out.only_stdout()?, "end\n9\n", "{bytes}");
    }
    Ok(())
}

/// The process has ended, and nobody reads what it said: its container has ended all the same, and goes.
fn a_stop_does_not_wait_for_who_does_not_read(world: &World) -> Result<()> {
    let vm = world.own()?;
    for (verb, state) in [
        ("stop", "0\n0\nexited\n"),
        // As of any that has ended.
        ("kill", "1\n0\nexited\n"),
        // An empty line for what is not there.
        ("rm -f", "0\n\n"),
    ] {
        let script = format!(
            "bulkhead run --name unread busybox head -c 450000 /dev/zero | sleep 600 & reader=$!
             until bulkhead ps -aq --filter name=unread | grep -q .; do sleep 0.1; done
             until [ \"$(bulkhead inspect -f '{{{{.State.Status}}}}' unread)\" = exited ]; do sleep 0.1; done
             timeout 20 bulkhead {verb} unread >/dev/null; echo $?
             timeout 20 bulkhead wait unread 2>/dev/null
             timeout 20 bulkhead container inspect -f '{{{{.State.Status}}}}' unread 2>/dev/null
             kill -0 $reader && echo nobody has read
             bulkhead rm -f unread >/dev/null 2>&1
             kill %1; wait; echo over"
        );
        let out = vm
            .shell("exec bash -s")
            .stdin(script)
            .timeout(PATIENCE)
            .output()?;
        let expected = format!("{state}nobody has read\nover\n");
        assert_eq!(out.stdout, expected, "{verb}: {out}");
    }
    Ok(())
}

fn bytes_go_through_unchanged(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let probe = harness::images::path(fixtures::Recipe::Busybox, "probe")?;
    let probe = probe.display();
    let bytes = 20_000_003;
    let script = format!(
        "{probe} bytes {bytes} | bulkhead run --rm -i busybox cat | {probe} digest
         {probe} bytes {bytes} | {probe} digest"
    );
    let text = vm.shell(&script).output()?.only_stdout()?;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0], lines[1]);
    assert!(lines[0].starts_with("20000003 "), "{text}");
    Ok(())
}

fn output_and_error_are_apart_and_complete(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let lines = 3000;
    let script = format!(
        "i=0; while [ $i -lt {lines} ]; do echo out $i; echo error $i >&2; i=$((i + 1)); done; exit 3"
    );
    let out = vm.run(["busybox", "sh", "-c", &script])?.code(3)?;
    let numbered = |word: &str| -> String {
        (0..lines)
            .map(|number| format!("{word} {number}\n"))
            .collect()
    };
    assert!(out.stdout == numbered("out"), "{out}");
    assert!(out.stderr == numbered("error"), "{out}");
    Ok(())
}

fn input_ends_when_ours_does(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let given: Vec<u8> = (0..=255).collect();
    let out = vm
        .bulkhead([
            "run",
            "--rm",
            "-i",
            "busybox",
            "sh",
            "-c",
            "cat; echo end >&2",
        ])
        .stdin(given.clone())
        .output()?
        .code(0)?;
    assert_eq!(out.stdout_bytes, given);
    assert_eq!(out.stderr, "end\n");
    Ok(())
}

fn without_interactive_there_is_no_input(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let out = vm
        .bulkhead(["run", "--rm", "busybox", "sh", "-c", "cat; echo end"])
        .stdin("not for it")
        .output()?;
    assert_eq!(out.only_stdout()?, "end\n");
    Ok(())
}

fn a_reader_may_leave_early(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let out = vm
        .shell("yes | bulkhead run --rm -i busybox head -c 4; echo code $?")
        .output()?;
    assert_eq!(out.only_stdout()?, "y\ny\ncode 0\n");
    // Who wants no more output ends the command, and not the container.
    let out = vm
        .shell("{ bulkhead run --name on busybox yes; echo $? >code; } | head -n 1; cat code")
        .output()?
        .code(0)?;
    assert_eq!(out.stdout, "y\n1\n");
    assert!(out.stderr.contains("write to stdout: "), "{out}");
    let state = ["inspect", "-f", "{{.State.Status}}", "on"];
    assert_eq!(vm.bulkhead(state).output()?.only_stdout()?, "running\n");
    let out = vm
        .shell("{ bulkhead exec on yes; echo $? >code; } | head -n 1; cat code")
        .output()?
        .code(0)?;
    assert_eq!(out.stdout, "y\n1\n");
    vm.bulkhead(["rm", "-f", "on"]).output()?.code(0)?;
    before.no_leftovers(&vm)
}

/// A command whose output has begun, and nobody reads on; it ends when its reader is dropped.
pub(crate) fn stalled(vm: &Sandbox, arguments: &[&str]) -> Result<(Running, PipeReader)> {
    let (mut reader, writer) = std::io::pipe().context("make a pipe")?;
    let output = File::from(OwnedFd::from(writer));
    let running = vm.bulkhead(arguments).stdout_to(output).spawn()?;
    reader.read_exact(&mut [0; 512])?;
    Ok((running, reader))
}

fn a_reader_that_stalls_hides_no_end(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script = "until test -e /end; do sleep 0.1; done; exit 5";
    begin(&vm, "web", &[], script)?;
    let (exec, reader) = stalled(&vm, &["exec", "web", "yes"])?;
    text(&vm, &["exec", "-d", "web", "touch", "/end"])?;
    assert_eq!(text(&vm, &["wait", "web"])?, "5\n");
    assert_eq!(status(&vm, "web")?, "exited false 5");
    drop(reader);
    exec.wait()?.code(137)?;
    Ok(())
}

/// The process's own words and its files are kept, whoever does not read.
fn a_reader_that_stalls_keeps_no_stop_from_a_clean_end(world: &World) -> Result<()> {
    let vm = world.own()?;
    let ends = "trap 'echo kept >/kept; exit 6' TERM; echo up";
    begin(&vm, "web", &[], &format!("{ends}; sleep 1000 & wait"))?;
    let (exec, reader) = stalled(&vm, &["exec", "web", "yes"])?;
    assert_eq!(text(&vm, &["stop", "-t", "30", "web"])?, "web\n");
    drop(reader);
    exec.wait()?.code(137)?;
    let script = format!("{ends}; yes & wait");
    let arguments = ["run", "--name", "own", "busybox", "sh", "-c", &script];
    let (run, reader) = stalled(&vm, &arguments)?;
    assert_eq!(text(&vm, &["stop", "-t", "2", "own"])?, "own\n");
    drop(reader);
    run.wait()?.code(6)?;
    for name in ["web", "own"] {
        assert_eq!(status(&vm, name)?, "exited false 6");
        let from = format!("{name}:/kept");
        text(&vm, &["cp", &from, name])?;
        assert_eq!(fs::read_to_string(vm.work().join(name))?, "kept\n");
    }
    Ok(())
}

fn attach_chooses_streams(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = ["busybox", "sh", "-c", "echo out; echo error >&2; exit 4"];
    let out = vm
        .bulkhead(["run", "--rm", "-a", "stdout"])
        .args(script)
        .output()?
        .code(4)?;
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", ""));
    let out = vm
        .bulkhead(["run", "--rm", "-a", "stderr"])
        .args(script)
        .output()?
        .code(4)?;
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("", "error\n"));
    Ok(())
}

/// `-a stdin`, as in `id=$(tar -c . | docker run -i -a stdin …)`: the id, and all that was typed arrives.
fn who_only_types_leaves_when_it_is_typed(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script = "id=$(head -c 1000000 /dev/zero | bulkhead run -i -a stdin --name typed busybox \
        sh -c 'wc -c; until [ -e /go ]; do sleep 0.1; done; exit 3'); echo $?
        bulkhead inspect -f '{{.State.Running}}' $id
        bulkhead exec typed touch /go; bulkhead wait $id; bulkhead logs $id; bulkhead rm $id >/dev/null";
    let out = vm.shell(script).output()?;
    assert_eq!(out.only_stdout()?, "0\ntrue\n3\n1000000\n");
    Ok(())
}
