//! The CPU, /dev/kvm, and what KVM can do. Called by [`super`]; it makes no VM.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{Error, ErrorKind};
use std::os::unix::ffi::OsStrExt;

use kvm_ioctls::{Cap, Kvm};

use super::{Finding, Host};

/// The device below a host's root.
const DEVICE: &str = "dev/kvm";

/// The one version there has been since Linux 2.6.22 (KVM's api.rst, `KVM_GET_API_VERSION`).
const API_VERSION: i32 = 12;

/// What the hypervisor asks of KVM when it builds a VM.
const NEEDED: [Cap; 5] = [
    Cap::Irqchip,
    Cap::Ioeventfd,
    Cap::Irqfd,
    Cap::UserMemory,
    Cap::SetTssAddr,
];

/// Whether the CPU can run VMs at all. A /dev/kvm on a CPU that can't is no hardware KVM: such have
/// been seen to stop a kernel at its first unusual instruction.
pub fn cpu(host: &Host) -> Finding {
    let cpuinfo = host.read("proc/cpuinfo");
    let has = |flag: &str| {
        cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(name, _)| name.trim() == "flags")
            .any(|(_, flags)| flags.split_whitespace().any(|word| word == flag))
    };
    match (has("vmx"), has("svm")) {
        (true, _) => Finding::ok("CPU with hardware virtualization (VMX)"),
        (_, true) => Finding::ok("CPU with hardware virtualization (SVM)"),
        _ => Finding::fail(
            "the CPU shows neither VMX nor SVM: a /dev/kvm here is no hardware KVM",
            "enable virtualization in the firmware, or nested virtualization where this host is a \
             VM itself; to try things out use `cargo xtask lab`",
        ),
    }
}

/// Whether /dev/kvm is there and may be used. Without hardware there is no module to load.
pub fn device(host: &Host, has_hardware: bool) -> Finding {
    let path = host.path(DEVICE);
    let shown = path.display();
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(_) => Finding::ok(format!("{shown} can be opened")),
        Err(error) => refused(&shown.to_string(), &error, has_hardware),
    }
}

fn refused(path: &str, error: &Error, has_hardware: bool) -> Finding {
    match error.kind() {
        ErrorKind::NotFound if has_hardware => Finding::fail(
            format!("{path} does not exist"),
            "load KVM: `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`",
        ),
        ErrorKind::NotFound => Finding::fail(
            format!("{path} does not exist, and the CPU has no virtualization"),
            "enable virtualization in the firmware, or nested virtualization where this host is a \
             VM itself",
        ),
        ErrorKind::PermissionDenied => Finding::fail(
            format!("no permission for {path}"),
            "add your user to the group kvm (`sudo usermod -aG kvm \"$USER\"`) and log in again",
        ),
        _ => Finding::fail(
            format!("open {path}: {error}"),
            "`sudo dmesg | grep kvm` has what KVM said when it was loaded",
        ),
    }
}

/// Whether KVM does what the hypervisor needs.
pub fn extensions(host: &Host) -> Finding {
    let path = CString::new(host.path(DEVICE).as_os_str().as_bytes());
    let opened = match &path {
        Ok(path) => Kvm::new_with_path(path).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match opened {
        Ok(kvm) => judge(kvm.get_api_version(), |cap| kvm.check_extension(cap)),
        Err(error) => Finding::fail(
            format!("open KVM: {error}"),
            "`sudo dmesg | grep kvm` has what KVM said when it was loaded",
        ),
    }
}

fn judge(version: i32, has: impl Fn(Cap) -> bool) -> Finding {
    if version != API_VERSION {
        return Finding::fail(
            format!("KVM speaks API version {version}, not {API_VERSION}"),
            "the device is not Linux's own KVM: use a kernel that has it",
        );
    }
    let missing: Vec<String> = NEEDED
        .into_iter()
        .filter(|cap| !has(*cap))
        .map(|cap| format!("{cap:?}"))
        .collect();
    if missing.is_empty() {
        return Finding::ok(format!("KVM API {version} with every extension needed"));
    }
    Finding::fail(
        format!("KVM lacks {}", missing.join(", ")),
        "use a Linux kernel of 5.12 or later with its own KVM",
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Level, fake};
    use super::*;

    #[test]
    fn a_cpu_without_virtualization_is_told() {
        let level = |cpuinfo: &str| {
            let (_folder, host) = fake::host(&[("proc/cpuinfo", cpuinfo)]);
            cpu(&host).level
        };
        assert_eq!(level("processor\t: 0\nflags\t\t: fpu vmx sse\n"), Level::Ok);
        assert_eq!(level("flags\t: fpu svm\n"), Level::Ok);
        for none in [
            "",
            "flags\t: fpu svmx\n",
            "flags\t: fpu\nvmx flags\t: vnmi vmx\nbugs\t: svm\n",
        ] {
            assert_eq!(level(none), Level::Fail, "{none}");
        }
    }

    #[test]
    fn a_missing_device_is_told_by_what_can_be_done() {
        let (_folder, host) = fake::host(&[]);
        let loadable = device(&host, true);
        assert!(loadable.text.ends_with("dev/kvm does not exist"));
        assert!(loadable.hint.unwrap().contains("modprobe kvm_intel"));
        let never = device(&host, false);
        assert_eq!(never.level, Level::Fail);
        assert!(never.hint.unwrap().contains("firmware"));
    }

    #[test]
    fn a_device_without_permission_names_the_group() {
        let denied = refused("/dev/kvm", &ErrorKind::PermissionDenied.into(), true);
        assert_eq!(denied.text, "no permission for /dev/kvm");
        assert!(denied.hint.unwrap().contains("usermod -aG kvm"));
        let (_folder, host) = fake::host(&[(DEVICE, "")]);
        assert_eq!(device(&host, true).level, Level::Ok);
        let (_folder, host) = fake::host(&[("dev/kvm/x", "")]);
        let wrong = device(&host, true);
        assert!(wrong.text.contains("Is a directory"), "{wrong:?}");
    }

    #[test]
    fn what_is_no_kvm_does_not_pass_for_it() {
        let (_folder, host) = fake::host(&[(DEVICE, "")]);
        assert_eq!(extensions(&host).level, Level::Fail);
        assert_eq!(judge(12, |_| true).level, Level::Ok);
        assert!(judge(11, |_| true).text.contains("version 11, not 12"));
        let lacking = judge(12, |cap| !matches!(cap, Cap::Irqfd | Cap::Ioeventfd));
        assert_eq!(lacking.text, "KVM lacks Ioeventfd, Irqfd");
    }
}
