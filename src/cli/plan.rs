//! From flags and an image's configuration to what a supervisor starts. Pure but for the files
//! that flags name and the caller's environment, which come in as [`Caller`].

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use images::ImageConfig;
use protocol::message::WindowSize;
use protocol::spec::{DeviceNode, ProcessSpec, Resources, RunSpec, Seccomp, Stdio};

use super::flags::Flags;
use super::values;
use crate::sandbox::launch::{DEFAULT_WRITABLE_BYTES, Launch, memory_mib};

/// Docker's smallest memory limit in bytes.
const MEMORY_MIN: u64 = 6 << 20;

/// Docker's default size of /dev/shm in bytes.
const SHM_BYTES: u64 = 64 << 20;

/// Period of a CPU quota in microseconds when none is given.
const CPU_PERIOD_US: u64 = 100_000;

/// PATH of a container whose image sets none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Smallest and largest writable layer in bytes: below, ext4 has no room for its own structures.
const WRITABLE_BYTES: std::ops::RangeInclusive<u64> = 16 << 20..=16 << 40;

/// Open files a process may have, as Docker's own default on systemd hosts.
const NOFILE: u64 = 1_048_576;

/// What the command sees of its surroundings.
pub struct Caller<'a> {
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Reads a file that a flag names.
    pub read: &'a dyn Fn(&str) -> Result<String>,
    /// CPUs of the host.
    pub host_cpus: usize,
    /// The host's resolv.conf.
    pub resolv_conf: &'a str,
    /// Size of the command's terminal.
    pub window: WindowSize,
}

/// What becomes of flags and image together.
#[derive(Debug)]
pub struct Plan {
    /// For the supervisor.
    pub launch: Launch,
    /// Labels of image and user.
    pub labels: BTreeMap<String, String>,
    /// `--annotation`.
    pub annotations: BTreeMap<String, String>,
    /// Streams to attach: stdin, stdout, stderr.
    pub attach: (bool, bool, bool),
    /// `--sig-proxy`.
    pub forward_signals: bool,
    /// Detach sequence.
    pub detach_keys: Vec<u8>,
}

/// Joins flags and image.
///
/// # Errors
/// Docker's sentence for the first value that is wrong.
pub fn plan(
    flags: &Flags,
    image: &ImageConfig,
    id: &str,
    layers: Vec<images::LayerKey>,
    caller: &Caller,
) -> Result<Plan> {
    let terminal = flags.is_on("tty");
    let interactive = flags.is_on("interactive");
    let short_id = id.get(..12).unwrap_or(id);
    let hostname = flags
        .value("hostname")
        .unwrap_or_else(|| short_id.to_owned());
    let privileged = flags.is_on("privileged");
    let security = Security::read(&flags.list("security-opt"), privileged, caller)?;
    let resources = resources(flags, caller)?;
    let vcpu_count = vcpu_count(flags, caller)?;
    let mut rlimits = vec![protocol::spec::Rlimit {
        name: "nofile".to_owned(),
        soft: NOFILE,
        hard: NOFILE,
    }];
    for text in flags.list("ulimit") {
        let limit = values::ulimit(&text)?;
        rlimits.retain(|other| other.name != limit.name);
        rlimits.push(limit);
    }
    let process = ProcessSpec {
        args: arguments(flags, image)?,
        env: environment(flags, image, &hostname, terminal, caller)?,
        user: flags.value("user").unwrap_or_else(|| image.user.clone()),
        group_add: flags.list("group-add"),
        cwd: working_directory(flags, image)?,
        terminal: terminal.then_some(caller.window),
        stdio: Stdio {
            stdin: None,
            stdout: None,
            stderr: None,
        },
        rlimits,
        capabilities: values::capabilities(
            &flags.list("cap-add"),
            &flags.list("cap-drop"),
            privileged,
        )?,
        no_new_privileges: security.no_new_privileges,
        seccomp: security.seccomp,
        oom_score_adj: number(flags, "oom-score-adj", -1000, 1000)?
            .map(i32::try_from)
            .transpose()?,
    };
    let domainname = flags.value("domainname").unwrap_or_default();
    let run = RunSpec {
        layers: Vec::new(),
        upper_disk: true,
        read_only_root: flags.is_on("read-only"),
        hosts: hosts(flags)?,
        resolv_conf: resolv_conf(flags, caller.resolv_conf)?,
        hostname,
        domainname,
        tmpfs: tmpfs(flags)?,
        shm_bytes: match flags.value("shm-size") {
            Some(text) => values::bytes(&text)?,
            None => SHM_BYTES,
        },
        sysctls: pairs(&flags.list("sysctl"), "sysctl")?,
        resources,
        init: flags.is_on("init"),
        privileged,
        system_paths_unconfined: security.system_paths_unconfined,
        writable_cgroups: security.writable_cgroups,
        ipc_none: flags.value("ipc").as_deref() == Some("none"),
        devices: devices(flags)?,
        process,
    };
    let stop_signal = flags
        .value("stop-signal")
        .unwrap_or_else(|| image.stop_signal.clone());
    Ok(Plan {
        launch: Launch {
            run,
            vcpu_count,
            memory_mib: memory_mib(resources.memory_max),
            host_cpus: match flags.value("cpuset-cpus") {
                Some(text) if !text.is_empty() => host_cpus(&text, caller)?,
                _ => Vec::new(),
            },
            layers,
            writable_bytes: writable_bytes(flags)?,
            auto_remove: flags.is_on("rm"),
            open_stdin: interactive,
            stop_signal: if stop_signal.is_empty() {
                15
            } else {
                values::signal(&stop_signal)?
            },
            stop_timeout_s: number(flags, "stop-timeout", -1, i64::from(i32::MAX))?.unwrap_or(10),
        },
        labels: labels(flags, image, caller)?,
        annotations: pairs(&flags.list("annotation"), "annotation")?,
        attach: attach(flags, interactive)?,
        forward_signals: !flags.is_off("sig-proxy") && !terminal,
        detach_keys: match flags.value("detach-keys") {
            Some(text) => values::detach_keys(&text)?,
            None => vec![16, 17],
        },
    })
}

/// An integer flag within bounds.
fn number(flags: &Flags, name: &str, min: i64, max: i64) -> Result<Option<i64>> {
    let Some(text) = flags.value(name) else {
        return Ok(None);
    };
    let wrong = || format!("invalid argument \"{text}\" for \"--{name}\" flag");
    let value: i64 = text.parse().with_context(wrong)?;
    if !(min..=max).contains(&value) {
        bail!("invalid value {value} for --{name}: must be {min} to {max}");
    }
    Ok(Some(value))
}

fn arguments(flags: &Flags, image: &ImageConfig) -> Result<Vec<String>> {
    let words = flags.words();
    let given = words.get(1..).unwrap_or_default();
    let (entrypoint, default_cmd) = match flags.value("entrypoint") {
        None => (
            image.entrypoint.clone().unwrap_or_default(),
            image.cmd.clone().unwrap_or_default(),
        ),
        // Replacing the entry point drops the image's command, too.
        Some(text) if text.is_empty() => (Vec::new(), Vec::new()),
        Some(text) => (vec![text], Vec::new()),
    };
    let cmd = if given.is_empty() {
        default_cmd
    } else {
        given.to_vec()
    };
    let args: Vec<String> = entrypoint.into_iter().chain(cmd).collect();
    if args.is_empty() {
        bail!("no command specified");
    }
    Ok(args)
}

fn environment(
    flags: &Flags,
    image: &ImageConfig,
    hostname: &str,
    terminal: bool,
    caller: &Caller,
) -> Result<Vec<String>> {
    let known = |name: &str| (caller.variable)(name).map(|value| format!("{name}={value}"));
    // In the order given; a bare name that the caller does not have takes the image's away.
    let mut given: Vec<String> = Vec::new();
    for path in flags.list("env-file") {
        given.extend(values::file_lines(&path, &(caller.read)(&path)?, &known)?);
    }
    for text in flags.list("env") {
        if text.is_empty() || text.starts_with('=') {
            bail!("invalid environment variable: {text}");
        }
        given.push(if text.contains('=') {
            text
        } else {
            known(&text).unwrap_or(text)
        });
    }
    let mut all = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if terminal {
        all.push("TERM=xterm".to_owned());
    }
    for text in image.env.iter().chain(&given) {
        let name = text.split_once('=').map_or(text.as_str(), |(name, _)| name);
        let same = |other: &String| {
            other
                .split_once('=')
                .is_some_and(|(other, _)| other == name)
        };
        if !text.contains('=') {
            all.retain(|other| !same(other));
        } else if let Some(slot) = all.iter_mut().find(|other| same(other)) {
            slot.clone_from(text);
        } else {
            all.push(text.clone());
        }
    }
    Ok(all)
}

fn working_directory(flags: &Flags, image: &ImageConfig) -> Result<String> {
    let directory = match flags.value("workdir") {
        Some(text) if !text.is_empty() => text,
        _ if image.working_dir.is_empty() => "/".to_owned(),
        _ => image.working_dir.clone(),
    };
    if !directory.starts_with('/') {
        bail!("the working directory '{directory}' is invalid, it needs to be an absolute path");
    }
    Ok(directory)
}

fn attach(flags: &Flags, interactive: bool) -> Result<(bool, bool, bool)> {
    let given = flags.list("attach");
    if given.is_empty() {
        return Ok((interactive, true, true));
    }
    let mut streams = (false, false, false);
    for stream in given {
        match stream.to_ascii_lowercase().as_str() {
            "stdin" => streams.0 = true,
            "stdout" => streams.1 = true,
            "stderr" => streams.2 = true,
            _ => bail!(
                "invalid argument \"{stream}\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"
            ),
        }
    }
    streams.0 |= interactive;
    Ok(streams)
}

fn resources(flags: &Flags, caller: &Caller) -> Result<Resources> {
    let size = |name: &str| -> Result<Option<u64>> {
        let value = flags
            .value(name)
            .map(|text| values::bytes(&text))
            .transpose()?;
        Ok(value.filter(|bytes| *bytes > 0))
    };
    let memory_max = size("memory")?;
    if memory_max.is_some_and(|bytes| bytes < MEMORY_MIN) {
        bail!("Minimum memory limit allowed is 6MB");
    }
    let memory_low = size("memory-reservation")?;
    if let (Some(low), Some(max)) = (memory_low, memory_max)
        && low > max
    {
        bail!("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if let Some(text) = flags.value("memory-swap")
        && text != "-1"
    {
        let swap = values::bytes(&text)?;
        if swap > 0 && memory_max.is_none() {
            bail!("You should always set the Memory limit when using Memoryswap limit, see usage");
        }
        if swap > 0 && Some(swap) != memory_max {
            bail!(
                "--memory-swap {text} is not supported: a VM has no swap; use the value of --memory, 0 or -1"
            );
        }
    }
    let period = number(flags, "cpu-period", 0, 1_000_000)?.filter(|n| *n != 0);
    let quota = number(flags, "cpu-quota", -1, i64::MAX)?.filter(|n| *n > 0);
    if period.is_some_and(|n| n < 1000) {
        bail!(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        );
    }
    if quota.is_some_and(|n| n < 1000) {
        bail!("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    let mut cpu_quota_us = quota.map(u64::try_from).transpose()?;
    let mut cpu_period_us = period.map(u64::try_from).transpose()?;
    if let Some(thousandths) = cpus(flags, caller)? {
        if cpu_quota_us.is_some() || cpu_period_us.is_some() {
            bail!("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set.");
        }
        cpu_period_us = Some(CPU_PERIOD_US);
        // At least what the kernel takes: a millisecond per period.
        cpu_quota_us = Some((thousandths * CPU_PERIOD_US / 1000).max(1000));
    }
    Ok(Resources {
        memory_max,
        memory_low,
        swap_max: None,
        cpu_quota_us,
        cpu_period_us,
        cpu_weight: number(flags, "cpu-shares", 0, 262_144)?
            .filter(|shares| *shares > 0)
            .map(|shares| u64::try_from(shares.max(2)).map(weight_of_shares))
            .transpose()?,
        pids_max: number(flags, "pids-limit", -1, i64::from(i32::MAX))?
            .filter(|n| *n > 0)
            .map(u64::try_from)
            .transpose()?,
    })
}

/// Docker's shares (2 to 262144, 1024 being normal) as cgroup v2's weight (1 to 10000), as the OCI
/// runtimes convert them.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares - 2) * 9999 / 262_142
}

/// `--cpus` in thousandths, checked against the host.
fn cpus(flags: &Flags, caller: &Caller) -> Result<Option<u64>> {
    let Some(text) = flags.value("cpus") else {
        return Ok(None);
    };
    let thousandths = values::cpus(&text)?;
    if thousandths == 0 {
        return Ok(None);
    }
    let host = caller.host_cpus as u64;
    if thousandths < 10 || thousandths > host * 1000 {
        bail!("range of CPUs is from 0.01 to {host}.00, as there are only {host} CPUs available");
    }
    Ok(Some(thousandths))
}

fn host_cpus(text: &str, caller: &Caller) -> Result<Vec<usize>> {
    let set = values::cpu_set(text)?;
    if let Some(missing) = set.iter().find(|cpu| **cpu >= caller.host_cpus) {
        bail!(
            "Requested CPUs are not available - requested {text}, there is no CPU {missing} (0-{})",
            caller.host_cpus.saturating_sub(1)
        );
    }
    Ok(set)
}

/// vCPUs: the quota rounded up, the size of the CPU set, or every CPU of the host.
fn vcpu_count(flags: &Flags, caller: &Caller) -> Result<u8> {
    let mut count = caller.host_cpus;
    if let Some(text) = flags.value("cpuset-cpus").filter(|text| !text.is_empty()) {
        count = host_cpus(&text, caller)?.len();
    }
    if let Some(thousandths) = cpus(flags, caller)? {
        count = count.min(usize::try_from(thousandths.div_ceil(1000))?);
    }
    Ok(u8::try_from(
        count.clamp(1, usize::from(vmm::builder::VCPUS_MAX)),
    )?)
}

fn writable_bytes(flags: &Flags) -> Result<u64> {
    let mut bytes = DEFAULT_WRITABLE_BYTES;
    for text in flags.list("storage-opt") {
        match text.split_once('=') {
            Some(("size", value)) => bytes = values::bytes(value)?.next_multiple_of(1 << 20),
            _ => bail!("--storage-opt {text} is not supported: only size=BYTES is"),
        }
    }
    if !WRITABLE_BYTES.contains(&bytes) {
        bail!("--storage-opt size: {bytes} bytes, must be 16m to 16t");
    }
    Ok(bytes)
}

/// `K=V`, a bare name having an empty value.
fn pairs(list: &[String], flag: &str) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for text in list {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() || (flag == "sysctl" && !text.contains('=')) {
            bail!("invalid argument \"{text}\" for \"--{flag}\" flag: it needs the form key=value");
        }
        map.insert(key.to_owned(), value.to_owned());
    }
    Ok(map)
}

fn labels(flags: &Flags, image: &ImageConfig, caller: &Caller) -> Result<BTreeMap<String, String>> {
    let mut all = image.labels.clone();
    for path in flags.list("label-file") {
        let bare = |name: &str| Some(format!("{name}="));
        let lines = values::file_lines(&path, &(caller.read)(&path)?, &bare)?;
        all.extend(pairs(&lines, "label-file")?);
    }
    all.extend(pairs(&flags.list("label"), "label")?);
    Ok(all)
}

fn tmpfs(flags: &Flags) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for text in flags.list("tmpfs") {
        let (path, options) = text.split_once(':').unwrap_or((&text, ""));
        if !path.starts_with('/') {
            bail!("invalid mount path: '{path}' mount path must be absolute");
        }
        if path == "/" {
            bail!("invalid specification: destination can't be '/'");
        }
        map.insert(path.to_owned(), options.to_owned());
    }
    Ok(map)
}

fn devices(flags: &Flags) -> Result<Vec<DeviceNode>> {
    let mut all = Vec::new();
    for text in flags.list("device") {
        let mut parts = text.split(':');
        let source = parts.next().unwrap_or_default().to_owned();
        let is_mode = |s: &str| !s.is_empty() && s.chars().all(|c| "rwm".contains(c));
        let (target, access) = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => (source.clone(), "rwm".to_owned()),
            (Some(mode), None, _) if is_mode(mode) => (source.clone(), mode.to_owned()),
            (Some(target), None, _) => (target.to_owned(), "rwm".to_owned()),
            (Some(target), Some(mode), None) if is_mode(mode) => {
                (target.to_owned(), mode.to_owned())
            }
            _ => bail!("bad mode or form of --device {text}"),
        };
        if !source.starts_with("/dev/") || source.split('/').any(|part| part == "..") {
            bail!("--device {text} is not supported: only devices of the guest's own /dev are");
        }
        all.push(DeviceNode {
            source,
            target,
            access,
        });
    }
    Ok(all)
}

/// /etc/hosts as Docker writes it without a network.
fn hosts(flags: &Flags) -> Result<String> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for entry in flags.list("add-host") {
        let (host, address) = values::extra_host(&entry)?;
        text.push_str(&format!("{address}\t{host}\n"));
    }
    Ok(text)
}

/// The host's resolv.conf without loopback servers, with the lines that flags replace.
fn resolv_conf(flags: &Flags, host: &str) -> Result<String> {
    let is_loopback = |line: &str| {
        line.split_whitespace()
            .nth(1)
            .and_then(|a| a.parse::<std::net::IpAddr>().ok())
            .is_some_and(|a| a.is_loopback())
    };
    let of_host = |keyword: &str| -> Vec<String> {
        host.lines()
            .filter(|line| line.split_whitespace().next() == Some(keyword))
            .filter(|line| keyword != "nameserver" || !is_loopback(line))
            .map(|line| line.trim().to_owned())
            .collect()
    };
    let mut lines = Vec::new();
    let servers = flags.list("dns");
    for server in &servers {
        if server.parse::<std::net::IpAddr>().is_err() {
            bail!(
                "invalid argument \"{server}\" for \"--dns\" flag: {server} is not an ip address"
            );
        }
    }
    if servers.is_empty() {
        lines.extend(of_host("nameserver"));
    } else {
        lines.extend(servers.iter().map(|server| format!("nameserver {server}")));
    }
    let search = flags.list("dns-search");
    if search.is_empty() {
        lines.extend(of_host("search"));
    } else if search != ["."] {
        lines.push(format!("search {}", search.join(" ")));
    }
    let options = flags.list("dns-option");
    if options.is_empty() {
        lines.extend(of_host("options"));
    } else {
        lines.push(format!("options {}", options.join(" ")));
    }
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

/// What `--security-opt` says.
struct Security {
    no_new_privileges: bool,
    seccomp: Seccomp,
    system_paths_unconfined: bool,
    writable_cgroups: bool,
}

impl Security {
    fn read(list: &[String], privileged: bool, caller: &Caller) -> Result<Self> {
        let mut security = Self {
            no_new_privileges: false,
            seccomp: if privileged {
                Seccomp::Unconfined
            } else {
                Seccomp::Default
            },
            system_paths_unconfined: privileged,
            writable_cgroups: privileged,
        };
        for text in list {
            let (key, value) = text
                .split_once('=')
                .or_else(|| text.split_once(':'))
                .unwrap_or((text, ""));
            let switch = || match value {
                "" | "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => bail!("invalid --security-opt 2: \"{text}\""),
            };
            match (key, value) {
                ("no-new-privileges", _) => security.no_new_privileges = switch()?,
                ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
                ("seccomp", "builtin") => security.seccomp = Seccomp::Default,
                ("seccomp", path) if !path.is_empty() => {
                    let profile = (caller.read)(path)
                        .with_context(|| format!("opening seccomp profile ({path}) failed"))?;
                    security.seccomp = Seccomp::Profile(profile);
                }
                ("systempaths", "unconfined") => security.system_paths_unconfined = true,
                ("writable-cgroups", _) => security.writable_cgroups = switch()?,
                ("apparmor" | "label", _) => bail!(
                    "--security-opt {text} is not supported: the guest kernel has no {}; remove it",
                    if key == "apparmor" {
                        "AppArmor"
                    } else {
                        "SELinux"
                    }
                ),
                _ => bail!("invalid --security-opt: \"{text}\""),
            }
        }
        Ok(security)
    }
}

#[cfg(test)]
mod tests;
