//! Start to exit of `run --rm busybox true`, its phases, and the peers in turn with it.

use std::path::Path;

use anyhow::{Context, Result};

use crate::host::{Host, time};
use crate::peers::{Crun, Firecracker};
use crate::table::{Table, ratio, spread};

/// What is started: without a network card, as the peers have none.
const TRUE: [&str; 6] = ["run", "--rm", "--network", "none", "busybox", "true"];

/// So too, with one.
const CONNECTED: [&str; 4] = ["run", "--rm", "busybox", "true"];

/// Measures in turns and adds the rows.
pub fn measure(host: &Host, firecracker: Option<&Path>, table: &mut Table) -> Result<()> {
    let (memory_mib, vcpus) = machine(host, table)?;
    let crun = Crun::new(host)?;
    let firecracker = firecracker
        .map(|binary| Firecracker::new(host, &host.adopt(binary)?, memory_mib, vcpus))
        .transpose()?;
    let (mut ours, mut boots, mut connected) = (Vec::new(), Vec::new(), Vec::new());
    let (mut fire, mut plain) = (Vec::new(), Vec::new());
    for run in 0..=host.runs {
        let seconds = time(&mut host.command(&TRUE))?;
        let boot_seconds = time(host.command(&TRUE).env("BULKHEAD_TEMPLATES", "off"))?;
        let connected_seconds = time(&mut host.command(&CONNECTED))?;
        let fire_seconds = firecracker
            .as_ref()
            .map(|f| time(&mut f.command()))
            .transpose()?;
        let plain_seconds = time(&mut crun.command())?;
        // The first of each fills caches.
        if run > 0 {
            ours.push(seconds);
            boots.push(boot_seconds);
            connected.push(connected_seconds);
            fire.extend(fire_seconds);
            plain.push(plain_seconds);
        }
    }
    let how = format!("{} runs in turn, median (min to max)", host.runs);
    table.add(
        "`run --rm --network none busybox true`, cached",
        spread(&ours, "s"),
        "",
        &how,
    );
    table.add(
        "the same without a template",
        spread(&boots, "s"),
        "",
        "BULKHEAD_TEMPLATES=off: each VM boots",
    );
    table.add(
        "the same with a network card",
        spread(&connected, "s"),
        "",
        "passt is started with the guest's first frame only",
    );
    table.add(
        "ratio of the two",
        format!("{:.2}", ratio(&connected, &ours)),
        "",
        "median of pairs",
    );
    if !fire.is_empty() {
        table.add(
            "Firecracker, boot to exit",
            spread(&fire, "s"),
            "",
            "same kernel, memory, vCPUs; init resets at once",
        );
        table.add(
            "ratio to Firecracker",
            format!("{:.2}", ratio(&ours, &fire)),
            "at most 1.0",
            "median of pairs",
        );
        table.add(
            "the same with a network card",
            format!("{:.2}", ratio(&connected, &fire)),
            "at most 1.0",
            "median of pairs",
        );
        table.add(
            "the same without a template",
            format!("{:.2}", ratio(&boots, &fire)),
            "",
            "median of pairs",
        );
    }
    table.add("`crun run true`", spread(&plain, "s"), "", &how);
    table.add(
        "ratio to crun",
        format!("{:.2}", ratio(&ours, &plain)),
        "",
        "median of pairs",
    );
    Ok(())
}

/// Runs once and keeps the container: phases and exits from `inspect`; returns the machine's size.
fn machine(host: &Host, table: &mut Table) -> Result<(u64, u64)> {
    // Unpacks the image, makes the template.
    time(&mut host.command(&TRUE))?;
    let phases = ["run", "--network", "none", "--name", "phases"];
    host.output(&[&phases[..], &["busybox", "true"]].concat())?;
    let text = host.output(&["inspect", "phases"])?;
    let inspect: serde_json::Value = serde_json::from_str(&text)?;
    let container = inspect.get(0).context("inspect printed no container")?;
    let phases = container
        .pointer("/Bulkhead/PhasesMs")
        .context("inspect shows no phases")?;
    let mut list = Vec::new();
    for (name, value) in phases.as_object().context("phases are no object")? {
        list.push(format!("{name} {:.0}", value.as_f64().unwrap_or(f64::NAN)));
    }
    table.add(
        "phases of one start, ms",
        list.join(", "),
        "",
        "`inspect`, time since the command began",
    );
    let exits = container
        .pointer("/Bulkhead/Exits")
        .context("inspect shows no exits")?;
    table.add(
        "exits to user space",
        exits.to_string(),
        "",
        "one run of `true`, boot to end",
    );
    let number = |path: &str| {
        container
            .pointer(path)
            .and_then(serde_json::Value::as_u64)
            .with_context(|| path.to_owned())
    };
    let size = (number("/Bulkhead/MemoryMiB")?, number("/Bulkhead/Vcpus")?);
    host.output(&["rm", "phases"])?;
    Ok(size)
}
