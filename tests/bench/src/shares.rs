//! A shared folder in the guest against the same folder on the host: throughput, and how fast names
//! are found. The same script runs on both sides and counts by the kernel's uptime.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::peers::BUSYBOX;
use crate::table::{Table, median, spread};

/// Files that are looked for, in folders of 1000.
const FILES: usize = 50_000;

/// Data of the throughput scripts in MiB.
const MIB: u32 = 128;

/// What is measured: name, unit, script in the folder, and how many units it is.
const SCRIPTS: [(&str, &str, &str); 5] = [
    (
        "write a share",
        "MiB/s",
        "dd if=/dev/zero of=data bs=1M count=128 2>/dev/null",
    ),
    ("read a share", "MiB/s", "cat data >/dev/null"),
    (
        "read a share once more",
        "MiB/s",
        "cat data >/dev/null; cat data >/dev/null",
    ),
    ("find names", "files/s", "find files -type f | wc -l"),
    (
        "find and stat",
        "files/s",
        "find files -type f -size -1 | wc -l",
    ),
];

/// Measures both and adds the rows.
pub fn measure(host: &Host, table: &mut Table) -> Result<()> {
    let folder = host.scratch().join("share");
    make(&folder)?;
    for (name, unit, script) in SCRIPTS {
        let units = match unit {
            "MiB/s" => f64::from(MIB),
            _ => f64::from(u32::try_from(FILES)?),
        };
        let (mut guest, mut direct) = (Vec::new(), Vec::new());
        for _ in 0..host.runs.min(3) {
            let script = format!(
                "cd \"$0\"; now() {{ read up idle </proc/uptime; echo $up; }}; \
                 begin=$(now); {{ {script}; }} >/dev/null; end=$(now); echo $begin $end"
            );
            let share = format!("{}:/share", folder.display());
            let words = [
                "run", "--rm", "-v", &share, "busybox", "sh", "-c", &script, "/share",
            ];
            guest.push(rate(&host.output(&words)?, units)?);
            let output = Command::new("sh")
                .args(["-c", &script])
                .arg(&folder)
                .output()
                .context("run the script on the host")?;
            direct.push(rate(&String::from_utf8_lossy(&output.stdout), units)?);
        }
        table.add(
            &format!("{name}, guest"),
            spread(&guest, unit),
            "",
            "cold guest cache, warm host cache",
        );
        table.add(&format!("{name}, host"), spread(&direct, unit), "", "");
        table.add(
            "guest to host",
            format!("{:.2}", median(&guest) / median(&direct)),
            "",
            "ratio of medians",
        );
    }
    fs::remove_dir_all(&folder).context("remove the share")
}

/// What is done with many files in one folder: name and script, which runs in the share and has their
/// number in `$1`.
const PHASES: [(&str, &str); 4] = [
    (
        "create files",
        "mkdir many; cd many; i=0; while [ $i -lt $1 ]; do : >$i; i=$((i+1)); done",
    ),
    ("list them", "find many -type f"),
    ("stat them", "find many -type f -size -1"),
    ("remove them", "rm -r many"),
];

/// Creates, lists, looks at and removes many files in a share, next to the same on the host, and
/// sees that they are what they should be on both sides.
pub fn measure_files(host: &Host, files: u32, table: &mut Table) -> Result<()> {
    let folder = host.scratch().join("share-files");
    fs::create_dir(&folder).context("make a folder")?;
    let share = format!("{}:/share", folder.display());
    let number = files.to_string();
    let wanted: BTreeSet<String> = (0..files).map(|number| number.to_string()).collect();
    let mut rates: [(Vec<f64>, Vec<f64>); 4] = Default::default();
    for _ in 0..host.runs.min(3) {
        for guest in [true, false] {
            for ((name, script), (own, direct)) in PHASES.iter().zip(&mut rates) {
                // The names come after the times, so that printing them is not measured.
                let script = format!(
                    "cd \"$0\"; list=$(mktemp); now() {{ read up idle </proc/uptime; echo $up; }}; \
                     begin=$(now); {{ {script}; }} >$list; end=$(now); echo $begin $end; cat $list"
                );
                let text = if guest {
                    let words = ["run", "--rm", "-v", &share, "busybox", "sh", "-c"];
                    host.output(&[&words[..], &[&script, "/share", &number]].concat())?
                } else {
                    let output = Command::new(BUSYBOX)
                        .args(["sh", "-c", &script])
                        .arg(&folder)
                        .arg(&number)
                        .output()
                        .context("run the script on the host")?;
                    String::from_utf8_lossy(&output.stdout).into_owned()
                };
                let (times, list) = text.split_once('\n').context("no times")?;
                let list: BTreeSet<&str> = list
                    .lines()
                    .filter_map(|line| line.strip_prefix("many/"))
                    .collect();
                let expected = if script.contains("find") { files } else { 0 };
                if list.len() != usize::try_from(expected)?
                    || !list.iter().all(|name| wanted.contains(*name))
                {
                    bail!("{name}, guest {guest}: {} of {expected} files", list.len());
                }
                let to = if guest { own } else { direct };
                to.push(rate(times, f64::from(files))?);
                check(&folder.join("many"), name, &wanted)?;
            }
        }
    }
    for ((name, _), (own, direct)) in PHASES.iter().zip(&rates) {
        let name = format!("{name}, {files} in a share");
        table.add(&format!("{name}, guest"), spread(own, "files/s"), "", "");
        table.add(&format!("{name}, host"), spread(direct, "files/s"), "", "");
        table.add(
            "guest to host",
            format!("{:.2}", median(own) / median(direct)),
            "",
            "ratio of medians; count and names were right",
        );
    }
    fs::remove_dir(&folder).context("remove the share")
}

/// After the last phase nothing is there, before it each file is.
fn check(many: &Path, phase: &str, wanted: &BTreeSet<String>) -> Result<()> {
    if phase.starts_with("remove") {
        if many.exists() {
            bail!("{} is not removed", many.display());
        }
        return Ok(());
    }
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(many).context("list the files")? {
        found.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    if found != *wanted {
        bail!("after {phase}: {} files, or other names", found.len());
    }
    Ok(())
}

fn make(folder: &Path) -> Result<()> {
    for number in 0..FILES {
        let parent = folder.join(format!("files/{}", number / 1000));
        if number % 1000 == 0 {
            fs::create_dir_all(&parent).context("make a folder")?;
        }
        fs::write(parent.join(number.to_string()), "").context("make a file")?;
    }
    Ok(())
}

/// Units in a second, from the two times that a script printed.
fn rate(text: &str, units: f64) -> Result<f64> {
    let times: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [begin, end] = times.as_slice() else {
        bail!("unexpected output {text:?}")
    };
    // The clock counts hundredths.
    Ok(units / (end - begin).max(0.01))
}
