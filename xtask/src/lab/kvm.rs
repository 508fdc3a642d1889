//! Whether this machine itself is a host where KVM works. `lab` decides by it.
//! It starts no VM.

use std::fs::{self, File};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kvm {
    /// The CPU virtualizes and /dev/kvm opens.
    Hardware,
    /// Why not, in a few words.
    None(&'static str),
}

/// Looks at the CPU and at /dev/kvm. A /dev/kvm on a CPU without VMX or SVM is an emulation that
/// can't run every kernel, so it does not count.
pub(super) fn detect() -> Kvm {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !has_virtualization(&cpuinfo) {
        return Kvm::None("the CPU has neither vmx nor svm");
    }
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Kvm::Hardware,
        Err(_) => Kvm::None("/dev/kvm does not open"),
    }
}

fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("flags"))
        .any(|flags| {
            flags
                .split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_flag_itself_counts() {
        assert!(has_virtualization(
            "processor\t: 0\nflags\t\t: fpu vmx sse\n"
        ));
        assert!(has_virtualization("flags\t\t: fpu svm\n"));
        assert!(!has_virtualization(
            "flags\t\t: fpu svm_lock tsc\nvmx flags\t: vnmi\nbugs\t: vmx svm\n"
        ));
    }
}
