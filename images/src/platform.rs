//! Platforms: `os/architecture[/variant]`, normalised as containerd does, and how an index entry fits one.
//!
//! Used to pick from an index and to check a config. It knows no document format.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::escape::quoted;

/// A platform that can't be, or can't run here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlatformError {
    /// Not `os[/architecture[/variant]]`.
    #[error("invalid platform {}: want os/architecture, for example linux/amd64", quoted(.0))]
    Format(String),
    /// Only Linux guests exist.
    #[error("platform {} is not supported: only linux images can run", quoted(.0))]
    NotLinux(String),
}

/// How well that fits which serves only where there is nothing else, see [`Platform::fit`].
pub const LAST_RESORT: u8 = u8::MAX;

/// An operating system, an architecture (Go's names) and a variant of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// Linux on this machine's architecture.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// The parts as a document gives them, normalised: `x86_64` is `amd64`, `arm64/v8` is `arm64`.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant
            .map(str::to_ascii_lowercase)
            .filter(|variant| !variant.is_empty());
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
            ("aarch64" | "arm64", other) => ("arm64", other),
            ("i386" | "x86", other) => ("386", other),
            ("armhf", _) => ("arm", Some("v7")),
            ("armel", _) => ("arm", Some("v6")),
            ("arm", None | Some("7")) => ("arm", Some("v7")),
            (other, variant) => (other, variant),
        };
        let (architecture, variant) = (architecture.to_owned(), variant.map(str::to_owned));
        Self {
            os: os.to_ascii_lowercase(),
            architecture,
            variant,
        }
    }

    /// Parses what a user gave to `--platform`. An operating system alone means this machine's
    /// architecture; an architecture alone means Linux.
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        let word = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(word) {
            return Err(PlatformError::Format(text.to_owned()));
        }
        let platform = match parts.as_slice() {
            [os @ ("linux" | "windows" | "darwin" | "freebsd")] => {
                Self::new(os, std::env::consts::ARCH, None)
            }
            [architecture] => Self::new("linux", architecture, None),
            [os, architecture] => Self::new(os, architecture, None),
            [os, architecture, variant] => Self::new(os, architecture, Some(variant)),
            _ => return Err(PlatformError::Format(text.to_owned())),
        };
        if platform.os != "linux" {
            return Err(PlatformError::NotLinux(text.to_owned()));
        }
        Ok(platform)
    }

    /// For example `linux`.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// For example `amd64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// For example `v7`.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// How well an image for `offered` serves someone who wants `self`: `None` not at all, else lower is
    /// better. 32-bit ARM runs older variants too; elsewhere a missing variant is the common base. amd64 runs
    /// 386, too, as a [`LAST_RESORT`].
    pub fn fit(&self, offered: &Self) -> Option<u8> {
        if self.os != offered.os {
            return None;
        }
        if self.architecture == "amd64" && offered.architecture == "386" {
            return Some(LAST_RESORT);
        }
        if self.architecture != offered.architecture {
            return None;
        }
        if self.variant == offered.variant {
            return Some(0);
        }
        let number = |variant: Option<&str>| variant?.strip_prefix('v')?.parse::<u8>().ok();
        match (
            self.architecture.as_str(),
            number(self.variant()),
            number(offered.variant()),
        ) {
            ("arm", Some(wanted), Some(offered)) => wanted.checked_sub(offered),
            (_, _, None) if offered.variant.is_none() => Some(1),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(out, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        Platform::parse(text).unwrap()
    }

    #[test]
    fn names_are_normalised() {
        assert_eq!(platform("linux/x86_64").to_string(), "linux/amd64");
        assert_eq!(platform("linux/aarch64").to_string(), "linux/arm64");
        assert_eq!(platform("linux/arm64/v8").to_string(), "linux/arm64");
        assert_eq!(platform("arm64").to_string(), "linux/arm64");
        assert_eq!(platform("linux/armhf").to_string(), "linux/arm/v7");
        assert_eq!(platform("linux"), Platform::host());
    }

    #[test]
    fn bad_platforms_are_refused() {
        for text in [
            "",
            "/",
            "linux/",
            "linux/amd64/v1/x",
            "linux/am d64",
            "linux/\x1b[2J",
            &"x".repeat(40),
        ] {
            assert!(
                matches!(Platform::parse(text), Err(PlatformError::Format(_))),
                "{text:?}"
            );
        }
        assert_eq!(
            Platform::parse("windows/amd64").unwrap_err().to_string(),
            "platform \"windows/amd64\" is not supported: only linux images can run"
        );
    }

    #[test]
    fn the_nearest_variant_fits_best() {
        let arm = platform("linux/arm/v7");
        assert_eq!(arm.fit(&platform("linux/arm/v7")), Some(0));
        assert_eq!(arm.fit(&platform("linux/arm/v6")), Some(1));
        assert_eq!(platform("linux/arm/v6").fit(&arm), None);
        assert_eq!(
            platform("linux/amd64/v3").fit(&platform("linux/amd64")),
            Some(1)
        );
        assert_eq!(
            platform("linux/amd64").fit(&platform("linux/amd64/v3")),
            None
        );
        assert_eq!(platform("linux/amd64").fit(&platform("linux/arm64")), None);
        let old = platform("linux/386");
        assert_eq!(platform("linux/amd64").fit(&old), Some(LAST_RESORT));
        assert_eq!(old.fit(&old), Some(0));
        assert_eq!(old.fit(&platform("linux/amd64")), None);
        assert_eq!(platform("linux/arm64").fit(&old), None);
    }
}
