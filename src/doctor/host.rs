//! What a host's settings mean for VMs of users that distrust each other: side channels, merged and
//! swapped memory, control groups. None of it keeps a VM from running. Called by [`super`].

use std::fs::OpenOptions;

use nix::unistd::{User, geteuid};

use crate::sandbox::control_group::beside;

use super::{Finding, Host};

const CPU: &str = "sys/devices/system/cpu";

/// SMT, and the kernel's own list of what the CPU is vulnerable to.
pub fn side_channels(host: &Host) -> Vec<Finding> {
    let smt = match host.read(&format!("{CPU}/smt/control")).as_str() {
        "on" => Finding::warn(
            "SMT is on: VMs of different users may share a core",
            "turn it off where users distrust each other: \
             `echo off | sudo tee /sys/devices/system/cpu/smt/control`",
        ),
        "" => Finding::ok("SMT: this kernel does not say"),
        state => Finding::ok(format!("SMT: {state}")),
    };
    vec![smt, vulnerabilities(host)]
}

/// What the kernel says of each vulnerability it knows. The word may stand anywhere: `Mitigation:
/// Clear CPU buffers; SMT vulnerable` and `KVM: Vulnerable` are as open as `Vulnerable`.
fn vulnerabilities(host: &Host) -> Finding {
    let folder = format!("{CPU}/vulnerabilities");
    let names = host.names(&folder);
    if names.is_empty() {
        // Said as it is: no list is no sign that nothing is open.
        return Finding::ok("CPU vulnerabilities: this kernel does not say");
    }
    let (mut open, mut mitigated) = (Vec::new(), 0);
    for name in names {
        let state = host.read(&format!("{folder}/{name}")).to_ascii_lowercase();
        if state.contains("vulnerable") {
            open.push(name);
        } else if state.contains("mitigation") {
            mitigated += 1;
        }
    }
    match open.as_slice() {
        [] => Finding::ok(format!(
            "CPU vulnerabilities: {mitigated} mitigated, none open"
        )),
        some => Finding::warn(
            format!(
                "CPU vulnerabilities: {mitigated} mitigated, open: {}",
                some.join(", ")
            ),
            format!(
                "`grep . /{folder}/*` has the details: update the microcode and the kernel, turn \
                 SMT off where it is named, and don't boot with mitigations=off"
            ),
        ),
    }
}

/// KSM, which lets a VM find out by timing what others have in memory.
pub fn page_merging(host: &Host) -> Finding {
    match host.read("sys/kernel/mm/ksm/run").as_str() {
        "1" => Finding::warn(
            "KSM merges equal pages of different VMs, which can be timed",
            "turn it off and unmerge: `echo 2 | sudo tee /sys/kernel/mm/ksm/run`",
        ),
        _ => Finding::ok("KSM is off"),
    }
}

/// Swap, where a VM's memory may end up on a disk. Compressed memory is none.
pub fn swap(host: &Host) -> Finding {
    let areas = host.read("proc/swaps");
    let on_disk: Vec<&str> = areas
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|path| !path.starts_with("/dev/zram"))
        .collect();
    match on_disk.as_slice() {
        [] => Finding::ok("no swap on a disk"),
        some => Finding::warn(
            format!("memory of VMs may be swapped to {}", some.join(", ")),
            "encrypt the swap, or turn it off with `sudo swapoff -a`",
        ),
    }
}

/// Whether the kernel lends memory that nobody has touched; nothing where it does.
pub fn overcommit(host: &Host) -> Option<Finding> {
    (host.read("proc/sys/vm/overcommit_memory") == "2").then(|| {
        Finding::warn(
            "the kernel lends no memory (vm.overcommit_memory=2): a VM's counts in full from its start, \
             touched or not, and so does that of VMs which unpack layers",
            "`sudo sysctl -w vm.overcommit_memory=0`, or keep VMs small with `-m`",
        )
    })
}

/// Whether containers outlive the user's sessions, as far as systemd ends what runs in them: a user's
/// manager ends with the last one, and all of its groups with it. Nothing where they do.
pub fn lingering(host: &Host) -> Option<Finding> {
    let user = User::from_uid(geteuid()).ok().flatten()?;
    stays(host, user.uid.as_raw(), &user.name)
}

fn stays(host: &Host, uid: u32, name: &str) -> Option<Finding> {
    let group = host.read("proc/self/cgroup");
    let is_in_manager = group.contains(&format!("/user@{uid}.service/"));
    let lingers = host.path("var/lib/systemd/linger").join(name).exists();
    (is_in_manager && !lingers).then(|| {
        Finding::warn(
            format!("containers end when {name} logs out of the last session: they run in systemd's user manager"),
            "`loginctl enable-linger` keeps it running",
        )
    })
}

/// Whether the user may limit processes by control groups.
pub fn cgroup(host: &Host) -> Finding {
    if !host.path("sys/fs/cgroup/cgroup.controllers").exists() {
        return Finding::warn(
            "no cgroup v2: VMs can't be limited on the host as a group",
            "boot with systemd.unified_cgroup_hierarchy=1",
        );
    }
    // Groups of VMs are beside the own one, or at the top.
    let parent = beside(&host.read("proc/self/cgroup")).unwrap_or_default();
    let procs = host.path("sys/fs/cgroup").join(parent).join("cgroup.procs");
    match OpenOptions::new().write(true).open(procs) {
        Ok(_) => Finding::ok("cgroup v2, and each VM of this user has a group of its own"),
        Err(_) => Finding::warn(
            "cgroup v2, but it is not delegated to this user: the host does not limit a VM's CPU time",
            "run under `systemd-run --user --scope`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Level, fake};
    use super::*;

    #[test]
    fn smt_and_open_vulnerabilities_are_told() {
        let (_folder, host) = fake::host(&[
            ("sys/devices/system/cpu/smt/control", "on\n"),
            (
                "sys/devices/system/cpu/vulnerabilities/mds",
                "Vulnerable: no microcode\n",
            ),
            (
                "sys/devices/system/cpu/vulnerabilities/l1tf",
                "Mitigation: PTE Inversion\n",
            ),
            (
                "sys/devices/system/cpu/vulnerabilities/srbds",
                "Not affected\n",
            ),
        ]);
        let all = side_channels(&host);
        assert_eq!(all[0].level, Level::Warn);
        assert_eq!(all[1].text, "CPU vulnerabilities: 1 mitigated, open: mds");
        let (_folder, host) = fake::host(&[("sys/devices/system/cpu/smt/control", "forceoff\n")]);
        let all = side_channels(&host);
        assert_eq!(all[0].text, "SMT: forceoff");
        assert_eq!(all[1].level, Level::Ok);
    }

    /// Sentences of the kernel's bugs.c.
    #[test]
    fn what_is_vulnerable_in_any_part_is_open() {
        let of = |state: &str| {
            let path = "sys/devices/system/cpu/vulnerabilities/one";
            let (_folder, host) = fake::host(&[(path, state)]);
            vulnerabilities(&host)
        };
        for open in [
            "Vulnerable\n",
            "Vulnerable: Clear CPU buffers attempted, no microcode; SMT vulnerable\n",
            "Mitigation: Clear CPU buffers; SMT vulnerable\n",
            "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable\n",
            "Mitigation: Retpolines; STIBP: disabled; RSB filling; BHI: Vulnerable\n",
            "KVM: Vulnerable\n",
            "Processor vulnerable\n",
        ] {
            let found = of(open);
            let want = (Level::Warn, "0 mitigated, open: one");
            assert_eq!(text_of(&found), want, "{open}");
        }
        for (closed, count) in [
            ("Mitigation: PTI\n", "1 mitigated, none open"),
            ("KVM: Mitigation: VMX disabled\n", "1 mitigated, none open"),
            ("Not affected\n", "0 mitigated, none open"),
        ] {
            let found = of(closed);
            assert_eq!(text_of(&found), (Level::Ok, count), "{closed}");
        }
    }

    fn text_of(finding: &Finding) -> (Level, &str) {
        let text = finding.text.strip_prefix("CPU vulnerabilities: ");
        (finding.level, text.unwrap_or_default())
    }

    #[test]
    fn a_kernel_without_a_list_of_vulnerabilities_does_not_say() {
        let (_folder, host) = fake::host(&[]);
        let found = vulnerabilities(&host);
        assert_eq!(text_of(&found), (Level::Ok, "this kernel does not say"));
    }

    #[test]
    fn merged_and_swapped_memory_is_told() {
        let swaps = "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0\tpartition\t1\t0\t1\n";
        let (_folder, host) =
            fake::host(&[("sys/kernel/mm/ksm/run", "0\n"), ("proc/swaps", swaps)]);
        assert_eq!(page_merging(&host).level, Level::Ok);
        assert_eq!(swap(&host).level, Level::Ok);
        let swaps = format!("{swaps}/swapfile\tfile\t1\t0\t-2\n");
        let (_folder, host) =
            fake::host(&[("sys/kernel/mm/ksm/run", "1\n"), ("proc/swaps", &swaps)]);
        assert_eq!(page_merging(&host).level, Level::Warn);
        assert_eq!(
            swap(&host).text,
            "memory of VMs may be swapped to /swapfile"
        );
    }

    #[test]
    fn a_kernel_that_lends_nothing_is_told() {
        let of = |value| {
            let (_folder, host) = fake::host(&[("proc/sys/vm/overcommit_memory", value)]);
            overcommit(&host).map(|found| found.level)
        };
        assert_eq!(of("2\n"), Some(Level::Warn));
        assert_eq!((of("0\n"), of("1\n")), (None, None));
    }

    #[test]
    fn containers_of_a_manager_that_does_not_linger_are_told() {
        let group = |text| ("proc/self/cgroup", text);
        let of = |files: &[(&str, &str)]| {
            let (_folder, host) = fake::host(files);
            stays(&host, 1000, "ada").map(|found| found.level)
        };
        let scope =
            group("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope\n");
        assert_eq!(of(&[scope]), Some(Level::Warn));
        let others = ("var/lib/systemd/linger/eve", "");
        assert_eq!(of(&[scope, others]), Some(Level::Warn));
        assert_eq!(of(&[scope, ("var/lib/systemd/linger/ada", "")]), None);
        // What a login's own scope holds goes on.
        let session = group("0::/user.slice/user-1000.slice/session-2.scope\n");
        assert_eq!(of(&[session]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn control_groups_are_there_and_delegated_or_not() {
        let (_folder, host) = fake::host(&[]);
        assert!(cgroup(&host).text.starts_with("no cgroup v2"));
        let controllers = ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
        let own = ("proc/self/cgroup", "0::/user.slice/a\n");
        let (_folder, host) = fake::host(&[controllers, own]);
        assert!(cgroup(&host).text.contains("not delegated"));
        let procs = ("sys/fs/cgroup/user.slice/cgroup.procs", "");
        let (_folder, host) = fake::host(&[controllers, own, procs]);
        assert_eq!(cgroup(&host).level, Level::Ok);
    }
}
