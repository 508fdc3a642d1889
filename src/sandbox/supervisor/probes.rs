//! Runs a container's health checks: a process in the container now and then, whose exit code and
//! output are kept. Called by [`super`]; what a result means is [`super::super::health`]'s.

use std::io::{PipeReader, Read};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use protocol::message::{ProcessId, Request};
use protocol::spec::ProcessSpec;

use super::super::clock::now;
use super::super::health::{Health, HealthConfig, OUTPUT_BYTES_MAX, ProbeResult};
use super::super::state::Status;
use super::super::streams::CommandStreams;
use super::super::wire::ToCommand;
use super::Supervisor;
use super::life::By;

/// Exit code of a probe that took too long, or could not be started.
const CODE_TOO_LONG: i16 = -1;

/// Output of a probe that is not started because of one that took too long.
const STILL_LATE: &str = "the last health check that exceeded its timeout has not ended";

/// Checks one life of a container.
pub(super) struct Monitor {
    config: HealthConfig,
    command: Vec<String>,
    began: Instant,
    next: Option<Instant>,
    probe: Option<Probe>,
    /// The last probe that was killed. While it has not come to its end there is no other: each takes
    /// descriptors and threads.
    late: Option<ProcessId>,
    /// Until then that end is waited for in silence: what was frozen could not come to it.
    patience: Option<Instant>,
}

/// A probe that runs.
struct Probe {
    process: ProcessId,
    start: String,
    deadline: Option<Instant>,
    output: JoinHandle<Vec<u8>>,
}

impl Monitor {
    fn new(config: HealthConfig, command: Vec<String>, health: &Health, began: Instant) -> Self {
        Self {
            next: health.next(&config, began, Duration::ZERO),
            config,
            command,
            began,
            probe: None,
            late: None,
            patience: None,
        }
    }

    /// When there is something to do in a container that is not frozen.
    fn due(&self) -> Option<Instant> {
        match &self.probe {
            Some(probe) => probe.deadline,
            None => self.next,
        }
    }

    /// The probe that has taken too long or does not count any more, which is to be killed.
    fn give_up(&mut self) -> Option<Probe> {
        let probe = self.probe.take()?;
        self.late = Some(probe.process);
        Some(probe)
    }

    /// The container goes on, and with it what is late.
    fn thaw(&mut self, health: &Health, now: Instant) {
        self.patience = now.checked_add(self.config.timeout());
        self.put_off(health, now);
    }

    /// Whether it counts for nothing yet that what is late has not come to its end.
    fn is_patient(&self, now: Instant) -> bool {
        self.patience.is_some_and(|until| now < until)
    }

    /// The next probe is due an interval from now.
    fn put_off(&mut self, health: &Health, now: Instant) {
        let since_start = now.saturating_duration_since(self.began);
        self.next = health.next(&self.config, now, since_start);
    }
}

impl Supervisor {
    /// The container runs: from now on it is checked, if it is to be.
    pub(super) fn begin_checks(&mut self) {
        let config = self.config.launch.health.clone();
        let Some((config, command)) = config.and_then(|config| {
            let command = config.command()?;
            Some((config, command))
        }) else {
            self.state.health = None;
            return;
        };
        let health = Health::starting();
        self.monitor = Some(Monitor::new(config, command, &health, Instant::now()));
        self.state.health = Some(health);
    }

    /// The container is frozen, or goes on. As in Docker, a probe that it interrupts is forgotten,
    /// since its time says nothing of the container's health; the next one is due an interval later.
    pub(super) fn interrupt_checks(&mut self, frozen: bool) {
        let (Some(monitor), Some(health)) = (&mut self.monitor, &self.state.health) else {
            return;
        };
        if !frozen {
            monitor.thaw(health, Instant::now());
        } else if let Some(probe) = monitor.give_up() {
            self.kill_probe(&probe);
        }
    }

    /// When [`Self::check`] has something to do.
    pub(super) fn next_check(&self) -> Option<Instant> {
        let monitor = self.monitor.as_ref()?;
        if self.state.status != Status::Running {
            return None;
        }
        monitor.due()
    }

    /// Starts the probe that is due, or ends one that takes too long.
    pub(super) fn check(&mut self) {
        if self.next_check().is_none_or(|at| Instant::now() < at) {
            return;
        }
        let (Some(monitor), Some(health)) = (&mut self.monitor, &self.state.health) else {
            return;
        };
        if let Some(probe) = monitor.give_up() {
            let timeout = monitor.config.timeout();
            self.kill_probe(&probe);
            // What it left behind, or a guest that says nothing, is not waited for.
            let output = format!("Health check exceeded timeout ({timeout:?})");
            self.note_result(probe.start, CODE_TOO_LONG, output);
            return;
        }
        let start = now();
        let running = self.running.as_ref();
        let is_late = |process| running.is_some_and(|running| running.has_exec(process));
        if monitor.late.is_some_and(is_late) {
            let at = Instant::now();
            if monitor.is_patient(at) {
                monitor.put_off(health, at);
                return;
            }
            self.note_result(start, CODE_TOO_LONG, STILL_LATE.to_owned());
            return;
        }
        if let Err(error) = self.start_probe() {
            // No descriptors left, say: that is no good health, and no reason to end the container.
            self.note_result(start, CODE_TOO_LONG, format!("{error:#}"));
        }
    }

    fn kill_probe(&mut self, probe: &Probe) {
        let (process, signal) = (probe.process, libc::SIGKILL);
        self.send(Request::Signal { process, signal });
    }

    fn start_probe(&mut self) -> Result<()> {
        let Some(monitor) = &self.monitor else {
            return Ok(());
        };
        let spec = ProcessSpec {
            args: monitor.command.clone(),
            terminal: None,
            probe: None,
            ..self.config.launch.run.process.clone()
        };
        let deadline = Instant::now().checked_add(monitor.config.timeout());
        let (reader, writer) = std::io::pipe().context("create a pipe")?;
        let streams = CommandStreams {
            stdin: None,
            stdout: Some(writer.try_clone().context("share a pipe")?.into()),
            stderr: Some(writer.into()),
        };
        let output = std::thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || beginning(reader))
            .context("start the thread probe")?;
        let start = now();
        let process = self.start_process(spec, streams, By::Probe)?;
        if let Some(monitor) = &mut self.monitor {
            monitor.probe = Some(Probe {
                process,
                start,
                deadline,
                output,
            });
        }
        Ok(())
    }

    /// The probe has ended.
    pub(super) fn note_probe(&mut self, process: ProcessId, end: &ToCommand) {
        let Some(monitor) = &mut self.monitor else {
            return;
        };
        // One that took too long has been noted, and one that was frozen is not.
        let Some(probe) = monitor.probe.take_if(|probe| probe.process == process) else {
            return;
        };
        let (exit_code, output) = match end {
            ToCommand::Exited { code, .. } => {
                let bytes = probe.output.join().unwrap_or_default();
                (
                    i16::from(*code),
                    String::from_utf8_lossy(&bytes).into_owned(),
                )
            }
            ToCommand::Failed { code, message } => (i16::from(*code), message.clone()),
            _ => (CODE_TOO_LONG, String::new()),
        };
        self.note_result(probe.start, exit_code, output);
    }

    fn note_result(&mut self, start: String, exit_code: i16, output: String) {
        let (Some(monitor), Some(health)) = (&mut self.monitor, &mut self.state.health) else {
            return;
        };
        let result = ProbeResult {
            start,
            end: now(),
            exit_code,
            output,
        };
        let since_start = monitor.began.elapsed();
        let before = health.verdict;
        health.note(&monitor.config, result, since_start);
        let changed = (health.verdict != before).then_some(health.verdict.word());
        monitor.next = health.next(&monitor.config, Instant::now(), since_start);
        // A full disk is no reason to end the container, either: the next result may be kept again.
        let _ = self.folder.set_state(&self.state);
        if let Some(word) = changed {
            self.journal(&format!("health_status: {word}"), &[]);
        }
    }
}

/// The beginning of what a probe writes; the rest is read, so that it can go on, and forgotten.
fn beginning(mut from: PipeReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = (&mut from)
        .take(OUTPUT_BYTES_MAX as u64)
        .read_to_end(&mut bytes);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::super::health::Verdict;
    use super::*;

    fn monitor(config: HealthConfig, began: Instant) -> Monitor {
        Monitor::new(config, Vec::new(), &Health::starting(), began)
    }

    fn probe(process: ProcessId, deadline: Instant) -> Option<Probe> {
        Some(Probe {
            process,
            start: String::new(),
            deadline: Some(deadline),
            output: std::thread::spawn(Vec::new),
        })
    }

    #[test]
    fn a_freeze_forgets_the_probe_and_the_next_is_an_interval_after_the_thaw() {
        let second = Duration::from_secs(1);
        let config = HealthConfig {
            interval_ns: 3_000_000_000,
            timeout_ns: 5_000_000_000,
            start_period_ns: 60_000_000_000,
            start_interval_ns: 1_000_000_000,
            ..HealthConfig::default()
        };
        let began = Instant::now();
        let mut health = Health::starting();
        let mut monitor = monitor(config, began);
        assert_eq!(monitor.due(), Some(began + second));
        monitor.probe = probe(7, began + 6 * second);
        assert_eq!(monitor.due(), Some(began + 6 * second));
        // Frozen long after its time, which does not count.
        assert_eq!(monitor.give_up().map(|probe| probe.process), Some(7));
        let thaw = began + 20 * second;
        monitor.thaw(&health, thaw);
        assert_eq!(monitor.due(), Some(thaw + second));
        assert_eq!((health.failing_streak, health.results.len()), (0, 0));
        // Until it has had its time to end, nothing is noted and no other started.
        assert_eq!(monitor.late, Some(7));
        assert!(monitor.is_patient(thaw + 4 * second));
        assert!(!monitor.is_patient(thaw + 5 * second));
        // Without a probe, the same.
        health.verdict = Verdict::Healthy;
        assert!(monitor.give_up().is_none());
        monitor.thaw(&health, thaw);
        assert_eq!(monitor.due(), Some(thaw + 3 * second));
        monitor.put_off(&health, thaw + second);
        assert_eq!(monitor.due(), Some(thaw + 4 * second));
    }

    #[test]
    fn what_is_late_without_a_freeze_counts_at_once() {
        let began = Instant::now();
        let mut monitor = monitor(HealthConfig::default(), began);
        monitor.probe = probe(7, began);
        assert!(monitor.give_up().is_some());
        assert_eq!(monitor.late, Some(7));
        assert!(!monitor.is_patient(began));
    }
}
