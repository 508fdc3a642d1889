//! `cargo xtask demo`: does all set-up, then runs an image whose process prints what it sees,
//! side by side with what its host sees. main.rs calls it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::artifacts::{self, ArtifactsArgs};
use crate::fixtures::{self, Recipe};
use crate::lab;
use crate::packages;
use crate::progress::Step;

/// The image, in the archive that the recipe makes.
const REFERENCE: &str = "busybox:latest";
const ARCHIVE: &str = "busybox/busybox.tar";
const RECIPES: &[Recipe] = &[Recipe::Busybox];

/// Run on both sides, by any POSIX shell: one `name: value` a line.
const FACTS: &str = r#"
echo "kernel: $(cat /proc/sys/kernel/osrelease)"
echo "built: $(cat /proc/sys/kernel/version)"
echo "boot id: $(cat /proc/sys/kernel/random/boot_id)"
echo "up for: $(cut -d ' ' -f 1 /proc/uptime) s"
echo "host name: $(cat /proc/sys/kernel/hostname)"
echo "processes: $(ls /proc | grep -c '^[0-9]')"
echo "this process: $$"
echo "CPUs: $(grep -c '^processor' /proc/cpuinfo)"
echo "memory: $(grep MemTotal /proc/meminfo | tr -s ' ' | cut -d ' ' -f 2,3)"
echo "first process: $(cat /proc/1/comm)"
"#;

/// Run where KVM works: `$1` is the image's archive, `$2` the image, `$3` the facts' script.
const SCRIPT: &str = r#"
set -e
sh -c "$3" | sed 's/^/host /'
bulkhead load -q -i "$1" >&2
facts="$(bulkhead run --rm "$2" sh -c "$3")"
echo "$facts" | sed 's/^/container /'
"#;

/// The verb.
///
/// # Errors
///
/// The set-up or the run fails.
pub(crate) fn main() -> Result<()> {
    let begun = Instant::now();
    let build = ArtifactsArgs::default();
    packages::ensure(
        &[
            artifacts::needs(&build)?,
            lab::needs(),
            fixtures::needs(RECIPES),
        ]
        .concat(),
    )?;
    artifacts::provide(&build)?;

    let archive = fixtures::provide(RECIPES)?.join(ARCHIVE);

    let step = Step::begin(format!("bulkhead run --rm {REFERENCE} sh -c ..."));
    let facts = run(&archive)?;
    step.done();

    if let Some(why) = lab::why_emulated() {
        println!("\nThis machine can't run VMs ({why}): the host below is an emulated one.");
    }
    println!("\n{}", table(&facts));
    println!("all of it took {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn run(archive: &Path) -> Result<Facts> {
    let output = lab::command()?
        .args(["--", "sh", "-c", SCRIPT, "sh"])
        .arg(archive)
        .args([REFERENCE, FACTS])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start the lab")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("the demo ended with {}:\n{said}", output.status);
    }
    let facts = Facts::parse(&said);
    if facts.container.is_empty() {
        bail!("the container said nothing");
    }
    Ok(facts)
}

/// What each side said, and the order in which the host said it.
#[derive(Debug, Default)]
struct Facts {
    names: Vec<String>,
    host: BTreeMap<String, String>,
    container: BTreeMap<String, String>,
}

impl Facts {
    /// Lines are `host NAME: VALUE` and `container NAME: VALUE`.
    fn parse(said: &str) -> Self {
        let mut facts = Self::default();
        for line in said.lines() {
            let Some((side, fact)) = line.split_once(' ') else {
                continue;
            };
            let Some((name, value)) = fact.split_once(": ") else {
                continue;
            };
            let values = match side {
                "host" => &mut facts.host,
                "container" => &mut facts.container,
                _ => continue,
            };
            values.insert(name.to_owned(), value.trim().to_owned());
            if !facts.names.iter().any(|known| known == name) {
                facts.names.push(name.to_owned());
            }
        }
        facts
    }
}

/// Three columns, each as wide as what is in it.
fn table(facts: &Facts) -> String {
    let mut rows = vec![[
        String::new(),
        "the host".to_owned(),
        "the container".to_owned(),
    ]];
    for name in &facts.names {
        let value =
            |values: &BTreeMap<String, String>| values.get(name).cloned().unwrap_or_default();
        rows.push([name.clone(), value(&facts.host), value(&facts.container)]);
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let (first, second) = (width(0), width(1));
    rows.iter()
        .map(|[name, host, container]| format!("{name:first$}  {host:second$}  {container}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    #[test]
    fn both_sides_stand_side_by_side_in_the_order_of_the_host() {
        let facts = Facts::parse(
            "host kernel: 6.1\nhost CPUs: 2\nnoise\ncontainer CPUs: 1\ncontainer kernel: 6.12.1\n",
        );
        let expected =
            "        the host  the container\nkernel  6.1       6.12.1\nCPUs    2         1\n";
        assert_eq!(table(&facts), expected);
    }

    #[test]
    fn the_facts_are_what_this_machine_says() {
        let output = Command::new("sh")
            .args(["-c", FACTS])
            .output()
            .expect("run");
        let said = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| format!("host {line}\n"))
            .collect::<String>();
        let facts = Facts::parse(&said);
        assert_eq!(facts.names.len(), 10, "{facts:?}");
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
        assert_eq!(facts.host["kernel"], release.trim());
        assert!(
            facts.host.values().all(|value| !value.is_empty()),
            "{facts:?}"
        );
    }
}
