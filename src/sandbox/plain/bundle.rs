//! The bundle of a plain container: its folder, and the configuration that the OCI runtime reads. It
//! lies in the container's folder and goes with that.
//!
//! ```text
//! <root>/containers/<id>/bundle/
//!   upper/, work/            what the container changes; kept until it is removed
//! <root>/plain/run/          a tmpfs, in each agent's mount namespace only
//!   config.json, process-<process>    OCI runtime specification 1.0
//!   files/                   another: hosts, hostname, resolv.conf, which the container may write
//!   rootfs/                  where the overlay is mounted
//!   state/, log-<process> …  the runtime's own
//! ```
//! The second is the bundle as the runtime knows it. The supervisor may write in the container's folder,
//! and there alone: it could take away what the runtime goes by, and mounts with it; or put a folder there
//! that the container has made, links included.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::Spec;
use protocol::plain::{FilterRule, FirstArgument, Prepared};
use protocol::probe::PROBE_NAME;
use protocol::spec::{ProcessSpec, Resources, RunSpec, Seccomp};
use serde_json::{Value, json};

use super::super::control_group;
use super::agent::AgentConfig;
use super::group;

/// What a container may not look into, as on Docker.
pub const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What it may look at and not change.
pub const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Name of the folder where the container's files are mounted.
pub(super) const ROOTFS: &str = "rootfs";

/// Name of the runtime's own folder.
pub(super) const STATE: &str = "state";

/// Name of the folder of files that are mounted in the container.
pub(super) const FILES: &str = "files";

/// Bytes of those files. Others may not become fewer by what a container writes to its own.
pub(super) const FILES_BYTES: u64 = 16 << 20;

/// Bytes of the files that the runtime goes by: configurations, its logs, its own notes.
pub(super) const RUN_BYTES: u64 = 64 << 20;

/// Makes the folders of a bundle, as far as they are not there of an earlier life.
///
/// # Errors
/// When one can't be made.
pub(super) fn make_folders(config: &AgentConfig) -> Result<()> {
    let bundle = &config.fixed.bundle;
    if config.fixed.is_root {
        group::remove(&config.fixed.id);
    }
    let none = Path::new("");
    for (name, mode) in [
        (none, 0o700),
        (Path::new("upper"), 0o755),
        (Path::new("work"), 0o755),
    ] {
        let path = bundle.join(name);
        match DirBuilder::new().mode(mode).create(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("create {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes the configuration that the runtime reads, to the working directory, and the files that it mounts.
///
/// # Errors
/// When a file can't be written, or the container is to have what a plain one has not.
pub(super) fn write(config: &AgentConfig, run: &RunSpec, prepared: &Prepared) -> Result<()> {
    for (name, text) in [
        ("hosts", run.hosts.clone()),
        ("resolv.conf", run.resolv_conf.clone()),
        ("hostname", format!("{}\n", run.hostname)),
    ] {
        let path = Path::new(FILES).join(name);
        fs::write(path, text).with_context(|| format!("write {name}"))?;
    }
    let spec = document(config, run, prepared)?;
    let text = serde_json::to_vec_pretty(&spec).context("write config.json")?;
    fs::write("config.json", text).context("write config.json")
}

/// The configuration, as a checked document of the specification.
fn document(config: &AgentConfig, run: &RunSpec, prepared: &Prepared) -> Result<Spec> {
    let process = &run.process;
    if !matches!(process.seccomp, Seccomp::Default) {
        bail!("a plain container has Docker's default filter; remove --security-opt seccomp");
    }
    if !run.sysctls.is_empty() {
        bail!("--sysctl is not supported with --isolation=container; remove one of both");
    }
    config.fixed.allowed.check(process)?;
    if run.read_only_root != config.fixed.read_only_root {
        bail!("a life's files are to be writable or not as those of the container are not");
    }
    if !run.domainname.is_empty() {
        bail!("--domainname is not supported with --isolation=container; remove one of both");
    }
    let kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let namespaces = kinds.map(|kind| json!({"type": kind}));
    let mut value = json!({
        "ociVersion": "1.0.2",
        "hostname": run.hostname,
        "root": {"path": ROOTFS, "readonly": run.read_only_root},
        "process": of_process(process, prepared, config.fixed.is_root)?,
        "mounts": mounts(config, run),
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "seccomp": filter(&prepared.filter),
        },
    });
    if config.fixed.is_root
        && let Some(linux) = value.get_mut("linux").and_then(Value::as_object_mut)
    {
        let group = format!("/{}/{}", control_group::OWN, config.fixed.id);
        linux.insert("cgroupsPath".into(), group.into());
        let mut resources = resources(&run.resources);
        if !config.block_io.is_empty()
            && let Some(resources) = resources.as_object_mut()
        {
            resources.insert("blockIO".into(), config.block_io.specification());
        }
        linux.insert("resources".into(), resources);
    }
    serde_json::from_value(value).context("make the container's config.json")
}

/// Most open files that this user may allow.
fn files_max(is_root: bool) -> Result<u64> {
    if is_root {
        return Ok(u64::MAX);
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    Ok(hard)
}

/// A process, in the words of the specification.
///
/// # Errors
/// When this user's limits can't be read.
pub(super) fn of_process(
    process: &ProcessSpec,
    prepared: &Prepared,
    is_root: bool,
) -> Result<Value> {
    let files_max = files_max(is_root)?;
    let mut args = process.args.clone();
    if let (Some(_), Some(program)) = (process.probe, args.first_mut()) {
        *program = format!("/{PROBE_NAME}");
    }
    let mut env = process.env.clone();
    if !env.iter().any(|text| text.starts_with("HOME=")) {
        env.push(format!("HOME={}", prepared.home));
    }
    let capabilities: Vec<String> = process
        .capabilities
        .iter()
        .map(|name| format!("CAP_{name}"))
        .collect();
    // Other users than root have none but by executing a file that does.
    let held: &[String] = match prepared.uid {
        0 => &capabilities,
        _ => &[],
    };
    let rlimits: Vec<Value> = process
        .rlimits
        .iter()
        .map(|limit| {
            // Docker's own limit of open files is more than an ordinary user may raise its own to.
            let most = match limit.name.as_str() {
                "nofile" => files_max,
                _ => u64::MAX,
            };
            json!({
                "type": format!("RLIMIT_{}", limit.name.to_uppercase()),
                "soft": limit.soft.min(most),
                "hard": limit.hard.min(most),
            })
        })
        .collect();
    let mut value = json!({
        "terminal": process.terminal.is_some(),
        "user": {
            "uid": prepared.uid,
            "gid": prepared.gid,
            "additionalGids": prepared.groups,
        },
        "args": args,
        "env": env,
        "cwd": process.cwd,
        "capabilities": {
            "bounding": capabilities,
            "effective": held,
            "permitted": held,
        },
        "rlimits": rlimits,
        "noNewPrivileges": process.no_new_privileges,
        "oomScoreAdj": process.oom_score_adj,
    });
    if let (Some(size), Some(value)) = (process.terminal, value.as_object_mut()) {
        let size = json!({"height": size.rows, "width": size.columns});
        value.insert("consoleSize".into(), size);
    }
    Ok(value)
}

fn mounts(config: &AgentConfig, run: &RunSpec) -> Value {
    let quiet = ["nosuid", "noexec", "nodev"];
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": quiet}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": [quiet[0], quiet[1], quiet[2], "ro"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": [quiet[0], quiet[1], quiet[2], "ro"]}),
    ];
    if !run.ipc_none {
        mounts.push(
            json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": quiet}),
        );
        mounts.push(json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": [quiet[0], quiet[1], quiet[2], "mode=1777", format!("size={}", run.shm_bytes)]}));
    }
    for name in ["hosts", "hostname", "resolv.conf"] {
        mounts.push(
            json!({"destination": format!("/etc/{name}"), "type": "bind",
            "source": config.fixed.run.join(FILES).join(name), "options": ["rbind", "rprivate"]}),
        );
    }
    if run.process.probe.is_some() {
        mounts.push(
            json!({"destination": format!("/{PROBE_NAME}"), "type": "bind",
            "source": config.fixed.program, "options": ["bind", "ro", "nosuid", "nodev"]}),
        );
    }
    Value::Array(mounts)
}

fn filter(rules: &[FilterRule]) -> Value {
    let syscalls: Vec<Value> = rules
        .iter()
        .map(|rule| {
            let args = rule.first.map(|first| match first {
                FirstArgument::Equal(value) => {
                    json!([{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}])
                }
                FirstArgument::NotEqual(value) => {
                    json!([{"index": 0, "value": value, "op": "SCMP_CMP_NE"}])
                }
                FirstArgument::Without(mask) => json!([{
                    "index": 0, "value": mask, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ",
                }]),
            });
            let mut call = match rule.allow {
                true => json!({"names": [rule.name], "action": "SCMP_ACT_ALLOW"}),
                false => json!({
                    "names": [rule.name],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": libc::ENOSYS,
                }),
            };
            if let (Some(args), Some(call)) = (args, call.as_object_mut()) {
                call.insert("args".into(), args);
            }
            call
        })
        .collect();
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": syscalls,
    })
}

fn resources(resources: &Resources) -> Value {
    let unified: serde_json::Map<_, _> = group::limits(resources)
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
        .collect();
    json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "unified": unified,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_cgroup_v2() {
        let limits = Resources {
            memory_max: Some(64 << 20),
            cpu_quota_us: Some(50_000),
            pids_max: Some(7),
            ..Resources::default()
        };
        let value = resources(&limits);
        assert_eq!(value["unified"]["memory.max"], "67108864");
        assert_eq!(value["unified"]["cpu.max"], "50000 100000");
        assert_eq!(value["unified"]["pids.max"], "7");
        assert!(value["unified"].get("cpu.weight").is_none());
    }

    #[test]
    fn the_filter_refuses_what_it_does_not_list() {
        let rule = |allow, first| FilterRule {
            name: "clone".to_owned(),
            allow,
            first,
        };
        let value = filter(&[
            rule(true, Some(FirstArgument::Without(7))),
            rule(false, None),
        ]);
        assert_eq!(value["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(value["syscalls"][0]["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
        assert_eq!(value["syscalls"][1]["errnoRet"], 38);
        serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(value).unwrap();
    }
}
