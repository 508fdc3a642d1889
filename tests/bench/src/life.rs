//! Containers in the background: `exec` next to podman's, memory of an idle one, and whether the
//! twentieth starts as fast as the first.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::host::{Host, time};
use crate::memory::{kib_to_mib, private_kib};
use crate::peers::Podman;
use crate::table::{Table, median, ratio, spread};

/// Containers at once.
const MANY: usize = 20;

/// What an idle container runs; the name is podman's for what was loaded, too.
const IDLE: [&str; 3] = ["busybox", "sleep", "100000"];

/// Measures and adds the rows.
pub fn measure(host: &Host, busybox: &Path, table: &mut Table) -> Result<()> {
    exec(host, busybox, table)?;
    many(host, table)
}

fn exec(host: &Host, busybox: &Path, table: &mut Table) -> Result<()> {
    let podman = Podman::new(host);
    podman.load(busybox)?;
    let run = ["run", "-d", "--name", "idle"];
    podman.output(
        &[
            &run[..],
            &["--network", "none", "--cgroups", "disabled"],
            &IDLE,
        ]
        .concat(),
    )?;
    host.output(&[&run[..], &IDLE].concat())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 0..=host.runs {
        let mut own = host.command(&["exec", "idle", "true"]);
        let seconds = time(&mut own)?;
        let podman_seconds = time(&mut podman.command(&["exec", "idle", "true"]))?;
        if number > 0 {
            ours.push(seconds);
            theirs.push(podman_seconds);
        }
    }
    let how = format!("{} runs in turn, median (min to max)", host.runs);
    table.add("`exec true`", spread(&ours, "s"), "", &how);
    table.add(
        "`podman exec true` with crun",
        spread(&theirs, "s"),
        "",
        &how,
    );
    table.add(
        "ratio to podman",
        format!("{:.2}", ratio(&ours, &theirs)),
        "at most 1.0",
        "median of pairs",
    );
    host.output(&["rm", "-f", "idle"])?;
    podman.output(&["rm", "-f", "idle"])
}

/// Starts as many as there are to be, one after the other, and looks at their memory.
fn many(host: &Host, table: &mut Table) -> Result<()> {
    let names: Vec<String> = (0..MANY).map(|number| format!("many{number}")).collect();
    // Its template is there.
    host.output(&["run", "--rm", "busybox", "true"])?;
    let mut seconds = Vec::new();
    for name in &names {
        let begun = Instant::now();
        host.output(&[&["run", "-d", "--name", name][..], &IDLE].concat())?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    let processes = ["__vmm", "__supervisor", "__launcher"].map(private_kib);
    let all: u64 = processes.into_iter().sum::<Result<_>>()?;
    let mib = kib_to_mib(all) / f64::from(u32::try_from(MANY)?);
    table.add(
        "private memory of an idle `run -d` container above guest RAM",
        format!("{mib:.2} MiB"),
        "at most 12 MiB",
        &format!("VMM, supervisor and its launcher, mean of {MANY}"),
    );
    let part = |from: usize| seconds.get(from..from + 3).map_or(f64::NAN, median);
    table.add(
        "starts of `run -d`, the last 3 of 20 to the first 3",
        format!("{:.2}", part(MANY - 3) / part(0)),
        "at most 1.5",
        &format!("medians; all: {}", spread(&seconds, "s")),
    );
    for name in &names {
        host.output(&["rm", "-f", name])?;
    }
    Ok(())
}
