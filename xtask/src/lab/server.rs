//! The exec server inside the emulated host, started by `init.sh` as PID 1: reaps orphans,
//! runs what `client` asks for, powers off. It must not know what is run or why.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::parked::ParkedVm;
use super::process::{CODE_OWN_ERROR, Group, Refusal, Started, UntilExit, delegate};
use super::stream::{Credit, Link, pump};
use super::terminal;
use super::wire::{Command, Control, Ending, Frame, Request, Stream};

/// Written to the console once commands can be run.
pub(super) const READY: &str = "lab: ready";

/// Where `init.sh` puts what the initramfs brought along.
pub(super) const CONFIGURATION: &str = "/run/lab/server.json";

const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// A connection that says nothing is dropped after this.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// What to write to drop_caches (proc(5)).
const DENTRIES_AND_INODES: &str = "2";

/// What the server is told by whoever started the emulated host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Configuration {
    pub(super) port: u16,
    pub(super) token: String,
    /// The folder that outlives the host: written back before a command's end is told.
    pub(super) out: PathBuf,
}

/// The hidden verb: PID 1 reaps and starts this again as the server.
///
/// # Errors
///
/// The server can't be started or fails; as PID 1 it does not return.
pub(crate) fn main() -> Result<()> {
    if std::process::id() != 1 {
        return serve();
    }
    let server = std::process::Command::new("/proc/self/exe")
        .args(env::args_os().skip(1))
        .spawn();
    let server = server.context("start the server")?.id();
    loop {
        match nix::sys::wait::wait() {
            Ok(status)
                if status
                    .pid()
                    .is_some_and(|pid| u32::try_from(pid.as_raw()) == Ok(server)) =>
            {
                break;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    power_off()
}

fn serve() -> Result<()> {
    let configuration = fs::read(CONFIGURATION).with_context(|| format!("read {CONFIGURATION}"))?;
    let configuration: Configuration =
        serde_json::from_slice(&configuration).context("parse the configuration")?;
    let _parked = ParkedVm::new().context("park a VM")?;
    let groups = Path::new(CONTROL_GROUPS).join("lab");
    delegate(Path::new(CONTROL_GROUPS));
    fs::create_dir_all(&groups).context("create the control group of all commands")?;
    delegate(&groups);
    let server = Arc::new(Server {
        configuration,
        groups,
        next: AtomicU64::new(1),
        running: Mutex::new(0),
    });
    let listener =
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, server.configuration.port)).context("listen")?;
    let mut console = File::options()
        .write(true)
        .open("/dev/console")
        .context("open the console")?;
    writeln!(console, "\n{READY}").context("write to the console")?;
    for socket in listener.incoming().flatten() {
        let server = Arc::clone(&server);
        thread::spawn(move || {
            if let Err(error) = server.converse(socket) {
                eprintln!("lab: {error:#}");
            }
        });
    }
    Ok(())
}

/// Writes everything back and resets the machine, which its emulator takes as its end.
fn power_off() -> Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sysrq-trigger", "b").context("ask the kernel for a reset")
}

struct Server {
    configuration: Configuration,
    groups: PathBuf,
    next: AtomicU64,
    running: Mutex<u32>,
}

impl Server {
    /// Counts a command that begins. The first one sees the machine's files as they are now:
    /// the overlay would go on with the names it has looked up before.
    fn begin(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if *running == 0 {
            // Without it names may be stale, which is no reason to run nothing.
            let _ = fs::write("/proc/sys/vm/drop_caches", DENTRIES_AND_INODES);
        }
        *running += 1;
    }

    fn end(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

impl Server {
    fn converse(&self, mut socket: TcpStream) -> Result<()> {
        socket.set_nodelay(true).context("set up the connection")?;
        socket
            .set_read_timeout(Some(GREETING_TIMEOUT))
            .context("set up the connection")?;
        let request = match Frame::read(&mut socket).context("read the greeting")? {
            Some(Frame::Control(Control::Hello { token, request }))
                if token == self.configuration.token =>
            {
                request
            }
            _ => bail!("a connection without the token was dropped"),
        };
        socket
            .set_read_timeout(None)
            .context("set up the connection")?;
        let link = Link::new(socket.try_clone().context("set up the connection")?);
        match request {
            Request::PowerOff => power_off(),
            Request::Run(command) => {
                self.begin();
                let result = self.run(command, socket, &link);
                self.end();
                result
            }
        }
    }

    fn run(&self, command: Command, mut socket: TcpStream, link: &Link) -> Result<()> {
        let group = Group::create(&self.groups, self.next.fetch_add(1, Ordering::Relaxed))?;
        let started = match Started::new(command, &group) {
            Ok(started) => started,
            Err(Refusal { code, reason }) => {
                group.remove();
                return link
                    .control(Control::Refused { code, reason })
                    .context("answer");
            }
        };
        link.control(Control::Started).context("answer")?;

        let Started {
            mut child,
            input,
            outputs,
            terminal,
        } = started;
        let id = Pid::from_raw(i32::try_from(child.id()).context("process id")?);
        let mut stdin = input.into_sink(link.clone());
        let (exited, exited_writer) = io::pipe().context("make a pipe")?;
        let mut credits = Vec::new();
        let mut pumps = Vec::new();
        for (stream, output) in outputs {
            let credit = Credit::new();
            credits.push((stream, credit.clone()));
            let source = UntilExit {
                output,
                exited: exited.try_clone().context("copy a descriptor")?,
            };
            let link = link.clone();
            pumps.push(thread::spawn(move || pump(source, stream, &link, &credit)));
        }

        let ended = Arc::new(AtomicBool::new(false));
        let (out, waiter_link, waiter_ended) = (
            self.configuration.out.clone(),
            link.clone(),
            Arc::clone(&ended),
        );
        let waiter = thread::spawn(move || {
            let status = child.wait();
            waiter_ended.store(true, Ordering::SeqCst);
            drop(exited_writer);
            for pump in pumps {
                let _ = pump.join();
            }
            if let Ok(folder) = File::open(out) {
                let _ = nix::unistd::syncfs(folder);
            }
            let _ = waiter_link.control(Control::Exited(ending(status)));
        });

        while let Ok(Some(frame)) = Frame::read(&mut socket) {
            match frame {
                Frame::Data(Stream::Stdin, bytes) => stdin.push(bytes),
                Frame::Control(Control::End(Stream::Stdin)) => stdin.end(),
                Frame::Control(Control::Credit(stream, count)) => {
                    of(&credits, stream).for_each(|credit| credit.add(count));
                }
                Frame::Control(Control::Pulse) => {}
                Frame::Control(Control::Gone(stream)) => {
                    of(&credits, stream).for_each(Credit::close)
                }
                Frame::Control(Control::Signal(number)) if !ended.load(Ordering::SeqCst) => {
                    if let Ok(signal) = Signal::try_from(number) {
                        // To its group, as a terminal's Ctrl-C goes.
                        let _ = kill(Pid::from_raw(-id.as_raw()), signal);
                    }
                }
                Frame::Control(Control::Resize(size)) => {
                    if let Some(terminal) = &terminal {
                        terminal::resize(terminal, size);
                    }
                }
                _ => {}
            }
        }
        // The client has what it wanted, or is gone and the command with it. Processes that a
        // command left behind when it ended by itself (daemons) stay.
        if !ended.load(Ordering::SeqCst) {
            group.kill();
        }
        credits.iter().for_each(|(_, credit)| credit.close());
        let _ = waiter.join();
        group.remove();
        Ok(())
    }
}

fn of(credits: &[(Stream, Credit)], stream: Stream) -> impl Iterator<Item = &Credit> {
    credits
        .iter()
        .filter(move |(known, _)| *known == stream)
        .map(|(_, credit)| credit)
}

fn ending(status: io::Result<ExitStatus>) -> Ending {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Code(code),
            (None, Some(signal)) => Ending::Signal(signal),
            (None, None) => Ending::Code(i32::from(CODE_OWN_ERROR)),
        },
        Err(_) => Ending::Code(i32::from(CODE_OWN_ERROR)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_a_process_ends_is_told_apart() {
        assert_eq!(ending(Ok(ExitStatus::from_raw(7 << 8))), Ending::Code(7));
        assert_eq!(ending(Ok(ExitStatus::from_raw(9))), Ending::Signal(9));
        assert_eq!(ending(Err(io::Error::other("lost"))), Ending::Code(125));
    }
}
