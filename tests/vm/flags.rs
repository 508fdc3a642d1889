//! Flags that no other file is about: what each makes of the guest, or of the container on record;
//! and what `version` says of the guest's kernel.

use std::fs;

use anyhow::{Context, Result};
use harness::Sandbox;

use crate::world::World;

crate::tests![
    a_flag_changes_what_the_process_finds,
    a_flag_is_on_record,
    the_version_names_the_kernels_configuration,
];

/// A seccomp profile that takes one call away.
const NO_MKDIR: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;

/// Flags, a script, what it prints without them and with them.
const IN_THE_GUEST: [(&[&str], &str, &str, &str); 7] = [
    (
        &["--device", "/dev/fuse"],
        "[ -c /dev/fuse ] && true <>/dev/fuse && echo opened || echo none",
        "none\n",
        "opened\n",
    ),
    // 1024 shares are a weight of 39, as 100 is the kernel's own without a flag.
    (
        &["-c", "1024"],
        "cat /sys/fs/cgroup/cpu.weight",
        "100\n",
        "39\n",
    ),
    (
        &["--cpu-period", "50000", "--cpu-quota", "25000"],
        "cat /sys/fs/cgroup/cpu.max",
        "max 100000\n",
        "25000 50000\n",
    ),
    (
        &["--memory-reservation", "32m"],
        "cat /sys/fs/cgroup/memory.low",
        "0\n",
        "33554432\n",
    ),
    (
        &["--ipc", "none"],
        "grep -c -e ' /dev/shm ' -e ' /dev/mqueue ' /proc/mounts",
        "2\n",
        "0\n",
    ),
    (
        &["--security-opt", "writable-cgroups=true"],
        "mkdir /sys/fs/cgroup/own 2>/dev/null && echo made || echo refused",
        "refused\n",
        "made\n",
    ),
    (
        &["--security-opt", "seccomp=profile.json"],
        "mkdir /own 2>/dev/null && echo made || echo refused",
        "made\n",
        "refused\n",
    ),
];

fn a_flag_changes_what_the_process_finds(world: &World) -> Result<()> {
    let vm = world.own()?;
    fs::write(vm.work().join("profile.json"), NO_MKDIR).context("write a profile")?;
    // One run tells what there is without any of the flags.
    let scripts: Vec<_> = IN_THE_GUEST.iter().map(|(_, script, ..)| *script).collect();
    let before: String = IN_THE_GUEST
        .iter()
        .map(|(_, _, before, _)| *before)
        .collect();
    assert_eq!(script(&vm, &[], &scripts.join("\n"))?, before);
    for (flags, line, _, after) in IN_THE_GUEST {
        // grep's exit code is no failure.
        let found = script(&vm, flags, &format!("{line}; true"))?;
        assert_eq!(found, after, "{flags:?}");
    }
    Ok(())
}

fn script(vm: &Sandbox, flags: &[&str], script: &str) -> Result<String> {
    let out = vm
        .bulkhead(["run", "--rm"])
        .args(flags)
        .args(["busybox", "sh", "-c", script])
        .output()?;
    out.only_stdout()
}

fn a_flag_is_on_record(world: &World) -> Result<()> {
    let vm = world.own()?;
    let flags = [
        "--expose=80",
        "--expose=5000-5001/udp",
        "--annotation=note=kept",
        "-m=64m",
        "--memory-reservation=32m",
        "--cpu-period=50000",
        "--cpu-quota=25000",
    ];
    vm.bulkhead(["run", "--name", "recorded"])
        .args(flags)
        .args(["busybox", "true"])
        .output()?
        .code(0)?;
    for (format, expected) in [
        (
            "{{json .Config.ExposedPorts}}",
            r#"{"5000/udp":{},"5001/udp":{},"80/tcp":{}}"#,
        ),
        ("{{json .HostConfig.Annotations}}", r#"{"note":"kept"}"#),
        ("{{.HostConfig.MemoryReservation}}", "33554432"),
        (
            "{{.HostConfig.CpuPeriod}} {{.HostConfig.CpuQuota}}",
            "50000 25000",
        ),
    ] {
        let out = vm
            .bulkhead(["inspect", "-f", format, "recorded"])
            .output()?;
        assert_eq!(out.only_stdout()?.trim_end(), expected, "{format}");
    }
    Ok(())
}

fn the_version_names_the_kernels_configuration(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let manifest = fs::read(vm.guest().join("kernel.json")).context("read kernel.json")?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
    let hash = manifest["config_hash"].as_str().context("a config_hash")?;
    let is_hex = hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(hash.len() == 64 && is_hex, "{hash}");
    let text = vm.bulkhead(["version"]).output()?.only_stdout()?;
    let line = format!("  config_hash: {hash}");
    assert!(text.lines().any(|found| found == line), "{text}");
    Ok(())
}
