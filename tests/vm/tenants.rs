//! Two ordinary users of one host, and root: each has a container with a volume, a port, a log and an
//! image name of their own. What one of them finds of another's is nothing.
//!
//! All three have a state root that the command made, with a umask of 000, 077 and 022 each; the
//! folders above can be searched by everyone, so that nothing else keeps them apart.

pub(crate) mod sharing;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use harness::registry::{Access, PASSWORD, USER, free_port};
use harness::{Invocation, Output, Registry, Sandbox};

use crate::tenant::{GroupsDevice, KVM_GROUP, needs_root};
use crate::world::World;

crate::tests![
    users_find_nothing_of_each_other,
    what_a_login_keeps_is_its_users,
    a_state_root_that_others_may_change_is_none,
    vms_run_where_the_processes_of_others_are_hidden,
];

/// Users that nobody else is.
const ALICE: u32 = 54_331;
const BOB: u32 = 54_332;

/// In the environment of each container.
const SECRET: &str = "swordfish-";

/// One user with what they have.
struct Tenant {
    id: u32,
    name: &'static str,
    umask: &'static str,
    vm: Sandbox,
}

impl Tenant {
    /// One with busybox in a state root that the command has made.
    fn new(world: &World, id: u32, name: &'static str, umask: &'static str) -> Result<Self> {
        let vm = world.own()?;
        let tenant = Self {
            id,
            name,
            umask,
            vm,
        };
        let (vm, root) = (&tenant.vm, tenant.vm.root());
        fs::set_permissions(vm.folder(), Permissions::from_mode(0o755))?;
        for folder in [vm.folder().to_owned(), vm.home(), vm.work()] {
            chown(folder, Some(id), Some(id))?;
        }
        let old = vm.folder().join("old");
        fs::rename(&root, &old)?;
        tenant.bulkhead("images")?.code(0)?;
        for folder in ["images", "disks"] {
            let _ = fs::remove_dir_all(root.join(folder));
            fs::rename(old.join(folder), root.join(folder))?;
        }
        fs::remove_dir_all(&old)?;
        Invocation::new("/bin/chown")
            .args(["-R", &format!("{id}:{id}")])
            .arg(&root)
            .output()?
            .code(0)?;
        Ok(tenant)
    }

    /// A script as this user.
    fn shell(&self, script: &str) -> Invocation {
        self.shell_after("true", script)
    }

    /// So, after something that root does.
    fn shell_after(&self, before: &str, script: &str) -> Invocation {
        let Self { id, umask, .. } = self;
        let user = format!("setpriv --reuid={id} --regid={id} --groups={KVM_GROUP}");
        let line = format!("umask {umask}; {before} && exec {user} sh -c \"$SCRIPT\"");
        self.vm
            .shell("exec unshare --mount sh -c \"$LINE\"")
            .env("LINE", line)
            .env("SCRIPT", script)
            .env("BULKHEAD_TEMPLATES", self.vm.root().join("templates"))
    }

    fn bulkhead(&self, words: &str) -> Result<Output> {
        self.shell(&format!("exec bulkhead {words}")).output()
    }

    /// What this user's container is called; `rm` and the like take it.
    fn container(&self) -> String {
        format!("{}s-container", self.name)
    }

    fn image(&self) -> String {
        format!("{}s/image:1", self.name)
    }

    /// What this user's own volume is called.
    fn volume(&self) -> String {
        format!("{}s-volume", self.name)
    }

    /// Builds an image, which leaves a cache of steps and a cache mount.
    fn build(&self) -> Result<()> {
        let (name, folder) = (self.name, self.vm.work().join("context"));
        fs::create_dir(&folder)?;
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=cache,target=/cache echo {name} | tee /cache/whose > /whose\n"
        );
        fs::write(folder.join("Dockerfile"), dockerfile)?;
        let tag = self.built();
        let words = format!("build -q --network none -t {tag} {}", folder.display());
        self.bulkhead(&words)?.code(0)?;
        Ok(())
    }

    /// The name of what this user has built.
    fn built(&self) -> String {
        format!("{}s/built:1", self.name)
    }

    /// A container with two volumes, a port, a log, a secret. Its id.
    fn begin(&self, port: u16) -> Result<String> {
        let (name, container, image) = (self.name, self.container(), self.image());
        let volume = self.volume();
        self.bulkhead(&format!("tag busybox {image}"))?.code(0)?;
        let out = self.bulkhead(&format!(
            "run -d --name {container} -e WORD={SECRET}{name} -v data:/data -v {volume}:/own \
             -p 127.0.0.1:{port}:80 {image} \
             sh -c 'echo {name} > /data/whose; echo said by {name}; sleep 10000'"
        ))?;
        Ok(out.code(0)?.stdout.trim_end().to_owned())
    }

    /// Words that tell something of this user's.
    fn words(&self, id: &str) -> Vec<String> {
        vec![
            id.to_owned(),
            id.chars().take(12).collect(),
            self.container(),
            self.image(),
            self.built(),
            format!("{SECRET}{}", self.name),
            format!("said by {}", self.name),
        ]
    }

    /// Processes of the command and what it started.
    fn processes(&self) -> Result<BTreeSet<u32>> {
        let own = self.vm.processes()?;
        let mut all: BTreeSet<u32> = own.iter().map(|process| process.id).collect();
        // passt is the supervisor's child.
        for (id, parent) in parents()? {
            if all.contains(&parent) {
                all.insert(id);
            }
        }
        ensure!(all.len() >= 5, "{own:?} and {all:?}");
        Ok(all)
    }
}

/// Each process and its parent.
fn parents() -> Result<Vec<(u32, u32)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let folder = entry?.path();
        let id = folder
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let text = fs::read_to_string(folder.join("status")).unwrap_or_default();
        let parent = text
            .lines()
            .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
        all.extend(id.zip(parent));
    }
    Ok(all)
}

/// All files and folders at and below a path.
fn below(top: &Path) -> Result<Vec<PathBuf>> {
    let out = Invocation::new("/usr/bin/find")
        .arg(top)
        .output()?
        .code(0)?;
    Ok(out.stdout.lines().map(PathBuf::from).collect())
}

fn users_find_nothing_of_each_other(world: &World) -> Result<()> {
    needs_root()?;
    let device = GroupsDevice::set()?;
    let alice = Tenant::new(world, ALICE, "alice", "000")?;
    let bob = Tenant::new(world, BOB, "bob", "077")?;
    let root = Tenant::new(world, 0, "root", "022")?;
    alice.build()?;
    let port = free_port()?;
    let of_alice = alice.begin(port)?;
    let of_root = root.begin(free_port()?)?;
    let of_bob = bob.begin(free_port()?)?;
    for (who, other, id) in [
        (&bob, &alice, &of_alice),
        (&bob, &root, &of_root),
        (&alice, &bob, &of_bob),
    ] {
        the_lists_are_ones_own(who, other, id)?;
        it_is_no_container(who, other, id)?;
        it_is_no_image_and_no_volume(who, other)?;
        the_state_root_is_closed(who, other)?;
        the_processes_are_closed(who, other, id)?;
        nothing_lies_about(who, other, id)?;
    }
    a_volume_of_the_same_name_is_ones_own(&bob)?;
    a_port_is_taken_by_nobody_in_particular(&bob, &alice, port, &of_alice)?;
    // What was tried has changed nothing.
    for tenant in [&alice, &bob, &root] {
        let words = format!("exec {} cat /data/whose", tenant.container());
        let out = tenant.bulkhead(&words)?;
        assert_eq!(out.only_stdout()?, format!("{}\n", tenant.name));
        let out = tenant.bulkhead(&format!("logs {}", tenant.container()))?;
        assert_eq!(out.only_stdout()?, format!("said by {}\n", tenant.name));
    }
    let out = bob.bulkhead("ps -q --no-trunc")?.only_stdout()?;
    assert_eq!(out.trim_end(), of_bob);
    for tenant in [&alice, &bob, &root] {
        only_the_user_may(tenant)?;
        let words = format!("rm -f -v {}", tenant.container());
        tenant.bulkhead(&words)?.code(0)?;
        tenant.vm.wait_for_no_process()?;
    }
    drop(device);
    Ok(())
}

fn the_lists_are_ones_own(who: &Tenant, other: &Tenant, id: &str) -> Result<()> {
    for words in [
        "ps -a --no-trunc",
        "images --no-trunc",
        "volume ls",
        "system df -v",
        "events --since 0 --until 1s",
        "info",
        "stats --no-stream --no-trunc",
    ] {
        let out = who.bulkhead(words)?.code(0)?;
        for word in other.words(id).into_iter().chain([other.volume()]) {
            assert!(!out.stdout.contains(&word), "{words}: {word} in {out}");
        }
    }
    Ok(())
}

fn it_is_no_container(who: &Tenant, other: &Tenant, id: &str) -> Result<()> {
    let name = other.container();
    for which in [name.as_str(), id] {
        for verb in [
            "logs", "exec", "stop", "kill", "rm", "start", "attach", "pause", "unpause", "top",
            "port", "wait", "diff", "rename", "restart", "export", "commit", "cp", "update",
            "stats",
        ] {
            let words = match verb {
                "exec" => format!("{which} true"),
                "rename" => format!("{which} mine"),
                "cp" => format!("{which}:/data/whose -"),
                "update" => format!("-m 64m {which}"),
                "stats" => format!("--no-stream {which}"),
                _ => which.to_owned(),
            };
            let out = who.bulkhead(&format!("{verb} {words}"))?;
            assert_ne!(out.code, 0, "{out}");
            let sentence = format!("No such container: {which}");
            assert!(out.stderr.contains(&sentence), "{out}");
        }
        let out = who.bulkhead(&format!("inspect {which}"))?.code(1)?;
        assert!(out.stderr.contains("No such object"), "{out}");
    }
    let out = who.bulkhead(&format!("cp /etc/hostname {name}:/"))?;
    let sentence = format!("No such container: {name}");
    assert!(out.code != 0 && out.stderr.contains(&sentence), "{out}");
    Ok(())
}

fn it_is_no_image_and_no_volume(who: &Tenant, other: &Tenant) -> Result<()> {
    for image in [other.image(), other.built()] {
        for (words, sentence) in [
            (format!("inspect {image}"), "No such object"),
            (format!("rmi {image}"), "No such image"),
            (format!("save -o mine {image}"), "No such image"),
            (format!("history {image}"), "No such image"),
            (format!("tag {image} mine"), "No such image"),
            (format!("push {image}"), "An image does not exist locally"),
            (format!("run --rm --pull never {image}"), "No such image"),
            (format!("create --pull never {image}"), "No such image"),
        ] {
            let out = who.bulkhead(&words)?;
            assert_ne!(out.code, 0, "{words}: {out}");
            assert!(out.stderr.contains(sentence), "{words}: {out}");
        }
    }
    assert!(!who.vm.work().join("mine").exists());
    let volume = other.volume();
    for words in [
        format!("volume inspect {volume}"),
        format!("volume rm {volume}"),
    ] {
        let out = who.bulkhead(&words)?.code(1)?;
        assert!(out.stderr.contains("no such volume"), "{words}: {out}");
    }
    // Of that name there is one, of one's own, if one makes it.
    who.bulkhead(&format!("volume create {volume}"))?.code(0)?;
    who.bulkhead(&format!("volume rm {volume}"))?.code(0)?;
    assert!(other.vm.root().join("volumes").join(&volume).exists());
    Ok(())
}

/// No file of the other's can be read, written, listed or connected to, not even by those who can name
/// it, and not where the other has opened the state root's own folder to all.
fn the_state_root_is_closed(who: &Tenant, other: &Tenant) -> Result<()> {
    let root = other.vm.root();
    let mode = fs::metadata(&root)?.mode() & 0o777;
    assert_eq!(mode, 0o700);
    let names = below(&root)?;
    if other.name == "alice" {
        let of_builds = |path: &&PathBuf| path.starts_with(root.join("images/build-cache"));
        assert!(names.iter().filter(of_builds).count() > 1, "{names:?}");
        let of_mounts = |path: &PathBuf| path.starts_with(root.join("build-mounts"));
        let has_mount = names
            .iter()
            .any(|path| of_mounts(path) && path.ends_with("whose"));
        assert!(has_mount, "{names:?}");
    }
    let sockets = names.iter().filter(|path| path.ends_with("control.sock"));
    assert_eq!(sockets.count(), 1);
    let list = who.vm.folder().join("list");
    let text: Vec<_> = names.iter().map(|path| path.to_string_lossy()).collect();
    fs::write(&list, text.join("\n") + "\n")?;
    let script = format!(
        "while read -r path; do \
           if [ -r \"$path\" ] || [ -w \"$path\" ]; then echo \"$path\"; fi; \
         done < {}",
        list.display()
    );
    let reached = || -> Result<String> {
        fs::set_permissions(&list, Permissions::from_mode(0o644))?;
        who.shell(&script).output()?.only_stdout()
    };
    assert_eq!(reached()?, "");
    fs::set_permissions(&root, Permissions::from_mode(0o755))?;
    let open = reached();
    // The first on the way that is the other's; what is root's may be above everyone's.
    let first = match other.id {
        0 => root.as_path(),
        _ => other.vm.folder(),
    };
    for (words, code) in [
        ("ps", 1),
        ("exec x true", 1),
        ("run --rm busybox true", 125),
        ("rm -f x", 1),
    ] {
        let command = format!("BULKHEAD_ROOT={} exec bulkhead {words}", root.display());
        let out = who.shell(&command).output()?.code(code)?;
        let sentence = format!("use the state root: {} is another user's", first.display());
        assert!(out.stderr.contains(&sentence), "{out}");
        let lines = out.stderr.lines();
        let sentences = lines.filter(|line| !line.starts_with("hint: "));
        assert_eq!(sentences.count(), 1, "{out}");
    }
    fs::set_permissions(&root, Permissions::from_mode(mode))?;
    assert_eq!(open?, format!("{}\n", root.display()));
    let command = format!("BULKHEAD_ROOT={} exec bulkhead ps", root.display());
    let out = who.shell(&command).output()?.code(1)?;
    assert_eq!(out.stderr.lines().count(), 1, "{out}");
    Ok(())
}

/// What `/proc` shows to its owner and root only (`proc(5)`: a check of ptrace access).
const OWN: [&str; 11] = [
    "environ",
    "mem",
    "maps",
    "smaps",
    "pagemap",
    "auxv",
    "io",
    "stack",
    "syscall",
    "numa_maps",
    "clear_refs",
];

fn the_processes_are_closed(who: &Tenant, other: &Tenant, id: &str) -> Result<()> {
    let processes = other.processes()?;
    for process in &processes {
        let folder = format!("/proc/{process}");
        // All may read these.
        for name in ["cmdline", "status", "stat", "mountinfo", "cgroup", "comm"] {
            let bytes = fs::read(format!("{folder}/{name}"))?;
            let text = String::from_utf8_lossy(&bytes);
            for word in other.words(id) {
                assert!(!text.contains(&word), "{word} in {folder}/{name}: {text}");
            }
        }
        let script = format!(
            "for name in {}; do cat {folder}/$name >/dev/null 2>&1 && echo $name; done; \
             for name in cwd root exe; do readlink {folder}/$name && echo $name; done; \
             for name in fd fdinfo map_files; do ls {folder}/$name/ 2>/dev/null && echo $name; done; \
             for number in 0 CONT TERM KILL; do kill -$number {process} 2>/dev/null && echo $number; \
             done; true",
            OWN.join(" ")
        );
        let out = who.shell(&script).output()?.code(0)?;
        assert_eq!(out.stdout, "", "{folder}");
    }
    assert_eq!(other.processes()?, processes);
    Ok(())
}

/// Nothing that others can reach by a name is in places that all share.
fn nothing_lies_about(who: &Tenant, other: &Tenant, id: &str) -> Result<()> {
    let of_others = format!(
        "find /tmp /var/tmp /dev/shm /run -xdev -user {} -newer {} ! -path '{}*' 2>/dev/null; true",
        other.id,
        other.vm.home().display(),
        other.vm.folder().display()
    );
    let out = who.shell(&of_others).output()?.code(0)?;
    for path in out.stdout.lines() {
        let is_ours = path.contains("bulkhead") && !path.contains("bulkhead-test");
        assert!(!is_ours, "{path}");
        if other.id != 0 {
            panic!("{path} is {}'s", other.name);
        }
    }
    let sockets = who.shell("cat /proc/net/unix").output()?.only_stdout()?;
    for word in other.words(id) {
        assert!(!sockets.contains(&word), "{word} in {sockets}");
    }
    let abstracts = sockets.lines().filter(|line| line.contains(" @"));
    for line in abstracts {
        assert!(!line.contains("bulkhead"), "{line}");
    }
    Ok(())
}

fn a_volume_of_the_same_name_is_ones_own(who: &Tenant) -> Result<()> {
    let image = who.image();
    let words = format!("run --rm -v data:/data {image} cat /data/whose");
    assert_eq!(
        who.bulkhead(&words)?.only_stdout()?,
        format!("{}\n", who.name)
    );
    Ok(())
}

fn a_port_is_taken_by_nobody_in_particular(
    who: &Tenant,
    other: &Tenant,
    port: u16,
    id: &str,
) -> Result<()> {
    let words = format!("run --rm -p 127.0.0.1:{port}:80 busybox true");
    let out = who.bulkhead(&words)?.code(125)?;
    assert!(out.stderr.contains(&port.to_string()), "{out}");
    for word in other.words(id) {
        assert!(!out.stderr.contains(&word), "{out}");
    }
    assert!(!out.stderr.contains(other.name), "{out}");
    Ok(())
}

/// Whatever the umask was: of what the command made, the group and others have nothing, but below
/// folders that they can't enter.
fn only_the_user_may(tenant: &Tenant) -> Result<()> {
    let root = tenant.vm.root();
    for entry in fs::read_dir(&root)? {
        let entry = entry?;
        let mode = entry.metadata()?.mode() & 0o7777;
        assert_eq!(mode & 0o077, 0, "{:?}: {mode:o}", entry.path());
        assert_eq!(entry.metadata()?.uid(), tenant.id, "{:?}", entry.path());
    }
    // What is below has the modes that steps give it, and nobody else comes there.
    let has_built = root.join("build-mounts").exists();
    assert_eq!(has_built, tenant.name == "alice");
    for folder in ["configs", "containers", "volumes", "templates"] {
        for entry in fs::read_dir(root.join(folder))? {
            let entry = entry?;
            let mode = entry.metadata()?.mode() & 0o7777;
            assert_eq!(mode & 0o077, 0, "{:?}: {mode:o}", entry.path());
        }
    }
    Ok(())
}

fn what_a_login_keeps_is_its_users(world: &World) -> Result<()> {
    needs_root()?;
    let registry = Registry::start(Access::Password)?;
    for umask in ["000", "077"] {
        let alice = Tenant::new(world, ALICE, "alice", umask)?;
        let address = registry.address();
        let words = format!("login -u {USER} --password-stdin {address}");
        let script = format!("printf '{PASSWORD}' | bulkhead {words}");
        alice.shell(&script).output()?.code(0)?;
        let folder = alice.vm.home().join(".docker");
        let mode = |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.mode() & 0o777);
        assert_eq!(mode(&folder)?, 0o700);
        assert_eq!(mode(&folder.join("config.json"))?, 0o600);
    }
    Ok(())
}

fn a_state_root_that_others_may_change_is_none(world: &World) -> Result<()> {
    needs_root()?;
    let alice = Tenant::new(world, ALICE, "alice", "022")?;
    let root = alice.vm.root();
    for (mode, code) in [(0o720, 1), (0o702, 1), (0o1777, 1), (0o755, 0)] {
        fs::set_permissions(&root, Permissions::from_mode(mode))?;
        let out = alice.bulkhead("ps")?.code(code)?;
        if code == 1 {
            let sentence = format!("others may write {}", root.display());
            assert!(out.stderr.contains(&sentence), "{out}");
            assert!(out.stderr.contains("hint: take that away"), "{out}");
        }
    }
    // So it is with the folder above: who renames in it puts another in the place of the state root.
    let above = alice.vm.folder();
    for (mode, code) in [(0o777, 1), (0o757, 1), (0o1777, 0), (0o755, 0)] {
        fs::set_permissions(above, Permissions::from_mode(mode))?;
        let out = alice.bulkhead("ps")?.code(code)?;
        if code == 1 {
            let folder = above.display();
            let sentence =
                format!("others may write {folder}\nhint: take that away (chmod go-w {folder})");
            assert!(out.stderr.contains(&sentence), "{out}");
        }
    }
    chown(above, Some(BOB), None)?;
    let out = alice.bulkhead("ps")?.code(1)?;
    let sentence = format!("{} is another user's", above.display());
    assert!(out.stderr.contains(&sentence), "{out}");
    chown(above, Some(ALICE), None)?;
    // By a link of her own or root's, and by none of bob's.
    let link = alice.vm.work().join("link");
    std::os::unix::fs::symlink(&root, &link)?;
    for (owner, code) in [(0, 0), (ALICE, 0), (BOB, 1)] {
        lchown(&link, Some(owner), None)?;
        let script = format!("BULKHEAD_ROOT={} bulkhead ps", link.display());
        alice.shell(&script).output()?.code(code)?;
    }
    // Root's command is as careful: alice chooses what her names lead to.
    let out = alice.vm.bulkhead(["ps"]).output()?.code(1)?;
    assert!(out.stderr.contains("is another user's"), "{out}");
    Ok(())
}

fn vms_run_where_the_processes_of_others_are_hidden(world: &World) -> Result<()> {
    needs_root()?;
    let _device = GroupsDevice::set()?;
    let bob = Tenant::new(world, BOB, "bob", "077")?;
    let script = "[ -e /proc/self/stat ] && [ ! -e /proc/1 ] && \
        bulkhead run -d --name box -p 127.0.0.1::80 -v data:/data busybox sleep 1000 && \
        bulkhead exec box sh -c 'echo said > /data/file; cat /data/file' && bulkhead rm -f -v box";
    let hidden = "mount -t proc -o hidepid=invisible proc /proc";
    let out = bob.shell_after(hidden, script).output()?.only_stdout()?;
    assert!(out.ends_with("said\nbox\n"), "{out}");
    bob.vm.wait_for_no_process()
}
