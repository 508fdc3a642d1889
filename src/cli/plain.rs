//! `--isolation=container`: which flags it has, what is asked before there is such a container, and what
//! is prepared for it. Called by [`super::run`] and [`super::start`].

use anyhow::{Result, bail};
use images::Image;

use super::flags::Flags;
use super::options::{Mode, RunOptions};
use super::output;
use super::policy::Policy;
use crate::sandbox::launch::Launch;
use crate::sandbox::paths::{GuestFiles, Root};
use crate::sandbox::plain;
use crate::sandbox::printable;

/// Flags that a plain container has; any other is refused.
const SUPPORTED: [&str; 63] = [
    "add-host",
    "annotation",
    "attach",
    "blkio-weight",
    "blkio-weight-device",
    "cap-add",
    "cap-drop",
    "cidfile",
    "cpu-period",
    "cpu-quota",
    "cpu-shares",
    "cpus",
    "detach",
    "detach-keys",
    "device-read-bps",
    "device-read-iops",
    "device-write-bps",
    "device-write-iops",
    "dns",
    "dns-option",
    "dns-search",
    "entrypoint",
    "env",
    "env-file",
    "expose",
    "group-add",
    "health-cmd",
    "health-interval",
    "health-retries",
    "health-start-interval",
    "health-start-period",
    "health-timeout",
    "hostname",
    "interactive",
    "ipc",
    "isolation",
    "label",
    "label-file",
    "log-driver",
    "log-opt",
    "memory",
    "memory-reservation",
    "memory-swap",
    "name",
    "network",
    "no-healthcheck",
    "oom-score-adj",
    "pids-limit",
    "platform",
    "pull",
    "quiet",
    "read-only",
    "restart",
    "rm",
    "security-opt",
    "shm-size",
    "sig-proxy",
    "stop-signal",
    "stop-timeout",
    "tty",
    "ulimit",
    "user",
    "workdir",
];

/// Said once when one is made.
const WEAKER: &str = "WARNING: --isolation=container: the process runs on the host's kernel, shielded \
    by namespaces and filters only, and without a network";

/// Refuses what a plain container has not, and what this host or its administrator has not for it.
///
/// # Errors
/// A flag that it has not, no runtime, or the policy.
pub fn check(flags: &Flags, options: &RunOptions) -> Result<()> {
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
    if let Some(text) = security.without_effect.first() {
        bail!(
            "--security-opt {text} is not supported with --isolation=container: a plain container has \
             no AppArmor profile and no SELinux label of its own"
        );
    }
    if security.seccomp.is_some() {
        bail!(
            "--security-opt seccomp is not supported with --isolation=container: a plain container \
             has Docker's default filter"
        );
    }
    if options.network.mode != Mode::None && !flags.list("network").is_empty() {
        bail!(
            "a plain container has the loopback only; use --network none, or leave \
             --isolation=container out"
        );
    }
    can_run()
}

/// Whether a plain container may and can be started.
///
/// # Errors
/// The policy, or there is no runtime.
pub fn can_run() -> Result<()> {
    Policy::of_user()?.check_isolation()?;
    plain::find_runtime().map(drop)
}

/// Has the image unpacked.
///
/// # Errors
/// Limits that nobody would hold, or when it can't be.
pub fn prepare(
    root: &Root,
    guest: &GuestFiles,
    image: &Image,
    launch: &Launch,
    quiet: bool,
) -> Result<()> {
    plain::check_limits(launch)?;
    output::note(WEAKER);
    if !image.config.volumes.is_empty() {
        let names = printable(&image.config.volumes.join(", "));
        output::note(&format!(
            "WARNING: --isolation=container: what the image says is a volume is kept in the \
             container's own files: {names}"
        ));
    }
    plain::prepare_image(root, guest, image, &|words| {
        if !quiet {
            output::note(words);
        }
    })
}
