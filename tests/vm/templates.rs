//! VMs that go on from a template: each has the time and randomness of its own, and a template that
//! can't be used is replaced.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use harness::Sandbox;

use crate::world::World;

crate::tests![
    no_two_vms_of_a_template_are_alike,
    a_damaged_template_is_replaced,
    without_templates_vms_boot,
];

/// A clock may be set by so much beside the host's: the message that brings the time takes some.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

/// Templates of the test's own.
fn folder(vm: &Sandbox) -> PathBuf {
    vm.work().join("templates")
}

fn run(vm: &Sandbox, templates: &str, script: &str) -> Result<harness::Output> {
    vm.bulkhead(["run", "--rm", "busybox", "sh", "-c", script])
        .env("BULKHEAD_TEMPLATES", templates)
        .output()
}

fn no_two_vms_of_a_template_are_alike(world: &World) -> Result<()> {
    let vm = world.own()?;
    let templates = folder(&vm);
    let script = "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | md5sum; date +%s";
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let begun = SystemTime::now();
        let text = run(&vm, &templates.to_string_lossy(), script)?.only_stdout()?;
        let lines: Vec<&str> = text.lines().collect();
        let [boot_id, random, seconds] = lines.as_slice() else {
            anyhow::bail!("three lines were to come: {text:?}");
        };
        assert!(seen.insert((*boot_id).to_owned()), "again {boot_id}");
        assert!(seen.insert((*random).to_owned()), "again {random}");
        let guest = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.parse()?);
        assert!(guest + CLOCK_SLACK > begun, "{guest:?}, {begun:?}");
        assert!(guest < SystemTime::now() + CLOCK_SLACK, "{guest:?}");
    }
    assert_eq!(made(&templates)?.len(), 1);
    Ok(())
}

/// The templates in a folder.
fn made(templates: &std::path::Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(templates).context("read the templates")? {
        let path = entry.context("read the templates")?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

fn a_damaged_template_is_replaced(world: &World) -> Result<()> {
    let vm = world.own()?;
    let templates = folder(&vm);
    let echo = || run(&vm, &templates.to_string_lossy(), "echo alive");
    assert_eq!(echo()?.only_stdout()?, "alive\n");
    for damage in ["not JSON", "{}"] {
        let template = made(&templates)?.pop().context("a template was made")?;
        fs::write(template.join("state"), damage).context("damage a template")?;
        echo()?.refusal("template")?;
        assert_eq!(echo()?.only_stdout()?, "alive\n");
    }
    Ok(())
}

fn without_templates_vms_boot(world: &World) -> Result<()> {
    let vm = world.own()?;
    let out = run(&vm, "off", "echo booted")?;
    assert_eq!(out.only_stdout()?, "booted\n");
    assert!(!vm.root().join("templates").exists());
    Ok(())
}
