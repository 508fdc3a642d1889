//! What the host's administrator allows: a user whom `/etc/bulkhead/policy.toml` names.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{Output, Sandbox};

use crate::contrast::Plain;
use crate::tenant::{GroupsDevice, KVM_GROUP, give_to, needs_root};
use crate::world::World;

crate::tests![
    a_user_has_what_the_policy_allows,
    plain_containers_count_and_may_be_forbidden,
];

const PATH: &str = "/etc/bulkhead/policy.toml";

/// Of most of the test.
const RULES: &str = "vms = 1\nmemory = \"1g\"\nregistries = [\"registry.test\"]\n\
    ports = [\"8000-8999\"]\naddresses = [\"127.0.0.1\"]\nbind-mounts = false";

/// A user that no other test is, so that none is bound by these rules.
const ID: u32 = 54_323;

/// The file, until it is dropped.
struct File;

impl File {
    fn write(&self, rules: &str) -> Result<()> {
        let path = Path::new(PATH);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(path, format!("[user.{ID}]\n{rules}\n"))?;
        fs::set_permissions(path, Permissions::from_mode(0o644))?;
        Ok(())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(PATH);
    }
}

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

fn a_user_has_what_the_policy_allows(world: &World) -> Result<()> {
    needs_root()?;
    let vm = world.own()?;
    give_to(&vm, ID)?;
    let before = vm.snapshot()?;
    let device = GroupsDevice::set()?;
    ensure!(
        !Path::new(PATH).exists(),
        "this host has a policy of its own"
    );
    let file = File;
    file.write(RULES)?;
    let begin = "run -d --name one -m 200m -p 127.0.0.1:8000:80 -v data:/data busybox sleep 1000";
    bulkhead(&vm, begin)?.code(0)?;
    bulkhead(&vm, "create --name two busybox true")?.code(0)?;
    let refused = |words: &str, code, what: &str, rule: &str| refused(&vm, words, code, what, rule);
    let two = "to have 2 VMs at once";
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
    let device = GroupsDevice::set()?;
    let file = File;
    file.write("vms = 1")?;
    let isolation = "--isolation=container";
    let begin = format!("run -d -q {isolation} --name one busybox sleep 1000");
    bulkhead(vm, &begin)?.code(0)?;
    let two = "to have 2 VMs at once";
    refused(vm, "run --rm busybox true", 125, two, "vms")?;
    let words = format!("run --rm {isolation} busybox true");
    refused(vm, &words, 125, two, "vms")?;
    bulkhead(vm, "rm -f one")?.code(0)?;
    file.write("container-isolation = false")?;
    refused(vm, &words, 125, isolation, "container-isolation")?;
    let words = format!("create {isolation} busybox true");
    refused(vm, &words, 1, isolation, "container-isolation")?;
    drop(device);
    assert_eq!(plain.bundles()?, 0);
    Ok(())
}
