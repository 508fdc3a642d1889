//! The container's own process and those beside it, as commands see them: attached to, started, told
//! of their end. [`super`] hears of them from the agent.
//! Called by [`super`], and by the supervisor for its commands and health checks.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use protocol::message::{ProcessId, Request};
use protocol::spec::{ProcessSpec, Stdio};

use super::super::super::state::{EXIT_CODE_KILLED, Status};
use super::super::super::streams::{CommandStreams, Streams, VmStreams};
use super::super::super::wire::ToCommand;
use super::super::clients::{ClientId, Role};
use super::super::{Supervisor, failed};
use super::{By, Exec, MAIN, Running};

impl Supervisor {
    /// Tells commands of processes that go with their VM.
    pub(super) fn end_processes(&mut self, running: &Running) {
        for exec in running.execs.values() {
            let By::Client(client) = exec.by else {
                continue;
            };
            let killed = match exec.is_started {
                true => ToCommand::Exited {
                    code: EXIT_CODE_KILLED,
                    trouble: None,
                },
                false => self.not_running(),
            };
            let end = exec.end.as_ref().unwrap_or(&killed);
            self.clients.tell(client, end);
            self.clients.set_role(client, Role::None);
        }
    }

    /// All output of a process is where it belongs.
    pub(in super::super) fn delivered(&mut self, process: ProcessId) {
        let Some(running) = &mut self.running else {
            return;
        };
        if process == MAIN {
            running.delivered = true;
        } else if let Some(exec) = running.execs.get_mut(&process) {
            exec.delivered = true;
            self.tell_exec(process);
        }
    }

    /// Tells who had a process started of its end, once its output is delivered.
    pub(super) fn tell_exec(&mut self, process: ProcessId) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(exec) = running.execs.get(&process) else {
            return;
        };
        let (by, Some(end), true) = (exec.by, exec.end.clone(), exec.delivered) else {
            return;
        };
        running.execs.remove(&process);
        match by {
            By::Client(client) => {
                self.clients.tell(client, &end);
                self.clients.set_role(client, Role::None);
            }
            By::Probe => self.note_probe(process, &end),
        }
    }

    /// Joins a command's streams with the process's, now or when there is one.
    pub(in super::super) fn attach(&mut self, client: ClientId, streams: CommandStreams) {
        self.clients.set_role(client, Role::Attached(None));
        let Some(running) = &self.running else {
            self.attaching.push((client, streams));
            return;
        };
        if streams.stdin.is_some() || streams.stdout.is_some() || streams.stderr.is_some() {
            self.journal("attach", &[]);
        }
        match running.main.attach(streams) {
            Ok(attached) => {
                self.clients
                    .set_role(client, Role::Attached(Some(attached)));
                if self.state.phases.started != 0 {
                    self.clients.tell(client, &ToCommand::Started);
                }
            }
            Err(error) => self.clients.tell(client, &failed(&error)),
        }
    }

    /// Starts a process for a command; an answer when it can't be.
    pub(in super::super) fn exec(
        &mut self,
        client: ClientId,
        spec: ProcessSpec,
        streams: Result<[Option<OwnedFd>; 3]>,
    ) -> Option<ToCommand> {
        let id = &self.config.id;
        match self.state.status {
            Status::Running => {}
            Status::Paused => {
                return Some(ToCommand::Refused(format!(
                    "Container {id} is paused, unpause the container before exec"
                )));
            }
            Status::Restarting => {
                return Some(ToCommand::Refused(format!(
                    "Container {id} is restarting, wait until the container is running"
                )));
            }
            Status::Created | Status::Exited => return Some(self.not_running()),
        }
        let by = By::Client(client);
        let started = streams.and_then(|streams| self.start_process(spec, streams.into(), by));
        match started {
            Ok(process) => {
                self.clients.set_role(client, Role::Exec(process));
                None
            }
            // Its VM goes with its process, which has ended meanwhile.
            Err(_) if self.running.as_ref().is_none_or(|it| it.end.is_some()) => {
                Some(self.not_running())
            }
            Err(error) => Some(failed(&error)),
        }
    }

    /// Starts a process beside the container's own.
    pub(in super::super) fn start_process(
        &mut self,
        mut spec: ProcessSpec,
        streams: CommandStreams,
        by: By,
    ) -> Result<ProcessId> {
        let running = self.running.as_mut().context("the VM is gone")?;
        let mut offer = |wanted: bool| -> Result<_> {
            if !wanted {
                return Ok((None, None));
            }
            let port = running.ports.draw()?;
            Ok((Some(port), Some(running.vm.offer(port)?)))
        };
        let (stdin_port, stdin) = offer(streams.stdin.is_some())?;
        let (stdout_port, stdout) = offer(streams.stdout.is_some())?;
        let (stderr_port, stderr) = offer(streams.stderr.is_some())?;
        spec.stdio = Stdio {
            stdin: stdin_port,
            stdout: stdout_port,
            stderr: stderr_port,
        };
        let process = running.next_process;
        running.next_process += 1;
        let words = spec.args.join(" ");
        let vm = VmStreams {
            stdin,
            stdout,
            stderr,
        };
        let own = Streams::start(vm, true, None, process, &running.deliveries)?;
        own.attach(streams)?;
        let request = Request::Exec {
            process,
            spec: Box::new(spec),
        };
        running.vm.agent().send(&request)?;
        running.execs.insert(
            process,
            Exec {
                by,
                is_started: false,
                end: None,
                delivered: false,
            },
        );
        for action in ["exec_create", "exec_start"] {
            let id = [("execID", process.to_string())];
            self.journal(&format!("{action}: {words}"), &id);
        }
        Ok(process)
    }
}
