//! A shared folder in the guest against the same folder on the host: throughput, and how fast names
//! are found. The same script runs on both sides and counts by the kernel's uptime.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::Host;
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
            guest.push(rate(unit, &host.output(&words)?)?);
            let output = Command::new("sh")
                .args(["-c", &script])
                .arg(&folder)
                .output()
                .context("run the script on the host")?;
            direct.push(rate(unit, &String::from_utf8_lossy(&output.stdout))?);
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

fn rate(unit: &str, text: &str) -> Result<f64> {
    let times: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [begin, end] = times.as_slice() else {
        bail!("unexpected output {text:?}")
    };
    let units = match unit {
        "MiB/s" => f64::from(MIB),
        _ => f64::from(u32::try_from(FILES)?),
    };
    // The clock counts hundredths.
    Ok(units / (end - begin).max(0.01))
}
