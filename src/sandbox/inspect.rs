//! What `inspect` shows of a container, in Docker's shape, with one key of our own: `Bulkhead`,
//! the machine's size and when each step of the last start was done.
//! Called by `cli/inspect`. It goes by what is on record, and asks no supervisor.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::block_io::OfDevice;
use super::health::Health;
use super::launch::{DEFAULT_STOP_TIMEOUT_S, Isolation};
use super::logs::{self, Driver};
use super::network;
use super::plain::{MASKED, READ_ONLY};
use super::state::{ContainerConfig, ContainerState, Phases, Status};
use super::volumes::{Mount, MountKind, Origin};

/// The JSON object of one container.
#[must_use]
pub fn container(folder: &Path, config: &ContainerConfig, state: &ContainerState) -> Value {
    let (launch, given) = (&config.launch, &config.given);
    let process = &launch.run.process;
    let (path, args) = match process.args.split_first() {
        Some((path, args)) => (path.as_str(), args),
        None => ("", [].as_slice()),
    };
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
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "Name": format!("/{}", config.name),
        "RestartCount": state.restart_count,
        "LogPath": match launch.log.driver {
            Driver::None => String::new(),
            _ => logs::path(folder, &config.id).to_string_lossy().into_owned(),
        },
        "Driver": "erofs",
        "GraphDriver": {"Data": null, "Name": "erofs"},
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(config),
        "Config": {
            "Hostname": launch.run.hostname,
            "Domainname": launch.run.domainname,
            "User": process.user,
            "AttachStdin": given.attach_stdin,
            "AttachStdout": given.attach_stdout,
            "AttachStderr": given.attach_stderr,
            "Tty": process.terminal.is_some(),
            "OpenStdin": launch.open_stdin,
            "StdinOnce": launch.stdin_once,
            "Env": config.env,
            "Cmd": match (&given.entrypoint, &given.cmd) {
                // Made by an older version.
                (None, None) => Some(&process.args),
                (_, cmd) => cmd.as_ref(),
            },
            "Entrypoint": given.entrypoint,
            "Image": config.image,
            "Volumes": null_or_set(&given.volumes),
            "OnBuild": null_if_empty(&given.on_build),
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
            "ControlGroup": state.control_group.as_deref().unwrap_or_default(),
            "Exits": state.exits,
            "PhasesMs": phases_ms(&state.phases),
        },
    });
    if launch.stop_timeout_s != DEFAULT_STOP_TIMEOUT_S {
        object["Config"]["StopTimeout"] = json!(launch.stop_timeout_s);
    }
    let mac = launch.network.as_ref().and_then(|network| network.mac);
    if let Some(mac) = mac {
        let bytes = mac.map(|byte| format!("{byte:02x}"));
        object["Config"]["MacAddress"] = json!(bytes.join(":"));
    }
    object["NetworkSettings"] = network::settings(
        launch.network.as_ref(),
        state.network.as_ref(),
        &config.exposed_ports,
    );
    object["Mounts"] = launch.mounts.iter().map(mount).collect();
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

/// Members that Docker leaves out of the JSON where there is nothing to show, with what its templates read
/// there, so that `{{if .State.Health}}` is false and no mistake: the object that they are of, as a JSON
/// pointer, and the name.
#[must_use]
pub fn left_out() -> Vec<(&'static str, &'static str, Value)> {
    let (state, config) = ("/State", "/Config");
    vec![
        ("", "ImageManifestDescriptor", Value::Null),
        ("", "SizeRootFs", Value::Null),
        ("", "SizeRw", Value::Null),
        (state, "Health", Value::Null),
        (config, "ArgsEscaped", json!(false)),
        (config, "Healthcheck", Value::Null),
        (config, "MacAddress", json!("")),
        (config, "NetworkDisabled", json!(false)),
        (config, "Shell", Value::Null),
        (config, "StopTimeout", Value::Null),
    ]
}

/// As [`left_out`], of each of its mounts: only volumes have them.
#[must_use]
pub fn left_out_of_mounts() -> [(&'static str, Value); 2] {
    [("Name", json!("")), ("Driver", json!(""))]
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
#[must_use]
pub fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| signal.to_string(), |signal| signal.as_str().to_owned())
}

/// What Docker has null for.
fn null_if_empty(list: &[String]) -> Value {
    match list {
        [] => Value::Null,
        some => json!(some),
    }
}

/// A set as Docker writes it: names with nothing behind them.
fn null_or_set(names: &[String]) -> Value {
    match names {
        [] => Value::Null,
        some => some.iter().map(|name| (name.clone(), json!({}))).collect(),
    }
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
    let mut all = Map::new();
    for part in [of_life(config), of_limits(config), of_isolation(config)] {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    Value::Object(all)
}

fn of_life(config: &ContainerConfig) -> Value {
    let launch = &config.launch;
    let terminal = launch.run.process.terminal;
    json!({
        "AutoRemove": launch.auto_remove,
        "ContainerIDFile": config.given.cidfile,
        "RestartPolicy": {
            "Name": launch.restart.word(),
            "MaximumRetryCount": launch.restart.max_retries(),
        },
        "LogConfig": {"Type": launch.log.driver.word(), "Config": launch.log.options},
        "StopTimeout": launch.stop_timeout_s,
        "Runtime": "bulkhead",
        "Isolation": match launch.isolation {
            Isolation::Vm => "",
            Isolation::Container => "container",
        },
        "Annotations": config.annotations,
        "ConsoleSize": terminal.map_or([0, 0], |size| [size.rows, size.columns]),
    })
}

fn of_limits(config: &ContainerConfig) -> Value {
    let (given, run) = (&config.given, &config.launch.run);
    let (resources, block_io) = (&run.resources, &config.launch.block_io);
    let of_devices = |list: &[OfDevice], word: &str| -> Value {
        let list = list.iter();
        list.map(|it| json!({"Path": it.path, word: it.value}))
            .collect()
    };
    // A number of CPUs is shown as that, and not as the quota that it is made of.
    let quota = |value: Option<u64>| match given.nano_cpus {
        0 => value.unwrap_or(0),
        _ => 0,
    };
    let ulimits = given.ulimits.iter().map(|limit| {
        // Docker writes -1 for no limit.
        let number = |value: u64| i64::try_from(value).unwrap_or(-1);
        json!({"Name": limit.name, "Soft": number(limit.soft), "Hard": number(limit.hard)})
    });
    json!({
        "Memory": resources.memory_max.unwrap_or(0),
        "MemoryReservation": resources.memory_low.unwrap_or(0),
        "MemorySwap": given.memory_swap,
        "MemorySwappiness": null,
        "NanoCpus": given.nano_cpus,
        "CpuShares": given.cpu_shares,
        "CpuQuota": quota(resources.cpu_quota_us),
        "CpuPeriod": quota(resources.cpu_period_us),
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": given.cpuset_cpus,
        "CpusetMems": "",
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "PidsLimit": resources.pids_max,
        "BlkioWeight": block_io.weight.unwrap_or(0),
        "BlkioWeightDevice": of_devices(&block_io.weights, "Weight"),
        "BlkioDeviceReadBps": of_devices(&block_io.read_bps, "Rate"),
        "BlkioDeviceWriteBps": of_devices(&block_io.write_bps, "Rate"),
        "BlkioDeviceReadIOps": of_devices(&block_io.read_iops, "Rate"),
        "BlkioDeviceWriteIOps": of_devices(&block_io.write_iops, "Rate"),
        "OomKillDisable": null,
        "OomScoreAdj": given.oom_score_adj,
        "Ulimits": ulimits.collect::<Vec<_>>(),
    })
}

fn of_isolation(config: &ContainerConfig) -> Value {
    let (given, run) = (&config.given, &config.launch.run);
    let hosts = given.list("add-host").iter();
    let hosts: Vec<String> = hosts.map(|text| text.replacen('=', ":", 1)).collect();
    let devices = run.devices.iter().map(|device| {
        json!({
            "PathOnHost": device.source,
            "PathInContainer": device.target,
            "CgroupPermissions": device.access,
        })
    });
    let storage = given.list("storage-opt").iter();
    let storage = storage.filter_map(|text| text.split_once('='));
    // Docker has null for one that is privileged, and nothing in the lists of another.
    let paths = |paths: &[&str]| match (run.privileged, run.system_paths_unconfined) {
        (true, _) => Value::Null,
        (false, true) => json!([]),
        (false, false) => json!(paths),
    };
    json!({
        "ReadonlyRootfs": run.read_only_root,
        "MaskedPaths": paths(&MASKED),
        "ReadonlyPaths": paths(&READ_ONLY),
        "Privileged": run.privileged,
        "Init": run.init,
        "ShmSize": run.shm_bytes,
        "Binds": binds(config),
        "Mounts": mount_options(config),
        "Tmpfs": run.tmpfs,
        "Sysctls": run.sysctls,
        "StorageOpt": storage.collect::<std::collections::BTreeMap<_, _>>(),
        "NetworkMode": network::mode(config.launch.network.as_ref()),
        "PortBindings": network::port_bindings(config.launch.network.as_ref()),
        "PublishAllPorts": given.publish_all,
        "Links": null,
        "VolumeDriver": "",
        "VolumesFrom": null_if_empty(given.list("volumes-from")),
        "CapAdd": null_if_empty(given.list("cap-add")),
        "CapDrop": null_if_empty(given.list("cap-drop")),
        "SecurityOpt": null_if_empty(given.list("security-opt")),
        "Dns": given.list("dns"),
        "DnsOptions": given.list("dns-option"),
        "DnsSearch": given.list("dns-search"),
        "ExtraHosts": null_if_empty(&hosts),
        "GroupAdd": null_if_empty(given.list("group-add")),
        "IpcMode": match given.ipc.as_str() {
            "" => "private",
            mode => mode,
        },
        "CgroupnsMode": "private",
        "Cgroup": "",
        "CgroupParent": "",
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": given.userns,
        "Devices": devices.collect::<Vec<_>>(),
        "DeviceCgroupRules": null,
        "DeviceRequests": null,
    })
}

/// Milliseconds since the command began at which each step was done; steps that have not happened
/// are left out.
fn phases_ms(phases: &Phases) -> Value {
    let steps = [
        ("disks", phases.disks),
        ("vmm_spawn", phases.vmm_spawn),
        ("vmm", phases.vmm),
        ("jailed", phases.jailed),
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
    use protocol::message::WindowSize;

    use super::*;
    use crate::sandbox::containers::tests::config;

    #[test]
    fn what_is_left_out_is_there_where_the_container_has_it() {
        let mut config = config('a', "x", false);
        config.given.publish_all = true;
        let shown = container(Path::new("/none"), &config, &ContainerState::created());
        for (part, member, _) in left_out() {
            let part = shown.pointer(part).unwrap();
            assert_eq!(part.get(member), None, "{member}");
        }
        config.launch.stop_timeout_s = 3;
        config.launch.network = Some(network::NetworkConfig {
            mac: Some([2, 0x42, 0xac, 0x11, 0, 5]),
            ports: Vec::new(),
        });
        let given = container(Path::new("/none"), &config, &ContainerState::created());
        assert_eq!(given["Config"]["StopTimeout"], 3);
        assert_eq!(given["Config"]["MacAddress"], "02:42:ac:11:00:05");
        assert_eq!(shown["GraphDriver"]["Name"], "erofs");
        assert_eq!(shown["HostConfig"]["PublishAllPorts"], true);
        assert_eq!(shown["HostConfig"]["VolumesFrom"], Value::Null);
    }

    #[test]
    fn what_was_given_is_shown_as_it_was() {
        let mut config = config('a', "x", false);
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        config.launch.run.process.args = words(&["/entry", "a"]);
        config.launch.run.resources.cpu_quota_us = Some(150_000);
        config.launch.run.resources.cpu_period_us = Some(100_000);
        let folder = Path::new("/none");
        let shown = container(folder, &config, &ContainerState::created());
        assert_eq!(shown["Config"]["Cmd"], json!(["/entry", "a"]));
        assert_eq!(shown["HostConfig"]["CpuQuota"], 150_000);
        config.given.entrypoint = Some(words(&["/entry"]));
        config.given.cmd = Some(words(&["a"]));
        config.given.nano_cpus = 1_500_000_000;
        config
            .given
            .lists
            .insert("dns".to_owned(), words(&["192.0.2.1"]));
        config
            .given
            .lists
            .insert("add-host".to_owned(), words(&["h=::1"]));
        config.given.volumes = words(&["/data"]);
        let shown = container(folder, &config, &ContainerState::created());
        assert_eq!(
            (&shown["Path"], &shown["Args"]),
            (&json!("/entry"), &json!(["a"]))
        );
        for (pointer, want) in [
            ("/Config/Entrypoint", json!(["/entry"])),
            ("/Config/Cmd", json!(["a"])),
            ("/Config/Volumes", json!({"/data": {}})),
            ("/Config/AttachStdin", json!(false)),
            ("/HostConfig/NanoCpus", json!(1_500_000_000)),
            ("/HostConfig/CpuQuota", json!(0)),
            ("/HostConfig/Dns", json!(["192.0.2.1"])),
            ("/HostConfig/DnsSearch", json!([])),
            ("/HostConfig/ExtraHosts", json!(["h:::1"])),
            ("/HostConfig/CapAdd", Value::Null),
            ("/HostConfig/IpcMode", json!("private")),
        ] {
            assert_eq!(shown.pointer(pointer), Some(&want), "{pointer}");
        }
    }

    #[test]
    fn paths_of_the_system_are_shown_as_they_are_kept() {
        let shown = |privileged: bool, unconfined: bool| {
            let mut config = config('a', "x", false);
            config.launch.run.privileged = privileged;
            config.launch.run.system_paths_unconfined = unconfined;
            let shown = container(Path::new("/none"), &config, &ContainerState::created());
            let host = &shown["HostConfig"];
            (host["MaskedPaths"].clone(), host["ReadonlyPaths"].clone())
        };
        assert_eq!(shown(false, false), (json!(MASKED), json!(READ_ONLY)));
        assert_eq!(shown(false, true), (json!([]), json!([])));
        // As it is merged, where one has the other with it.
        assert_eq!(shown(true, true), (Value::Null, Value::Null));
    }

    #[test]
    fn the_console_is_as_large_as_the_terminal() {
        let mut config = config('a', "x", false);
        let size = |config: &ContainerConfig| {
            let shown = container(Path::new("/none"), config, &ContainerState::created());
            assert_eq!(shown["HostConfig"]["VolumeDriver"], "");
            shown["HostConfig"]["ConsoleSize"].clone()
        };
        assert_eq!(size(&config), json!([0, 0]));
        config.launch.run.process.terminal = Some(WindowSize {
            rows: 24,
            columns: 80,
        });
        assert_eq!(size(&config), json!([24, 80]));
    }

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
