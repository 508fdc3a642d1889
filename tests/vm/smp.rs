//! Several CPUs: these tests need a host that has two. The others also run where there is one.

use anyhow::{Context, Result};

use crate::build::stages_run_side_by_side_and_end_together;
use crate::world::World;

crate::tests![
    cpus_are_vcpus_and_a_quota,
    every_cpu_of_the_host_is_a_vcpu_that_works,
    stages_run_side_by_side_and_end_together,
];

fn cpus_are_vcpus_and_a_quota(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "nproc; cat /sys/fs/cgroup/cpu.max";
    for (flags, expected) in [
        (&["--cpus", "1"][..], "1\n100000 100000\n"),
        (&["--cpus", "1.5"], "2\n150000 100000\n"),
        (&["--cpuset-cpus", "1"], "1\nmax 100000\n"),
        (&["--cpuset-cpus", "0,1"], "2\nmax 100000\n"),
    ] {
        let out = vm
            .bulkhead(["run", "--rm"])
            .args(flags)
            .args(["busybox", "sh", "-c", script])
            .output()?;
        assert_eq!(out.only_stdout()?, expected, "{flags:?}");
    }
    Ok(())
}

/// Two processes bound to a vCPU each hand a byte to and fro.
fn every_cpu_of_the_host_is_a_vcpu_that_works(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "nproc; mkfifo /a /b;
        taskset 1 sh -c 'for i in $(seq 200); do echo $i >/a; read x </b; done; echo $x' &
        taskset 2 sh -c 'for i in $(seq 200); do read x </a; echo $x >/b; done'; wait";
    let text = vm.run(["busybox", "sh", "-c", script])?.only_stdout()?;
    let host = std::thread::available_parallelism().context("count the host's CPUs")?;
    assert_eq!(text, format!("{host}\n200\n"));
    Ok(())
}
