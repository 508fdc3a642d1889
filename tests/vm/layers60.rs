//! The image of 60 layers: what its process sees equals what `umoci unpack` gives, entry by
//! entry.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use fixtures::Recipe;
use fixtures::layers60::{IMAGE, SKIPPED, UNTIMED};
use harness::images;

use crate::world::World;

crate::tests![
    a_process_sees_what_umoci_unpacks,
    file_capabilities_and_setuid_work,
];

/// Listing 50,000 files and reading two gigabytes takes a while on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(900);

fn a_process_sees_what_umoci_unpacks(world: &World) -> Result<()> {
    let vm = world.layers60()?;
    let mut run = vm
        .bulkhead(["run", "--rm", IMAGE, "/probe", "tree", "/"])
        .timeout(PATIENCE);
    for path in SKIPPED {
        run = run.args(["--skip", path]);
    }
    let seen = run.output()?.only_stdout()?;
    let expected = fs::read_to_string(images::path(Recipe::Layers60, "expected.tree")?)
        .context("read the expected tree")?;
    let (seen, expected) = (entries(&seen), entries(&expected));
    assert!(
        expected.len() > 45_000,
        "{} entries are expected",
        expected.len()
    );
    let mut differences = Vec::new();
    for (path, line) in &expected {
        match seen.get(path) {
            None => differences.push(format!("missing: {path} {line}")),
            Some(found) if found != line => {
                differences.push(format!("{path}\n  expected {line}\n  found    {found}"));
            }
            Some(_) => {}
        }
    }
    for (path, line) in &seen {
        if !expected.contains_key(path) {
            differences.push(format!("too much: {path} {line}"));
        }
    }
    let shown = differences
        .iter()
        .take(50)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        differences.is_empty(),
        "{} differences:\n{shown}",
        differences.len()
    );
    Ok(())
}

/// Lines by path, without the times that the image does not say.
fn entries(listing: &str) -> BTreeMap<&str, String> {
    listing
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(path, rest)| {
            // The root's own is not the layers' to say.
            let is_untimed = path == "/" || UNTIMED.contains(&path);
            let fields = rest
                .split(' ')
                .filter(|field| !(is_untimed && field.starts_with("mtime=")));
            (path, fields.collect::<Vec<_>>().join(" "))
        })
        .collect()
}

fn file_capabilities_and_setuid_work(world: &World) -> Result<()> {
    let vm = world.layers60()?;
    let ping = ["/xattrs/ping", "-c", "1", "-W", "60", "127.0.0.1"];
    let out = vm
        .bulkhead([
            "run",
            "--rm",
            "-u",
            "1234",
            "--sysctl",
            "net.ipv4.ping_group_range=1 0",
            IMAGE,
        ])
        .args(ping)
        .output()?
        .code(0)?;
    assert!(out.stdout.contains("1 packets received"), "{out}");
    let out = vm.run(["-u", "5:6", IMAGE, "/kinds/setuid-probe", "ids"])?;
    assert_eq!(out.only_stdout()?, "real 5:6 effective 1000:50\n");
    Ok(())
}
