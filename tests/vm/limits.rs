//! Memory, CPUs, processes, open files: what a limit makes of the VM and of the process.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::jail::disk_of;
use crate::tenant;
use crate::world::World;

crate::tests![
    memory_is_the_vms_and_the_groups,
    too_little_memory_is_refused,
    more_cpus_than_the_host_has_are_refused,
    the_out_of_memory_killer_is_told,
    processes_are_limited,
    resource_limits_are_set,
    the_writable_layer_is_limited,
    memory_that_is_freed_goes_back_to_the_host,
    what_is_written_slowly_is_whole,
    a_disk_that_is_slow_holds_up_nothing_else,
];

fn memory_is_the_vms_and_the_groups(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "cat /sys/fs/cgroup/memory.max; awk '/MemTotal/ {print $2}' /proc/meminfo";
    let text = vm
        .run(["-m", "64m", "busybox", "sh", "-c", script])?
        .only_stdout()?;
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("67108864"), "{text}");
    let kib: u64 = lines.next().unwrap_or_default().parse()?;
    // What the flag grants is there, and the VM has some more for its kernel and agent.
    assert!((65_536..512 * 1024).contains(&kib), "{text}");
    Ok(())
}

fn too_little_memory_is_refused(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    vm.run(["-m", "5m", "busybox", "true"])?
        .refusal("Minimum memory limit allowed is 6MB")?;
    before.no_leftovers(&vm)?;
    // The least that is allowed is enough.
    assert_eq!(
        vm.run(["-m", "6m", "busybox", "echo", "fits"])?
            .only_stdout()?,
        "fits\n"
    );
    Ok(())
}

fn more_cpus_than_the_host_has_are_refused(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    vm.run(["--cpus", "1000", "busybox", "nproc"])?
        .refusal("range of CPUs is from 0.01 to")?;
    vm.run(["--cpuset-cpus", "999", "busybox", "nproc"])?
        .refusal("999")?;
    Ok(())
}

fn the_out_of_memory_killer_is_told(world: &World) -> Result<()> {
    let vm = world.own()?;
    let out = vm
        .bulkhead([
            "run", "--name", "hoarder", "-m", "32m", "probe", "/probe", "hoard",
        ])
        .output()?;
    assert_eq!(out.code, 137, "{out}");
    let inspect = |format: &str| -> Result<String> {
        vm.bulkhead(["inspect", "-f", format, "hoarder"])
            .output()?
            .only_stdout()
    };
    assert_eq!(
        inspect("{{.State.OOMKilled}} {{.State.ExitCode}}")?,
        "true 137\n"
    );
    // Killed by hand is not out of memory.
    vm.bulkhead([
        "run",
        "--name",
        "killed",
        "--init",
        "busybox",
        "sh",
        "-c",
        "kill -9 $$",
    ])
    .output()?
    .code(137)?;
    let out = vm
        .bulkhead(["inspect", "-f", "{{.State.OOMKilled}}", "killed"])
        .output()?;
    assert_eq!(out.only_stdout()?, "false\n");
    Ok(())
}

fn processes_are_limited(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script =
        "cat /sys/fs/cgroup/pids.max; for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; echo all";
    let out = vm.run(["--pids-limit", "5", "busybox", "sh", "-c", script])?;
    assert!(
        out.stdout.starts_with("5\n") && !out.stdout.contains("all"),
        "{out}"
    );
    assert!(out.stderr.contains("fork"), "{out}");
    Ok(())
}

fn resource_limits_are_set(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Su";
    let text = vm
        .run([
            "--ulimit",
            "nofile=100:200",
            "--ulimit",
            "core=0",
            "--ulimit",
            "nproc=77:77",
            "busybox",
            "sh",
            "-c",
            script,
        ])?
        .only_stdout()?;
    assert_eq!(text, "100\n200\n0\n77\n");
    vm.run(["--ulimit", "nofile=5:2", "busybox", "true"])?
        .refusal("soft limit")?;
    Ok(())
}

fn the_writable_layer_is_limited(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script = "dd if=/dev/zero of=/fill bs=1M count=100 2>&1 | grep -o 'No space left.*'; rm /fill; echo after";
    let out = vm.run(["--storage-opt", "size=32m", "busybox", "sh", "-c", script])?;
    assert_eq!(out.only_stdout()?, "No space left on device\nafter\n");
    Ok(())
}

/// Hidden verb of the process that is the VM.
const VMM: &str = "__vmm";

/// A number of `/proc/ID/status`, in KiB.
pub(crate) fn status_kib(id: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{id}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next());
    Ok(number.with_context(|| format!("no {field}"))?.parse()?)
}

fn memory_that_is_freed_goes_back_to_the_host(world: &World) -> Result<()> {
    const TOUCHED_KIB: u64 = 180 << 10;
    // Pages of other uses come and go meanwhile.
    const RETURNED_KIB: u64 = 150 << 10;
    let vm = world.own()?;
    // dd has one buffer of that size, which goes with it.
    let script = "echo begun; read go; dd if=/dev/zero of=/dev/null bs=200M count=1; \
        echo freed; exec sleep 100000";
    let (reader, writer) = std::io::pipe().context("create a pipe")?;
    let mut running = vm
        .bulkhead(["run", "--rm", "-i", "--init", "-m", "512m", "busybox"])
        .args(["sh", "-c", script])
        .stdin_from(reader)
        .spawn()?;
    running.wait_for_stdout("begun\n")?;
    let vmm = vm.wait_for_process(VMM)?.id;
    let idle = status_kib(vmm, "VmRSS")?;
    std::io::Write::write_all(&mut &writer, b"go\n").context("let it go on")?;
    running.wait_for_stdout("freed\n")?;
    let most = status_kib(vmm, "VmHWM")?;
    assert!(most >= idle + TOUCHED_KIB, "{idle} KiB, then {most} KiB");
    let begun = Instant::now();
    loop {
        let now = status_kib(vmm, "VmRSS")?;
        if now + RETURNED_KIB <= most {
            break;
        }
        if begun.elapsed() > harness::PATIENCE {
            bail!("idle {idle} KiB, at most {most} KiB, and still {now} KiB");
        }
        std::thread::sleep(harness::POLL_INTERVAL);
    }
    running.signal(Signal::TERM)?;
    running.wait()?.code(143)?;
    Ok(())
}

/// What is left to be written when the process has ended, which would take longer than a guest that is hung is
/// waited for.
fn what_is_written_slowly_is_whole(world: &World) -> Result<()> {
    const BYTES: usize = 32 << 20;
    tenant::needs_root()?;
    let vm = world.own()?;
    let (disk, _) = disk_of(Path::new("/scratch"))?;
    let rate = format!("--device-write-bps={}:400kb", disk.display());
    let script = format!("head -c {BYTES} /dev/zero | tr '\\0' x >/large");
    let run = [
        "run",
        "--name=cc",
        "-m",
        "256m",
        &rate,
        "busybox",
        "sh",
        "-c",
    ];
    let out = vm.bulkhead(run).arg(&script).output()?.code(0)?;
    assert_eq!(out.stderr, "", "{out}");
    let error = vm.bulkhead(["inspect", "-f", "{{.State.Error}}", "cc"]);
    assert_eq!(error.output()?.only_stdout()?, "\n");
    let read = "bulkhead cp cc:/large - | tar -xOf - | tr -cd x | wc -c";
    assert_eq!(
        vm.shell(read).output()?.only_stdout()?.trim(),
        BYTES.to_string()
    );
    Ok(())
}

/// A flush that takes minutes, and commands meanwhile. `/dev/shm` is memory: that it is done is told
/// though the disk is slow.
fn a_disk_that_is_slow_holds_up_nothing_else(world: &World) -> Result<()> {
    const COMMANDS: usize = 5;
    tenant::needs_root()?;
    let vm = world.own()?;
    let (disk, _) = disk_of(Path::new("/scratch"))?;
    let rate = format!("--device-write-bps={}:32kb", disk.display());
    let script = "head -c 8388608 /dev/zero | tr '\\0' x >/large; touch /dev/shm/begun; sync; \
        touch /dev/shm/flushed; sleep 1000";
    let run = ["run", "-d", "--name=cc", "-m", "256m", &rate, "busybox"];
    vm.bulkhead(run)
        .args(["sh", "-c", script])
        .output()?
        .code(0)?;
    let begun = "until [ -e /dev/shm/begun ]; do sleep 0.1; done";
    let exec = ["exec", "cc", "sh", "-c"];
    vm.bulkhead(exec).arg(begun).output()?.code(0)?;
    for _ in 0..COMMANDS {
        let out = vm.bulkhead(exec).arg("ls /dev/shm").output()?;
        assert_eq!(out.only_stdout()?, "begun\n");
    }
    vm.bulkhead(["rm", "-f", "cc"]).output()?.code(0)?;
    Ok(())
}
