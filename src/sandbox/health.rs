//! Health checks: when the next probe is due, and what its result says of the container. Docker's
//! rules, as values; [`super::supervisor`] runs the probes.
//!
//! ```text
//! starting ── a success ──► healthy ◄─── a success ─── unhealthy
//!     └── retries failures in a row (outside of the start period) ──────► ▲
//! ```
//! `cli/merge` says which there are, `inspect` and `ps` show what came of them.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Between two probes.
const INTERVAL: Duration = Duration::from_secs(30);

/// For one probe.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Between two probes in the start period.
const START_INTERVAL: Duration = Duration::from_secs(5);

/// Failures in a row that make a container unhealthy.
const RETRIES: u32 = 3;

/// Results that are kept.
const RESULTS_MAX: usize = 5;

/// Bytes of a probe's output that are kept.
pub const OUTPUT_BYTES_MAX: usize = 4096;

/// What is checked, and how often; zero where the default holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthConfig {
    /// `["CMD", …]` or `["CMD-SHELL", text]`.
    pub test: Vec<String>,
    /// Nanoseconds between two probes.
    pub interval_ns: u64,
    /// Nanoseconds that a probe may take.
    pub timeout_ns: u64,
    /// Nanoseconds from the start in which failures do not count.
    pub start_period_ns: u64,
    /// Nanoseconds between two probes in that time.
    pub start_interval_ns: u64,
    /// Failures in a row that make the container unhealthy.
    pub retries: u32,
    /// What the text of `CMD-SHELL` is given to.
    pub shell: Vec<String>,
}

impl HealthConfig {
    /// The program of a probe and its arguments; `None` when there is nothing to check.
    #[must_use]
    pub fn command(&self) -> Option<Vec<String>> {
        let (kind, rest) = self.test.split_first()?;
        match (kind.as_str(), rest) {
            ("CMD", [_, ..]) => Some(rest.to_vec()),
            ("CMD-SHELL", [text, ..]) => {
                let mut command = match self.shell.is_empty() {
                    true => vec!["/bin/sh".to_owned(), "-c".to_owned()],
                    false => self.shell.clone(),
                };
                command.push(text.clone());
                Some(command)
            }
            _ => None,
        }
    }

    /// How long a probe may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        or_default(self.timeout_ns, TIMEOUT)
    }

    fn retries(&self) -> u32 {
        match self.retries {
            0 => RETRIES,
            retries => retries,
        }
    }
}

fn or_default(nanos: u64, default: Duration) -> Duration {
    match nanos {
        0 => default,
        nanos => Duration::from_nanos(nanos),
    }
}

/// What is known of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing yet.
    Starting,
    /// The last probe went well.
    Healthy,
    /// Too many in a row did not.
    Unhealthy,
}

impl Verdict {
    /// Docker's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The outcome of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// RFC 3339.
    pub start: String,
    /// RFC 3339.
    pub end: String,
    /// The probe's exit code, -1 when it took too long.
    pub exit_code: i16,
    /// The beginning of what it wrote.
    pub output: String,
}

/// A container's health, as it is kept in its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What is known.
    pub verdict: Verdict,
    /// Failures in a row that count.
    pub failing_streak: u32,
    /// The last results, the oldest first.
    pub results: Vec<ProbeResult>,
}

impl Health {
    /// At the start.
    #[must_use]
    pub fn starting() -> Self {
        Self {
            verdict: Verdict::Starting,
            failing_streak: 0,
            results: Vec::new(),
        }
    }

    /// Takes a result in, `since_start` after the container's start.
    pub fn note(&mut self, config: &HealthConfig, result: ProbeResult, since_start: Duration) {
        let in_start_period = since_start < Duration::from_nanos(config.start_period_ns);
        if result.exit_code == 0 {
            self.verdict = Verdict::Healthy;
            self.failing_streak = 0;
        } else if !(in_start_period && self.verdict == Verdict::Starting) {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= config.retries() {
                self.verdict = Verdict::Unhealthy;
            }
        }
        self.results.push(result);
        let surplus = self.results.len().saturating_sub(RESULTS_MAX);
        self.results.drain(..surplus);
    }

    /// When the next probe is due, after something at `now` that was `since_start` after the
    /// container's start. Beyond the end of time it never is.
    #[must_use]
    pub fn next(
        &self,
        config: &HealthConfig,
        now: Instant,
        since_start: Duration,
    ) -> Option<Instant> {
        let in_start_period = since_start < Duration::from_nanos(config.start_period_ns);
        now.checked_add(if in_start_period && self.verdict == Verdict::Starting {
            or_default(config.start_interval_ns, START_INTERVAL)
        } else {
            or_default(config.interval_ns, INTERVAL)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i16) -> ProbeResult {
        ProbeResult {
            start: String::new(),
            end: String::new(),
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn failures_in_a_row_make_unhealthy_and_one_success_healthy() {
        let config = HealthConfig::default();
        let mut health = Health::starting();
        let mut note = |code| {
            health.note(&config, result(code), Duration::from_secs(1));
            (health.verdict, health.failing_streak)
        };
        assert_eq!(note(1), (Verdict::Starting, 1));
        assert_eq!(note(0), (Verdict::Healthy, 0));
        assert_eq!(note(1), (Verdict::Healthy, 1));
        assert_eq!(note(-1), (Verdict::Healthy, 2));
        assert_eq!(note(2), (Verdict::Unhealthy, 3));
        assert_eq!(note(0), (Verdict::Healthy, 0));
        assert_eq!(health.results.len(), RESULTS_MAX);
        assert_eq!(health.results[0].exit_code, 0);
    }

    #[test]
    fn failures_in_the_start_period_do_not_count_until_a_success() {
        let config = HealthConfig {
            start_period_ns: 10_000_000_000,
            retries: 1,
            ..HealthConfig::default()
        };
        let early = Duration::from_secs(9);
        let mut health = Health::starting();
        health.note(&config, result(1), early);
        assert_eq!(
            (health.verdict, health.failing_streak),
            (Verdict::Starting, 0)
        );
        let now = Instant::now();
        assert_eq!(health.next(&config, now, early), Some(now + START_INTERVAL));
        health.note(&config, result(0), early);
        assert_eq!(health.next(&config, now, early), Some(now + INTERVAL));
        health.note(&config, result(1), early);
        assert_eq!(health.verdict, Verdict::Unhealthy);
        let mut late = Health::starting();
        late.note(&config, result(1), Duration::from_secs(11));
        assert_eq!(late.verdict, Verdict::Unhealthy);
    }

    #[test]
    fn a_test_is_a_command_or_a_text_for_the_shell() {
        let command = |test: &[&str], shell: &[&str]| {
            let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
            let config = HealthConfig {
                test: list(test),
                shell: list(shell),
                ..HealthConfig::default()
            };
            config.command().map(|command| command.join(" "))
        };
        assert_eq!(command(&["CMD", "a", "b"], &[]).unwrap(), "a b");
        assert_eq!(
            command(&["CMD-SHELL", "x | y"], &[]).unwrap(),
            "/bin/sh -c x | y"
        );
        assert_eq!(
            command(&["CMD-SHELL", "x"], &["ash", "-c"]).unwrap(),
            "ash -c x"
        );
        for test in [
            &["NONE"][..],
            &[],
            &["CMD"],
            &["CMD-SHELL"],
            &["OTHER", "x"],
        ] {
            assert_eq!(command(test, &[]), None, "{test:?}");
        }
    }
}
