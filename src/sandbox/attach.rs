//! The command's side of a foreground container: moves stdin, stdout and stderr, forwards signals
//! and the terminal's size, and returns the exit code.
//!
//! Called by [`super::start`]; knows the supervisor only by its socket and pipes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, channel};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use protocol::message::WindowSize;

use super::wire::{Link, Sender, ToCommand, ToSupervisor};

/// The other side of an attachment went away without a word.
#[derive(Debug, thiserror::Error)]
#[error("the container's supervisor died; it may have been killed")]
pub struct SupervisorDied;

/// Bytes moved at once.
const PUMP_LEN: usize = 128 << 10;

/// How a foreground run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The process ended.
    Exited {
        /// With this code.
        code: u8,
        /// What went wrong after that, in one sentence.
        trouble: Option<String>,
    },
    /// It never ran: Docker's code and one sentence.
    Failed(u8, String),
    /// It can't be done now: one sentence.
    Refused(String),
    /// The user detached; the container goes on.
    Detached,
    /// What the command writes to can't be written; the container goes on. One sentence.
    Broken(String),
}

/// The command's ends of what it shares with the supervisor.
#[derive(Debug)]
pub struct Attachment {
    /// Messages.
    pub link: Link,
    /// Where to write what comes from our stdin, if attached.
    pub stdin: Option<OwnedFd>,
    /// What to copy to our stdout, if attached.
    pub stdout: Option<OwnedFd>,
    /// What to copy to our stderr, if attached.
    pub stderr: Option<OwnedFd>,
    /// Whether the container has a terminal.
    pub terminal: bool,
    /// Whether signals are forwarded (`--sig-proxy`).
    pub forward_signals: bool,
    /// Bytes that detach when typed at a terminal.
    pub detach_keys: Vec<u8>,
}

/// What the threads report to the main loop.
enum News {
    FromSupervisor(ToCommand),
    SupervisorGone,
    Detach,
    Broken(String),
}

/// Signals that are not forwarded: those that can't be caught, those the command handles itself,
/// and those a fault of the command itself raises.
const NOT_FORWARDED: [Signal; 9] = [
    Signal::SIGKILL,
    Signal::SIGSTOP,
    Signal::SIGCHLD,
    Signal::SIGPIPE,
    Signal::SIGURG,
    Signal::SIGWINCH,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
];

/// Blocks the signals that [`run`] will handle. To be called before the supervisor is started and
/// before any thread, so that none is lost.
///
/// # Errors
/// When the mask can't be set.
pub fn block_signals(forward: bool) -> Result<SigSet> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGWINCH);
    if forward {
        for signal in Signal::iterator().filter(|signal| !NOT_FORWARDED.contains(signal)) {
            set.add(signal);
        }
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)
        .context("block signals")?;
    Ok(set)
}

/// Signals that end a command which does not forward them.
const ENDING: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
];

/// Serves the container until it ends or the user detaches.
///
/// # Errors
/// When the supervisor dies without a word or a thread can't be started.
pub fn run(attachment: Attachment, mut signals: SigSet) -> Result<Ended> {
    let Attachment {
        link,
        stdin,
        stdout,
        stderr,
        terminal,
        forward_signals,
        detach_keys,
    } = attachment;
    let (news, inbox) = channel();
    let sender = Arc::new(Mutex::new(link.sender()?));
    let types = terminal && stdin.is_some();
    if types && !forward_signals {
        // Waited for, so that the terminal is left as it was found.
        signals.extend(ENDING);
        signals.thread_block().context("block signals")?;
    }
    let raw_mode = if types { RawMode::enter()? } else { None };
    let before = raw_mode.as_ref().map(|raw| raw.0.clone());
    listen(link, news.clone())?;
    forward(sender.clone(), signals, forward_signals, before)?;
    let mut outputs = Vec::new();
    if let Some(from) = stdout {
        let news = news.clone();
        outputs.push(thread("stdout", move || {
            copy(File::from(from), std::io::stdout(), "stdout", &news);
        })?);
    }
    if let Some(from) = stderr {
        let news = news.clone();
        outputs.push(thread("stderr", move || {
            copy(File::from(from), std::io::stderr(), "stderr", &news);
        })?);
    }
    if let Some(to) = stdin {
        let keys = if terminal { detach_keys } else { Vec::new() };
        // Not joined: it may wait for a keystroke that never comes.
        drop(thread("stdin", move || {
            type_in(File::from(to), &keys, &news)
        })?);
    }
    let ended = loop {
        match inbox.recv() {
            Ok(News::FromSupervisor(ToCommand::Started)) => {
                if terminal && let Some(size) = window_size() {
                    send(&sender, ToSupervisor::Resize(size));
                }
            }
            Ok(News::FromSupervisor(ToCommand::Exited { code, trouble })) => {
                break Ended::Exited { code, trouble };
            }
            Ok(News::FromSupervisor(ToCommand::Failed { code, message })) => {
                break Ended::Failed(code, message);
            }
            Ok(News::FromSupervisor(ToCommand::Refused(message))) => {
                break Ended::Refused(message);
            }
            Ok(News::FromSupervisor(ToCommand::Done | ToCommand::TaskEnded(_))) => {}
            Ok(News::Detach) => {
                send(&sender, ToSupervisor::Detach);
                break Ended::Detached;
            }
            Ok(News::Broken(message)) => {
                send(&sender, ToSupervisor::Detach);
                break Ended::Broken(message);
            }
            Ok(News::SupervisorGone) | Err(_) => {
                return Err(SupervisorDied.into());
            }
        }
    };
    // Nothing comes of what never ran.
    if matches!(ended, Ended::Exited { .. }) {
        for output in outputs {
            let _ = output.join();
        }
    }
    drop(raw_mode);
    Ok(ended)
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .with_context(|| format!("start the thread {name}"))
}

fn listen(mut link: Link, news: mpsc::Sender<News>) -> Result<()> {
    thread("supervisor", move || {
        while let Ok(Some(message)) = link.wait() {
            if news.send(News::FromSupervisor(message)).is_err() {
                return;
            }
        }
        let _ = news.send(News::SupervisorGone);
    })?;
    Ok(())
}

/// What a shell says of a command that a signal ended is so much more than the signal's number.
const CODE_SIGNAL: i32 = 128;

/// The third interrupt or termination ends the command itself, as in Docker.
const FORCE_EXIT_AFTER: u32 = 3;

fn forward(
    socket: Arc<Mutex<Sender>>,
    signals: SigSet,
    forward: bool,
    before: Option<Termios>,
) -> Result<()> {
    let leave = move |code| {
        // Nothing is dropped.
        if let Some(before) = &before {
            restore(before);
        }
        std::process::exit(code);
    };
    thread("signals", move || {
        let mut interrupts = 0;
        while let Ok(signal) = signals.wait() {
            if signal == Signal::SIGWINCH {
                if let Some(size) = window_size() {
                    send(&socket, ToSupervisor::Resize(size));
                }
            } else if forward {
                if matches!(signal, Signal::SIGINT | Signal::SIGTERM) {
                    interrupts += 1;
                    if interrupts >= FORCE_EXIT_AFTER {
                        eprint!(
                            "\r\ngot {FORCE_EXIT_AFTER} SIGTERM/SIGINTs, forcefully exiting\r\n"
                        );
                        leave(1);
                    }
                }
                send(&socket, ToSupervisor::Signal(signal as i32));
            } else {
                leave(CODE_SIGNAL + signal as i32);
            }
        }
    })?;
    Ok(())
}

fn send(socket: &Mutex<Sender>, message: ToSupervisor) {
    let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
    socket.send(&message);
}

/// Copies what the process prints. A reader that is gone (`| head`) ends the command, as in Docker, and
/// is no error of the container's.
fn copy(mut from: File, mut to: impl Write, name: &str, news: &mpsc::Sender<News>) {
    let mut buffer = vec![0; PUMP_LEN];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                let bytes = buffer.get(..len).unwrap_or_default();
                if let Err(error) = to.write_all(bytes).and_then(|()| to.flush()) {
                    let _ = news.send(News::Broken(format!("write to {name}: {error}")));
                    // The end of this pipe is told only after that.
                    std::mem::forget(from);
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn type_in(mut to: File, detach_keys: &[u8], news: &mpsc::Sender<News>) {
    let mut from = std::io::stdin().lock();
    let mut keys = DetachKeys::new(detach_keys);
    let mut buffer = vec![0; PUMP_LEN];
    loop {
        match from.read(&mut buffer) {
            Ok(len) if len > 0 => {
                let (bytes, detach) = keys.filter(buffer.get(..len).unwrap_or_default());
                if to.write_all(&bytes).is_err() {
                    return;
                }
                if detach {
                    let _ = news.send(News::Detach);
                    // The end of this pipe is told only after that.
                    std::mem::forget(to);
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Finds the detach sequence in what is typed and holds back its beginning until it is told
/// apart.
struct DetachKeys<'a> {
    keys: &'a [u8],
    matched: usize,
}

impl<'a> DetachKeys<'a> {
    fn new(keys: &'a [u8]) -> Self {
        Self { keys, matched: 0 }
    }

    /// The bytes to pass on, and whether the sequence is complete.
    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(self.keys.get(..self.matched).unwrap_or_default());
            self.matched = 0;
            if self.keys.first() == Some(byte) {
                self.matched = 1;
            } else {
                out.push(*byte);
            }
        }
        (out, false)
    }
}

/// The terminal in raw mode until dropped.
struct RawMode(Termios);

impl RawMode {
    /// `None` when stdin is no terminal.
    fn enter() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(stdin.as_fd()) else {
            return Ok(None);
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).context("set the terminal to raw mode")?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore(&self.0);
    }
}

fn restore(before: &Termios) {
    let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, before);
}

/// Size of the terminal on stdout or stdin.
#[must_use]
pub fn window_size() -> Option<WindowSize> {
    terminal_size::terminal_size().map(|(columns, rows)| WindowSize {
        rows: rows.0,
        columns: columns.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_reads_and_a_false_start_is_passed_on() {
        let mut keys = DetachKeys::new(&[16, 17]);
        assert_eq!(keys.filter(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(&[16]), (vec![], false));
        assert_eq!(keys.filter(b"x"), (vec![16, b'x'], false));
        assert_eq!(keys.filter(&[16, 16]), (vec![16], false));
        assert_eq!(keys.filter(&[17, b'z']), (vec![], true));
    }

    #[test]
    fn without_detach_keys_everything_is_passed_on() {
        let mut keys = DetachKeys::new(&[]);
        assert_eq!(keys.filter(&[16, 17]), (vec![16, 17], false));
    }
}
