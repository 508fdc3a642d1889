//! `run --isolation=container`: which flags it has, and the way to [`crate::sandbox::plain`].

use anyhow::{Result, bail};
use images::Store;

use super::flags::Flags;
use super::options::{Mode, RunOptions};
use super::policy::Policy;
use super::run::{CidFile, find_image, launch};
use super::{names, output};
use crate::sandbox::paths::{GuestFiles, Root};
use crate::sandbox::plain::{self, Plain};

/// Why nothing but `run --rm` in the foreground has it.
pub const NOT_KEPT: &str = "--isolation=container works with run --rm in the foreground only: a plain \
    container is gone when it ends; leave the flag out for one that is kept";

/// Flags that a plain container has; any other is refused.
const SUPPORTED: [&str; 38] = [
    "add-host",
    "cap-add",
    "cap-drop",
    "cidfile",
    "cpu-period",
    "cpu-quota",
    "cpu-shares",
    "cpus",
    "dns",
    "dns-option",
    "dns-search",
    "entrypoint",
    "env",
    "env-file",
    "group-add",
    "hostname",
    "interactive",
    "ipc",
    "isolation",
    "memory",
    "memory-reservation",
    "memory-swap",
    "network",
    "no-healthcheck",
    "oom-score-adj",
    "pids-limit",
    "platform",
    "pull",
    "quiet",
    "read-only",
    "rm",
    "security-opt",
    "shm-size",
    "sig-proxy",
    "tty",
    "ulimit",
    "user",
    "workdir",
];

/// Said once at each start.
const WEAKER: &str = "WARNING: --isolation=container: the process runs on the host's kernel, shielded \
    by namespaces and filters only, and without a network";

/// Runs it: becomes its keeper, or says why not.
///
/// # Errors
/// A flag that it has not, no runtime, or what keeps it from being prepared.
pub fn run(flags: &Flags, options: &RunOptions) -> Result<u8> {
    check(flags, options)?;
    let policy = Policy::of_user()?;
    policy.check_isolation()?;
    let runtime = plain::find_runtime()?;
    let cidfile = CidFile::check(options.container.cidfile.as_deref())?;
    let guest = GuestFiles::find()?;
    let root = Root::of_user()?;
    policy.check_disk(&root)?;
    let store = Store::open(&root.images())?;
    let _lease = store.lease()?;
    let image = find_image(&options.image, &store)?;
    let id = names::random_id()?;
    let launch = launch(options, &image, &id)?;
    policy.check_launch(&launch)?;
    let without_effect = flags.warnings().into_iter().map(str::to_owned);
    for warning in without_effect.chain(options.warnings()) {
        output::note(&format!("WARNING: {warning}"));
    }
    output::note(WEAKER);
    let plain = Plain {
        root: &root,
        guest: &guest,
        runtime: &runtime,
        id: &id,
        launch: &launch,
        image: &image,
        store: &store,
        forward_signals: options.container.forward_signals,
        tell: &|words| {
            if !options.image.quiet {
                output::note(words);
            }
        },
    };
    plain::run(&plain, || cidfile.write(&id))?;
    bail!("the keeper of the container did not start")
}

/// Refuses what a plain container has not.
fn check(flags: &Flags, options: &RunOptions) -> Result<()> {
    if !options.container.auto_remove || options.container.detach {
        bail!(NOT_KEPT);
    }
    if let Some(name) = flags.set_beyond(&SUPPORTED) {
        bail!("--{name} is not supported with --isolation=container; remove one of both");
    }
    let security = &options.process.security;
    if security.system_paths_unconfined || security.writable_cgroups.is_some() {
        bail!(
            "--security-opt systempaths and writable-cgroups are not supported with \
             --isolation=container: its /proc and /sys are the host's"
        );
    }
    if options.network.mode != Mode::None && !flags.list("network").is_empty() {
        bail!(
            "a plain container has the loopback only; use --network none, or leave \
             --isolation=container out"
        );
    }
    Ok(())
}
