//! Whether this host can run VMs: what `doctor` says, `run` does.

use crate::{User, assert_refused};

#[test]
fn doctor_gives_every_warning_and_failure_a_hint_and_its_end_is_its_exit_code() {
    let out = User::new().run(&["doctor"]);
    assert_eq!(out.stderr, "", "{out}");
    let lines: Vec<&str> = out.stdout.lines().collect();
    let (last, findings) = lines.split_last().expect("a last line");
    for (at, line) in findings.iter().enumerate() {
        let hinted = findings
            .get(at + 1)
            .is_some_and(|next| next.starts_with("      hint: "));
        match line.split_once("  ").expect("a level") {
            ("ok", _) => assert!(!hinted, "{out}"),
            ("warn" | "FAIL", _) => assert!(hinted, "{out}"),
            _ => assert!(line.starts_with("      hint: "), "{out}"),
        }
    }
    let failed = findings.iter().any(|line| line.starts_with("FAIL"));
    assert_eq!(out.code, i32::from(failed), "{out}");
    let end = if failed {
        "VMs can't run here"
    } else {
        "VMs can run here"
    };
    assert_eq!(*last, end);
    for topic in [
        "/dev/kvm", "CPU", "mke2fs", "state in", "SMT", "KSM", "swap", "cgroup",
    ] {
        assert!(out.stdout.contains(topic), "{topic}: {out}");
    }
}

/// A folder without a guest kernel is named, so that no host can run VMs.
#[test]
fn run_ends_with_the_reason_that_doctor_finds_first() {
    let user = User::new();
    let nowhere = user.work();
    let report = user
        .bulkhead(["doctor"])
        .env("BULKHEAD_GUEST", &nowhere)
        .output()
        .expect("doctor");
    assert_eq!(report.code, 1, "{report}");
    let mut lines = report.stdout.lines();
    let reason = lines
        .find_map(|line| line.strip_prefix("FAIL  "))
        .expect("a failure");
    let hint = lines.next().expect("a hint").trim();
    let out = user
        .bulkhead(["run", "--rm", "image"])
        .env("BULKHEAD_GUEST", &nowhere)
        .output()
        .expect("run");
    assert_refused(&out, 125, &format!("this host can't run VMs: {reason}"));
    assert!(out.stderr.ends_with(&format!("{hint}\n")), "{out}");
    let kernel = "find the guest kernel (vmlinux) and agent (initramfs.cpio): not in";
    assert!(report.stdout.contains(kernel), "{report}");
}
