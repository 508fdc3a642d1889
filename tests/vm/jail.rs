//! What the processes of a container may do, read from `/proc` and compared with docs/security.md:
//! of a container with a network, a published port and a share, started by root and by an ordinary
//! user.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use harness::Sandbox;
use harness::registry::free_port;

use crate::life::text;
use crate::tenant::{self, GroupsDevice};
use crate::world::World;

mod beside;

use beside::{check_files, check_passt};

crate::tests![
    a_container_of_root_is_shut_in,
    a_container_of_an_ordinary_user_is_shut_in,
    a_passt_that_does_not_end_is_ended,
    each_process_asks_for_landlock,
    a_vm_of_root_has_a_control_group,
    a_vm_of_a_user_has_a_control_group_where_there_is_one_to_divide,
    disks_of_the_host_are_limited,
    a_vm_that_ends_by_itself_reports_it,
    a_vm_that_boots_and_one_of_a_template_are_alike_to_the_host,
];

const DOCUMENT: &str = include_str!("../../docs/security.md");

/// First user of root's VMMs (`jail/src/clone.rs`).
const FIRST_UID: u32 = 0x7800_0000;

const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// A process by `/proc`.
struct Seen(PathBuf);

impl Seen {
    fn of(vm: &Sandbox, verb: &str) -> Result<Self> {
        Ok(Self::at(vm.wait_for_process(verb)?.id))
    }

    fn at(id: u32) -> Self {
        Self(PathBuf::from(format!("/proc/{id}")))
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.0.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn names(&self, folder: &str) -> Result<Vec<String>> {
        let path = self.0.join(folder);
        let entries = fs::read_dir(&path).with_context(|| format!("read {}", path.display()))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// A line of a thread's status, its values apart by one blank.
    fn status(&self, thread: &str, field: &str) -> Result<String> {
        let text = self.read(&format!("task/{thread}/status"))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let values = line.with_context(|| format!("no {field} in {text}"))?;
        Ok(values.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Namespaces that are not this test's.
    fn own_namespaces(&self) -> Result<Vec<&'static str>> {
        let mut own = Vec::new();
        for name in NAMESPACES {
            let link = |folder: &str| fs::read_link(format!("{folder}/ns/{name}"));
            if link(&self.0.to_string_lossy())? != link("/proc/self")? {
                own.push(name);
            }
        }
        Ok(own)
    }

    /// What its descriptors are, without their numbers.
    fn descriptors(&self) -> Result<Vec<String>> {
        self.names("fd")?
            .iter()
            .map(|number| {
                let link = fs::read_link(self.0.join("fd").join(number))?;
                Ok(link.to_string_lossy().into_owned())
            })
            .collect()
    }

    /// Its control group.
    fn group(&self) -> Result<String> {
        let text = self.read("cgroup")?;
        let name = text.lines().find_map(|line| line.strip_prefix("0::"));
        name.map(str::to_owned)
            .with_context(|| format!("no group in {text:?}"))
    }

    /// A soft and a hard limit.
    fn limit(&self, name: &str) -> Result<String> {
        let text = self.read("limits")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let values: Vec<_> = line
            .with_context(|| format!("no {name} in {text}"))?
            .split_whitespace()
            .take(2)
            .collect();
        Ok(values.join(" "))
    }

    /// No thread has a capability or may gain one, and each has a filter.
    fn is_powerless(&self) -> Result<()> {
        for thread in self.names("task")? {
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(self.status(&thread, set)?, "0000000000000000", "{set}");
            }
            self.is_filtered(&thread)?;
        }
        Ok(())
    }

    fn is_filtered(&self, thread: &str) -> Result<()> {
        assert_eq!(self.status(thread, "NoNewPrivs")?, "1");
        assert_eq!(self.status(thread, "Seccomp")?, "2");
        Ok(())
    }
}

/// The first column of the table of descriptors, without its quotes.
fn promised_descriptors() -> Result<BTreeSet<&'static str>> {
    let (_, rest) = DOCUMENT
        .split_once("### Descriptors of a VMM\n")
        .context("no table of descriptors")?;
    Ok(rest
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .filter_map(|line| line.split('`').nth(1))
        .collect())
}

/// The table's word for what a descriptor is.
fn kind<'a>(link: &'a str, vm: &Sandbox) -> &'a str {
    let root = vm.root();
    if link.starts_with(&*root.join("images/layers").to_string_lossy()) {
        return "layer";
    }
    if link.starts_with(&*root.join("containers").to_string_lossy()) {
        return link.rsplit('/').next().unwrap_or(link);
    }
    for kind in ["socket", "pipe", "anon_inode:kvm-vcpu", "/memfd:files"] {
        if link.starts_with(kind) {
            return kind;
        }
    }
    link
}

/// The VMM of the only container, whose user is root or this one.
fn check_vmm(vm: &Sandbox, user: Option<u32>) -> Result<()> {
    let vmm = Seen::of(vm, "__vmm")?;
    vmm.is_powerless()?;
    let threads = vmm.names("task")?;
    let mut names = Vec::new();
    for thread in &threads {
        names.push(vmm.read(&format!("task/{thread}/comm"))?);
        assert_eq!(vmm.status(thread, "Seccomp_filters")?, "1");
        let ids = [vmm.status(thread, "Uid")?, vmm.status(thread, "Gid")?];
        let groups = vmm.status(thread, "Groups")?;
        let same = |id: u32| format!("{id} {id} {id} {id}");
        match user {
            Some(id) => assert_eq!(ids, [same(id), same(id)]),
            None => {
                let id: u32 = vmm
                    .0
                    .file_name()
                    .context("an id")?
                    .to_string_lossy()
                    .parse()?;
                assert_eq!(ids, [same(FIRST_UID + id), same(FIRST_UID + id)]);
                assert_eq!(groups, "");
            }
        }
    }
    names.sort();
    // KVM's own, of which Linux 6.14 and later have one in the process.
    names.retain(|name| name != "kvm-nx-lpage-re\n");
    assert_eq!(names, ["bulkhead\n", "disk0\n", "disk1\n", "vcpu0\n"]);
    assert_eq!(vmm.own_namespaces()?, NAMESPACES);
    assert_eq!(vmm.names("root")?, Vec::<String>::new());
    let mounts = vmm.read("mountinfo")?;
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / ro,"), "{mounts}");
    assert_eq!(vmm.read("environ")?, "");
    // Of root, whoever it belongs to: it may not be looked into.
    assert_eq!(fs::metadata(vmm.0.join("fd"))?.uid(), 0);
    for (name, most) in [
        // The vCPU's, the event loop's, KVM's own and one for each of two disks.
        ("Max processes", 5),
        ("Max core file size", 0),
        ("Max locked memory", 0),
        ("Max open files", 420),
        // A container without limits: 1 GiB, what the kernel takes, and the VMM's own.
        ("Max data size", (1024 + 64 + 256) << 20),
        ("Max file size", 20 << 30),
    ] {
        let limit = vmm.limit(name)?;
        for value in limit.split(' ') {
            let value: u64 = value.parse().with_context(|| format!("{name}: {limit}"))?;
            assert!(value <= most, "{name}: {limit}");
        }
    }
    let links = vmm.descriptors()?;
    let found: BTreeSet<&str> = links.iter().map(|link| kind(link, vm)).collect();
    assert_eq!(found, promised_descriptors()?, "{links:#?}");
    for (once, count) in [("/dev/kvm", 1), ("anon_inode:kvm-vm", 1), ("pipe", 1)] {
        let these = links.iter().filter(|link| kind(link, vm) == once);
        assert_eq!(these.count(), count, "{once}: {links:#?}");
    }
    Ok(())
}

/// What root's supervisor keeps (`src/sandbox/supervisor/confinement.rs`).
const OF_ROOTS_SUPERVISOR: &str = "0000000000001004";

/// Nothing in `/proc` shows it: the calls are watched. Whom they deny what is tested where they are made.
fn each_process_asks_for_landlock(world: &World) -> Result<()> {
    let vm = world.own()?;
    let share = vm.work().join("share");
    fs::create_dir(&share)?;
    let trace = vm.work().join("trace");
    let script = format!(
        "exec strace -f -qq -e signal=none \
         -e trace=landlock_create_ruleset,landlock_restrict_self -o {} \
         bulkhead run -d --name traced -v {}:/data busybox sleep 1000",
        trace.display(),
        share.display()
    );
    let traced = vm.shell(&script).spawn()?;
    crate::life::until("the traced container to run", || {
        let state = vm.bulkhead(["inspect", "-f", "{{.State.Running}}", "traced"]);
        Ok((state.output()?.stdout == "true\n").then_some(()))
    })?;
    let processes = vm.processes()?;
    text(&vm, &["rm", "-f", "traced"])?;
    traced.wait()?.code(0)?;
    let calls = fs::read_to_string(&trace).context("read the trace")?;
    let asked = |id: u32, call: &str, end: &str| {
        let mut lines = calls
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{id} ")));
        lines.any(|line| line.trim_start().starts_with(call) && line.ends_with(end))
    };
    for verb in ["__vmm", "__files", "__supervisor"] {
        let ids = processes.iter().filter(|process| process.has_verb(verb));
        let ids: Vec<u32> = ids.map(|process| process.id).collect();
        // Of a file server the child; the process that waits has no file at all.
        let is_restricted = |id: &u32| asked(*id, "landlock_restrict_self(", " = 0");
        // A kernel without it says so.
        let has_none = |id: &u32| {
            asked(*id, "landlock_create_ruleset(NULL", ")")
                && !asked(*id, "landlock_create_ruleset({", "")
        };
        ensure!(
            ids.iter().any(is_restricted) || ids.iter().any(has_none),
            "{verb} {ids:?}: {calls}"
        );
    }
    Ok(())
}

/// The supervisor, whose launcher starts for it what it may not.
pub(crate) fn check_supervisor(vm: &Sandbox, user: Option<u32>) -> Result<()> {
    let process = vm.wait_for_process("__supervisor")?.id;
    let supervisor = Seen::at(process);
    let threads = supervisor.names("task")?;
    assert!(threads.len() > 1, "{threads:?}");
    for thread in threads {
        supervisor.is_filtered(&thread)?;
        assert_eq!(supervisor.status(&thread, "NoNewPrivs")?, "1");
        if user.is_none() {
            for set in ["CapPrm", "CapEff", "CapBnd"] {
                assert_eq!(
                    supervisor.status(&thread, set)?,
                    OF_ROOTS_SUPERVISOR,
                    "{set}"
                );
            }
        }
    }
    let launcher = vm.wait_for_process("__launcher")?.id;
    let launcher = Seen::at(launcher);
    assert_eq!(
        launcher.status(&launcher_thread(&launcher)?, "PPid")?,
        process.to_string()
    );
    // Standard streams and its socket: none of a guest's.
    let mut descriptors = launcher.names("fd")?;
    descriptors.sort();
    assert_eq!(descriptors, ["0", "1", "2", "3"]);
    let environment = launcher.read("environ")?;
    ensure!(
        environment
            .split_terminator('\0')
            .all(|line| line.starts_with("PATH=")),
        "{environment:?}"
    );
    Ok(())
}

fn launcher_thread(launcher: &Seen) -> Result<String> {
    let [thread] = launcher
        .names("task")?
        .try_into()
        .map_err(|all| anyhow::anyhow!("threads of the launcher: {all:?}"))?;
    Ok(thread)
}

/// Flags of a container that has everything: its shares are one that is written, and the same one that
/// is not.
fn flags(vm: &Sandbox) -> Result<Vec<String>> {
    let share = vm.work().join("share");
    fs::create_dir_all(&share).context("make a share")?;
    let port = free_port()?;
    Ok([
        "run".to_owned(),
        "-d".to_owned(),
        "--name".to_owned(),
        "cc".to_owned(),
        format!("-p={port}:80"),
        format!("-v={}:/share", share.display()),
        format!("-v={}:/fixed:ro", share.display()),
        "busybox".to_owned(),
        "sleep".to_owned(),
        "1000".to_owned(),
    ]
    .to_vec())
}

fn a_container_of_root_is_shut_in(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    let before = vm.snapshot()?;
    vm.bulkhead(flags(&vm)?).output()?.code(0)?;
    check_vmm(&vm, None)?;
    check_files(&vm, None)?;
    check_passt(&vm, None)?;
    check_supervisor(&vm, None)?;
    text(&vm, &["exec", "cc", "touch", "/share/file"])?;
    // What the launcher starts is as what the supervisor started.
    text(&vm, &["restart", "-t", "0", "cc"])?;
    check_vmm(&vm, None)?;
    check_files(&vm, None)?;
    check_passt(&vm, None)?;
    text(&vm, &["exec", "cc", "touch", "/share/again"])?;
    text(&vm, &["rm", "-f", "cc"])?;
    fs::remove_dir_all(vm.work().join("share"))?;
    before.no_leftovers(&vm)
}

fn a_container_of_an_ordinary_user_is_shut_in(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    let flags = flags(&vm)?;
    tenant::give(&vm)?;
    let device = GroupsDevice::set()?;
    let id = tenant::ID;
    let user = format!(
        "setpriv --reuid={id} --regid={id} --groups={}",
        tenant::KVM_GROUP
    );
    let as_user = |arguments: &str| {
        vm.shell(&format!("exec {user} bulkhead {arguments}"))
            .env("BULKHEAD_TEMPLATES", vm.work().join("templates"))
            .output()
    };
    as_user(&flags.join(" "))?.code(0)?;
    check_vmm(&vm, Some(id))?;
    check_files(&vm, Some(id))?;
    check_passt(&vm, Some(id))?;
    check_supervisor(&vm, Some(id))?;
    as_user("exec cc touch /share/file")?.code(0)?;
    as_user("restart -t 0 cc")?.code(0)?;
    check_vmm(&vm, Some(id))?;
    check_files(&vm, Some(id))?;
    check_passt(&vm, Some(id))?;
    as_user("exec cc touch /share/again")?.code(0)?;
    as_user("rm -f cc")?.code(0)?;
    drop(device);
    Ok(())
}

/// Root's is nobody's process, which the supervisor may not end: its launcher does.
fn a_passt_that_does_not_end_is_ended(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    vm.bulkhead(flags(&vm)?).output()?.code(0)?;
    let supervisor = vm.wait_for_process("__supervisor")?.id;
    let passts = || crate::network::passts(supervisor);
    let [first] = passts()?
        .try_into()
        .map_err(|all| anyhow::anyhow!("{all:?}"))?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(first)?).context("a process id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
    // Its port is free again, for the next life.
    text(&vm, &["restart", "-t", "0", "cc"])?;
    let now = passts()?;
    assert!(now.len() == 1 && now != [first], "{first}: {now:?}");
    check_passt(&vm, None)?;
    text(&vm, &["update", "--cpuset-cpus", "0", "cc"])?;
    let vmm = Seen::of(&vm, "__vmm")?;
    for thread in vmm.names("task")? {
        assert_eq!(vmm.status(&thread, "Cpus_allowed_list")?, "0");
    }
    text(&vm, &["rm", "-f", "cc"])?;
    fs::remove_dir_all(vm.work().join("share"))?;
    vm.wait_for_no_process()
}

/// Where cgroup v2 is mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// The group of the only VM, as the kernel tells it, which is below `parent`. Its file server and its
/// passt, of which it has so many, are in it, too.
fn group_of(vm: &Sandbox, parent: &str, beside: usize) -> Result<PathBuf> {
    let vmm = Seen::of(vm, "__vmm")?;
    let name = vmm.group()?;
    assert!(
        name.starts_with(&format!("{parent}/bulkhead-vm-")),
        "{name}"
    );
    let supervisor = vm.wait_for_process("__supervisor")?.id;
    let all = vm.processes()?;
    let files = all.iter().filter(|process| process.has_verb("__files"));
    let mut others: Vec<u32> = files.map(|process| process.id).collect();
    others.extend(crate::network::passts(supervisor)?);
    assert_eq!(others.len(), beside, "{all:?}");
    for id in others {
        assert_eq!(Seen::at(id).group()?, name);
    }
    let path = PathBuf::from(format!("{GROUPS}{name}"));
    // Beside it there may be a kernel thread that KVM has for each VM.
    let members = fs::read_to_string(path.join("cgroup.procs"))?;
    let id = vmm.0.file_name().context("an id")?.to_string_lossy();
    assert!(members.lines().any(|member| member == id), "{members}");
    Ok(path)
}

/// What the kernel takes for tables of a guest's memory.
fn page_tables(mib: u64) -> u64 {
    (mib << 20) / 256
}

fn limits_of(group: &std::path::Path) -> Result<[String; 4]> {
    let mut values = Vec::new();
    for name in ["memory.max", "pids.max", "cpu.max", "cpu.weight"] {
        let path = group.join(name);
        let text = fs::read_to_string(&path);
        values.push(text.with_context(|| format!("read {}", path.display()))?);
    }
    let values = values.iter().map(|value| value.trim().to_owned());
    values
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|values| anyhow::anyhow!("{values:?}"))
}

fn a_vm_of_root_has_a_control_group(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    let before = groups_of_containers();
    let limits = "-m200m --cpus=0.5 --cpu-shares=512".split(' ');
    let all = flags(&vm)?;
    let (run, rest) = all.split_at(2);
    vm.bulkhead(run).args(limits).args(rest).output()?.code(0)?;
    let group = group_of(&vm, "/bulkhead", 3)?;
    let name = text(&vm, &["inspect", "-f", "{{.Bulkhead.ControlGroup}}", "cc"])?;
    assert_eq!(
        format!("{GROUPS}{}", name.trim_end()),
        group.display().to_string()
    );
    // 64 MiB are the guest kernel's, 256 the VMM's, as many passt's and 2048 the file server's; the
    // devices have a quarter of a CPU, and so have passt and the file server.
    let memory = ((200_u64 + 64 + 256 + 256 + 2048) << 20) + page_tables(200 + 64);
    let memory = memory.to_string();
    let weight = limits_of(&group)?[3].clone();
    let limits = [&memory, "22", "125000 100000", &weight];
    assert_eq!(limits_of(&group)?, limits);
    assert!(weight.parse::<u64>()? < 100, "{weight}");
    text(&vm, &["update", "--cpus", "1", "cc"])?;
    assert_eq!(limits_of(&group)?[2], "175000 100000");
    // All of them again, by the launcher, in the group that the supervisor has, with limits that hold.
    text(&vm, &["restart", "-t", "0", "cc"])?;
    assert_eq!(group_of(&vm, "/bulkhead", 3)?, group);
    assert_eq!(
        limits_of(&group)?,
        [&memory, "22", "175000 100000", &weight]
    );
    text(&vm, &["update", "--cpus", "0.5", "cc"])?;
    assert_eq!(limits_of(&group)?[2], "125000 100000");
    text(&vm, &["stop", "-t", "0", "cc"])?;
    vm.wait_for_no_process()?;
    assert!(!group.exists());
    text(&vm, &["rm", "cc"])?;
    // One whose supervisor was killed leaves its group to the next.
    text(
        &vm,
        &["run", "-d", "--name", "cc", "busybox", "sleep", "1000"],
    )?;
    let group = group_of(&vm, "/bulkhead", 0)?;
    assert_eq!(limits_of(&group)?[2], "300000 100000");
    crate::life::process_of(&vm, "__supervisor")?.kill()?;
    text(&vm, &["wait", "cc"])?;
    text(&vm, &["rm", "cc"])?;
    vm.wait_for_no_process()?;
    assert!(group.exists());
    text(&vm, &["run", "--rm", "busybox", "true"])?;
    assert!(!group.exists());
    vm.wait_for_no_process()?;
    let left = groups_of_containers();
    assert!(left.is_subset(&before), "{left:?}, before: {before:?}");
    Ok(())
}

/// None before the first container of a host; a test that failed may have left some.
fn groups_of_containers() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(format!("{GROUPS}/bulkhead"));
    let paths = entries.into_iter().flatten().flatten();
    let paths = paths.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}

/// A group that a test has given to a user, until it is dropped.
struct Delegated(PathBuf);

impl Delegated {
    fn make(user: u32) -> Result<Self> {
        let all = std::path::Path::new(GROUPS);
        let group = Self(all.join(format!("delegated-{}", std::process::id())));
        for path in [group.0.clone(), group.0.join("own")] {
            fs::create_dir(&path).context("make a group")?;
        }
        for (path, controllers) in [
            (all, "+memory +pids +cpu"),
            (&group.0, "+memory +pids +cpu"),
        ] {
            fs::write(path.join("cgroup.subtree_control"), controllers)
                .with_context(|| format!("control what is below {}", path.display()))?;
        }
        for name in ["", "cgroup.procs", "own", "own/cgroup.procs"] {
            std::os::unix::fs::chown(group.0.join(name), Some(user), Some(user))?;
        }
        Ok(group)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.0.join("own"));
        let _ = fs::remove_dir(&self.0);
    }
}

fn a_vm_of_a_user_has_a_control_group_where_there_is_one_to_divide(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    tenant::give(&vm)?;
    let device = GroupsDevice::set()?;
    let id = tenant::ID;
    let delegated = Delegated::make(id)?;
    let enter = format!("echo 0 >{}/own/cgroup.procs", delegated.0.display());
    let user = format!(
        "setpriv --reuid={id} --regid={id} --groups={}",
        tenant::KVM_GROUP
    );
    let as_user = |before: &str, arguments: &str| {
        vm.shell(&format!("{before}; exec {user} bulkhead {arguments}"))
            .env("BULKHEAD_TEMPLATES", vm.work().join("templates"))
            .output()
    };
    let run = "run -d --name cc busybox sleep 1000";
    as_user(&enter, &flags(&vm)?.join(" "))?.code(0)?;
    let parent = format!("/delegated-{}", std::process::id());
    let group = group_of(&vm, &parent, 3)?;
    let memory = ((1024_u64 + 256 + 256 + 2048) << 20) + page_tables(1024);
    let memory = memory.to_string();
    assert_eq!(limits_of(&group)?, [&memory, "22", "400000 100000", "100"]);
    as_user(":", "stop -t 0 cc")?.code(0)?;
    vm.wait_for_no_process()?;
    assert!(!group.exists());
    as_user(":", "rm cc")?.code(0)?;
    // That group has no controller for disks, which the test has not handed on.
    let limited = "run --rm --device-write-bps /dev/vda:1g busybox true";
    as_user(&enter, limited)?.refusal("control groups of this user lack the controllers")?;
    // Elsewhere it has none.
    as_user(":", limited)?.refusal("this user may make no control group")?;
    as_user(":", run)?.code(0)?;
    let format = "inspect -f '{{.Bulkhead.ControlGroup}}' cc";
    assert_eq!(as_user(":", format)?.code(0)?.stdout, "\n");
    as_user(":", "rm -f cc")?.code(0)?;
    drop(device);
    Ok(())
}

/// The disk that holds a folder, by its number.
pub(crate) fn disk_of(folder: &std::path::Path) -> Result<(PathBuf, String)> {
    let device = fs::metadata(folder)?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let number = format!("{major}:{minor}");
    let link = fs::read_link(format!("/sys/dev/block/{number}")).context("find the disk")?;
    let name = link.file_name().context("the disk has no name")?;
    Ok((std::path::Path::new("/dev").join(name), number))
}

/// The kernel counts what the guest writes, so that it is held to the limit.
fn disks_of_the_host_are_limited(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    let (disk, number) = disk_of(std::path::Path::new("/scratch"))?;
    let disk = disk.display();
    let rates = [
        ("read-bps", "2g"),
        ("write-bps", "1g"),
        ("write-iops", "9000"),
    ];
    let rates = rates.map(|(name, rate)| format!("--device-{name}={disk}:{rate}"));
    let run = ["run", "-d", "--name=cc", "--network=none"];
    vm.bulkhead(run)
        .args(&rates)
        .args(["busybox", "sleep", "1000"])
        .output()?
        .code(0)?;
    let group = group_of(&vm, "/bulkhead", 0)?;
    assert_eq!(
        fs::read_to_string(group.join("io.max"))?,
        format!("{number} rbps=2147483648 wbps=1073741824 riops=max wiops=9000\n")
    );
    let format = "{{json .HostConfig.BlkioDeviceWriteIOps}}";
    assert_eq!(
        text(&vm, &["inspect", "-f", format, "cc"])?,
        format!("[{{\"Path\":\"{disk}\",\"Rate\":9000}}]\n")
    );
    // In another life, too.
    for group in [Some(group), None] {
        let group = match group {
            Some(group) => group,
            None => {
                text(&vm, &["restart", "-t", "0", "cc"])?;
                group_of(&vm, "/bulkhead", 0)?
            }
        };
        let written = || -> Result<u64> {
            let stat = fs::read_to_string(group.join("io.stat"))?;
            let line = stat.lines().find_map(|line| line.strip_prefix(&number));
            let mut words = line.unwrap_or_default().split(' ');
            let bytes = words.find_map(|word| word.strip_prefix("wbytes="));
            Ok(bytes.unwrap_or("0").parse()?)
        };
        assert!(fs::read_to_string(group.join("io.max"))?.contains(" wbps=1073741824 "));
        let before = written()?;
        let script = "dd if=/dev/zero of=/file bs=1M count=8 conv=fsync 2>&1";
        text(&vm, &["exec", "cc", "sh", "-c", script])?;
        let more = written()? - before;
        assert!(more >= 8 << 20, "{more}");
    }
    text(&vm, &["update", "--blkio-weight", "500", "cc"])?;
    let group = group_of(&vm, "/bulkhead", 0)?;
    let weight = |name: &str| fs::read_to_string(group.join(name)).unwrap_or_default();
    let weights = ["io.bfq.weight", "io.weight"].map(weight);
    assert!(
        weights == ["default 500\n", ""] || weights[1] == "default 4950\n",
        "{weights:?}"
    );
    text(&vm, &["rm", "-f", "cc"])?;
    let run = ["run", "--rm", "--device-read-iops=/dev/null:1", "busybox"];
    vm.bulkhead(run)
        .output()?
        .refusal("/dev/null is no block device of this host")?;
    Ok(())
}

/// The filters hold to the very end: threads end, and the report is written.
fn a_vm_that_ends_by_itself_reports_it(world: &World) -> Result<()> {
    let vm = world.own()?;
    text(&vm, &["run", "--name", "cc", "busybox", "true"])?;
    let format = "{{json .Bulkhead.PhasesMs}}";
    let phases = text(&vm, &["inspect", "-f", format, "cc"])?;
    for phase in ["\"jailed\"", "\"first_instruction\""] {
        assert!(phases.contains(phase), "{phases}");
    }
    text(&vm, &["rm", "cc"])?;
    Ok(())
}

fn a_vm_that_boots_and_one_of_a_template_are_alike_to_the_host(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    for templates in ["off", "templates"] {
        let templates = match templates {
            "off" => "off".into(),
            name => vm.work().join(name),
        };
        vm.bulkhead(flags(&vm)?)
            .env("BULKHEAD_TEMPLATES", &templates)
            .output()?
            .code(0)?;
        check_vmm(&vm, None)?;
        let log = fs::read_dir(vm.root().join("containers"))?
            .next()
            .context("a container")??
            .path()
            .join("vm.log");
        let log = fs::read_to_string(log)?;
        assert!(!log.contains("without a template"), "{log}");
        text(&vm, &["rm", "-f", "cc"])?;
    }
    Ok(())
}
