//! Runs a container's health checks: a process in the container now and then, whose exit code and
//! output are kept. Called by [`super`]; what a result means is [`super::super::health`]'s.

use std::io::{PipeReader, Read};
use std::thread::JoinHandle;
use std::time::Instant;

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
    /// The last probe that took too long. While it has not come to its end there is no other: each
    /// takes descriptors and threads.
    late: Option<ProcessId>,
}

/// A probe that runs.
struct Probe {
    process: ProcessId,
    start: String,
    deadline: Option<Instant>,
    output: JoinHandle<Vec<u8>>,
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
        let began = Instant::now();
        let health = Health::starting();
        let next = health.next(&config, began, began.elapsed());
        self.state.health = Some(health);
        self.monitor = Some(Monitor {
            config,
            command,
            began,
            next,
            probe: None,
            late: None,
        });
    }

    /// When [`Self::check`] has something to do.
    pub(super) fn next_check(&self) -> Option<Instant> {
        let monitor = self.monitor.as_ref()?;
        if self.state.status != Status::Running {
            return None;
        }
        match &monitor.probe {
            Some(probe) => probe.deadline,
            None => monitor.next,
        }
    }

    /// Starts the probe that is due, or ends one that takes too long.
    pub(super) fn check(&mut self) {
        if self.next_check().is_none_or(|at| Instant::now() < at) {
            return;
        }
        let Some(monitor) = &mut self.monitor else {
            return;
        };
        if let Some(probe) = monitor.probe.take() {
            let timeout = monitor.config.timeout();
            let (process, signal) = (probe.process, libc::SIGKILL);
            monitor.late = Some(process);
            self.send(Request::Signal { process, signal });
            // What it left behind, or a guest that says nothing, is not waited for.
            let output = format!("Health check exceeded timeout ({timeout:?})");
            self.note_result(probe.start, CODE_TOO_LONG, output);
            return;
        }
        let start = now();
        let running = self.running.as_ref();
        let is_late = |process| running.is_some_and(|running| running.has_exec(process));
        if monitor.late.is_some_and(is_late) {
            self.note_result(start, CODE_TOO_LONG, STILL_LATE.to_owned());
            return;
        }
        if let Err(error) = self.start_probe() {
            // No descriptors left, say: that is no good health, and no reason to end the container.
            self.note_result(start, CODE_TOO_LONG, format!("{error:#}"));
        }
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
        // One that took too long has been noted.
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
