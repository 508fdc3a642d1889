//! How commands find a container's supervisor: a socket in the container's folder, which only its
//! user can reach.
//!
//! ```text
//! containers/<id>/control.sock
//! ```
//! The path may be longer than a socket's address can be, so both sides go by way of the folder's
//! descriptor in /proc/self/fd. Used by [`super::supervisor`] and the verbs.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::state::{Folder, Holder};
use super::wire::{Link, ToCommand, ToSupervisor};

/// Name of the socket.
const SOCKET: &str = "control.sock";

/// From a lock that is taken to a supervisor that listens, or to one that is gone.
const HANDOVER_TIME: Duration = Duration::from_secs(30);

/// Time between two tries.
const RETRY: Duration = Duration::from_millis(5);

/// Where a supervisor listens.
#[derive(Debug)]
pub struct Listener(UnixListener);

/// A short path to the socket in `folder`; the file keeps it valid.
fn short_path(folder: &Path) -> Result<(File, PathBuf)> {
    let handle = File::open(folder).with_context(|| format!("open {}", folder.display()))?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
    Ok((handle, path.into()))
}

impl Listener {
    /// Listens in the folder whose lock this process holds; the socket of one that was killed goes.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn bind(folder: &Folder) -> Result<Self> {
        remove(folder)?;
        let (_handle, path) = short_path(folder.path())?;
        let listener = UnixListener::bind(path).context("listen for commands")?;
        listener
            .set_nonblocking(true)
            .context("listen for commands")?;
        Ok(Self(listener))
    }

    /// A command that connects.
    #[must_use]
    pub fn accept(&self) -> Option<UnixStream> {
        let (stream, _) = match self.0.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                if error.kind() != ErrorKind::WouldBlock {
                    // It waits on, for a descriptor that may come free.
                    std::thread::sleep(RETRY);
                }
                return None;
            }
        };
        // Whether it is the listener's or a socket of its own is the system's choice.
        stream.set_nonblocking(false).ok()?;
        Some(stream)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Removes the socket, so that nobody waits for an answer any more.
///
/// # Errors
/// When it can't be removed.
pub fn remove(folder: &Folder) -> Result<()> {
    let path = folder.path().join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Connects to the supervisor of a container; `None` when it has none.
///
/// # Errors
/// When somebody holds the container's lock and does not listen.
pub fn connect(folder: &Folder) -> Result<Option<Link>> {
    let mut deadline = Instant::now() + HANDOVER_TIME;
    loop {
        if !folder.path().exists() {
            return Ok(None);
        }
        let connected = short_path(folder.path())
            .and_then(|(_handle, path)| UnixStream::connect(path).context("connect"));
        match connected {
            Ok(stream) => return Ok(Some(Link::new(stream))),
            Err(_) => match folder.is_locked() {
                // By a command that is at the files of one that is stopped.
                Ok(true) if folder.is_looked_into().unwrap_or(false) => return Ok(None),
                // Between a command that starts it and its supervisor: the layers may have to be unpacked, and
                // the lock of one that dies is free.
                Ok(true) if is_on_the_way(folder) => deadline = Instant::now() + HANDOVER_TIME,
                // At its end.
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(_) if !folder.path().exists() => return Ok(None),
                Err(error) => return Err(error),
            },
        }
        if Instant::now() > deadline {
            bail!("the container's supervisor does not answer");
        }
        std::thread::sleep(RETRY);
    }
}

/// Whether a command has its lock that has not handed it to a supervisor yet.
fn is_on_the_way(folder: &Folder) -> bool {
    matches!(
        folder.holder(),
        Ok(Some(Holder::Unsigned | Holder::Admitted))
    )
}

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The supervisor's.
    Told(ToCommand),
    /// The supervisor was killed while it was asked.
    Died,
    /// There was none.
    Nobody,
}

/// Asks a supervisor for one thing and waits for its answer. `None` when there is no supervisor, or
/// it went away meanwhile, and the container with it.
///
/// # Errors
/// As [`connect`].
pub fn ask(folder: &Folder, message: &ToSupervisor) -> Result<Option<ToCommand>> {
    Ok(match ask_whom(folder, message)? {
        Answer::Told(answer) => Some(answer),
        Answer::Died | Answer::Nobody => None,
    })
}

/// As [`ask`], for whom it matters why there is no answer. A question whose answer is lost is asked
/// again only where that does nothing: the next life is not to be ended for the last one's sake.
///
/// # Errors
/// As [`connect`]; that there is no answer from a supervisor that lives.
pub fn ask_whom(folder: &Folder, message: &ToSupervisor) -> Result<Answer> {
    // From the first round without an answer: an answer may take days.
    let mut deadline = None;
    let mut is_lost = false;
    while let Some(mut link) = connect(folder)? {
        if is_lost {
            bail!("the container's supervisor did not answer");
        }
        let asked = link.peer();
        let sent = link.send(message, &[]).is_ok();
        if let Some(answer) = link.wait().unwrap_or(None).filter(|_| sent) {
            return Ok(Answer::Told(answer));
        }
        // It was killed, or it hears nobody now: one that ends answers all who have connected.
        if !folder.path().exists() || !folder.is_locked()? {
            return Ok(Answer::Died);
        }
        // These do nothing that the next life is not to have.
        let is_repeated = matches!(message, ToSupervisor::Wait | ToSupervisor::Update(_));
        // Who has the lock now may be a next one.
        if sent && !is_repeated && folder.holder()? != asked.map(Holder::Supervisor) {
            return Ok(Answer::Died);
        }
        is_lost = sent && !is_repeated;
        if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + HANDOVER_TIME) {
            bail!("the container's supervisor does not answer");
        }
        std::thread::sleep(RETRY);
    }
    Ok(match is_lost {
        true => Answer::Died,
        false => Answer::Nobody,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(temp: &tempfile::TempDir, id: &str) -> Folder {
        let folder = Folder::at(temp.path().join("containers").join(id));
        std::fs::create_dir_all(folder.path()).unwrap();
        folder.make_lock().unwrap();
        folder
    }

    #[test]
    fn a_long_path_is_no_obstacle_and_a_dead_socket_is_no_supervisor() {
        let temp = tempfile::tempdir().unwrap();
        let folder = folder(&temp, &"x".repeat(200));
        assert!(connect(&folder).unwrap().is_none());
        let listener = Listener::bind(&folder).unwrap();
        let link = connect(&folder).unwrap().unwrap();
        let theirs = Link::new(listener.accept().unwrap());
        link.send(&ToSupervisor::Wait, &[]).unwrap();
        let mut theirs = theirs;
        let message = theirs.wait::<ToSupervisor>().unwrap();
        assert_eq!(message, Some(ToSupervisor::Wait));
        drop(listener);
        // A child of another test may have it until it executes its program.
        let is_gone = |_| {
            std::thread::sleep(RETRY);
            connect(&folder).unwrap().is_none()
        };
        assert!((0..1000).any(is_gone));
        // The next one takes its place.
        let _listener = Listener::bind(&folder).unwrap();
        assert!(connect(&folder).unwrap().is_some());
    }

    #[test]
    fn who_asks_one_that_goes_away_gets_no_answer() {
        let temp = tempfile::tempdir().unwrap();
        let folder = folder(&temp, "c");
        let ask = |folder| ask_whom(folder, &ToSupervisor::Wait).unwrap();
        assert_eq!(ask(&folder), Answer::Nobody);
        let listener = Listener::bind(&folder).unwrap();
        let answer = std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&folder));
            while listener.accept().is_none() {
                std::thread::sleep(RETRY);
            }
            asking.join().unwrap()
        });
        assert_eq!(answer, Answer::Died);
    }

    #[test]
    fn only_a_wait_is_repeated_when_its_answer_is_lost() {
        let temp = tempfile::tempdir().unwrap();
        let folder = folder(&temp, "c");
        let lock = folder.try_lock().unwrap().unwrap();
        lock.sign().unwrap();
        let listener = Listener::bind(&folder).unwrap();
        let next = || loop {
            if let Some(stream) = listener.accept() {
                break Link::new(stream);
            }
            std::thread::sleep(RETRY);
        };
        let ended = ToCommand::Done;
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask_whom(&folder, &ToSupervisor::Wait));
            for _ in 0..2 {
                let message = next().wait::<ToSupervisor>().unwrap();
                assert_eq!(message, Some(ToSupervisor::Wait));
            }
            let mut link = next();
            link.wait::<ToSupervisor>().unwrap();
            link.send(&ended, &[]).unwrap();
            let answer = asking.join().unwrap().unwrap();
            assert_eq!(answer, Answer::Told(ended));
        });
        std::thread::scope(|scope| {
            let kill = ToSupervisor::Kill(libc::SIGKILL);
            let asking = scope.spawn(move || ask_whom(&folder, &kill));
            let message = next().wait::<ToSupervisor>().unwrap();
            assert_eq!(message, Some(ToSupervisor::Kill(libc::SIGKILL)));
            // It connects once more, and says nothing.
            assert_eq!(next().wait::<ToSupervisor>().unwrap(), None);
            let error = asking.join().unwrap().unwrap_err().to_string();
            assert_eq!(error, "the container's supervisor did not answer");
        });
    }
}
