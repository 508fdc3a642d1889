//! `bulkhead info`, `bulkhead system info`: this host, this command, and what it has.

use anyhow::Result;
use images::Store;
use serde_json::{Value, json};

use super::output;
use super::template::Template;
use super::version;
use crate::doctor;
use crate::sandbox::clock;
use crate::sandbox::containers;
use crate::sandbox::paths::{GuestFiles, Root};
use crate::sandbox::state::Status;

/// Flags of `info`.
#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// `json` or a template such as '{{.NCPU}}'
    #[arg(short, long, value_name = "string")]
    format: Option<String>,
}

/// Prints what is known. That no VM can run here is said and is no error.
///
/// # Errors
/// When the store or the containers can't be read, or the format is none.
pub fn run(args: &InfoArgs) -> Result<()> {
    let info = gather(&Root::of_user()?)?;
    match args.format.as_deref() {
        None | Some("") => {
            output::line(&format!(
                "Client:\n Version:    {}\n\nServer:",
                env!("CARGO_PKG_VERSION")
            ))?;
            for line in lines(&info) {
                output::line(&format!(" {line}"))?;
            }
            output::line("")
        }
        Some(format) => output::line(&Template::parse(format)?.render(&info)?),
    }
}

/// Everything, under Docker's names where it has one.
fn gather(root: &Root) -> Result<Value> {
    let store = Store::open(&root.images())?;
    let (mut running, mut paused, mut stopped) = (0_u32, 0_u32, 0_u32);
    for (folder, _) in containers::list(root)? {
        match folder.true_state().map(|state| state.status) {
            Ok(Status::Running | Status::Restarting) => running += 1,
            Ok(Status::Paused) => paused += 1,
            Ok(Status::Created | Status::Exited) => stopped += 1,
            // Removed since it was listed.
            Err(_) => {}
        }
    }
    let kernel = match GuestFiles::find() {
        Ok(guest) => version::manifest(&guest.manifest),
        Err(_) => Value::Null,
    };
    let host = nix::sys::utsname::uname()?;
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let kvm = doctor::can_run();
    let mut info = json!({
        "Name": text(host.nodename()),
        "Containers": running + paused + stopped,
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": stopped,
        "Images": store.list()?.images.len(),
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Driver": "erofs",
        "LoggingDriver": "json-file",
        "CgroupVersion": "2",
        "Plugins": {
            "Log": ["json-file", "local", "none"],
            "Network": ["bridge", "none"],
            "Volume": ["local"],
        },
        "MemoryLimit": true,
        "SwapLimit": false,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "OomKillDisable": false,
        "KernelVersion": kernel.get("source_version").and_then(Value::as_str).unwrap_or(""),
        "OperatingSystem": os_release("PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
        "OSVersion": os_release("VERSION_ID").unwrap_or_default(),
        "OSType": "linux",
        "Architecture": text(host.machine()),
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": memory_bytes(),
        "DockerRootDir": root.path().to_string_lossy(),
        "DefaultRuntime": "bulkhead",
        "Runtimes": {"bulkhead": {"path": "bulkhead"}},
        "SecurityOptions": ["name=kvm", "name=seccomp,profile=builtin", "name=cgroupns"],
        "Debug": false,
        "ExperimentalBuild": false,
        "Warnings": Value::Null,
        "Bulkhead": {
            "HostKernel": text(host.release()),
            "CanRun": kvm.is_ok(),
            "WhyNot": kvm.map_or_else(|reason| reason.to_string(), |()| String::new()),
        },
    });
    let of_engine = of_engine(&|name| std::env::var(name).ok());
    if let (Some(into), Value::Object(from)) = (info.as_object_mut(), of_engine) {
        into.extend(from);
    }
    Ok(info)
}

/// What Docker says of its engine: what is so without one.
fn of_engine(variable: &dyn Fn(&str) -> Option<String>) -> Value {
    // The first that is set, as what asks registries takes it.
    let first = |names: [&str; 2]| names.into_iter().find_map(variable).unwrap_or_default();
    json!({
        // Nothing lasts that could have one.
        "ID": "",
        "SystemTime": clock::now(),
        // Groups of host and guest alike are made by writing into that file system.
        "CgroupDriver": "cgroupfs",
        "DriverStatus": [],
        // Where names lead that have no registry's in them.
        "IndexServerAddress": "https://index.docker.io/v1/",
        "HttpProxy": without_login(&first(["HTTP_PROXY", "http_proxy"])),
        "HttpsProxy": without_login(&first(["HTTPS_PROXY", "https_proxy"])),
        "NoProxy": first(["NO_PROXY", "no_proxy"]),
        "Labels": [],
        "LiveRestoreEnabled": false,
        "Isolation": "",
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        },
    })
}

/// The address of a proxy without user and password, as Docker hides them.
fn without_login(address: &str) -> String {
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), address),
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}xxxxx:xxxxx@{host}"),
        None => address.to_owned(),
    }
}

/// As people read it.
fn lines(info: &Value) -> Vec<String> {
    let text = |name: &str| match &info[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let list = |value: &Value| {
        let names = value.as_array().into_iter().flatten();
        let names: Vec<&str> = names.filter_map(Value::as_str).collect();
        names.join(" ")
    };
    let mut lines = vec![
        format!("Containers: {}", text("Containers")),
        format!(" Running: {}", text("ContainersRunning")),
        format!(" Paused: {}", text("ContainersPaused")),
        format!(" Stopped: {}", text("ContainersStopped")),
        format!("Images: {}", text("Images")),
        format!("Server Version: {}", text("ServerVersion")),
        format!("Storage Driver: {}", text("Driver")),
        format!("Logging Driver: {}", text("LoggingDriver")),
        format!("Cgroup Version: {}", text("CgroupVersion")),
        "Plugins:".to_owned(),
        format!(" Volume: {}", list(&info["Plugins"]["Volume"])),
        format!(" Network: {}", list(&info["Plugins"]["Network"])),
        format!(" Log: {}", list(&info["Plugins"]["Log"])),
        format!("Default Runtime: {}", text("DefaultRuntime")),
        "Security Options:".to_owned(),
    ];
    for option in info["SecurityOptions"].as_array().into_iter().flatten() {
        let option = option.as_str().unwrap_or_default();
        let mut parts = option.split(',');
        let name = parts.next().unwrap_or_default();
        lines.push(format!(" {}", name.trim_start_matches("name=")));
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            lines.push(format!("  {}: {value}", key.replace("profile", "Profile")));
        }
    }
    let own = &info["Bulkhead"];
    let kvm = match own["CanRun"].as_bool() {
        Some(true) => "VMs can run here".to_owned(),
        _ => own["WhyNot"].as_str().unwrap_or_default().to_owned(),
    };
    let memory = info["MemTotal"].as_u64().unwrap_or(0);
    lines.extend([
        format!("Kernel Version: {} (guest)", text("KernelVersion")),
        format!(
            "Host Kernel Version: {}",
            own["HostKernel"].as_str().unwrap_or_default()
        ),
        format!("KVM: {kvm}"),
        format!("Operating System: {}", text("OperatingSystem")),
        format!("OSType: {}", text("OSType")),
        format!("Architecture: {}", text("Architecture")),
        format!("CPUs: {}", text("NCPU")),
        format!("Total Memory: {}", output::binary_size(memory)),
        format!("Name: {}", text("Name")),
        format!("Docker Root Dir: {}", text("DockerRootDir")),
    ]);
    lines
}

/// What os-release says of the host under a name.
fn os_release(name: &str) -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    let (_, value) = lines.find(|(found, _)| *found == name)?;
    Some(value.trim_matches('"').to_owned())
}

/// Memory of the host.
fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_without_anything_is_told() {
        let (_temp, root) = containers::tests::root();
        let info = gather(&root).unwrap();
        assert_eq!(
            (&info["Containers"], &info["Images"]),
            (&0.into(), &0.into())
        );
        assert!(info["MemTotal"].as_u64().unwrap() > 0);
        let lines = lines(&info);
        for line in [
            "Containers: 0",
            " seccomp",
            "  Profile: builtin",
            "OSType: linux",
        ] {
            assert!(lines.iter().any(|found| found == line), "{lines:?}");
        }
        let template = "{{.Swarm.LocalNodeState}} {{.CgroupDriver}} {{.Labels}} {{.Warnings}}";
        let template = Template::parse(template).unwrap();
        let text = template.render(&info).unwrap();
        assert_eq!(text, "inactive cgroupfs [] []");
        let time = info["SystemTime"].as_str().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    }

    #[test]
    fn proxies_are_those_of_the_environment_without_their_logins() {
        let variable = |name: &str| match name {
            "HTTP_PROXY" => Some("http://me:a/b@p.example:3128".to_owned()),
            "http_proxy" => Some("other".to_owned()),
            "https_proxy" => Some("me@p.example:3128/".to_owned()),
            "no_proxy" => Some(".local,10.0.0.0/8".to_owned()),
            _ => None,
        };
        let info = of_engine(&variable);
        assert_eq!(info["HttpProxy"], "http://xxxxx:xxxxx@p.example:3128");
        assert_eq!(info["HttpsProxy"], "xxxxx:xxxxx@p.example:3128/");
        assert_eq!(info["NoProxy"], ".local,10.0.0.0/8");
        let info = of_engine(&|_| None);
        for name in ["HttpProxy", "HttpsProxy", "NoProxy", "ID", "Isolation"] {
            assert_eq!(info[name], "", "{name}");
        }
        assert_eq!(without_login("socks5://p:1"), "socks5://p:1");
    }
}
