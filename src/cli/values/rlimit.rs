//! `--ulimit`: `nofile=1024:2048`.

use anyhow::{Context, Result, bail};
use protocol::spec::Rlimit;

/// Names that Docker knows.
const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `name=soft[:hard]`; -1 is no limit.
///
/// # Errors
/// In Docker's words.
pub fn ulimit(text: &str) -> Result<Rlimit> {
    let (name, limits) = text
        .split_once('=')
        .with_context(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        bail!("invalid ulimit type: {name}");
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    if hard.contains(':') {
        bail!("too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`");
    }
    let (soft, hard) = (limit(soft)?, limit(hard)?);
    if soft > hard {
        let shown = if soft == u64::MAX {
            format!("soft: -1 (unlimited), hard: {hard}")
        } else {
            format!("{soft} > {hard}")
        };
        bail!("ulimit soft limit must be less than or equal to hard limit: {shown}");
    }
    Ok(Rlimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// The kernel's own "no limit" is the highest number, as -1 is in its type.
fn limit(text: &str) -> Result<u64> {
    let number = super::number::integer(text).with_context(|| format!("parsing \"{text}\""))?;
    Ok(number.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits_have_names_docker_knows() {
        let limit = ulimit("nofile=10:20").unwrap();
        assert_eq!(
            (limit.name.as_str(), limit.soft, limit.hard),
            ("nofile", 10, 20)
        );
        assert_eq!(ulimit("core=-1").unwrap().hard, u64::MAX);
        assert_eq!(ulimit("core=0:-1").unwrap().hard, u64::MAX);
        for (text, want) in [
            ("nofile", "invalid ulimit argument: nofile"),
            ("files=1", "invalid ulimit type: files"),
            ("as=1", "invalid ulimit type: as"),
            ("nofile=x", "parsing \"x\": not a whole number"),
            ("nofile=1:2:3", "too many limit value arguments - 1:2:3"),
            ("nofile=20:10", "less than or equal to hard limit: 20 > 10"),
            ("nofile=-1:10", "hard limit: soft: -1 (unlimited), hard: 10"),
        ] {
            let error = format!("{:#}", ulimit(text).unwrap_err());
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
