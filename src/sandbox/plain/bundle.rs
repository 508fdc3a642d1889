//! The bundle of a plain container: its folder, and the configuration that the OCI runtime reads.
//!
//! ```text
//! <root>/plain/run/<id>/
//!   lock                     held by the keeper
//!   config.json              OCI runtime specification 1.0
//!   hosts, hostname, resolv.conf
//!   rootfs/                  where the overlay is mounted, in the keeper's child only
//!   upper/, work/            what the container changes
//!   state/, log              the runtime's own
//! ```

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::Spec;
use protocol::plain::{FilterRule, FirstArgument, Prepared};
use protocol::probe::PROBE_NAME;
use protocol::spec::{ProcessSpec, Resources, Seccomp};
use serde_json::{Value, json};

use super::super::control_group;
use super::jail;
use super::keeper::Keeper;
use super::rootfs::Unpacked;
use super::{Plain, agent, create_private, folder};

/// What a container may not look into, as on Docker.
const MASKED: [&str; 12] = [
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
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// A bundle with its lock held.
pub(super) struct Bundle {
    pub(super) keeper: Keeper,
    /// Inherited by number; held here until then.
    _locks: [Flock<File>; 2],
}

/// Makes the bundle; removes those that killed keepers left.
///
/// # Errors
/// When a file can't be written.
pub(super) fn create(plain: &Plain, image: Unpacked, prepared: &Prepared) -> Result<Bundle> {
    let all = folder(plain.root).join("run");
    create_private(&all)?;
    let _alone = crate::sandbox::paths::lock(&all)?;
    sweep(&all)?;
    let path = all.join(plain.id);
    let make = |path: &Path, mode| {
        DirBuilder::new()
            .mode(mode)
            .create(path)
            .with_context(|| format!("create {}", path.display()))
    };
    make(&path, 0o700)?;
    let file = File::create(path.join("lock")).context("create the bundle's lock")?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .context("lock the bundle")?;
    for name in ["rootfs", "upper", "work", "state"] {
        make(&path.join(name), 0o755)?;
    }
    let run = &plain.launch.run;
    let process = &run.process;
    for (name, text) in [
        ("hosts", run.hosts.clone()),
        ("resolv.conf", run.resolv_conf.clone()),
        ("hostname", format!("{}\n", run.hostname)),
    ] {
        fs::write(path.join(name), text).with_context(|| format!("write {name}"))?;
    }
    let is_root = nix::unistd::geteuid().is_root();
    let config = config(plain, &path, prepared, is_root)?;
    let text = serde_json::to_vec_pretty(&config).context("write config.json")?;
    fs::write(path.join("config.json"), text).context("write config.json")?;
    // Locked as long as the keeper lives, whatever it becomes.
    let keeper = Keeper {
        runtime: plain.runtime.to_owned(),
        id: plain.id.to_owned(),
        bundle: path,
        lower: image.path,
        locks: [jail::keep_open(&lock)?, jail::keep_open(&image.lock)?],
        limits: is_root,
        open_stdin: plain.launch.open_stdin || process.terminal.is_some(),
        forward_signals: plain.forward_signals,
    };
    Ok(Bundle {
        keeper,
        _locks: [lock, image.lock],
    })
}

/// Removes bundles whose keepers are gone.
fn sweep(all: &Path) -> Result<()> {
    let mut old: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(all).context("read the bundles")? {
        let path = entry.context("read the bundles")?.path();
        let is_free = match File::open(path.join("lock")) {
            Ok(file) => Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok(),
            Err(_) => true,
        };
        if is_free {
            super::keeper::remove_cgroup(&path);
            old.push(path);
        }
    }
    // What can't be removed is tried again the next time.
    let _ = jail::remove(&old);
    Ok(())
}

/// The configuration, as a checked document of the specification.
fn config(plain: &Plain, bundle: &Path, prepared: &Prepared, is_root: bool) -> Result<Spec> {
    let run = &plain.launch.run;
    let process = &run.process;
    if !matches!(process.seccomp, Seccomp::Default) {
        bail!("a plain container has Docker's default filter; remove --security-opt seccomp");
    }
    let kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let namespaces = kinds.map(|kind| json!({"type": kind}));
    let mut value = json!({
        "ociVersion": "1.0.2",
        "hostname": run.hostname,
        "root": {"path": "rootfs", "readonly": run.read_only_root},
        "process": of_process(process, prepared, files_max(is_root)?),
        "mounts": mounts(plain, bundle)?,
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "sysctl": run.sysctls,
            "seccomp": filter(&prepared.filter),
        },
    });
    if is_root && let Some(linux) = value.get_mut("linux").and_then(Value::as_object_mut) {
        linux.insert(
            "cgroupsPath".into(),
            format!("/{}/{}", control_group::OWN, plain.id).into(),
        );
        linux.insert("resources".into(), resources(&run.resources));
    }
    if !run.domainname.is_empty() {
        bail!("--domainname is not supported with --isolation=container; remove one of both");
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

fn of_process(process: &ProcessSpec, prepared: &Prepared, files_max: u64) -> Value {
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
    json!({
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
    })
}

fn mounts(plain: &Plain, bundle: &Path) -> Result<Value> {
    let run = &plain.launch.run;
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
            "source": bundle.join(name), "options": ["rbind", "rprivate"]}),
        );
    }
    if run.process.probe.is_some() {
        mounts.push(
            json!({"destination": format!("/{PROBE_NAME}"), "type": "bind",
            "source": agent(plain.guest)?, "options": ["bind", "ro", "nosuid", "nodev"]}),
        );
    }
    Ok(Value::Array(mounts))
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

fn resources(limits: &Resources) -> Value {
    let mut unified = serde_json::Map::new();
    let numbers = [
        ("memory.max", limits.memory_max),
        ("memory.low", limits.memory_low),
        ("memory.swap.max", limits.swap_max),
        ("cpu.weight", limits.cpu_weight),
        ("pids.max", limits.pids_max),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            unified.insert(name.to_owned(), number.to_string().into());
        }
    }
    if let Some(quota) = limits.cpu_quota_us {
        let period = limits.cpu_period_us.unwrap_or(100_000);
        unified.insert("cpu.max".to_owned(), format!("{quota} {period}").into());
    }
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
