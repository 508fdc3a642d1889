//! A container's log: what its process wrote, as Docker's `json-file` keeps it.
//!
//! ```text
//! containers/<id>/<id>-json.log      {"log":"a line\n","stream":"stdout","time":"2006-01-02T15:04:05.9Z"}
//! containers/<id>/<id>-json.log.1    what was there before the last rotation, and so on
//! ```
//! Written by the supervisor's pumps, read by `logs`. A line is cut at [`LINE_BYTES_MAX`]; only the
//! last piece of it has the newline.

mod reader;
mod writer;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

pub use reader::{Entry, Follow, Reader};
pub use writer::{LineBuffer, LogWriter};

/// Longest piece of a line, as in Docker.
pub const LINE_BYTES_MAX: usize = 16 << 10;

/// Size of a file of the log when `max-size` does not say. Docker has no limit there; here, what an
/// untrusted process can make the host keep has one.
pub const DEFAULT_FILE_BYTES: u64 = 64 << 20;

/// Files of the log when `max-file` does not say, and `max-size` does not either.
pub const DEFAULT_FILES: u32 = 2;

/// Most files of a log.
const FILES_MAX: u32 = 1000;

/// Smallest file of a log in bytes: a piece of a line has to fit.
const FILE_BYTES_MIN: u64 = 1 << 10;

/// `--log-driver` and `--log-opt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// `json-file`, `local` or `none`.
    pub driver: Driver,
    /// The options as the user gave them, for `inspect`.
    pub options: std::collections::BTreeMap<String, String>,
    /// Bytes after which a new file is begun.
    pub file_bytes: u64,
    /// Files that are kept.
    pub files: u32,
}

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// Files in the container's folder.
    JsonFile,
    /// The same files, with Docker's limits for this driver.
    Local,
    /// Nowhere.
    None,
}

impl Driver {
    /// Docker's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::JsonFile => "json-file",
            Self::Local => "local",
            Self::None => "none",
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            driver: Driver::JsonFile,
            options: std::collections::BTreeMap::new(),
            file_bytes: DEFAULT_FILE_BYTES,
            files: DEFAULT_FILES,
        }
    }
}

impl LogConfig {
    /// No log.
    #[must_use]
    pub fn none() -> Self {
        Self {
            driver: Driver::None,
            ..Self::default()
        }
    }

    /// Reads `--log-driver` and the pairs of `--log-opt`.
    ///
    /// # Errors
    /// A driver that sends logs elsewhere, an unknown option, or a size that is none.
    pub fn parse(
        driver: Option<&str>,
        options: Vec<(String, String)>,
        size: &dyn Fn(&str) -> Result<u64>,
    ) -> Result<Self> {
        let driver = match driver.unwrap_or("json-file") {
            "json-file" | "" => Driver::JsonFile,
            "local" => Driver::Local,
            "none" => Driver::None,
            other => bail!(
                "log driver {other} is not supported: logs stay on this host; use json-file, local or none"
            ),
        };
        let (file_bytes, files) = match driver {
            // Docker's own limits of this driver.
            Driver::Local => (20_000_000, 5),
            _ => (DEFAULT_FILE_BYTES, DEFAULT_FILES),
        };
        let mut config = Self {
            driver,
            options: options.into_iter().collect(),
            file_bytes,
            files,
        };
        if driver == Driver::None {
            if let Some(name) = config.options.keys().next() {
                bail!("unknown log opt '{name}' for none log driver");
            }
            return Ok(config);
        }
        for (name, value) in &config.options {
            match name.as_str() {
                "max-size" => {
                    let bytes = size(value)?;
                    if bytes < FILE_BYTES_MIN {
                        bail!(
                            "invalid value for max-size: {value}: at least {FILE_BYTES_MIN} bytes"
                        );
                    }
                    config.file_bytes = bytes;
                }
                "max-file" => match value.parse() {
                    Ok(files @ 1..=FILES_MAX) => config.files = files,
                    _ => bail!("invalid value for max-file: {value}: from 1 to {FILES_MAX}"),
                },
                "mode" if value == "blocking" => {}
                "mode" => bail!(
                    "log opt mode={value} is not supported: logs are written as they come; use mode=blocking"
                ),
                "compress" if value == "false" => {}
                "compress" => bail!(
                    "log opt compress={value} is not supported: logs are kept as they are; use compress=false"
                ),
                "labels" | "labels-regex" | "env" | "env-regex" | "tag" | "max-buffer-size" => {
                    bail!("log opt {name} is not supported; remove it")
                }
                _ => bail!("unknown log opt '{name}' for {} log driver", driver.word()),
            }
        }
        // As in Docker: one file, when only its size is given.
        if driver == Driver::JsonFile
            && config.options.contains_key("max-size")
            && !config.options.contains_key("max-file")
        {
            config.files = 1;
        }
        Ok(config)
    }
}

/// The newest file of the log of the container `id` in `folder`.
#[must_use]
pub fn path(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}-json.log"))
}

/// The file that was the newest so many rotations ago.
fn rotated(path: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(driver: Option<&str>, options: &[(&str, &str)]) -> Result<LogConfig> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        LogConfig::parse(driver, options, &|text| Ok(text.parse()?))
    }

    #[test]
    fn options_of_dockers_json_file_count_or_are_refused() {
        let config = parse(None, &[]).unwrap();
        assert_eq!((config.file_bytes, config.files), (64 << 20, 2));
        let config = parse(None, &[("max-size", "5000")]).unwrap();
        assert_eq!((config.file_bytes, config.files), (5000, 1));
        let config = parse(
            Some("json-file"),
            &[("max-size", "5000"), ("max-file", "3")],
        )
        .unwrap();
        assert_eq!((config.file_bytes, config.files), (5000, 3));
        for (options, part) in [
            ([("max-size", "5")], "at least"),
            ([("max-file", "0")], "max-file"),
            ([("mode", "non-blocking")], "mode"),
            ([("tag", "x")], "tag"),
            (
                [("maxsize", "1")],
                "unknown log opt 'maxsize' for json-file log driver",
            ),
        ] {
            let error = parse(None, &options).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn drivers_that_send_logs_away_are_refused() {
        assert_eq!(parse(Some("none"), &[]).unwrap().driver, Driver::None);
        assert_eq!(parse(Some("local"), &[]).unwrap().files, 5);
        let error = parse(Some("syslog"), &[]).unwrap_err().to_string();
        assert!(error.contains("syslog"), "{error}");
        parse(Some("none"), &[("max-size", "5000")]).unwrap_err();
    }
}
