//! Runs one command on the exec server of an emulated host as if it ran here: streams, signals,
//! window size, exit code. `lab` calls it. It must not know how the host was started.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

use super::stream::{Credit, Link, Sink, pump};
use super::terminal;
use super::wire::{Command, Control, Ending, Frame, Request, Stream};

/// Signals that the command inside gets.
const FORWARDED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// After so many signals the emulated host is taken to be stuck.
const PATIENCE: u32 = 3;

/// An emulated host with one CPU that has nothing to do sometimes misses its timer, and slept on until a
/// packet came.
const PULSE_INTERVAL: Duration = Duration::from_millis(250);

/// What a shell adds to a signal's number.
const SIGNAL_CODE_BASE: i32 = 128;

/// Where an exec server listens and what it wants to hear.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) port: u16,
    pub(super) token: String,
}

/// Takes over this process's signals: before [`Signals::forward_to`] they end it, after it
/// they go to the command inside.
pub(super) struct Signals {
    link: Arc<OnceLock<Link>>,
}

impl Signals {
    /// Must be called while this process has one thread: the others inherit what is blocked.
    ///
    /// # Errors
    ///
    /// The signals can't be blocked.
    pub(super) fn take_over() -> Result<Self> {
        let mut set = SigSet::empty();
        FORWARDED
            .iter()
            .chain([&Signal::SIGWINCH])
            .for_each(|signal| set.add(*signal));
        set.thread_block().context("block signals")?;
        let link = Arc::new(OnceLock::<Link>::new());
        let forward = Arc::clone(&link);
        thread::spawn(move || {
            let mut patience = PATIENCE;
            while let Ok(signal) = set.wait() {
                if signal == Signal::SIGWINCH {
                    if let (Some(link), Some(size)) = (forward.get(), terminal::size(io::stdin())) {
                        let _ = link.control(Control::Resize(size));
                    }
                    continue;
                }
                patience -= 1;
                let number = signal as i32;
                let sent = forward
                    .get()
                    .is_some_and(|link| link.control(Control::Signal(number)).is_ok());
                if !sent || patience == 0 {
                    terminal::restore();
                    process::exit(SIGNAL_CODE_BASE + number);
                }
            }
        });
        Ok(Self { link })
    }

    fn forward_to(&self, link: Link) {
        // A second command in one process does not exist.
        let _ = self.link.set(link);
    }
}

/// Describes a command that is to run in this process's folder and environment: PATH (with
/// `first` before it), HOME and TERM are passed, and `variables`.
///
/// # Errors
///
/// The current folder is gone.
pub(super) fn describe(
    arguments: &[OsString],
    variables: &[OsString],
    first: &std::path::Path,
) -> Result<Command> {
    let path = super::path_with(first);
    let mut environment = vec![(b"PATH".to_vec(), path.into_vec())];
    for name in ["HOME", "TERM"] {
        if let Some(value) = env::var_os(name) {
            environment.push((name.into(), value.into_vec()));
        }
    }
    for variable in variables {
        let (name, value) = split_variable(variable)?;
        environment.retain(|(known, _)| *known != name);
        environment.push((name, value));
    }
    Ok(Command {
        arguments: arguments
            .iter()
            .map(|argument| argument.as_bytes().to_vec())
            .collect(),
        environment,
        folder: env::current_dir()
            .context("find the current folder")?
            .into_os_string()
            .into_vec(),
        terminal: terminal::wanted(),
    })
}

/// Splits `K=V`.
///
/// # Errors
///
/// There is no `=`, or nothing before it.
pub(super) fn split_variable(variable: &OsString) -> Result<(Vec<u8>, Vec<u8>)> {
    let bytes = variable.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        None | Some(0) => bail!("--env {}: not of the form K=V", variable.to_string_lossy()),
        Some(at) => Ok((bytes[..at].to_vec(), bytes[at + 1..].to_vec())),
    }
}

/// Runs `command` and returns the exit code to end with: its own, or 128 and its signal.
///
/// # Errors
///
/// The server can't be reached or the connection broke.
pub(super) fn run(address: &Address, command: Command, signals: &Signals) -> Result<u8> {
    let has_terminal = command.terminal.is_some();
    let (mut socket, link) = connect(address, Request::Run(command))?;
    match Frame::read(&mut socket).context("hear from the emulated host")? {
        Some(Frame::Control(Control::Started)) => {}
        Some(Frame::Control(Control::Refused { code, reason })) => {
            eprintln!("lab: {reason}");
            return Ok(code);
        }
        other => bail!("the emulated host answered {other:?}"),
    }
    if has_terminal {
        terminal::make_raw().context("make the terminal raw")?;
    }
    signals.forward_to(link.clone());
    let pulse = link.clone();
    thread::spawn(move || {
        while pulse.control(Control::Pulse).is_ok() {
            thread::sleep(PULSE_INTERVAL);
        }
    });
    let ending = exchange(&mut socket, &link);
    terminal::restore();
    Ok(exit_code(ending?))
}

/// Asks the server to power off.
///
/// # Errors
///
/// The server can't be reached.
pub(super) fn power_off(address: &Address) -> Result<()> {
    let (mut socket, _) = connect(address, Request::PowerOff)?;
    // It answers by going away.
    let _ = Frame::read(&mut socket);
    Ok(())
}

fn connect(address: &Address, request: Request) -> Result<(TcpStream, Link)> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, address.port))
        .context("connect to the emulated host")?;
    socket.set_nodelay(true).context("set up the connection")?;
    let link = Link::new(socket.try_clone().context("set up the connection")?);
    link.control(Control::Hello {
        token: address.token.clone(),
        request,
    })
    .context("greet the emulated host")?;
    Ok((socket, link))
}

fn exchange(socket: &mut TcpStream, link: &Link) -> Result<Ending> {
    let credit = Credit::new();
    let (stdin_link, stdin_credit) = (link.clone(), credit.clone());
    // Not joined: it may wait for a key when the command has long ended.
    let stdin = unbuffered(io::stdin())?;
    thread::spawn(move || pump(stdin, Stream::Stdin, &stdin_link, &stdin_credit));
    let mut stdout = Sink::new(
        unbuffered(io::stdout())?,
        Stream::Stdout,
        link.clone(),
        drop,
    );
    let mut stderr = Sink::new(
        unbuffered(io::stderr())?,
        Stream::Stderr,
        link.clone(),
        drop,
    );
    let ending = loop {
        let frame = Frame::read(socket).context("read from the emulated host")?;
        match frame {
            Some(Frame::Data(Stream::Stdout, bytes)) => stdout.push(bytes),
            Some(Frame::Data(Stream::Stderr, bytes)) => stderr.push(bytes),
            Some(Frame::Control(Control::End(Stream::Stdout))) => stdout.end(),
            Some(Frame::Control(Control::End(Stream::Stderr))) => stderr.end(),
            Some(Frame::Control(Control::Credit(Stream::Stdin, count))) => credit.add(count),
            Some(Frame::Control(Control::Gone(Stream::Stdin))) => credit.close(),
            Some(Frame::Control(Control::Exited(ending))) => break ending,
            Some(other) => bail!("the emulated host sent {other:?}"),
            None => bail!("the emulated host went away before the command ended"),
        }
    };
    stdout.finish();
    stderr.finish();
    Ok(ending)
}

/// The standard library's handles buffer, which is a copy more and a delay.
fn unbuffered(handle: impl AsFd) -> Result<File> {
    Ok(handle
        .as_fd()
        .try_clone_to_owned()
        .context("take over a standard stream")?
        .into())
}

fn exit_code(ending: Ending) -> u8 {
    let code = match ending {
        Ending::Code(code) => code,
        Ending::Signal(signal) => SIGNAL_CODE_BASE + signal,
    };
    // Linux exit codes are a byte, and so are signal numbers with the base.
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_split_at_the_first_equals_sign() {
        let split = |text: &str| split_variable(&OsString::from(text)).ok();
        assert_eq!(split("A=b=c"), Some((b"A".to_vec(), b"b=c".to_vec())));
        assert_eq!(split("A="), Some((b"A".to_vec(), Vec::new())));
        assert_eq!(split("A"), None);
        assert_eq!(split("=b"), None);
    }

    #[test]
    fn given_variables_replace_inherited_ones_and_path_begins_with_the_folder() {
        let command = describe(
            &["x".into()],
            &["HOME=/h".into()],
            std::path::Path::new("/first"),
        )
        .expect("command");
        let value = |name: &[u8]| {
            let found: Vec<_> = command
                .environment
                .iter()
                .filter(|(known, _)| known == name)
                .collect();
            assert_eq!(found.len(), 1);
            String::from_utf8_lossy(&found[0].1).into_owned()
        };
        assert_eq!(value(b"HOME"), "/h");
        assert!(value(b"PATH").starts_with("/first"));
    }

    #[test]
    fn a_signal_ends_with_128_and_its_number() {
        assert_eq!(exit_code(Ending::Code(7)), 7);
        assert_eq!(exit_code(Ending::Signal(9)), 137);
    }
}
