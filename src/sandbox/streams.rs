//! The bytes of a process's stdin, stdout and stderr between the VM's streams, the log, and whoever
//! is attached: a thread for each output, and one for each command that types. Called by
//! [`super::supervisor`].
//!
//! ```text
//! VM ── stdout ──► thread ──► log
//!                        └──► pipe of each attached command; one that is gone is forgotten
//! attached command ── pipe ──► thread ──► VM ── stdin
//! ```
//! A command that does not read makes its container wait, as in Docker.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, Result};
use protocol::message::ProcessId;

use super::logs::{LineBuffer, LogWriter};

/// Bytes moved at once.
const PUMP_LEN: usize = 128 << 10;

/// Stack of a thread in bytes: its buffer is on the heap.
const PUMP_STACK: usize = 128 << 10;

/// Tells which processes have had all of their output delivered.
#[derive(Debug)]
pub struct Deliveries {
    sender: Sender<ProcessId>,
    receiver: Receiver<ProcessId>,
    bell: (UnixStream, UnixStream),
}

impl Deliveries {
    /// None yet.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> Result<Self> {
        let (sender, receiver) = channel();
        let bell = UnixStream::pair().context("create a socket pair")?;
        for end in [&bell.0, &bell.1] {
            end.set_nonblocking(true).context("set up a socket pair")?;
        }
        Ok(Self {
            sender,
            receiver,
            bell,
        })
    }

    /// Readable when [`Self::next`] has news.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.0.as_fd()
    }

    /// A process whose output is delivered.
    pub fn next(&self) -> Option<ProcessId> {
        // Emptied first: who rings meanwhile has sent before.
        let _ = (&self.bell.0).read(&mut [0; 64]);
        self.receiver.try_recv().ok()
    }

    fn of(&self, process: ProcessId) -> Result<Arc<Delivery>> {
        Ok(Arc::new(Delivery {
            process,
            sender: self.sender.clone(),
            bell: self.bell.1.try_clone().context("share a socket")?,
        }))
    }
}

/// Held by the threads of a process's output; when the last drops it, the output is delivered.
#[derive(Debug)]
struct Delivery {
    process: ProcessId,
    sender: Sender<ProcessId>,
    bell: UnixStream,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let _ = self.sender.send(self.process);
        // A bell that is full has been rung.
        let _ = (&self.bell).write(&[0]);
    }
}

/// The VM's ends of a process's streams.
#[derive(Debug, Default)]
pub struct VmStreams {
    /// What is written to it is the process's input.
    pub stdin: Option<UnixStream>,
    /// Its output, or its terminal's.
    pub stdout: Option<UnixStream>,
    /// Its errors.
    pub stderr: Option<UnixStream>,
}

/// The streams of a process that runs.
#[derive(Debug)]
pub struct Streams {
    stdin: Option<Arc<Input>>,
    stdout: Sender<File>,
    stderr: Sender<File>,
}

#[derive(Debug)]
struct Input {
    stream: UnixStream,
    /// Whether the end of what a command types is the end of the process's input.
    ends_with_command: bool,
}

/// What a command shares: its ends of the pipes are elsewhere.
#[derive(Debug, Default)]
pub struct CommandStreams {
    /// What is typed.
    pub stdin: Option<OwnedFd>,
    /// What is read as the process's output.
    pub stdout: Option<OwnedFd>,
    /// What is read as its errors.
    pub stderr: Option<OwnedFd>,
}

impl From<[Option<OwnedFd>; 3]> for CommandStreams {
    fn from([stdin, stdout, stderr]: [Option<OwnedFd>; 3]) -> Self {
        Self {
            stdin,
            stdout,
            stderr,
        }
    }
}

/// A command that is attached; dropped, it stays so.
#[derive(Debug, Clone, Default)]
pub struct Attached(Arc<AtomicBool>);

impl Attached {
    /// The end of its stdin is no end of input from now on.
    pub fn detach(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Streams {
    /// Starts the threads of a process's output.
    ///
    /// # Errors
    /// When a thread can't be started.
    pub fn start(
        vm: VmStreams,
        ends_with_command: bool,
        log: Option<&Arc<LogWriter>>,
        process: ProcessId,
        deliveries: &Deliveries,
    ) -> Result<Self> {
        let delivery = deliveries.of(process)?;
        let output = |from: Option<UnixStream>, name: &'static str| -> Result<Sender<File>> {
            let (sinks, new_sinks) = channel();
            if let Some(from) = from {
                let log = log.map(|log| (log.clone(), LineBuffer::new(name)));
                let delivery = delivery.clone();
                spawn(name, move || {
                    pump_out(from, log, &new_sinks);
                    drop(delivery);
                })?;
            }
            Ok(sinks)
        };
        Ok(Self {
            stdin: vm.stdin.map(|stream| {
                Arc::new(Input {
                    stream,
                    ends_with_command,
                })
            }),
            stdout: output(vm.stdout, "stdout")?,
            stderr: output(vm.stderr, "stderr")?,
        })
    }

    /// Joins a command's streams with the process's.
    ///
    /// # Errors
    /// When a thread can't be started.
    pub fn attach(&self, command: CommandStreams) -> Result<Attached> {
        let attached = Attached::default();
        for (sinks, sink) in [
            (&self.stdout, command.stdout),
            (&self.stderr, command.stderr),
        ] {
            if let Some(sink) = sink {
                // A stream that has ended takes none, and so ends this one.
                let _ = sinks.send(File::from(sink));
            }
        }
        if let (Some(input), Some(from)) = (&self.stdin, command.stdin) {
            let (input, attached) = (input.clone(), attached.clone());
            spawn("stdin", move || {
                pump_in(File::from(from), &input, &attached)
            })?;
        }
        Ok(attached)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(PUMP_STACK)
        .spawn(work)
        .map(drop)
        .with_context(|| format!("start the thread {name}"))
}

/// Guest to log and commands. When nobody is attached the output is read all the same, as a
/// container whose output nobody reads goes on in Docker.
fn pump_out(
    mut from: UnixStream,
    mut log: Option<(Arc<LogWriter>, LineBuffer)>,
    new_sinks: &Receiver<File>,
) {
    let mut buffer = vec![0; PUMP_LEN];
    let mut sinks: Vec<File> = Vec::new();
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let bytes = buffer.get(..len).unwrap_or_default();
        if let Some((log, lines)) = &mut log {
            lines.push(log, bytes);
        }
        sinks.extend(new_sinks.try_iter());
        sinks.retain_mut(|sink| sink.write_all(bytes).is_ok());
    }
    if let Some((log, lines)) = &mut log {
        lines.finish(log);
    }
}

/// Command to guest.
fn pump_in(mut from: File, input: &Input, attached: &Attached) {
    let mut buffer = vec![0; PUMP_LEN];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => {
                let bytes = buffer.get(..len).unwrap_or_default();
                if (&input.stream).write_all(bytes).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if input.ends_with_command && !attached.0.load(Ordering::SeqCst) {
        let _ = input.stream.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(ends_with_command: bool) -> (Streams, [UnixStream; 3], Deliveries) {
        let deliveries = Deliveries::new().unwrap();
        let (ours, vms): (Vec<_>, Vec<_>) = (0..3).map(|_| UnixStream::pair().unwrap()).unzip();
        let [stdin, stdout, stderr]: [UnixStream; 3] = ours.try_into().unwrap();
        let streams = VmStreams {
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
        };
        let streams = Streams::start(streams, ends_with_command, None, 7, &deliveries).unwrap();
        (streams, vms.try_into().unwrap(), deliveries)
    }

    fn wait_for(deliveries: &Deliveries) -> ProcessId {
        loop {
            if let Some(process) = deliveries.next() {
                return process;
            }
            crate::sandbox::poll::readable_until(deliveries.fd(), None).unwrap();
        }
    }

    #[test]
    fn output_reaches_everyone_attached_and_the_last_byte_is_told() {
        let (streams, [_stdin, mut stdout, stderr], deliveries) = start(true);
        let mut readers = Vec::new();
        for _ in 0..2 {
            let (reader, writer) = std::io::pipe().unwrap();
            let command = CommandStreams {
                stdout: Some(writer.into()),
                ..CommandStreams::default()
            };
            streams.attach(command).unwrap();
            readers.push(reader);
        }
        stdout.write_all(b"text").unwrap();
        drop(stdout);
        for mut reader in readers {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, "text");
        }
        assert_eq!(deliveries.next(), None);
        drop(stderr);
        assert_eq!(wait_for(&deliveries), 7);
    }

    #[test]
    fn the_end_of_what_is_typed_is_the_end_of_input_unless_the_user_detached() {
        for (ends_with_command, detached) in [(true, false), (true, true), (false, false)] {
            let (streams, [mut stdin, _stdout, _stderr], _deliveries) = start(ends_with_command);
            let (reader, mut writer) = std::io::pipe().unwrap();
            let command = CommandStreams {
                stdin: Some(reader.into()),
                ..CommandStreams::default()
            };
            let attached = streams.attach(command).unwrap();
            writer.write_all(b"in").unwrap();
            let mut text = [0; 2];
            stdin.read_exact(&mut text).unwrap();
            if detached {
                attached.detach();
            }
            drop(writer);
            if ends_with_command && !detached {
                assert_eq!(stdin.read(&mut text).unwrap(), 0);
            } else {
                // Another one may type on.
                let (reader, mut writer) = std::io::pipe().unwrap();
                let command = CommandStreams {
                    stdin: Some(reader.into()),
                    ..CommandStreams::default()
                };
                streams.attach(command).unwrap();
                writer.write_all(b"on").unwrap();
                stdin.read_exact(&mut text).unwrap();
                assert_eq!(&text, b"on");
            }
        }
    }
}
