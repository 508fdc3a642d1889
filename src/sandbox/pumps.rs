//! The bytes of stdin, stdout and stderr on their way between the command's pipes and the VM's
//! streams, a thread each. Called by [`super::supervisor`].

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use protocol::FIRST_STREAM_PORT;

use super::vm::RunningVm;

/// vsock port of the process's stdin.
pub const STDIN_PORT: u32 = FIRST_STREAM_PORT;
/// Of its stdout, and of its terminal's output.
pub const STDOUT_PORT: u32 = FIRST_STREAM_PORT + 1;
/// Of its stderr.
pub const STDERR_PORT: u32 = FIRST_STREAM_PORT + 2;

/// Bytes moved at once.
const PUMP_LEN: usize = 128 << 10;

/// The command's ends of the attached streams.
pub struct CommandStdio {
    /// What is typed.
    pub stdin: Option<File>,
    /// What is read as the process's output.
    pub stdout: Option<File>,
    /// What is read as its errors.
    pub stderr: Option<File>,
}

/// Threads that move bytes between the command's pipes and the VM's streams.
pub struct Pumps(Vec<JoinHandle<()>>);

impl Pumps {
    /// Starts them.
    ///
    /// # Errors
    /// When a thread can't be started.
    pub fn start(vm: &mut RunningVm, stdio: CommandStdio) -> Result<Self> {
        let mut outputs = Vec::new();
        for (port, to) in [(STDOUT_PORT, stdio.stdout), (STDERR_PORT, stdio.stderr)] {
            if let Some(stream) = vm.streams.remove(&port) {
                outputs.push(spawn("output", move || pump_out(stream, to))?);
            }
        }
        if let Some(stream) = vm.streams.remove(&STDIN_PORT) {
            let from = stdio.stdin;
            // Not joined: it may wait for a keystroke that never comes.
            drop(spawn("stdin", move || pump_in(from, stream))?);
        }
        Ok(Self(outputs))
    }

    /// Waits until all output was handed on. The agent ends its streams before it reports the
    /// exit, so only a command that does not read makes this wait.
    pub fn finish(self) {
        for pump in self.0 {
            let _ = pump.join();
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(PUMP_STACK)
        .spawn(work)
        .with_context(|| format!("start the thread {name}"))
}

/// Stack of a pump in bytes: its buffer is on the heap.
const PUMP_STACK: usize = 64 << 10;

/// Guest to command. When the command is gone the guest's output is read on and dropped, as a
/// container whose output nobody reads goes on in Docker.
fn pump_out(mut from: UnixStream, mut to: Option<File>) {
    let mut buffer = vec![0; PUMP_LEN];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                let failed = match &mut to {
                    Some(file) => file
                        .write_all(buffer.get(..len).unwrap_or_default())
                        .is_err(),
                    None => false,
                };
                if failed {
                    to = None;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Command to guest; the end of one is the end of the other.
fn pump_in(from: Option<File>, mut to: UnixStream) {
    if let Some(mut from) = from {
        let mut buffer = vec![0; PUMP_LEN];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => {
                    if to.write_all(buffer.get(..len).unwrap_or_default()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
