//! Whether this host can run VMs: what `doctor` says, `run` does.

use std::time::Duration;

use harness::Invocation;

use crate::{User, assert_refused};

/// How long a refusal may take before it counts as a hang: it reads a few small files.
const HANG: Duration = Duration::from_secs(30);

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

/// Where there is KVM, it is hidden behind an empty /dev.
#[test]
fn run_ends_where_there_is_no_usable_kvm() {
    let user = User::new();
    let report = user.run(&["doctor"]);
    let has_kvm = report
        .stdout
        .lines()
        .take(2)
        .all(|line| line.starts_with("ok  "));
    let run = "exec \"$0\" run --rm busybox true";
    let command = env!("CARGO_BIN_EXE_bulkhead");
    let shell = if has_kvm {
        let hide = format!("mount -t tmpfs none /dev && {run}");
        Invocation::new("unshare").args(["--map-root-user", "--mount", "sh", "-c", &hide, command])
    } else {
        Invocation::new("sh").args(["-c", run, command])
    };
    let out = shell
        .env("HOME", user.work())
        .env("BULKHEAD_ROOT", user.root())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir(user.work())
        .timeout(HANG)
        .output()
        .expect("run");
    let sentence = out.refusal("this host can't run VMs: ").expect("a refusal");
    let names_it = sentence.contains("/dev/kvm") || sentence.contains("KVM lacks");
    assert!(names_it, "{sentence}");
}
