//! What the host's administrator allows: a user whom `/etc/bulkhead/policy.toml` names.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{Output, Sandbox};
use rustix::process::Signal;

use crate::contrast::Plain;
use crate::tenant::{GroupsDevice, KVM_GROUP, give_to, needs_root};
use crate::world::World;

mod slices;

crate::tests![
    a_user_has_what_the_policy_allows,
    plain_containers_count_and_may_be_forbidden,
    builds_count_and_whoever_looks_into_a_container,
    rules_are_of_users_groups_and_all,
    no_verb_stores_more_than_is_allowed,
];

/// The tests of this file and of those below.
pub(crate) fn all() -> Vec<(&'static str, crate::Test)> {
    [tests(), slices::tests()].concat()
}

const PATH: &str = "/etc/bulkhead/policy.toml";

/// Of most of the test.
const RULES: &str = "vms = 1\nmemory = \"1g\"\nregistries = [\"registry.test\"]\n\
    ports = [\"8000-8999\"]\naddresses = [\"127.0.0.1\"]\nbind-mounts = false";

/// A user that no other test is, so that none is bound by these rules.
const ID: u32 = 54_323;

/// The file, until it is dropped.
struct File;

impl File {
    fn new() -> Result<Self> {
        ensure!(
            !Path::new(PATH).exists(),
            "this host has a policy of its own"
        );
        Ok(Self)
    }

    fn write(&self, rules: &str) -> Result<()> {
        self.write_all(&format!("[user.{ID}]\n{rules}"))
    }

    fn write_all(&self, text: &str) -> Result<()> {
        let path = Path::new(PATH);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(path, format!("{text}\n"))?;
        fs::set_permissions(path, Permissions::from_mode(0o644))?;
        Ok(())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(PATH);
    }
}

/// What a second VM is told.
const TWO: &str = "to have 2 VMs at once";

/// The command as that user.
fn bulkhead(vm: &Sandbox, words: &str) -> Result<Output> {
    let user = format!("setpriv --reuid={ID} --regid={ID} --groups={KVM_GROUP}");
    vm.shell(&format!("exec {user} bulkhead {words}"))
        .env("BULKHEAD_TEMPLATES", vm.work().join("templates"))
        .output()
}

/// Sees that a rule is named which says no.
fn refused(vm: &Sandbox, words: &str, code: i32, what: &str, rule: &str) -> Result<()> {
    let out = bulkhead(vm, words)?.code(code)?;
    let sentence = format!("{what} is not allowed: {rule} of [user.{ID}] in {PATH} is ");
    assert!(out.stderr.contains(&sentence), "{words}: {out}");
    assert!(
        out.stderr.contains("hint: ask who administers this host"),
        "{out}"
    );
    Ok(())
}

/// A build's folder with this Dockerfile.
fn context(vm: &Sandbox, dockerfile: &str) -> Result<String> {
    let folder = vm.work().join("context");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("Dockerfile"), dockerfile)?;
    Ok(folder.display().to_string())
}

/// By either way to start one, whatever comes first: the one that is refused is not counted.
fn one_of_two_starts_at_once_wins(vm: &Sandbox) -> Result<()> {
    for name in ["left", "right"] {
        bulkhead(vm, &format!("create --name {name} busybox sleep 1000"))?.code(0)?;
    }
    let start = |name: &str| {
        let user = format!("setpriv --reuid={ID} --regid={ID} --groups={KVM_GROUP}");
        vm.shell(&format!("exec {user} bulkhead start {name}"))
            .env("BULKHEAD_TEMPLATES", vm.work().join("templates"))
            .spawn()
    };
    for round in 0..2 {
        let both = [start("left")?, start("right")?];
        let mut codes = Vec::new();
        for one in both {
            let out = one.wait()?;
            let is_refused = out.stderr.contains(TWO);
            assert_eq!(is_refused, out.code != 0, "{out}");
            codes.push(out.code);
        }
        codes.sort_unstable();
        assert_eq!(codes, [0, 1], "round {round}");
        let out = bulkhead(vm, "ps -q")?.only_stdout()?;
        assert_eq!(out.lines().count(), 1, "{out}");
        bulkhead(vm, "stop -t 0 left right")?.code(0)?;
    }
    bulkhead(vm, "rm left right")?.code(0)?;
    Ok(())
}

fn a_user_has_what_the_policy_allows(world: &World) -> Result<()> {
    needs_root()?;
    let vm = world.own()?;
    give_to(&vm, ID)?;
    let before = vm.snapshot()?;
    let device = GroupsDevice::set()?;
    let file = File::new()?;
    file.write(RULES)?;
    let begin = "run -d --name one -m 200m -p 127.0.0.1:8000:80 -v data:/data busybox sleep 1000";
    bulkhead(&vm, begin)?.code(0)?;
    bulkhead(&vm, "create --name two busybox true")?.code(0)?;
    let refused = |words: &str, code, what: &str, rule: &str| refused(&vm, words, code, what, rule);
    let two = TWO;
    refused("run --rm busybox true", 125, two, "vms")?;
    refused("run --name kept busybox true", 125, two, "vms")?;
    refused("start two", 1, two, "vms")?;
    refused("start -a two", 1, two, "vms")?;
    refused("restart two", 1, two, "vms")?;
    bulkhead(&vm, "exec one true")?.code(0)?;
    // What its VM has is what counts, whatever the next one is to have.
    file.write("memory = \"400m\"")?;
    bulkhead(&vm, "update -m 64m --memory-swap 64m one")?.code(0)?;
    let much = "to have 478150656 bytes of memory at once";
    refused("run --rm -m 128m busybox true", 125, much, "memory")?;
    let much = "to have 1140850688 bytes of memory at once";
    refused("update -m 1g --memory-swap 1g one", 1, much, "memory")?;
    // A rule that came later holds for the next life.
    file.write("ports = [\"9000\"]")?;
    refused("restart one", 1, "port 8000", "ports")?;
    file.write(RULES)?;
    let out = bulkhead(&vm, "ps -a --format {{.Names}}")?;
    assert_eq!(out.only_stdout()?, "two\none\n");
    bulkhead(&vm, "rm -f one")?.code(0)?;
    bulkhead(&vm, "start -a two")?.code(0)?;
    one_of_two_starts_at_once_wins(&vm)?;
    // A VM has at least one.
    file.write("vcpus = 0")?;
    let one = "to have 1 vCPUs at once";
    refused("run --rm busybox true", 125, one, "vcpus")?;
    refused("start two", 1, one, "vcpus")?;
    file.write("vcpus = 1")?;
    bulkhead(&vm, "start -a two")?.code(0)?;
    file.write(RULES)?;
    let much = "to have 2147483648 bytes of memory at once";
    let words = "run --rm -m 1984m busybox true";
    refused(words, 125, much, "memory")?;
    for (flags, what, rule) in [
        ("-p 127.0.0.1:80:80", "port 80", "ports"),
        (
            "-p 127.0.0.1::80",
            "a port that the kernel chooses",
            "ports",
        ),
        ("-p 8000:80", "to publish a port at 0.0.0.0", "addresses"),
        ("-v /tmp:/x", "to mount /tmp", "bind-mounts"),
    ] {
        refused(&format!("run --rm {flags} busybox true"), 125, what, rule)?;
        refused(&format!("create {flags} busybox true"), 1, what, rule)?;
    }
    let registry = "the registry other.test";
    refused("pull other.test/x", 1, registry, "registries")?;
    refused("run --rm other.test/x", 125, registry, "registries")?;
    for dockerfile in [
        "FROM other.test/x",
        "FROM busybox\nCOPY --from=other.test/x /a /b",
    ] {
        let folder = context(&vm, dockerfile)?;
        refused(&format!("build {folder}"), 1, registry, "registries")?;
    }
    bulkhead(&vm, "tag busybox other.test/x")?.code(0)?;
    refused("push other.test/x", 1, registry, "registries")?;
    // It is allowed, but not there.
    let out = bulkhead(&vm, "pull registry.test/x")?.code(1)?;
    assert!(!out.stderr.contains("not allowed"), "{out}");
    file.write("disk = \"1k\"")?;
    let out = bulkhead(&vm, "run --rm busybox true")?.code(125)?;
    assert!(out.stderr.contains("is not allowed: disk of"), "{out}");
    drop(file);
    bulkhead(&vm, "run --rm -v /tmp:/x busybox true")?.code(0)?;
    bulkhead(&vm, "rm two")?.code(0)?;
    bulkhead(&vm, "rmi other.test/x")?.code(0)?;
    bulkhead(&vm, "volume rm data")?.code(0)?;
    drop(device);
    before.no_leftovers(&vm)
}

fn plain_containers_count_and_may_be_forbidden(world: &World) -> Result<()> {
    needs_root()?;
    let plain = Plain::new(world)?;
    let vm = &plain.vm;
    give_to(vm, ID)?;
    plain.give(ID)?;
    let _device = GroupsDevice::set()?;
    let file = File::new()?;
    file.write("vms = 1")?;
    let isolation = "--isolation=container";
    let begin = format!("run -d -q {isolation} --name one busybox sleep 1000");
    bulkhead(vm, &begin)?.code(0)?;
    let two = TWO;
    refused(vm, "run --rm busybox true", 125, two, "vms")?;
    let words = format!("run --rm {isolation} busybox true");
    refused(vm, &words, 125, two, "vms")?;
    bulkhead(vm, "rm -f one")?.code(0)?;
    file.write("container-isolation = false")?;
    refused(vm, &words, 125, isolation, "container-isolation")?;
    let words = format!("create {isolation} busybox true");
    refused(vm, &words, 1, isolation, "container-isolation")?;
    assert_eq!(plain.bundles()?, 0);
    Ok(())
}

fn builds_count_and_whoever_looks_into_a_container(world: &World) -> Result<()> {
    needs_root()?;
    let vm = world.own()?;
    give_to(&vm, ID)?;
    let _device = GroupsDevice::set()?;
    let file = File::new()?;
    file.write("vms = 1")?;
    bulkhead(&vm, "create --name stopped busybox true")?.code(0)?;
    // Two VMs of one build: it may have both, or it could not go on.
    let folder = context(
        &vm,
        "FROM busybox AS made\nRUN echo made > /file\nFROM busybox\nRUN true\nCOPY --from=made /file /\n",
    )?;
    bulkhead(&vm, &format!("build -q --network none {folder}"))?.code(0)?;
    let folder = context(&vm, "FROM busybox\nRUN echo begun && sleep 1000\n")?;
    let words = format!("build --progress plain --network none {folder}");
    let begin = "run -d --name one --network none busybox sleep 1000";
    bulkhead(&vm, begin)?.code(0)?;
    for (words, code) in [
        (words.as_str(), 1),
        ("cp stopped:/etc/group -", 1),
        ("diff stopped", 1),
        ("export -o archive stopped", 1),
        ("commit stopped", 1),
    ] {
        refused(&vm, words, code, TWO, "vms")?;
    }
    // Of one that runs there is no further VM.
    bulkhead(&vm, "diff one")?.code(0)?;
    bulkhead(&vm, "rm -f one")?.code(0)?;
    bulkhead(&vm, "diff stopped")?.code(0)?;
    let user = format!("setpriv --reuid={ID} --regid={ID} --groups={KVM_GROUP}");
    let mut build = vm
        .shell(&format!("exec {user} bulkhead {words} 2>&1"))
        .env("BULKHEAD_TEMPLATES", vm.work().join("templates"))
        .spawn()?;
    build.wait_for_stdout(" begun\n")?;
    refused(&vm, "run --rm busybox true", 125, TWO, "vms")?;
    refused(&vm, "diff stopped", 1, TWO, "vms")?;
    refused(&vm, &format!("{words} --no-cache"), 1, TWO, "vms")?;
    // What a killed one has left is not counted.
    build.signal(Signal::KILL)?;
    build.wait()?;
    vm.wait_for_no_process()?;
    bulkhead(&vm, "run --rm --network none busybox true")?.code(0)?;
    let left = fs::read_dir(vm.root().join("build-vms"))?.count();
    assert_eq!(left, 0);
    Ok(())
}

/// A user and groups that the database has, with numbers that nobody else has.
const PAT: u32 = 54_324;
const PATS: u32 = 54_325;
const CREW: u32 = 54_326;

/// A script of root's on a host that has the user `pat`, whose first group is `pats`, and who is of `crew`.
fn with_pat(vm: &Sandbox, script: &str) -> Result<harness::Invocation> {
    for (name, line) in [
        ("passwd", format!("pat:x:{PAT}:{PATS}::/:/bin/sh\n")),
        ("group", format!("pats:x:{PATS}:\ncrew:x:{CREW}:pat\n")),
    ] {
        let text = fs::read_to_string(format!("/etc/{name}"))?;
        fs::write(
            vm.folder().join(name),
            format!("{}\n{line}", text.trim_end()),
        )?;
    }
    let folder = vm.folder().display();
    let mounts =
        ["passwd", "group"].map(|name| format!("mount --bind {folder}/{name} /etc/{name}"));
    let line = format!("{} && {script}", mounts.join(" && "));
    Ok(vm
        .shell("exec unshare --mount sh -c \"$LINE\"")
        .env("LINE", line))
}

fn rules_are_of_users_groups_and_all(world: &World) -> Result<()> {
    needs_root()?;
    let vm = world.own()?;
    give_to(&vm, PAT)?;
    let _device = GroupsDevice::set()?;
    let file = File::new()?;
    file.write_all(&format!(
        "[default]\nvcpus = 0\nregistries = [\"all.test\"]\n\
         [group.crew]\nbind-mounts = false\nports = [\"80\"]\n\
         [group.{PATS}]\nports = [\"81\"]\naddresses = [\"127.0.0.1\"]\n\
         [group.nobodys]\nbind-mounts = true\n\
         [user.pat]\nregistries = [\"pat.test\"]"
    ))?;
    let ask = |uid: u32, groups: &str, words: &str| -> Result<Output> {
        let user = format!("setpriv --reuid={uid} --regid={PATS} {groups}");
        with_pat(&vm, &format!("exec {user} bulkhead {words}"))?
            .env("BULKHEAD_TEMPLATES", vm.work().join("templates"))
            .output()
    };
    let member = format!("--groups={KVM_GROUP},{CREW}");
    let joined = format!("ports of [group.{PATS}] and [group.crew] in {PATH} is 81, 80");
    for (words, code, sentence) in [
        (
            "run --rm busybox true",
            125,
            format!("to have 1 vCPUs at once is not allowed: vcpus of [default] in {PATH} is 0"),
        ),
        (
            "create -v /tmp:/x busybox true",
            1,
            format!("bind-mounts of [group.crew] in {PATH} is false"),
        ),
        ("create -p 127.0.0.1:82:80 busybox true", 1, joined),
        (
            "create -p 80:80 busybox true",
            1,
            format!("addresses of [group.{PATS}] in {PATH} is 127.0.0.1"),
        ),
        (
            "pull all.test/x",
            1,
            format!("registries of [user.pat] in {PATH} is pat.test"),
        ),
    ] {
        let out = ask(PAT, &member, words)?.code(code)?;
        assert!(out.stderr.contains(&sentence), "{words}: {out}");
    }
    ask(PAT, &member, "create -p 127.0.0.1:81:80 busybox true")?.code(0)?;
    // Outside of a group its rules are not there: the kernel says who is in, not the database.
    let outside = format!("--groups={KVM_GROUP}");
    ask(PAT, &outside, "create -v /tmp:/x busybox true")?.code(0)?;
    let out = ask(PAT, &outside, "create -p 127.0.0.1:80:80 busybox true")?.code(1)?;
    let sentence = format!("ports of [group.{PATS}] in {PATH} is 81\n");
    assert!(out.stderr.contains(&sentence), "{out}");
    // Root is bound by what names root.
    let out = vm.bulkhead(["pull", "other.test/x"]).output()?;
    assert!(!out.stderr.contains("not allowed"), "{out}");
    // Whoever looks sees what holds, of the database's groups.
    let out = with_pat(&vm, "exec bulkhead system policy")?
        .output()?
        .code(0)?;
    let about = "[group.nobodys] of /etc/bulkhead/policy.toml is about nobody on this host";
    assert!(out.stderr.contains(about), "{out}");
    let rows: Vec<Vec<&str>> = out
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for row in [
        vec!["all", "but", "root", "vcpus", "0", "[default]", "command"],
        vec!["pat", "registries", "pat.test", "[user.pat]", "command"],
        vec!["pat", "bind-mounts", "false", "[group.crew]", "command"],
    ] {
        assert!(rows.contains(&row), "{row:?}: {out}");
    }
    Ok(())
}

fn no_verb_stores_more_than_is_allowed(world: &World) -> Result<()> {
    needs_root()?;
    let vm = world.own()?;
    give_to(&vm, ID)?;
    let before = vm.snapshot()?;
    let device = GroupsDevice::set()?;
    let file = File::new()?;
    bulkhead(&vm, "create --name one busybox true")?.code(0)?;
    file.write("disk = \"1k\"")?;
    let folder = context(&vm, "FROM scratch\n")?;
    let build = format!("build {folder}");
    for (words, code) in [
        ("run --rm busybox true", 125),
        ("create busybox true", 1),
        ("start one", 1),
        ("restart one", 1),
        ("pull registry.test/x", 1),
        (build.as_str(), 1),
        ("load -i /dev/null", 1),
        ("import /dev/null", 1),
        ("commit one", 1),
    ] {
        let out = bulkhead(&vm, words)?.code(code)?;
        let root = vm.root();
        let sentence = format!(
            "bytes in {} is not allowed: disk of [user.{ID}] in {PATH} is 1024 bytes",
            root.display()
        );
        assert!(out.stderr.contains(&sentence), "{words}: {out}");
    }
    // What gives room is no matter of the policy.
    bulkhead(&vm, "rm one")?.code(0)?;
    drop(file);
    drop(device);
    before.no_leftovers(&vm)
}
