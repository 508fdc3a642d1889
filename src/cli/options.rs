//! What the flags of `run` say, checked and typed: all that can be known without the image.
//!
//! `run` calls it first, so that a wrong value is told before anything is opened or downloaded;
//! [`super::merge`] joins it with the image. Pure but for what comes in as [`Caller`].

mod limits;
mod network;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use images::Platform;
use jiff::SignedDuration;
use protocol::probe::Probe;
use protocol::spec::{DeviceNode, Rlimit};

use super::flags::Flags;
use super::mounts::MountOptions;
use super::pull::{PLATFORM_VARIABLE, default_platform};
use super::values::security::{SecurityOptions, security_options};
use super::values::{self, device, lines, number, time};
use crate::sandbox::health::HealthConfig;
use crate::sandbox::launch::{DEFAULT_STOP_TIMEOUT_S, DEFAULT_WRITABLE_BYTES, Isolation};
use crate::sandbox::logs::LogConfig;
use crate::sandbox::restart::RestartPolicy;

pub use limits::Limits;
pub use network::{Mode, NetworkOptions};

/// Docker's size of /dev/shm in bytes.
const SHM_BYTES: u64 = 64 << 20;

/// Range of an OOM preference.
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i64> = -1000..=1000;

/// What the command sees of its surroundings.
pub struct Caller<'a> {
    /// Looks up an environment variable; an error when its value is no text.
    pub variable: &'a lines::LookUp<'a>,
    /// Reads a file that a flag names.
    pub read: &'a (dyn Fn(&str) -> Result<String> + Sync),
    /// `NAME=VALUE` of every container that is not given another one: proxies.
    pub variables: &'a [String],
    /// `--detach-keys` of who is not given another one; empty for Docker's.
    pub detach_keys: &'a str,
    /// How many CPUs of the host this process may use.
    pub cpu_count: usize,
    /// The host's CPUs that are online, as the kernel lists them: `0-3`.
    pub cpus_online: &'a str,
}

fn isolation(word: Option<&str>) -> Result<Isolation> {
    match word {
        None | Some("default" | "vm") => Ok(Isolation::Vm),
        Some("container") => Ok(Isolation::Container),
        Some(other) => {
            bail!("--isolation={other} is not supported: it is vm, the default, or container")
        }
    }
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before every run.
    Always,
    /// When it is not there.
    Missing,
    /// Not at all.
    Never,
}

/// `-a` and `-i`: streams that are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Ours goes to the container's.
    pub stdin: bool,
    /// The container's comes to ours.
    pub stdout: bool,
    /// The container's comes to ours.
    pub stderr: bool,
}

/// The image and how to get it.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageOptions {
    /// As the user named it.
    pub name: String,
    /// `--pull`.
    pub pull: PullPolicy,
    /// `--platform`, or the host's.
    pub platform: Platform,
    /// `-q`.
    pub quiet: bool,
}

/// What the process is given. What is absent comes from the image.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessOptions {
    /// `--entrypoint`; empty for none.
    pub entrypoint: Option<String>,
    /// Words behind the image.
    pub args: Vec<String>,
    /// Variables in the order given, files first; a name without `=` takes the image's away.
    pub env: Vec<String>,
    /// `-u`.
    pub user: Option<String>,
    /// `--group-add`.
    pub groups: Vec<String>,
    /// `-w`, absolute.
    pub workdir: Option<String>,
    /// `-t`.
    pub tty: bool,
    /// `-i`.
    pub interactive: bool,
    /// `--init`.
    pub init: bool,
    /// `--ulimit`.
    pub rlimits: Vec<Rlimit>,
    /// What the flags leave of Docker's default set.
    pub capabilities: Vec<String>,
    /// `--privileged`.
    pub privileged: bool,
    /// `--security-opt`.
    pub security: SecurityOptions,
    /// `--oom-score-adj`.
    pub oom_score_adj: Option<i32>,
    /// Runs in place of the image's program: `contrast` alone asks for it.
    pub probe: Option<Probe>,
}

/// Names, and files made of them.
#[derive(Debug, Clone, PartialEq)]
pub struct NameOptions {
    /// `-h`, or from the id.
    pub hostname: Option<String>,
    /// `--domainname`.
    pub domainname: String,
    /// `--add-host`: names and addresses.
    pub hosts: Vec<(String, String)>,
    /// `--dns`.
    pub dns: Vec<IpAddr>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--dns-option`.
    pub dns_options: Vec<String>,
}

/// File systems and devices.
#[derive(Debug, Clone, PartialEq)]
pub struct StorageOptions {
    /// `--read-only`.
    pub read_only: bool,
    /// `-v`, `--mount`, `--tmpfs`, `--volumes-from`.
    pub mounts: MountOptions,
    /// `--shm-size`.
    pub shm_bytes: u64,
    /// `--ipc none`: there is no /dev/shm.
    pub ipc_none: bool,
    /// `--device`.
    pub devices: Vec<DeviceNode>,
    /// `--storage-opt size=`.
    pub writable_bytes: u64,
    /// `--sysctl`.
    pub sysctls: BTreeMap<String, String>,
}

/// The container as an object, and the command's own part.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerOptions {
    /// `--name`.
    pub name: Option<String>,
    /// `--label-file`, `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--annotation`.
    pub annotations: BTreeMap<String, String>,
    /// `--expose`.
    pub exposed_ports: BTreeSet<String>,
    /// `--cidfile`.
    pub cidfile: Option<String>,
    /// `--rm`.
    pub auto_remove: bool,
    /// `--stop-signal`.
    pub stop_signal: Option<i32>,
    /// `--stop-timeout`; negative for ever.
    pub stop_timeout_s: i64,
    /// `-a`, `-i`.
    pub streams: Streams,
    /// `--sig-proxy`.
    pub forward_signals: bool,
    /// `--detach-keys`.
    pub detach_keys: Vec<u8>,
    /// `-d`.
    pub detach: bool,
    /// `--isolation`.
    pub isolation: Isolation,
    /// `--restart`.
    pub restart: RestartPolicy,
    /// `--health-…`; a test of `NONE` is `--no-healthcheck`.
    pub health: HealthConfig,
    /// `--log-driver`, `--log-opt`.
    pub log: LogConfig,
}

/// Everything that the flags say.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    /// The image.
    pub image: ImageOptions,
    /// The process.
    pub process: ProcessOptions,
    /// Sizes and quotas.
    pub limits: Limits,
    /// The network.
    pub network: NetworkOptions,
    /// Names.
    pub names: NameOptions,
    /// File systems and devices.
    pub storage: StorageOptions,
    /// The container as an object.
    pub container: ContainerOptions,
}

impl RunOptions {
    /// Reads every flag that works.
    ///
    /// # Errors
    /// Docker's sentence for the first value that is wrong.
    pub fn parse(flags: &Flags, caller: &Caller) -> Result<Self> {
        let words = flags.words();
        let (image, args) = words.split_first().context("no image given")?;
        Ok(Self {
            image: image_options(flags, image, caller)?,
            process: process(flags, args, caller)?,
            limits: Limits::parse(flags, caller)?,
            network: NetworkOptions::parse(flags)?,
            names: names(flags)?,
            storage: storage(flags)?,
            container: container(flags, caller)?,
        })
    }

    /// What is accepted and should be known, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let security = self.process.security.without_effect.iter().map(|text| {
            format!(
                "--security-opt {text} has no effect: the guest's kernel has neither AppArmor nor SELinux"
            )
        });
        let dns = self.names.dns.iter().filter(|server| server.is_loopback());
        security
            .chain(dns.map(|server| format!("Localhost DNS ({server}) may fail in containers.")))
            .collect()
    }
}

fn image_options(flags: &Flags, name: &str, caller: &Caller) -> Result<ImageOptions> {
    let pull = match flags.text("pull").as_deref() {
        None | Some("missing") => PullPolicy::Missing,
        Some("always") => PullPolicy::Always,
        Some("never") => PullPolicy::Never,
        Some(other) => bail!(
            "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
        ),
    };
    let platform = match flags.text("platform") {
        Some(text) => Platform::parse(&text)
            .with_context(|| format!("error parsing specified platform: \"{text}\""))?,
        None => default_platform((caller.variable)(PLATFORM_VARIABLE)?)?,
    };
    Ok(ImageOptions {
        name: name.to_owned(),
        pull,
        platform,
        quiet: flags.is_on("quiet"),
    })
}

fn process(flags: &Flags, args: &[String], caller: &Caller) -> Result<ProcessOptions> {
    let privileged = flags.is_on("privileged");
    let mut rlimits: Vec<Rlimit> = Vec::new();
    for limit in flags.each("ulimit", values::ulimit)? {
        rlimits.retain(|other| other.name != limit.name);
        rlimits.push(limit);
    }
    let workdir = flags.text("workdir");
    if let Some(path) = &workdir {
        check_workdir(path)?;
    }
    let oom_score_adj = flags.one("oom-score-adj", number::integer)?;
    if let Some(score) = oom_score_adj.filter(|score| !OOM_SCORE_ADJ.contains(score)) {
        bail!("Invalid value {score}, range for oom score adj is [-1000, 1000]");
    }
    Ok(ProcessOptions {
        entrypoint: flags.value("entrypoint"),
        args: args.to_vec(),
        env: environment(flags, caller)?,
        user: flags.text("user"),
        groups: flags.list("group-add"),
        workdir,
        tty: flags.is_on("tty"),
        interactive: flags.is_on("interactive"),
        init: flags.is_on("init"),
        rlimits,
        capabilities: values::capabilities(
            &flags.list("cap-add"),
            &flags.list("cap-drop"),
            privileged,
        )?,
        privileged,
        security: security_options(&flags.list("security-opt"), caller.read)?,
        oom_score_adj: oom_score_adj.map(i32::try_from).transpose()?,
        probe: None,
    })
}

/// Docker's rule for a working directory, of a flag or an image.
///
/// # Errors
/// When it is relative.
pub fn check_workdir(path: &str) -> Result<()> {
    if !path.starts_with('/') {
        bail!("the working directory '{path}' is invalid, it needs to be an absolute path");
    }
    Ok(())
}

fn environment(flags: &Flags, caller: &Caller) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for path in flags.list("env-file") {
        all.extend(lines::file(&path, &(caller.read)(&path)?, caller.variable)?);
    }
    all.extend(flags.each("env", |text| lines::variable(text, caller.variable))?);
    let given: HashSet<String> = all.iter().map(|text| name(text).to_owned()).collect();
    let rest = caller.variables.iter();
    all.extend(rest.filter(|text| !given.contains(name(text))).cloned());
    Ok(all)
}

/// The name of a variable that may have a value.
fn name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

fn names(flags: &Flags) -> Result<NameOptions> {
    Ok(NameOptions {
        hostname: flags.text("hostname"),
        domainname: flags.text("domainname").unwrap_or_default(),
        hosts: flags.each("add-host", values::network::extra_host)?,
        dns: flags.each("dns", values::network::ip_address)?,
        dns_search: flags.each("dns-search", values::network::search_domain)?,
        dns_options: flags.list("dns-option"),
    })
}

fn storage(flags: &Flags) -> Result<StorageOptions> {
    let pairs = |list: Vec<(String, String)>| list.into_iter().collect();
    let devices = flags.list("device");
    let writable = flags.list("storage-opt");
    Ok(StorageOptions {
        read_only: flags.is_on("read-only"),
        mounts: MountOptions::parse(flags)?,
        // 0 is Docker's own size.
        shm_bytes: flags
            .one("shm-size", number::bytes)?
            .filter(|bytes| *bytes > 0)
            .unwrap_or(SHM_BYTES),
        ipc_none: flags.value("ipc").as_deref() == Some("none"),
        devices: devices
            .iter()
            .map(|text| values::device(text))
            .collect::<Result<_>>()?,
        writable_bytes: writable
            .iter()
            .map(|text| device::storage(text))
            .collect::<Result<Vec<_>>>()?
            .pop()
            .unwrap_or(DEFAULT_WRITABLE_BYTES),
        sysctls: pairs(flags.each("sysctl", lines::sysctl)?),
    })
}

fn container(flags: &Flags, caller: &Caller) -> Result<ContainerOptions> {
    let name = flags
        .text("name")
        .map(|text| values::container_name(&text).map(str::to_owned))
        .transpose()?;
    let mut labels = BTreeMap::new();
    for path in flags.list("label-file") {
        // As in Docker, a key alone is left out there.
        let none = |_: &str| Ok(None);
        let lines = lines::file(&path, &(caller.read)(&path)?, &none)?;
        labels.extend(
            lines
                .iter()
                .map(|line| lines::label(line))
                .collect::<Result<Vec<_>>>()?,
        );
    }
    labels.extend(flags.each("label", lines::label)?);
    let mut exposed_ports = BTreeSet::new();
    for text in flags.list("expose") {
        exposed_ports.extend(values::network::exposed_ports(&text)?);
    }
    let auto_remove = flags.is_on("rm");
    let restart = RestartPolicy::parse(&flags.text("restart").unwrap_or_default())?;
    if auto_remove && restart != RestartPolicy::No {
        bail!("conflicting options: cannot specify both --restart and --rm");
    }
    Ok(ContainerOptions {
        name,
        labels,
        annotations: flags
            .each("annotation", lines::label)?
            .into_iter()
            .collect(),
        exposed_ports,
        cidfile: flags.text("cidfile"),
        auto_remove,
        stop_signal: flags
            .text("stop-signal")
            .map(|text| values::signal(&text))
            .transpose()?,
        stop_timeout_s: flags
            .one("stop-timeout", number::integer)?
            .unwrap_or(DEFAULT_STOP_TIMEOUT_S),
        streams: streams(flags)?,
        forward_signals: !flags.is_off("sig-proxy"),
        detach_keys: match flags.text("detach-keys") {
            Some(text) => values::detach_keys(&text)?,
            None => values::detach_keys(caller.detach_keys)?,
        },
        detach: flags.is_on("detach"),
        isolation: isolation(flags.text("isolation").as_deref())?,
        restart,
        health: health(flags)?,
        log: LogConfig::parse(
            flags.text("log-driver").as_deref(),
            flags.each("log-opt", lines::log_option)?,
            &number::decimal_bytes,
        )?,
    })
}

/// Shortest times of a health check that Docker takes.
const HEALTH_TIME_MIN: SignedDuration = SignedDuration::from_millis(1);

fn health(flags: &Flags) -> Result<HealthConfig> {
    let time = |name: &str, word: &str| -> Result<u64> {
        let Some(length) = flags.one(name, time::duration)? else {
            return Ok(0);
        };
        if length.is_negative() {
            bail!("--{name} cannot be negative");
        }
        if length < HEALTH_TIME_MIN && !length.is_zero() {
            bail!("{word} in Healthcheck cannot be less than 1ms");
        }
        Ok(u64::try_from(length.as_nanos())?)
    };
    let command = flags.text("health-cmd");
    let retries = flags.one("health-retries", number::integer)?.unwrap_or(0);
    if retries < 0 {
        bail!("--health-retries cannot be negative");
    }
    let config = HealthConfig {
        test: command.map_or_else(Vec::new, |text| vec!["CMD-SHELL".to_owned(), text]),
        interval_ns: time("health-interval", "Interval")?,
        timeout_ns: time("health-timeout", "Timeout")?,
        start_period_ns: time("health-start-period", "StartPeriod")?,
        start_interval_ns: time("health-start-interval", "StartInterval")?,
        retries: u32::try_from(retries)?,
        shell: Vec::new(),
    };
    if flags.is_on("no-healthcheck") {
        if config != HealthConfig::default() {
            bail!("--no-healthcheck conflicts with --health-* options");
        }
        return Ok(HealthConfig {
            test: vec!["NONE".to_owned()],
            ..config
        });
    }
    Ok(config)
}

fn streams(flags: &Flags) -> Result<Streams> {
    let names = flags.each("attach", |text| match text.to_ascii_lowercase().as_str() {
        name @ ("stdin" | "stdout" | "stderr") => Ok(name.to_owned()),
        _ => bail!("valid streams are STDIN, STDOUT and STDERR"),
    })?;
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    Ok(Streams {
        stdin: has("stdin") || flags.is_on("interactive"),
        stdout: has("stdout") || names.is_empty(),
        stderr: has("stderr") || names.is_empty(),
    })
}

#[cfg(test)]
pub(crate) mod tests;
