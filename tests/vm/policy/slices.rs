//! What `bulkhead system policy --apply` has the kernel keep, against a program of the user's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use harness::{Output, Sandbox};

use super::{CREW, File, ID, PAT, bulkhead, with_pat};
use crate::tenant::{GroupsDevice, KVM_GROUP, give_to, needs_root};
use crate::world::World;

crate::tests![
    the_kernel_keeps_limits_of_slices,
    systemd_is_told_by_drop_ins,
];

/// The user's slice, as somebody who logs users in makes it, until it is dropped.
struct Slice {
    path: PathBuf,
    made: bool,
}

impl Slice {
    fn make() -> Result<Self> {
        let users = PathBuf::from("/sys/fs/cgroup/user.slice");
        let made = !users.exists();
        if made {
            fs::create_dir(&users)?;
        }
        let path = users.join(format!("user-{ID}.slice"));
        fs::create_dir(&path)?;
        Ok(Self { path, made })
    }

    /// Its limits of memory, CPU time and processes.
    fn limits(&self) -> Result<String> {
        let read = |name: &str| fs::read_to_string(self.path.join(name));
        let limits = [read("memory.max")?, read("cpu.max")?, read("pids.max")?];
        Ok(limits.map(|text| text.trim_end().to_owned()).join(", "))
    }

    /// A script of the user's in it.
    fn shell(&self, vm: &Sandbox, script: &str) -> Result<Output> {
        let user = format!("setpriv --reuid={ID} --regid={ID} --groups={KVM_GROUP}");
        let enter = format!("echo 0 > {}", self.path.join("cgroup.procs").display());
        vm.shell(&format!("{enter} && exec {user} sh -c \"$SCRIPT\""))
            .env("SCRIPT", script)
            .env("BULKHEAD_TEMPLATES", vm.work().join("templates"))
            .output()
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        // The kernel takes a moment to forget the processes.
        for _ in 0..100 {
            match fs::remove_dir(&self.path) {
                Ok(()) => break,
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
        if self.made {
            let _ = self.path.parent().map(fs::remove_dir);
        }
    }
}

/// The command as root on a host without systemd: `/run` is a folder of the test's own.
fn policy(vm: &Sandbox, words: &str) -> Result<Output> {
    let run = vm.folder().join("run");
    fs::create_dir_all(&run)?;
    let mount = format!("mount --bind {} /run", run.display());
    let line = format!("{mount} && exec bulkhead system policy {words}");
    vm.shell("exec unshare --mount sh -c \"$LINE\"")
        .env("LINE", line)
        .output()
}

fn the_kernel_keeps_limits_of_slices(world: &World) -> Result<()> {
    needs_root()?;
    let vm = world.own()?;
    give_to(&vm, ID)?;
    let device = GroupsDevice::set()?;
    let file = File::new()?;
    let slice = Slice::make()?;
    // More than 100 MiB, by programs that know nothing of the policy: tail keeps the whole line.
    let hoard = "head -c 100000000 /dev/zero | tail -n 1 | wc -c";
    assert_eq!(slice.shell(&vm, hoard)?.only_stdout()?, "100000000\n");
    file.write("vms = 1\nvcpus = 1\nmemory = \"64m\"\nregistries = []")?;
    let out = bulkhead(&vm, "system policy --apply")?.code(1)?;
    assert!(out.stderr.contains("is for root"), "{out}");
    let shown = policy(&vm, "")?.code(0)?;
    for by in ["MemoryMax=67108864", "CPUQuota=100%", "TasksMax=2112"] {
        assert!(
            shown.stdout.contains(&format!("command, {by}\n")),
            "{shown}"
        );
    }
    assert!(
        shown.stderr.contains("The kernel's limits are others"),
        "{shown}"
    );
    let would = policy(&vm, "--dry-run")?.only_stdout()?;
    assert_eq!(would.lines().count(), 3, "{would}");
    let done = policy(&vm, "--apply")?.only_stdout()?;
    assert_eq!(would.replace("would ", ""), done);
    assert_eq!(slice.limits()?, "67108864, 100000 100000, 2112");
    assert_eq!(
        policy(&vm, "--apply")?.only_stdout()?,
        "Nothing to change\n"
    );
    let shown = policy(&vm, "")?.code(0)?;
    assert_eq!(shown.stderr, "");
    // The kernel ends what takes more.
    let out = slice.shell(&vm, hoard)?.code(0)?;
    assert_eq!(out.stdout, "0\n", "{out}");
    let events = fs::read_to_string(slice.path.join("memory.events"))?;
    let kills = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    assert!(kills.is_some_and(|count| count != "0"), "{events}");
    // A user's VM is there with all that belongs to it.
    file.write("memory = \"2g\"")?;
    let done = policy(&vm, "--apply")?.only_stdout()?;
    assert_eq!(done.lines().count(), 3, "{done}");
    assert_eq!(slice.limits()?, "2147483648, max 100000, max");
    let begin = "exec bulkhead run -d --name one -p 127.0.0.1::80 -v data:/data busybox sleep 1000";
    slice.shell(&vm, begin)?.code(0)?;
    let name = format!("0::/user.slice/user-{ID}.slice\n");
    let processes = vm.processes()?;
    assert!(processes.len() >= 4, "{processes:?}");
    for process in &processes {
        let group = fs::read_to_string(format!("/proc/{}/cgroup", process.id))?;
        assert_eq!(group, name, "{process:?}");
    }
    // What the user has can't lift them.
    let lift = format!("echo max > {}/memory.max", slice.path.display());
    assert_ne!(slice.shell(&vm, &lift)?.code, 0);
    bulkhead(&vm, "rm -f one")?.code(0)?;
    drop(file);
    policy(&vm, "--apply")?.code(0)?;
    assert_eq!(slice.limits()?, "max, max 100000, max");
    drop(device);
    Ok(())
}

fn systemd_is_told_by_drop_ins(world: &World) -> Result<()> {
    needs_root()?;
    let vm = world.own()?;
    let device = GroupsDevice::set()?;
    let file = File::new()?;
    let (run, units) = (vm.folder().join("run"), vm.folder().join("units"));
    fs::create_dir_all(run.join("systemd/system"))?;
    fs::create_dir(&units)?;
    // Stands for systemd's own.
    let systemctl = vm.folder().join("bin/systemctl");
    fs::write(
        &systemctl,
        "#!/bin/sh\necho \"$@\" >> \"$CALLS\"\nexit \"${CODE:-0}\"\n",
    )?;
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755))?;
    let calls = vm.folder().join("calls");
    let apply = |code: &str| -> Result<Output> {
        let script = format!(
            "mkdir -p /etc/systemd/system && mount --bind {} /run && \
             mount --bind {} /etc/systemd/system && mount -t tmpfs none /sys/fs/cgroup && \
             exec bulkhead system policy --apply",
            run.display(),
            units.display()
        );
        let apply = with_pat(&vm, &script)?.env("CALLS", &calls);
        apply.env("CODE", code).output()
    };
    let name = "60-bulkhead-policy.conf";
    let others = units.join("user-.slice.d/10-defaults.conf");
    fs::create_dir_all(units.join("user-.slice.d"))?;
    fs::write(&others, "[Slice]\nTasksMax=33%\n")?;
    file.write_all(
        "[default]\nmemory = \"1g\"\n[group.crew]\nvcpus = 2\n[user.root]\nmemory = \"2g\"",
    )?;
    let wanted = format!(
        "write /etc/systemd/system/user-.slice.d/{name}: MemoryMax=1073741824\n\
         write /etc/systemd/system/user-0.slice.d/{name}: no limit\n\
         write /etc/systemd/system/user-{PAT}.slice.d/{name}: MemoryMax=1073741824 CPUQuota=200%\n"
    );
    assert_eq!(apply("0")?.only_stdout()?, wanted);
    assert_eq!(fs::read_to_string(&calls)?, "daemon-reload\n");
    let text = fs::read_to_string(units.join(format!("user-{PAT}.slice.d/{name}")))?;
    let sets: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(sets, ["[Slice]", "MemoryMax=1073741824", "CPUQuota=200%"]);
    assert_eq!(apply("0")?.only_stdout()?, "Nothing to change\n");
    // By the group's number, and what the policy has no more goes.
    file.write_all(&format!("[group.{CREW}]\nvms = 2"))?;
    let out = apply("0")?.code(0)?;
    let wanted = format!("write /etc/systemd/system/user-{PAT}.slice.d/{name}: TasksMax=2176\n");
    assert!(out.stdout.ends_with(&wanted), "{out}");
    assert_eq!(out.stdout.matches("remove ").count(), 2, "{out}");
    drop(file);
    let out = apply("1")?.code(1)?;
    assert!(
        out.stderr
            .contains("systemctl daemon-reload: exit status: 1"),
        "{out}"
    );
    let mut left = Vec::new();
    for entry in fs::read_dir(&units)? {
        left.push(entry?.file_name());
    }
    assert_eq!(left, ["user-.slice.d"]);
    assert_eq!(fs::read_to_string(&others)?, "[Slice]\nTasksMax=33%\n");
    drop(device);
    Ok(())
}
