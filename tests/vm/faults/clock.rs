//! The host's clock is set an hour and twenty years back and forth under containers, pulls and builds:
//! what waits goes by the monotonic clock, and nothing that is in use is taken for old. Only in emulated
//! hosts: nobody's own clock is changed.

use std::fs;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use harness::Invocation;
use harness::fault::{Fault, FaultyRegistry};

use super::{Verb, layout, nothing_is_left};
use crate::life::{begin, status, text, until};
use crate::world::World;

/// None where the host is not an emulated one, and then it says so.
pub(crate) fn tests() -> Vec<(&'static str, crate::Test)> {
    if is_emulated() {
        return all::tests();
    }
    println!("faults: the clock is left as it is, since this is no emulated host");
    Vec::new()
}

/// All of this file.
mod all {
    use super::{a_clock_jumps_under_a_pull_and_a_build, a_clock_jumps_under_containers};

    crate::tests![
        a_clock_jumps_under_containers,
        a_clock_jumps_under_a_pull_and_a_build,
    ];
}

/// The lab starts its kernel with these words (`xtask/src/lab/emulator.rs`).
pub(crate) fn is_emulated() -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains("no_timer_check nokaslr"))
}

const HOUR: i64 = 3600;
const YEARS: i64 = 20 * 365 * 24 * HOUR;

/// By how much, one after the other; in all it comes back to where it was.
const JUMPS: [i64; 4] = [HOUR, -2 * HOUR, YEARS, -YEARS + HOUR];

fn jump(seconds: i64) -> Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let then = i64::try_from(now.as_secs())? + seconds;
    Invocation::new("/bin/date")
        .args(["-s", &format!("@{then}")])
        .output()?
        .code(0)
        .context("set the clock")?;
    Ok(())
}

/// By how many seconds the host is ahead of what a guest's `date` said.
fn late(date: &str) -> Result<i64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_secs())? - date.trim().parse::<i64>()?)
}

fn a_clock_jumps_under_containers(world: &World) -> Result<()> {
    let vm = world.own()?;
    for seconds in JUMPS {
        let health = ["--health-cmd", "true", "--health-interval", "1s"];
        begin(&vm, "one", &health, "echo begun; exec sleep 1000")?;
        jump(seconds)?;
        // Its clock follows.
        until("the guest's clock", || {
            let late = late(&text(&vm, &["exec", "one", "date", "+%s"])?)?;
            Ok((-60..600).contains(&late).then_some(()))
        })?;
        // Probes go on.
        let format = ["inspect", "-f", "{{.State.Health.Status}}", "one"];
        until("health", || {
            Ok((text(&vm, &format)? == "healthy\n").then_some(()))
        })?;
        ensure!(status(&vm, "one")? == "running true 0", "it runs on");
        ensure!(text(&vm, &["exec", "one", "echo", "in"])? == "in\n", "exec");
        ensure!(text(&vm, &["logs", "one"])? == "begun\n", "its log");
        text(&vm, &["logs", "--since", "10m", "one"])?;
        let listed = text(&vm, &["ps", "--format", "{{.Status}}"])?;
        ensure!(listed.starts_with("Up "), "{listed}");
        // It is deaf to the signal: the time-out is of seconds, not of years.
        text(&vm, &["stop", "-t", "1", "one"])?;
        ensure!(status(&vm, "one")? == "exited false 137", "it is stopped");
        let listed = text(&vm, &["ps", "-a", "--format", "{{.Status}}"])?;
        ensure!(listed.starts_with("Exited (137) "), "{listed}");
        text(&vm, &["rm", "one"])?;
        nothing_is_left(&vm)?;
        // A VM that begins now has this time.
        let late = late(&vm.run(["busybox", "date", "+%s"])?.only_stdout()?)?;
        ensure!((-60..600).contains(&late), "the guest is {late} s late");
    }
    Ok(())
}

/// Under a step that runs and a layer that comes slowly.
fn a_clock_jumps_under_a_pull_and_a_build(world: &World) -> Result<()> {
    let registry = FaultyRegistry::start(&layout()?, Fault::Slow)?;
    let name = registry.name("busybox:latest");
    let builds = world.own()?;
    let dockerfile = "FROM busybox\nRUN echo underway; sleep 2; echo over > /over\n";
    fs::write(builds.work().join("Dockerfile"), dockerfile).context("write a file")?;
    for seconds in JUMPS {
        let pulls = Verb::Pull.prepared(world)?;
        registry.set_fault(Fault::Slow);
        let pull = pulls.bulkhead(Verb::Pull.words(&name)).spawn()?;
        let mut build = builds
            .bulkhead(["build", "--progress=plain", "--no-cache", "."])
            .spawn()?;
        build.wait_for_stderr(" underway\n")?;
        until("a layer", || {
            let mut begun = fs::read_dir(pulls.root().join("images/ingest"))?;
            Ok(begun.next().map(drop))
        })?;
        jump(seconds)?;
        registry.set_fault(Fault::None);
        let pulled = pull.wait()?;
        ensure!(Verb::Pull.has_succeeded(&pulled), "{seconds} s: {pulled}");
        build.wait()?.code(0)?;
        for vm in [&pulls, &builds] {
            nothing_is_left(vm).with_context(|| format!("{seconds} s"))?;
        }
    }
    Ok(())
}
