//! Flags and image together: what a supervisor starts. Docker's rules of who wins, as pure
//! functions from the checked flags and the image's configuration to [`Launch`].
//!
//! `run` calls it once the image is known. What an image's author wrote goes on as it is: names,
//! paths and users are looked up in the guest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Result, bail};
use images::config::Healthcheck;
use images::{ImageConfig, LayerKey};
use protocol::message::WindowSize;
use protocol::probe::PROBE_NAME;
use protocol::spec::{ProcessSpec, Rlimit, RunSpec, Seccomp, Stdio};

use super::network_files;
use super::options::{Mode, RunOptions, check_workdir};
use super::values;
use super::values::ports::PublishedRange;
use crate::sandbox::health::HealthConfig;
use crate::sandbox::launch::{Isolation, Launch, memory_mib};
use crate::sandbox::network::{NetworkConfig, PortRequest};
use crate::sandbox::state::SHORT_ID_LEN;

/// PATH of a container whose image sets none.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Open files a process may have, as Docker's own default on systemd hosts.
const NOFILE: u64 = 1_048_576;

/// Ports that `-P` publishes. Each is a socket of the host, and an image may expose all that there are.
const PUBLISHED_MAX: usize = 10_000;

/// SIGTERM.
const DEFAULT_STOP_SIGNAL: i32 = 15;

/// What is the host's to say.
pub struct Host<'a> {
    /// Its resolv.conf.
    pub resolv_conf: &'a str,
    /// Its address for `host-gateway`.
    pub address: Option<IpAddr>,
    /// Whether containers get IPv6.
    pub has_v6: bool,
    /// Size of the command's terminal.
    pub window: WindowSize,
}

/// Joins flags and image for the container `id`.
///
/// # Errors
/// Docker's sentence when there is nothing to run, or the image names a relative working directory
/// or an unknown signal.
pub fn launch(
    options: &RunOptions,
    image: &ImageConfig,
    id: &str,
    layers: Vec<LayerKey>,
    host: &Host,
) -> Result<Launch> {
    let short_id = id.get(..SHORT_ID_LEN).unwrap_or(id);
    let hostname = options.names.hostname.as_deref().unwrap_or(short_id);
    let (process, storage, limits) = (&options.process, &options.storage, &options.limits);
    let security = &process.security;
    Ok(Launch {
        run: RunSpec {
            layers: Vec::new(),
            upper_disk: true,
            read_only_root: storage.read_only,
            hostname: hostname.to_owned(),
            domainname: options.names.domainname.clone(),
            hosts: network_files::hosts(options, hostname, host)?,
            resolv_conf: network_files::resolv_conf(options, host.resolv_conf),
            tmpfs: storage.mounts.tmpfs.clone(),
            mounts: Vec::new(),
            shm_bytes: storage.shm_bytes,
            sysctls: storage.sysctls.clone(),
            resources: limits.resources,
            init: process.init,
            privileged: process.privileged,
            system_paths_unconfined: process.privileged || security.system_paths_unconfined,
            writable_cgroups: security.writable_cgroups.unwrap_or(process.privileged),
            ipc_none: storage.ipc_none,
            devices: storage.devices.clone(),
            // The supervisor's to say, as it starts the network.
            network: None,
            sealed: 0,
            network_none: false,
            step_mounts: Vec::new(),
            process: process_spec(options, image, hostname, host)?,
        },
        isolation: options.container.isolation,
        network: network(options, image)?,
        vcpu_count: u8::try_from(limits.vcpu_count)?,
        memory_mib: memory_mib(limits.resources.memory_max),
        host_cpus: limits.host_cpus.clone(),
        block_io: limits.block_io.clone(),
        layers,
        writable_bytes: storage.writable_bytes,
        // Volumes are made when the container is.
        mounts: Vec::new(),
        auto_remove: options.container.auto_remove,
        open_stdin: process.interactive,
        stop_signal: stop_signal(options, image)?,
        stop_timeout_s: options.container.stop_timeout_s,
        stdin_once: process.interactive
            && options.container.streams.stdin
            && !options.container.detach,
        restart: options.container.restart,
        health: health(&options.container.health, image),
        log: options.container.log.clone(),
    })
}

fn process_spec(
    options: &RunOptions,
    image: &ImageConfig,
    hostname: &str,
    host: &Host,
) -> Result<ProcessSpec> {
    let process = &options.process;
    let mut rlimits = process.rlimits.clone();
    if rlimits.iter().all(|limit| limit.name != "nofile") {
        rlimits.push(Rlimit {
            name: "nofile".to_owned(),
            soft: NOFILE,
            hard: NOFILE,
        });
    }
    Ok(ProcessSpec {
        args: match process.probe {
            Some(_) => probe_arguments(options, image)?,
            None => arguments(options, image)?,
        },
        env: environment(&process.env, &image.env, hostname, process.tty),
        user: process.user.clone().unwrap_or_else(|| image.user.clone()),
        group_add: process.groups.clone(),
        cwd: working_directory(options, image)?,
        terminal: process.tty.then_some(host.window),
        // Ports are the supervisor's to give.
        stdio: Stdio {
            stdin: None,
            stdout: None,
            stderr: None,
        },
        rlimits,
        capabilities: process.capabilities.clone(),
        no_new_privileges: process.security.no_new_privileges,
        seccomp: match &process.security.seccomp {
            Some(seccomp) => seccomp.clone(),
            None if process.privileged => Seccomp::Unconfined,
            None => Seccomp::Default,
        },
        oom_score_adj: process.oom_score_adj,
        probe: process.probe,
    })
}

/// Entry point and command: `--entrypoint` drops both of the image's, words behind the image
/// replace its command.
fn arguments(options: &RunOptions, image: &ImageConfig) -> Result<Vec<String>> {
    let mut args = entrypoint(options, image);
    if !options.process.args.is_empty() {
        args.extend(options.process.args.iter().cloned());
    } else if options.process.entrypoint.is_none() {
        args.extend(image.cmd.iter().flatten().cloned());
    }
    if args.is_empty() {
        bail!("no command specified");
    }
    Ok(args)
}

/// The probe's name, and what it runs besides if words were given.
fn probe_arguments(options: &RunOptions, image: &ImageConfig) -> Result<Vec<String>> {
    let mut args = vec![PROBE_NAME.to_owned()];
    if !options.process.args.is_empty() {
        args.extend(arguments(options, image)?);
    }
    Ok(args)
}

/// The entry point alone.
fn entrypoint(options: &RunOptions, image: &ImageConfig) -> Vec<String> {
    match options.process.entrypoint.as_deref() {
        None => image.entrypoint.clone().unwrap_or_default(),
        Some("") => Vec::new(),
        Some(program) => vec![program.to_owned()],
    }
}

/// The user's variables and those of the image that the user did not name, as `inspect` shows them.
#[must_use]
pub fn variables(options: &RunOptions, image: &ImageConfig) -> Vec<String> {
    let user = &options.process.env;
    let named: BTreeSet<&str> = user.iter().map(|text| variable_name(text)).collect();
    let of_image = image.env.iter();
    let of_image = of_image.filter(|text| !named.contains(variable_name(text)));
    user.iter().chain(of_image).cloned().collect()
}

fn variable_name(text: &str) -> &str {
    text.split_once('=').map_or(text, |(name, _)| name)
}

/// Variables as the process finds them: Docker's own first, then the user's, then those of the
/// image that the user did not name. A name that is there already keeps its place and takes the
/// later value; the user's names without `=` take away what Docker or the image would set.
fn environment(user: &[String], image: &[String], hostname: &str, tty: bool) -> Vec<String> {
    let name = variable_name;
    let named: BTreeSet<&str> = user.iter().map(|text| name(text)).collect();
    let of_image = image.iter().filter(|text| !named.contains(name(text)));
    let mut all = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        all.push("TERM=xterm".to_owned());
    }
    let own_count = all.len();
    for text in user.iter().chain(of_image) {
        let found = all
            .iter_mut()
            .enumerate()
            .find(|(_, other)| name(other) == name(text));
        match (found, text.contains('=')) {
            (Some((_, other)), true) => other.clone_from(text),
            (None, true) => all.push(text.clone()),
            (Some((at, other)), false) if at < own_count => other.clear(),
            (_, false) => {}
        }
    }
    all.retain(|text| !text.is_empty());
    all
}

fn working_directory(options: &RunOptions, image: &ImageConfig) -> Result<String> {
    let path = match &options.process.workdir {
        Some(path) => path.as_str(),
        None if image.working_dir.is_empty() => "/",
        None => image.working_dir.as_str(),
    };
    check_workdir(path)?;
    Ok(path.to_owned())
}

fn stop_signal(options: &RunOptions, image: &ImageConfig) -> Result<i32> {
    match options.container.stop_signal {
        Some(signal) => Ok(signal),
        None if image.stop_signal.is_empty() => Ok(DEFAULT_STOP_SIGNAL),
        None => values::signal(&image.stop_signal),
    }
}

/// The user's health check; what it leaves open comes from the image. `None` when there is none.
fn health(user: &HealthConfig, image: &ImageConfig) -> Option<HealthConfig> {
    let none = Healthcheck::default();
    let of_image = image.healthcheck.as_ref().unwrap_or(&none);
    let or = |user: u64, image: u64| if user == 0 { image } else { user };
    let config = HealthConfig {
        test: match user.test.is_empty() {
            true => of_image.test.clone(),
            false => user.test.clone(),
        },
        interval_ns: or(user.interval_ns, of_image.interval),
        timeout_ns: or(user.timeout_ns, of_image.timeout),
        start_period_ns: or(user.start_period_ns, of_image.start_period),
        start_interval_ns: or(user.start_interval_ns, of_image.start_interval),
        retries: match user.retries {
            0 => u32::try_from(of_image.retries).unwrap_or(u32::MAX),
            retries => retries,
        },
        shell: image.shell.clone().unwrap_or_default(),
    };
    config.command().map(|_| config)
}

/// Labels of the image, and the user's, which win.
#[must_use]
pub fn labels(options: &RunOptions, image: &ImageConfig) -> BTreeMap<String, String> {
    let mut all = image.labels.clone();
    all.extend(options.container.labels.clone());
    all
}

/// The network that was asked for.
fn network(options: &RunOptions, image: &ImageConfig) -> Result<Option<NetworkConfig>> {
    let is_plain = options.container.isolation == Isolation::Container;
    if is_plain || options.network.mode == Mode::None {
        return Ok(None);
    }
    let mut ports: Vec<PortRequest> = Vec::new();
    for range in &options.network.published {
        for port in range.ports() {
            // The same twice is the same once, as in Docker.
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
    }
    if options.network.publish_all {
        let all = exposed_ports(options, image);
        if all.len() > PUBLISHED_MAX {
            bail!(
                "-P would publish {} ports, above the limit of {PUBLISHED_MAX}: name those that are wanted with -p",
                all.len()
            );
        }
        for exposed in all {
            let (port, protocol) = exposed.split_once('/').unwrap_or((&exposed, "tcp"));
            let protocol = values::ports::protocol(protocol)?;
            let Ok(container_port) = port.parse() else {
                bail!("invalid exposed port of the image: {exposed}");
            };
            let has_own = |port: &PortRequest| {
                port.container_port == container_port && port.protocol == protocol
            };
            if !ports.iter().any(has_own) {
                ports.push(PortRequest {
                    host_ip: None,
                    host_ports: None,
                    container_port,
                    protocol,
                });
            }
        }
    }
    Ok(Some(NetworkConfig {
        mac: options.network.mac,
        ports,
    }))
}

/// Ports that the image exposes, and the user's, published ones among them.
#[must_use]
pub fn exposed_ports(options: &RunOptions, image: &ImageConfig) -> BTreeSet<String> {
    let mut all = options.container.exposed_ports.clone();
    all.extend(image.exposed_ports.iter().cloned());
    for port in options
        .network
        .published
        .iter()
        .flat_map(PublishedRange::ports)
    {
        all.insert(format!("{}/{}", port.container_port, port.protocol.word()));
    }
    all
}

#[cfg(test)]
mod tests;
