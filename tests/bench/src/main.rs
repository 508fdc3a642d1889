//! Measures bulkhead next to its peers and prints a table.
//!
//! Run by `cargo xtask bench` where KVM works. Figures of one run compare with each other only:
//! every ratio is the median of pairs taken in turn in the same environment, so that a machine
//! whose speed drifts shifts both sides. A benchmark is no test: nothing here asserts on time.

mod builds;
mod cycles;
mod disk;
mod host;
mod life;
mod memory;
mod neighbour;
mod network;
mod peers;
mod qemu;
mod registry;
mod shares;
mod start;
mod stdio;
mod table;
mod web;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use crate::host::Host;
use crate::table::Table;

/// What to measure with.
#[derive(Debug, Parser)]
struct Args {
    /// The command to measure.
    #[arg(long)]
    bulkhead: PathBuf,
    /// Folder of the guest kernel and agent.
    #[arg(long)]
    guest: PathBuf,
    /// A docker-archive of a busybox image, loaded as `busybox`.
    #[arg(long)]
    busybox: PathBuf,
    /// An archive of a Debian image with python3, loaded as `debian`.
    #[arg(long)]
    debian: Option<PathBuf>,
    /// The static program `traffic`, for guests.
    #[arg(long)]
    traffic: PathBuf,
    /// A Firecracker binary; adds its column.
    #[arg(long)]
    firecracker: Option<PathBuf>,
    /// Measurements of each kind; the median is printed.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Files of `many-files`. An emulated host takes minutes for each ten thousand.
    #[arg(long, default_value_t = 100_000)]
    files: u32,
    /// Starts and stops of `cycles`.
    #[arg(long, default_value_t = 1000)]
    cycles: u32,
    /// Measure only the groups whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let host = Host::new(&args.bulkhead, &args.guest, args.runs)?;
    host.load(&args.busybox)?;
    let mut table = Table::new();
    let wanted = |name: &str| {
        args.only
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    };
    if wanted("start") {
        start::measure(&host, args.firecracker.as_deref(), &mut table)?;
    }
    if wanted("memory") {
        memory::measure(&host, &mut table)?;
    }
    if wanted("life") {
        life::measure(&host, &args.busybox, &mut table)?;
    }
    if wanted("stdio") {
        stdio::measure(&host, &mut table)?;
    }
    if wanted("shares") {
        shares::measure(&host, &mut table)?;
    }
    if wanted("many-files") {
        shares::measure_files(&host, args.files, &mut table)?;
    }
    if wanted("network") {
        network::measure(&host, &args.traffic, &mut table)?;
    }
    if wanted("web") {
        web::measure(&host, &args.busybox, &args.traffic, &mut table)?;
    }
    if wanted("cycles") {
        cycles::measure(&host, args.cycles, &mut table)?;
    }
    if wanted("neighbour") {
        neighbour::measure(&host, &mut table)?;
    }
    if wanted("build") {
        builds::measure(&host, &mut table)?;
    }
    if let Some(debian) = &args.debian
        && wanted("disk")
    {
        disk::measure(&host, debian, &mut table)?;
    }
    if let Some(debian) = &args.debian
        && wanted("registry")
    {
        registry::measure(&host, debian, &mut table)?;
    }
    table.print();
    Ok(())
}
