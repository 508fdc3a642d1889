//! `run -a stdin`: a command that types into a container and waits for the end of what it types, not for
//! the container's, as in Docker. Called by `run`.

use std::io::Read;
use std::os::fd::AsFd;
use std::sync::mpsc::channel;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use super::with_code;
use crate::sandbox::paths::Root;
use crate::sandbox::start::{AttachOptions, run_detached};
use crate::sandbox::state::{Folder, Lock, Phases};
use crate::sandbox::wire::{Link, StreamSet, ToCommand, ToSupervisor};
use crate::sandbox::{attach, client};

/// Whether a command with these options only types. At a terminal it stays until it detaches.
pub fn is_all(options: &AttachOptions) -> bool {
    !options.stdout && !options.stderr && !options.terminal
}

/// Starts the container and types into it.
///
/// # Errors
/// A process that never ran, with Docker's code.
pub fn run(
    root: &Root,
    folder: &Folder,
    lock: Lock,
    phases: Phases,
    options: &AttachOptions,
) -> Result<()> {
    let signals = attach::block_signals(options.forward_signals)?;
    if let Some((code, message)) = run_detached(root, folder, lock, phases)? {
        return Err(with_code(code, message));
    }
    if !options.stdin {
        return Ok(());
    }
    // One that has no supervisor any more has ended.
    let Some(link) = client::connect(folder)? else {
        return Ok(());
    };
    if options.forward_signals {
        forward(&link, signals)?;
    }
    type_in(link, std::io::stdin())
}

fn forward(link: &Link, signals: SigSet) -> Result<()> {
    let mut sender = link.sender()?;
    thread("signals", move || {
        while let Ok(signal) = signals.wait() {
            if signal != Signal::SIGWINCH {
                sender.send(&ToSupervisor::Signal(signal as i32));
            }
        }
    })
}

/// Types all of it, or as much as there is until the container's end.
fn type_in(mut link: Link, mut from: impl Read + Send + 'static) -> Result<()> {
    let (reader, mut writer) = std::io::pipe().context("create a pipe")?;
    let stdin = StreamSet {
        stdin: true,
        ..StreamSet::default()
    };
    link.send(&ToSupervisor::Attach(stdin), &[reader.as_fd()])?;
    drop(reader);
    // What is not taken yet could be lost with this connection.
    let Ok(Some(ToCommand::Started)) = link.wait() else {
        return Ok(());
    };
    let (typed, is_over) = channel();
    let ended = typed.clone();
    // Neither is joined: one may wait for a keystroke that never comes, the other for the end.
    thread("stdin", move || {
        let _ = std::io::copy(&mut from, &mut writer);
        drop(writer);
        let _ = typed.send(());
    })?;
    thread("supervisor", move || {
        let _ = link.wait::<ToCommand>();
        let _ = ended.send(());
    })?;
    is_over.recv().context("a thread of this command is gone")
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .with_context(|| format!("start the thread {name}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Types what `from` has into a container that `serve` is, which is handed the reading end.
    fn typed(from: impl Read + Send + 'static, serve: impl FnOnce(Link, OwnedFd) + Send + 'static) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let supervisor = std::thread::spawn(move || {
            let mut link = Link::new(theirs);
            let Some(ToSupervisor::Attach(set)) = link.wait().unwrap() else {
                panic!("it attaches first");
            };
            let [Some(stdin), None, None] = link.take(set).unwrap() else {
                panic!("it types alone");
            };
            link.send(&ToCommand::Started, &[]).unwrap();
            serve(link, stdin);
        });
        type_in(Link::new(ours), from).unwrap();
        supervisor.join().unwrap();
    }

    #[test]
    fn it_is_over_with_the_end_of_what_is_typed() {
        typed(&b"text"[..], |link, stdin| {
            let mut text = String::new();
            let mut stdin = std::fs::File::from(stdin);
            stdin.read_to_string(&mut text).unwrap();
            assert_eq!(text, "text");
            drop(link);
        });
    }

    #[test]
    fn it_is_over_with_the_container() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"more may come").unwrap();
        typed(reader, |link, _stdin| {
            let exited = ToCommand::Exited {
                code: 3,
                trouble: None,
            };
            link.send(&exited, &[]).unwrap();
        });
        drop(writer);
    }

    #[test]
    fn only_who_reads_nothing_types_alone() {
        let options = |stdout, stderr, terminal| AttachOptions {
            stdin: true,
            stdout,
            stderr,
            terminal,
            forward_signals: true,
            detach_keys: Vec::new(),
        };
        assert!(is_all(&options(false, false, false)));
        for (stdout, stderr, terminal) in [
            (true, false, false),
            (false, true, false),
            (false, false, true),
        ] {
            assert!(!is_all(&options(stdout, stderr, terminal)));
        }
    }
}
