//! What `inspect` shows of a container, in Docker's shape, with one key of our own: `Bulkhead`,
//! the machine's size and when each step of the last start was done.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::health::Health;
use super::launch::DEFAULT_STOP_TIMEOUT_S;
use super::logs::{self, Driver};
use super::state::{ContainerConfig, ContainerState, Phases, Status};
use super::volumes::{Mount, MountKind, Origin};

/// The JSON object of one container.
#[must_use]
pub fn container(folder: &Path, config: &ContainerConfig, state: &ContainerState) -> Value {
    let launch = &config.launch;
    let process = &launch.run.process;
    let (path, args) = match process.args.split_first() {
        Some((path, args)) => (path.as_str(), args),
        None => ("", [].as_slice()),
    };
    let (entrypoint, cmd) = process
        .args
        .split_at_checked(config.entrypoint_words)
        .unwrap_or_default();
    let mut object = json!({
        "Id": config.id,
        "Created": config.created,
        "Path": path,
        "Args": args,
        "State": {
            "Status": state.status.word(),
            "Running": state.status.is_alive(),
            "Paused": state.status == Status::Paused,
            "Restarting": state.status == Status::Restarting,
            "OOMKilled": state.oom_killed,
            "Dead": false,
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": state.started_at,
            "FinishedAt": state.finished_at,
        },
        "Image": config.image_id,
        "Name": format!("/{}", config.name),
        "RestartCount": state.restart_count,
        "LogPath": match launch.log.driver {
            Driver::None => String::new(),
            _ => logs::path(folder, &config.id).to_string_lossy().into_owned(),
        },
        "Platform": "linux",
        "HostConfig": host_config(config),
        "Mounts": config.launch.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Config": {
            "Hostname": launch.run.hostname,
            "Domainname": launch.run.domainname,
            "User": process.user,
            "Tty": process.terminal.is_some(),
            "OpenStdin": launch.open_stdin,
            "StdinOnce": launch.stdin_once,
            "Env": config.env,
            "Cmd": words(cmd),
            "Entrypoint": words(entrypoint),
            "OnBuild": null,
            "Image": config.image,
            "WorkingDir": process.cwd,
            "Labels": config.labels,
            "StopSignal": signal_name(launch.stop_signal),
            "ExposedPorts": config
                .exposed_ports
                .iter()
                .map(|port| (port.clone(), json!({})))
                .collect::<Map<_, _>>(),
        },
        "Bulkhead": {
            "Vcpus": launch.vcpu_count,
            "MemoryMiB": launch.memory_mib,
            "WritableBytes": launch.writable_bytes,
            "Exits": state.exits,
            "PhasesMs": phases_ms(&state.phases),
        },
    });
    if launch.stop_timeout_s != DEFAULT_STOP_TIMEOUT_S {
        object["Config"]["StopTimeout"] = json!(launch.stop_timeout_s);
    }
    if let Some(health) = &state.health {
        object["State"]["Health"] = health_of(health);
    }
    if let Some(check) = &launch.health {
        object["Config"]["Healthcheck"] = json!({
            "Test": check.test,
            "Interval": check.interval_ns,
            "Timeout": check.timeout_ns,
            "StartPeriod": check.start_period_ns,
            "StartInterval": check.start_interval_ns,
            "Retries": check.retries,
        });
    }
    object
}

/// Go has no empty lists here, but none.
fn words(list: &[String]) -> Value {
    match list {
        [] => Value::Null,
        list => json!(list),
    }
}

fn health_of(health: &Health) -> Value {
    let results = health.results.iter().map(|result| {
        json!({
            "Start": result.start,
            "End": result.end,
            "ExitCode": result.exit_code,
            "Output": result.output,
        })
    });
    json!({
        "Status": health.verdict.word(),
        "FailingStreak": health.failing_streak,
        "Log": results.collect::<Vec<_>>(),
    })
}

/// `SIGTERM`; a real-time signal has no name.
fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| signal.to_string(), |signal| signal.as_str().to_owned())
}

/// A mount as it is.
fn mount(mount: &Mount) -> Value {
    let mut object = json!({
        "Type": mount.kind.word(),
        "Source": mount.source,
        "Destination": mount.target,
        "Mode": mount.mode,
        "RW": !mount.read_only,
    });
    if let Some(object) = object.as_object_mut() {
        let propagation = match mount.kind {
            MountKind::Bind => "rprivate",
            MountKind::Volume => {
                object.insert("Name".to_owned(), json!(mount.name));
                object.insert("Driver".to_owned(), json!("local"));
                ""
            }
        };
        object.insert("Propagation".to_owned(), json!(propagation));
    }
    object
}

/// The name of a volume, the path of a bind.
fn asked_source(mount: &Mount) -> String {
    match mount.kind {
        MountKind::Bind => mount.source.display().to_string(),
        MountKind::Volume => mount.name.clone(),
    }
}

/// What `-v` asked for.
fn binds(config: &ContainerConfig) -> Option<Vec<String>> {
    let mounts = config.launch.mounts.iter();
    let binds = mounts.filter(|mount| mount.origin == Origin::Bind);
    let texts: Vec<String> = binds
        .map(|mount| {
            let text = format!("{}:{}", asked_source(mount), mount.target);
            match mount.mode.as_str() {
                "" | "z" => text,
                mode => format!("{text}:{mode}"),
            }
        })
        .collect();
    (!texts.is_empty()).then_some(texts)
}

/// What `--mount` asked for.
fn mount_options(config: &ContainerConfig) -> Vec<Value> {
    let mounts = config.launch.mounts.iter();
    let options = mounts.filter(|mount| mount.origin == Origin::Mount);
    let object = |mount: &Mount| {
        json!({
            "Type": mount.kind.word(),
            "Source": asked_source(mount),
            "Target": mount.target,
            "ReadOnly": mount.read_only,
        })
    };
    options.map(object).collect()
}

fn host_config(config: &ContainerConfig) -> Value {
    let launch = &config.launch;
    let run = &launch.run;
    let resources = &run.resources;
    json!({
        "AutoRemove": launch.auto_remove,
        "RestartPolicy": {
            "Name": launch.restart.word(),
            "MaximumRetryCount": launch.restart.max_retries(),
        },
        "LogConfig": {"Type": launch.log.driver.word(), "Config": launch.log.options},
        "ReadonlyRootfs": run.read_only_root,
        "Privileged": run.privileged,
        "Init": run.init,
        "ShmSize": run.shm_bytes,
        "Binds": binds(config),
        "Mounts": mount_options(config),
        "Tmpfs": run.tmpfs,
        "Sysctls": run.sysctls,
        "Memory": resources.memory_max.unwrap_or(0),
        "MemoryReservation": resources.memory_low.unwrap_or(0),
        "CpuQuota": resources.cpu_quota_us.unwrap_or(0),
        "CpuPeriod": resources.cpu_period_us.unwrap_or(0),
        "PidsLimit": resources.pids_max,
        "NetworkMode": "none",
        "Runtime": "bulkhead",
        "Annotations": config.annotations,
    })
}

/// Milliseconds since the command began at which each step was done; steps that have not happened
/// are left out.
fn phases_ms(phases: &Phases) -> Value {
    let steps = [
        ("disks", phases.disks),
        ("vmm_spawn", phases.vmm_spawn),
        ("vmm", phases.vmm),
        ("vm_created", phases.vm_created),
        ("loaded", phases.loaded),
        ("first_instruction", phases.first_instruction),
        ("agent", phases.agent),
        ("started", phases.started),
        ("exited", phases.exited),
        ("gone", phases.gone),
    ];
    let mut map = Map::new();
    for (name, at) in steps {
        if let Some(nanos) = at.checked_sub(phases.command)
            && phases.command > 0
        {
            let micros = u32::try_from(nanos / 1000).unwrap_or(u32::MAX);
            map.insert(name.to_owned(), json!(f64::from(micros) / 1000.0));
        }
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_count_from_the_command_and_leave_out_what_did_not_happen() {
        let phases = Phases {
            command: 1_000_000,
            disks: 3_500_000,
            started: 11_000_000,
            ..Phases::default()
        };
        assert_eq!(phases_ms(&phases), json!({"disks": 2.5, "started": 10.0}));
        assert_eq!(phases_ms(&Phases::default()), json!({}));
    }
}
