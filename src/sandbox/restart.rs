//! Restart policies: whether a container that ended is started again, and when. Docker's rules.
//!
//! Set by `--restart`, kept in `configs/<id>`, asked by [`super::supervisor`]. There is no
//! daemon that starts anything after a reboot of the host.

use std::fmt::{Display, Formatter};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Before the first restart.
const DELAY_MIN: Duration = Duration::from_millis(100);

/// Between two restarts at most.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// A container that ran so long starts over with the shortest delay.
const RAN_WELL: Duration = Duration::from_secs(10);

/// When a container is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it fails, at most so often; 0 for as often as it does.
    OnFailure(u32),
    /// Whatever its exit code.
    Always,
    /// So too; the two differ only where something starts containers after a reboot.
    UnlessStopped,
}

impl RestartPolicy {
    /// Reads `--restart`.
    ///
    /// # Errors
    /// Docker's sentences.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, count) = match text.split_once(':') {
            Some((name, count)) => (name, Some(count)),
            None => (text, None),
        };
        let count = match count {
            None => None,
            Some(count) => match count.parse::<i64>() {
                Ok(count) => Some(count),
                Err(_) => bail!("maximum retry count must be an integer"),
            },
        };
        let policy = match name {
            "" if count.is_some() => {
                bail!("invalid restart policy format: no policy provided before colon")
            }
            "" | "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => match u32::try_from(count.unwrap_or(0)) {
                Ok(count) => return Ok(Self::OnFailure(count)),
                Err(_) => bail!("invalid restart policy: maximum retry count cannot be negative"),
            },
            other => bail!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            ),
        };
        if count.is_some_and(|count| count != 0) {
            bail!("invalid restart policy: maximum retry count can only be used with 'on-failure'");
        }
        Ok(policy)
    }

    /// Docker's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure(_) => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }

    /// Most restarts, 0 for any number.
    #[must_use]
    pub fn max_retries(self) -> u32 {
        match self {
            Self::OnFailure(count) => count,
            _ => 0,
        }
    }

    /// Whether a container that nobody stopped is started again after `restarts` of them.
    #[must_use]
    pub fn wants(self, exit_code: u8, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure(max) => exit_code != 0 && (max == 0 || restarts < max),
        }
    }
}

impl Display for RestartPolicy {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// The growing time between restarts.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Backoff {
    /// Before the first restart.
    #[must_use]
    pub fn new() -> Self {
        Self(DELAY_MIN)
    }

    /// The time to wait now, after the container ran for so long.
    pub fn next(&mut self, ran_for: Duration) -> Duration {
        if ran_for >= RAN_WELL {
            self.0 = DELAY_MIN;
        }
        let now = self.0;
        self.0 = (self.0 * 2).min(DELAY_MAX);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_docker_reads_them() {
        for (text, want) in [
            ("no", RestartPolicy::No),
            ("", RestartPolicy::No),
            ("always", RestartPolicy::Always),
            ("unless-stopped", RestartPolicy::UnlessStopped),
            ("on-failure", RestartPolicy::OnFailure(0)),
            ("on-failure:3", RestartPolicy::OnFailure(3)),
        ] {
            assert_eq!(RestartPolicy::parse(text).unwrap(), want, "{text}");
        }
        for text in ["maybe", "always:3", "on-failure:x", "on-failure:-1", ":3"] {
            RestartPolicy::parse(text).unwrap_err();
        }
    }

    #[test]
    fn only_failures_count_and_only_so_often() {
        let policy = RestartPolicy::OnFailure(2);
        assert!(policy.wants(1, 0) && policy.wants(137, 1));
        assert!(!policy.wants(1, 2) && !policy.wants(0, 0));
        assert!(RestartPolicy::OnFailure(0).wants(1, 1_000_000));
        assert!(RestartPolicy::Always.wants(0, 1_000_000));
        assert!(!RestartPolicy::No.wants(1, 0));
    }

    #[test]
    fn delays_double_to_a_minute_and_start_over_after_a_good_run() {
        let mut backoff = Backoff::new();
        let delays: Vec<_> = (0..12)
            .map(|_| backoff.next(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[10..], [60_000, 60_000]);
        assert_eq!(backoff.next(RAN_WELL).as_millis(), 100);
        assert_eq!(backoff.next(Duration::ZERO).as_millis(), 200);
    }
}
