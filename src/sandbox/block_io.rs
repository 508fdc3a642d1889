//! Limits of block I/O (`--device-read-bps`, `--blkio-weight` …): what is asked for, by names of the host's
//! devices, and what that comes to in files of a control group (cgroup v2, "IO").
//!
//! [`super::supervisor`] has the devices found before each start, since their numbers change with a
//! reboot; [`super::control_group`] and [`super::plain`] hold the limits. It knows no container.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a user can do about a limit that nobody would hold.
const HINT: &str = "hint: root's containers have such limits, and those of users to whom the host delegates \
    the controllers io and memory; else leave --blkio-weight, --device-read-bps and the like out";

/// Weights of Docker's flags, of which the lowest is 1 of the kernel's `io.weight` and the highest 10000.
pub const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

/// What a control group begins with, by either name.
const WEIGHT_FILES: [&str; 2] = ["io.bfq.weight", "io.weight"];
/// See [`WEIGHT_FILES`].
const DEFAULT_WEIGHT: &str = "100";

/// What the flags say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockIo {
    /// `--blkio-weight`.
    pub weight: Option<u16>,
    /// `--blkio-weight-device`.
    pub weights: Vec<OfDevice>,
    /// `--device-read-bps`: bytes a second.
    pub read_bps: Vec<OfDevice>,
    /// `--device-write-bps`: bytes a second.
    pub write_bps: Vec<OfDevice>,
    /// `--device-read-iops`: requests a second.
    pub read_iops: Vec<OfDevice>,
    /// `--device-write-iops`: requests a second.
    pub write_iops: Vec<OfDevice>,
}

/// A device of the host and what holds for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfDevice {
    /// Absolute, below /dev.
    pub path: String,
    /// A rate or a weight; 0 for none.
    pub value: u64,
}

/// A number of a device and what holds for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct OfNumber {
    major: u64,
    minor: u64,
    value: u64,
}

/// What a control group is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controls {
    weight: Option<u16>,
    weights: Vec<OfNumber>,
    rates: [Vec<OfNumber>; 4],
}

/// Keys of `io.max`, and what the specification of runtimes calls them.
const RATES: [(&str, &str); 4] = [
    ("rbps", "throttleReadBpsDevice"),
    ("wbps", "throttleWriteBpsDevice"),
    ("riops", "throttleReadIOPSDevice"),
    ("wiops", "throttleWriteIOPSDevice"),
];

impl BlockIo {
    /// Finds the devices.
    ///
    /// # Errors
    /// In Docker's words when one is not there; one that is no disk.
    pub fn controls(&self) -> Result<Controls> {
        let [read_bps, write_bps] = [&self.read_bps, &self.write_bps].map(|list| find_all(list));
        let [read_iops, write_iops] =
            [&self.read_iops, &self.write_iops].map(|list| find_all(list));
        Ok(Controls {
            weight: self.weight,
            weights: find_all(&self.weights)?,
            rates: [read_bps?, write_bps?, read_iops?, write_iops?],
        })
    }
}

fn find_all(list: &[OfDevice]) -> Result<Vec<OfNumber>> {
    list.iter().filter(|it| it.value > 0).map(find).collect()
}

fn find(device: &OfDevice) -> Result<OfNumber> {
    let path = &device.path;
    let status = fs::metadata(path).map_err(|error| {
        let cause = error
            .raw_os_error()
            .map(|number| Errno::from_raw(number).desc());
        anyhow::anyhow!("stat {path}: {}", cause.unwrap_or("failed").to_lowercase())
    })?;
    if !status.file_type().is_block_device() {
        bail!("limit block I/O: {path} is no block device of this host");
    }
    let (major, minor) = (major(status.rdev()), minor(status.rdev()));
    // The kernel counts by the disk.
    if Path::new(&format!("/sys/dev/block/{major}:{minor}/partition")).exists() {
        bail!("limit block I/O: {path} is a partition, and a limit is a disk's: name the disk");
    }
    Ok(OfNumber {
        major,
        minor,
        value: device.value,
    })
}

impl Controls {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether writes are limited, which reach a disk later and on the account of their file.
    #[must_use]
    pub fn limits_writes(&self) -> bool {
        let [_, write_bps, _, write_iops] = &self.rates;
        self.weight.is_some()
            || [&self.weights, write_bps, write_iops]
                .iter()
                .any(|list| !list.is_empty())
    }

    /// Has the control group of this folder hold the weights, and sees that it could hold the rates;
    /// `None` where there can be no group.
    ///
    /// # Errors
    /// One that nobody would hold.
    pub fn prepare(&self, group: Option<&Path>) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let Some(group) = group else {
            bail!("limit block I/O: this user may make no control group on this host\n{HINT}");
        };
        let has = |name: &str| group.join(name).exists();
        // A write goes to the disk later, and on whose account is known by the memory that it was in.
        if !has("io.max") || !has("memory.max") {
            bail!(
                "limit block I/O: control groups of this user lack the controllers io or memory\n{HINT}"
            );
        }
        for (name, line) in self.weight_lines(has)? {
            write(group, name, &line)?;
        }
        Ok(())
    }

    /// Has the control group of this folder hold the rates.
    ///
    /// # Errors
    /// One that the kernel refuses.
    pub fn hold(&self, group: &Path) -> Result<()> {
        for line in self.rate_lines() {
            write(group, "io.max", &line)?;
        }
        Ok(())
    }

    /// Files and a line for each, with which the others stay.
    fn weight_lines(&self, has: impl Fn(&str) -> bool) -> Result<Vec<(&'static str, String)>> {
        let mut lines = Vec::new();
        if self.weight.is_some() || !self.weights.is_empty() {
            let (name, scale): (_, fn(u64) -> u64) = if has("io.bfq.weight") {
                ("io.bfq.weight", |weight| weight)
            } else if has("io.weight") {
                ("io.weight", scaled)
            } else {
                bail!(
                    "limit block I/O: the host's kernel has no weights: neither io.bfq.weight nor io.weight\n{HINT}"
                );
            };
            let weight = self.weight.map(u64::from);
            lines.extend(weight.map(|it| (name, scale(it).to_string())));
            let weights = self.weights.iter();
            lines.extend(weights.map(|it| (name, format!("{} {}", it.number(), scale(it.value)))));
        }
        Ok(lines)
    }

    /// Lines for `io.max`.
    fn rate_lines(&self) -> impl Iterator<Item = String> {
        self.rates_as(|it| it.value.to_string())
    }

    /// Lines for `io.max` by which there is no rate any more.
    pub fn lifted(&self) -> impl Iterator<Item = String> {
        self.rates_as(|_| "max".to_owned())
    }

    fn rates_as(&self, value: fn(&OfNumber) -> String) -> impl Iterator<Item = String> {
        let rates = RATES.iter().zip(&self.rates);
        rates.flat_map(move |((key, _), list)| {
            let list = list.iter();
            list.map(move |it| format!("{} {key}={}", it.number(), value(it)))
        })
    }

    /// In the words of the runtimes' specification (`linux.resources.blockIO`).
    #[must_use]
    pub fn specification(&self) -> Value {
        let list = |list: &[OfNumber], word: &str| -> Value {
            let list = list.iter();
            list.map(|it| json!({"major": it.major, "minor": it.minor, word: it.value}))
                .collect()
        };
        let mut value = json!({"weightDevice": list(&self.weights, "weight")});
        if let Some(map) = value.as_object_mut() {
            map.extend(
                self.weight
                    .map(|weight| ("weight".to_owned(), weight.into())),
            );
            let rates = RATES.iter().zip(&self.rates);
            map.extend(rates.map(|((_, name), rates)| ((*name).to_owned(), list(rates, "rate"))));
        }
        value
    }
}

impl OfNumber {
    fn number(&self) -> String {
        format!("{}:{}", self.major, self.minor)
    }
}

fn write(group: &Path, name: &str, line: &str) -> Result<()> {
    fs::write(group.join(name), line)
        .with_context(|| format!("limit block I/O: write \"{line}\" to {name}"))
}

/// Gives the control group of this folder another weight, or its first one again.
///
/// # Errors
/// One that nobody would hold.
pub fn set_weight(weight: Option<u16>, group: Option<&Path>) -> Result<()> {
    if weight.is_none() {
        for name in WEIGHT_FILES {
            // Where there is no such file, there was no weight.
            let _ = group.map(|group| fs::write(group.join(name), DEFAULT_WEIGHT));
        }
        return Ok(());
    }
    let controls = Controls {
        weight,
        ..Controls::default()
    };
    controls.prepare(group)
}

/// A weight as `io.weight` has it, by the OCI runtimes' formula.
fn scaled(weight: u64) -> u64 {
    let [lowest, highest] = [WEIGHTS.start(), WEIGHTS.end()].map(|end| u64::from(*end));
    1 + weight.saturating_sub(lowest).saturating_mul(9999) / (highest - lowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: u64) -> Vec<OfNumber> {
        vec![OfNumber {
            major: 8,
            minor: 16,
            value,
        }]
    }

    fn some() -> Controls {
        Controls {
            weight: Some(500),
            weights: of(10),
            rates: [of(1 << 20), Vec::new(), Vec::new(), of(7)],
        }
    }

    #[test]
    fn each_limit_is_a_line_of_its_own() {
        let lines = |names: &'static [&str]| {
            let lines = some().weight_lines(|name| names.contains(&name));
            lines.map(|lines| {
                lines
                    .iter()
                    .map(|(n, l)| format!("{n}: {l}"))
                    .collect::<Vec<_>>()
            })
        };
        let weights = ["io.weight: 4950", "io.weight: 8:16 1"];
        assert_eq!(lines(&["io.weight"]).unwrap(), weights);
        let weights = ["io.bfq.weight: 500", "io.bfq.weight: 8:16 10"];
        assert_eq!(lines(&WEIGHT_FILES).unwrap(), weights);
        let rates: Vec<_> = some().rate_lines().collect();
        assert_eq!(rates, ["8:16 rbps=1048576", "8:16 wiops=7"]);
        let lifted: Vec<_> = some().lifted().collect();
        assert_eq!(lifted, ["8:16 rbps=max", "8:16 wiops=max"]);
        let error = lines(&[]).unwrap_err().to_string();
        assert!(error.starts_with("limit block I/O: the host's kernel has no weights"));
        assert_eq!((scaled(10), scaled(1000)), (1, 10_000));
    }

    #[test]
    fn what_nobody_holds_is_refused_and_nothing_needs_no_group() {
        Controls::default().prepare(None).unwrap();
        let error = some().prepare(None).unwrap_err().to_string();
        assert!(
            error.starts_with("limit block I/O: this user may make no control group"),
            "{error}"
        );
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("io.max"), "").unwrap();
        let error = some().prepare(Some(folder.path())).unwrap_err().to_string();
        assert!(
            error.contains("lack the controllers io or memory"),
            "{error}"
        );
        for name in ["memory.max", "io.weight"] {
            fs::write(file(name), "").unwrap();
        }
        some().prepare(Some(folder.path())).unwrap();
        assert_eq!(fs::read_to_string(file("io.max")).unwrap(), "");
        some().hold(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(file("io.max")).unwrap(), "8:16 wiops=7");
        set_weight(Some(10), Some(folder.path())).unwrap();
        assert_eq!(fs::read_to_string(file("io.weight")).unwrap(), "1");
        set_weight(None, Some(folder.path())).unwrap();
        assert_eq!(fs::read_to_string(file("io.weight")).unwrap(), "100");
        set_weight(None, None).unwrap();
    }

    #[test]
    fn reads_need_no_account_of_writes() {
        let limits = |weight, index: Option<usize>| {
            let mut controls = Controls {
                weight,
                ..Controls::default()
            };
            if let Some(rates) = index.and_then(|index| controls.rates.get_mut(index)) {
                *rates = of(7);
            }
            controls.limits_writes()
        };
        assert!(!limits(None, None) && !limits(None, Some(0)) && !limits(None, Some(2)));
        assert!(limits(None, Some(1)) && limits(None, Some(3)) && limits(Some(10), None));
    }

    #[test]
    fn devices_are_disks_of_the_host() {
        let controls = |path: &str, value| {
            let limits = BlockIo {
                write_bps: vec![OfDevice {
                    path: path.to_owned(),
                    value,
                }],
                ..BlockIo::default()
            };
            limits.controls().map_err(|error| error.to_string())
        };
        assert_eq!(
            controls("/dev/no-such-disk", 1).unwrap_err(),
            "stat /dev/no-such-disk: no such file or directory"
        );
        assert_eq!(
            controls("/dev/null", 1).unwrap_err(),
            "limit block I/O: /dev/null is no block device of this host"
        );
        // No limit.
        assert!(controls("/dev/no-such-disk", 0).unwrap().is_empty());
    }

    #[test]
    fn a_runtime_is_told_the_same() {
        let value = some().specification();
        serde_json::from_value::<oci_spec::runtime::LinuxBlockIo>(value.clone()).unwrap();
        assert_eq!(
            value,
            json!({
                "weight": 500,
                "weightDevice": [{"major": 8, "minor": 16, "weight": 10}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 1_048_576}],
                "throttleWriteBpsDevice": [],
                "throttleReadIOPSDevice": [],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 7}],
            })
        );
    }
}
