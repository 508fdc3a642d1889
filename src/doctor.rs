//! Whether this host can run VMs, and why not: each finding with a hint. Used by `doctor` and,
//! for the part that decides, by `run` before it does anything.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use kvm_ioctls::{Cap, Kvm};

use crate::sandbox::paths::{GuestFiles, Root};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// VMs run; something could be better.
    Warn,
    /// No VM can run.
    Fail,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do.
    pub hint: Option<String>,
}

fn ok(text: impl Into<String>) -> Finding {
    Finding {
        level: Level::Ok,
        text: text.into(),
        hint: None,
    }
}

fn bad(level: Level, text: impl Into<String>, hint: &str) -> Finding {
    Finding {
        level,
        text: text.into(),
        hint: Some(hint.to_owned()),
    }
}

/// Why no VM can run here.
#[derive(Debug, thiserror::Error)]
#[error("this host can't run VMs: {text}")]
pub struct Reason {
    text: String,
    /// What to do.
    pub hint: String,
}

/// What KVM needs of the CPU, from the text of /proc/cpuinfo.
fn cpu(cpuinfo: &str) -> Finding {
    let has = |flag: &str| {
        cpuinfo
            .lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| line.split_whitespace().any(|word| word == flag))
    };
    match (has("vmx"), has("svm")) {
        (true, _) => ok("CPU with hardware virtualization (VMX)"),
        (_, true) => ok("CPU with hardware virtualization (SVM)"),
        _ => bad(
            Level::Fail,
            "the CPU shows neither VMX nor SVM: a /dev/kvm here is no hardware KVM",
            "enable virtualization in the firmware, or nested virtualization where this host is a VM itself; \
             to try things out use `cargo xtask lab`",
        ),
    }
}

/// Whether /dev/kvm is there, may be used, and does what is needed.
fn kvm(device: &Path) -> Finding {
    match fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return bad(
                Level::Fail,
                format!("{} does not exist", device.display()),
                "load the module kvm_intel or kvm_amd; where this host is a VM itself, enable nested virtualization",
            );
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return bad(
                Level::Fail,
                format!("no permission for {}", device.display()),
                "add your user to the group kvm (`sudo usermod -aG kvm $USER`) and log in again",
            );
        }
        Err(error) => {
            return bad(
                Level::Fail,
                format!("open {}: {error}", device.display()),
                "see `dmesg` for what KVM said when it was loaded",
            );
        }
    }
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            return bad(
                Level::Fail,
                format!("open KVM: {error}"),
                "see `dmesg` for what KVM said",
            );
        }
    };
    let version = kvm.get_api_version();
    if version != 12 {
        return bad(
            Level::Fail,
            format!("KVM speaks API version {version}, not 12"),
            "use a Linux kernel of 2.6.22 or later with its own KVM",
        );
    }
    let needed = [
        Cap::Irqchip,
        Cap::Ioeventfd,
        Cap::Irqfd,
        Cap::UserMemory,
        Cap::SetTssAddr,
    ];
    for cap in needed {
        if !kvm.check_extension(cap) {
            return bad(
                Level::Fail,
                format!("KVM lacks {cap:?}"),
                "use a Linux kernel of 5.10 or later with its own KVM",
            );
        }
    }
    ok("KVM with everything that is needed")
}

fn guest_files() -> Finding {
    match GuestFiles::find() {
        Ok(files) => ok(format!("guest kernel {}", files.kernel.display())),
        Err(error) => bad(
            Level::Fail,
            format!("{error:#}"),
            "build them with `cargo xtask artifacts`, or name their folder in BULKHEAD_GUEST",
        ),
    }
}

fn mke2fs() -> Finding {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join("mke2fs").exists());
    if found {
        ok("mke2fs, which makes writable layers")
    } else {
        bad(
            Level::Fail,
            "mke2fs is missing",
            "install the package e2fsprogs",
        )
    }
}

/// Side channels between tenants: SMT and the kernel's own list of vulnerabilities.
fn side_channels(sys: &Path) -> Vec<Finding> {
    let cpu = sys.join("devices/system/cpu");
    let mut all = Vec::new();
    let smt = fs::read_to_string(cpu.join("smt/control")).unwrap_or_default();
    all.push(match smt.trim() {
        "on" => bad(
            Level::Warn,
            "SMT is on: VMs of different users may share a core",
            "turn it off where users distrust each other (`echo off > /sys/devices/system/cpu/smt/control`)",
        ),
        "" => ok("SMT: not told by this kernel"),
        state => ok(format!("SMT: {state}")),
    });
    let mut vulnerable = Vec::new();
    for entry in fs::read_dir(cpu.join("vulnerabilities"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if text.starts_with("Vulnerable") {
            vulnerable.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    vulnerable.sort();
    all.push(if vulnerable.is_empty() {
        ok("CPU vulnerabilities: none unmitigated")
    } else {
        bad(
            Level::Warn,
            format!(
                "CPU vulnerabilities without mitigation: {}",
                vulnerable.join(", ")
            ),
            "update the microcode and the kernel, and don't boot with mitigations=off",
        )
    });
    let ksm = fs::read_to_string(sys.join("kernel/mm/ksm/run")).unwrap_or_default();
    all.push(if ksm.trim() == "1" {
        bad(
            Level::Warn,
            "KSM merges pages of different VMs, which can be timed",
            "turn it off (`echo 2 > /sys/kernel/mm/ksm/run`)",
        )
    } else {
        ok("KSM is off")
    });
    all
}

fn cgroup(sys: &Path, own: &str) -> Finding {
    let root = sys.join("fs/cgroup");
    if !root.join("cgroup.controllers").exists() {
        return bad(
            Level::Warn,
            "no cgroup v2: VMs can't be limited on the host as a group",
            "boot with systemd.unified_cgroup_hierarchy=1",
        );
    }
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    let procs = root.join(path).join("cgroup.procs");
    let writable = fs::OpenOptions::new().write(true).open(procs).is_ok();
    if writable {
        ok("cgroup v2, delegated to this user")
    } else {
        bad(
            Level::Warn,
            "cgroup v2 is not delegated to this user",
            "log in through systemd, or run under `systemd-run --user --scope`",
        )
    }
}

fn state_root() -> Finding {
    match Root::of_user() {
        Ok(root) => ok(format!("state in {}", root.path().display())),
        Err(error) => bad(
            Level::Fail,
            format!("{error:#}"),
            "name a writable folder in BULKHEAD_ROOT",
        ),
    }
}

/// What decides whether a VM can run, most basic first.
fn decisive() -> Vec<Finding> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    vec![
        kvm(Path::new("/dev/kvm")),
        cpu(&cpuinfo),
        guest_files(),
        mke2fs(),
        state_root(),
    ]
}

/// Everything, line by line; whether VMs can run.
#[must_use]
pub fn report() -> (Vec<Finding>, bool) {
    let mut all = decisive();
    all.extend(side_channels(Path::new("/sys")));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    all.push(cgroup(Path::new("/sys"), &own));
    let runs = all.iter().all(|finding| finding.level != Level::Fail);
    (all, runs)
}

/// Whether `run` may go on.
///
/// # Errors
/// The first thing that keeps VMs from running.
pub fn can_run() -> Result<(), Reason> {
    match decisive()
        .into_iter()
        .find(|finding| finding.level == Level::Fail)
    {
        None => Ok(()),
        Some(Finding { text, hint, .. }) => Err(Reason {
            text,
            hint: hint.unwrap_or_default(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_without_virtualization_is_told() {
        assert_eq!(cpu("flags\t: fpu vmx sse\n").level, Level::Ok);
        assert_eq!(cpu("flags\t: fpu svm\n").level, Level::Ok);
        let finding = cpu("flags\t: fpu svmx\nvmx flags: vnmi\n");
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.hint.is_some());
    }

    #[test]
    fn a_missing_device_and_one_without_permission_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let missing = kvm(&folder.path().join("kvm"));
        assert!(missing.text.ends_with("does not exist"), "{missing:?}");
        let wrong = kvm(folder.path());
        assert_eq!(wrong.level, Level::Fail);
    }

    #[test]
    fn the_kernels_list_of_vulnerabilities_is_read() {
        let sys = tempfile::tempdir().unwrap();
        let cpu = sys.path().join("devices/system/cpu");
        fs::create_dir_all(cpu.join("vulnerabilities")).unwrap();
        fs::create_dir_all(cpu.join("smt")).unwrap();
        fs::write(cpu.join("smt/control"), "on\n").unwrap();
        fs::write(
            cpu.join("vulnerabilities/mds"),
            "Vulnerable: no microcode\n",
        )
        .unwrap();
        fs::write(
            cpu.join("vulnerabilities/l1tf"),
            "Mitigation: PTE Inversion\n",
        )
        .unwrap();
        let all = side_channels(sys.path());
        assert_eq!(all[0].level, Level::Warn);
        assert_eq!(all[1].text, "CPU vulnerabilities without mitigation: mds");
        assert_eq!(all[2].level, Level::Ok);
    }
}
