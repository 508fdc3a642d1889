//! Docker's default confinement inside the guest, and the flags that change it.

use anyhow::{Context, Result};

use crate::world::World;

crate::tests![
    capabilities_are_dockers_and_change_by_flags,
    a_user_has_no_effective_capabilities,
    system_calls_are_filtered_as_by_docker,
    without_the_filter_calls_pass,
    no_new_privileges_takes_setuid_its_power,
    kernel_files_are_masked_and_read_only,
    privileged_is_unmasked,
    the_guests_own_processes_are_not_seen,
    sysctls_are_set,
    tmpfs_and_shm_have_their_options,
];

/// Docker's default set (moby, oci/caps/defaults.go) as the kernel shows it.
const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";

/// A field of `/proc/self/status` in a run with these flags.
fn status(world: &World, flags: &[&str], field: &str) -> Result<String> {
    let out = world
        .busybox()?
        .bulkhead(["run", "--rm"])
        .args(flags)
        .args(["busybox", "cat", "/proc/self/status"])
        .output()?;
    let text = out.only_stdout()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{field}:")));
    Ok(line
        .with_context(|| format!("no {field} in {text}"))?
        .trim()
        .to_owned())
}

fn capabilities_are_dockers_and_change_by_flags(world: &World) -> Result<()> {
    for (flags, expected) in [
        (&[][..], DEFAULT_CAPABILITIES),
        (&["--cap-drop", "ALL"], "0000000000000000"),
        (
            &["--cap-drop", "all", "--cap-add", "chown"],
            "0000000000000001",
        ),
        (
            &["--cap-add", "CAP_SYS_ADMIN", "--cap-drop", "MKNOD"],
            "00000000a02425fb",
        ),
    ] {
        assert_eq!(status(world, flags, "CapEff")?, expected, "{flags:?}");
    }
    assert_eq!(status(world, &[], "CapBnd")?, DEFAULT_CAPABILITIES);
    assert_eq!(status(world, &[], "CapInh")?, "0000000000000000");
    assert_eq!(status(world, &[], "CapAmb")?, "0000000000000000");
    Ok(())
}

fn a_user_has_no_effective_capabilities(world: &World) -> Result<()> {
    assert_eq!(status(world, &["-u", "app"], "CapEff")?, "0000000000000000");
    assert_eq!(
        status(world, &["-u", "app"], "CapBnd")?,
        DEFAULT_CAPABILITIES
    );
    assert_eq!(status(world, &[], "Seccomp")?, "2");
    assert_eq!(status(world, &[], "NoNewPrivs")?, "0");
    Ok(())
}

/// What `probe calls` says of each call.
fn calls(world: &World, flags: &[&str]) -> Result<Vec<(String, String)>> {
    let out = world
        .busybox()?
        .bulkhead(["run", "--rm"])
        .args(flags)
        .args(["probe", "/probe", "calls"])
        .output()?;
    Ok(out
        .only_stdout()?
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, outcome)| (name.to_owned(), outcome.to_owned()))
        .collect())
}

fn system_calls_are_filtered_as_by_docker(world: &World) -> Result<()> {
    let calls = calls(world, &[])?;
    let with = |outcome: &str| -> Vec<&str> {
        let found = calls.iter().filter(|(_, found)| found == outcome);
        found.map(|(name, _)| name.as_str()).collect()
    };
    // glibc falls back to clone by this answer.
    assert_eq!(with("ENOSYS"), ["clone3"], "{calls:?}");
    let mut passed = [with("ok"), with("passed")].concat();
    passed.sort_unstable();
    assert_eq!(passed, ["getpid", "ptrace"], "{calls:?}");
    assert_eq!(with("EACCES"), Vec::<&str>::new(), "{calls:?}");
    Ok(())
}

fn without_the_filter_calls_pass(world: &World) -> Result<()> {
    let calls = calls(world, &["--privileged"])?;
    let refused: Vec<_> = calls
        .iter()
        .filter(|(_, outcome)| outcome == "EPERM" || outcome == "EACCES")
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(
        status(world, &["--security-opt", "seccomp=unconfined"], "Seccomp")?,
        "0"
    );
    Ok(())
}

fn no_new_privileges_takes_setuid_its_power(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let setuid = ["-u", "app", "probe", "/cases/setuid-probe", "ids"];
    let out = vm.run(setuid)?;
    assert_eq!(out.only_stdout()?, "real 1000:1000 effective 0:1000\n");
    let out = vm
        .bulkhead(["run", "--rm", "--security-opt", "no-new-privileges"])
        .args(setuid)
        .output()?;
    assert_eq!(out.only_stdout()?, "real 1000:1000 effective 1000:1000\n");
    Ok(())
}

/// Whether each path is masked (empty or a null device), read-only or neither.
const MASKS: &str = "
    for path in /proc/acpi /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list \
        /proc/sched_debug /proc/scsi /sys/firmware; do
        [ -e $path ] || continue
        if [ -d $path ]; then [ -z \"$(ls -A $path)\" ] && echo masked || echo open $path
        else [ \"$(head -c 1 $path 2>/dev/null | wc -c)\" = 0 ] && echo masked || echo open $path
        fi
    done | sort -u
    for path in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /sys /sys/fs/cgroup; do
        [ -e $path ] || continue
        if [ \"$(stat -f -c %T $path)\" ] && touch -c $path/x 2>/dev/null && [ -w $path ]; then
            grep -q \" $path [^ ]* ro\" /proc/mounts && echo read-only || echo writable $path
        else grep -q \" $path [^ ]* ro\" /proc/mounts && echo read-only || echo writable $path
        fi
    done | sort -u";

fn kernel_files_are_masked_and_read_only(world: &World) -> Result<()> {
    let out = world.busybox()?.run(["busybox", "sh", "-c", MASKS])?;
    assert_eq!(out.only_stdout()?, "masked\nread-only\n");
    Ok(())
}

fn privileged_is_unmasked(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script =
        "mount -t tmpfs none /mnt 2>&1 || mkdir /mnt && mount -t tmpfs none /mnt && echo mounted
        hostname other && hostname
        echo bulkhead >/proc/sys/kernel/domainname && cat /proc/sys/kernel/domainname
        [ -b /dev/vda ] && echo disk";
    let out = vm
        .run(["--privileged", "busybox", "sh", "-c", script])?
        .code(0)?;
    assert!(
        out.stdout.ends_with("mounted\nother\nbulkhead\ndisk\n"),
        "{out}"
    );
    let all = status(world, &["--privileged"], "CapEff")?;
    assert!(all.ends_with("1ffffffffff"), "{all}");
    let unmasked = [
        "--security-opt",
        "systempaths=unconfined",
        "busybox",
        "sh",
        "-c",
        MASKS,
    ];
    let out = vm.run(unmasked)?.code(0)?;
    assert!(out.stdout.contains("open /proc/"), "{out}");
    assert!(out.stdout.contains("writable /proc/sys"), "{out}");
    Ok(())
}

fn the_guests_own_processes_are_not_seen(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script =
        "ls -d /proc/[0-9]* | wc -l; readlink /proc/1/exe; cat /proc/1/cgroup; ls /sys/class/net";
    let out = vm.run(["busybox", "sh", "-c", script])?;
    // The shell, ls and wc at most.
    let text = out.only_stdout()?;
    let mut lines = text.lines();
    let processes: u32 = lines.next().unwrap_or_default().parse()?;
    assert!(processes <= 3, "{text}");
    let rest: Vec<_> = lines.collect();
    assert_eq!(rest, ["/bin/sh", "0::/", "eth0", "lo"], "{text}");
    Ok(())
}

fn sysctls_are_set(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let text = vm
        .run([
            "--sysctl",
            "net.ipv4.ip_forward=1",
            "--sysctl",
            "kernel.msgmax=4321",
            "busybox",
            "cat",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/kernel/msgmax",
        ])?
        .only_stdout()?;
    assert_eq!(text, "1\n4321\n");
    vm.run(["--sysctl", "no.such.thing=1", "busybox", "true"])?
        .refusal("no.such.thing")?;
    Ok(())
}

fn tmpfs_and_shm_have_their_options(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "grep -E ' (/a|/b|/dev/shm) ' /proc/mounts | cut -d' ' -f2-4 | sort
        stat -c '%a %u' /a /b; df -k /dev/shm | tail -1 | awk '{print $2}'";
    let text = vm
        .run([
            "--tmpfs",
            "/a",
            "--tmpfs",
            "/b:size=1m,exec,mode=700,uid=5",
            "--shm-size",
            "8m",
            "busybox",
            "sh",
            "-c",
            script,
        ])?
        .only_stdout()?;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    for (line, has, has_not) in [
        (
            lines[0],
            &["/a tmpfs rw,nosuid,nodev,noexec"][..],
            &["size="][..],
        ),
        (
            lines[1],
            &[
                "/b tmpfs rw,nosuid,nodev",
                "size=1024k",
                "mode=700",
                "uid=5",
            ],
            &["noexec"],
        ),
        (
            lines[2],
            &["/dev/shm tmpfs rw,nosuid,nodev,noexec", "size=8192k"],
            &[],
        ),
    ] {
        assert!(has.iter().all(|part| line.contains(part)), "{text}");
        assert!(!has_not.iter().any(|part| line.contains(part)), "{text}");
    }
    assert_eq!(lines[3..], ["1777 0", "700 5", "8192"], "{text}");
    Ok(())
}
