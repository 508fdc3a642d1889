//! Reads a container's log, also while it is written, and the journal of events, which is kept the
//! same way. Called by the verbs `logs` and `events`.
//!
//! What the process wrote is inside of JSON strings; a line that is no entry, as a full disk leaves
//! one, is passed over.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Take};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{FILES_MAX, LINE_BYTES_MAX, rotated};
use crate::sandbox::poll;

/// Longest line of the file: each byte of a piece may be written as six, and there is the frame.
const ENTRY_BYTES_MAX: usize = LINE_BYTES_MAX * 6 + 256;

/// One piece of a line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// What was written, with the newline if the line ends here.
    #[serde(rename = "log")]
    pub text: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// When.
    pub time: jiff::Timestamp,
}

/// Goes through the files from the oldest to the end of the newest.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// A line whose end has not been written yet.
    partial: Vec<u8>,
}

impl Reader {
    /// Begins with the oldest file of the log at `path`.
    ///
    /// # Errors
    /// When it can't be opened; that there is none is no error.
    pub fn open(path: &Path) -> Result<Self> {
        let mut reader = Self {
            path: path.to_owned(),
            file: None,
            partial: Vec::new(),
        };
        reader.open_oldest()?;
        Ok(reader)
    }

    fn open_oldest(&mut self) -> Result<()> {
        let mut age = 0;
        while age < FILES_MAX && rotated(&self.path, age + 1).exists() {
            age += 1;
        }
        self.open_file(age)
    }

    fn open_file(&mut self, age: u32) -> Result<()> {
        let path = rotated(&self.path, age);
        self.partial.clear();
        self.file = match File::open(&path) {
            Ok(file) => Some(BufReader::with_capacity(64 << 10, file)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
        };
        Ok(())
    }

    /// The next entry; `None` at the end of what there is now.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        self.next_of()
    }

    /// As [`Self::next`], of files whose lines are something else.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn next_of<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        // Whether a newer file was seen after the end of this one.
        let mut is_over = false;
        loop {
            if self.file.is_none() {
                self.open_oldest()?;
            }
            let Some(file) = &mut self.file else {
                return Ok(None);
            };
            if read_line(file, &mut self.partial).context("read the log")? {
                let entry = serde_json::from_slice(&self.partial);
                self.partial.clear();
                match entry {
                    Ok(entry) => return Ok(Some(entry)),
                    Err(_) => continue,
                }
            }
            match self.newer()? {
                None => return Ok(None),
                // What was written between the two looks is still to be read.
                Some(_) if !is_over => is_over = true,
                Some(Next::Age(age)) => {
                    self.open_file(age)?;
                    is_over = false;
                }
                Some(Next::Oldest) => {
                    self.open_oldest()?;
                    is_over = false;
                }
            }
        }
    }

    /// At the end of a file: which one is next, if there is a newer one.
    fn newer(&self) -> Result<Option<Next>> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let number = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
        let own = file.get_ref().metadata().context("look at the log")?;
        let own = (own.dev(), own.ino());
        match number(&self.path) {
            Some(newest) if newest == own => return Ok(None),
            // Between two steps of a rotation.
            None => return Ok(None),
            Some(_) => {}
        }
        let age = (1..=FILES_MAX)
            .map(|age| (age, number(&rotated(&self.path, age))))
            .take_while(|(_, number)| number.is_some())
            .find(|(_, number)| *number == Some(own));
        Ok(Some(match age {
            Some((age, _)) => Next::Age(age - 1),
            // It is gone already: with what came since, if there is more than one file.
            None => Next::Oldest,
        }))
    }
}

/// The file to read after one that is over.
enum Next {
    /// By the number of rotations since it was the newest.
    Age(u32),
    /// Whatever is the oldest.
    Oldest,
}

/// Reads up to the end of a line; `false` when that has not come yet.
fn read_line(file: &mut BufReader<File>, line: &mut Vec<u8>) -> std::io::Result<bool> {
    let room = (ENTRY_BYTES_MAX + 1).saturating_sub(line.len());
    let mut limited: Take<_> = std::io::Read::take(file, room as u64);
    limited.read_until(b'\n', line)?;
    if line.len() > ENTRY_BYTES_MAX && !line.ends_with(b"\n") {
        // No entry of ours; its rest is none, either.
        line.clear();
        return read_line(limited.into_inner(), line);
    }
    Ok(line.ends_with(b"\n"))
}

/// Tells when there may be more in a container's folder.
#[derive(Debug)]
pub struct Follow {
    inotify: Inotify,
    log: OsString,
}

impl Follow {
    /// Watches the folder of a log from now on.
    ///
    /// # Errors
    /// When the user has no watches left.
    pub fn new(log: &Path) -> Result<Self> {
        let folder = log.parent().unwrap_or(log);
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .context("watch a folder")?;
        let events = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF;
        inotify
            .add_watch(folder, events)
            .with_context(|| format!("watch {}", folder.display()))?;
        Ok(Self {
            inotify,
            log: log.file_name().unwrap_or_default().to_owned(),
        })
    }

    /// Waits until something changed, or for so long.
    ///
    /// # Errors
    /// When the kernel can't poll.
    pub fn wait(&self, at_most: Duration) -> Result<()> {
        let deadline = Instant::now() + at_most;
        // A container's disk may be beside it, and change all the time.
        let is_of_another = |event: &InotifyEvent| {
            event.mask == AddWatchFlags::IN_MODIFY && event.name.as_ref() != Some(&self.log)
        };
        while poll::readable_until(self.inotify.as_fd(), Some(deadline))
            .context("wait for the log")?
        {
            // What changed is looked up.
            match self.inotify.read_events() {
                Ok(events) if events.iter().all(is_of_another) => {}
                _ => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::{LineBuffer, LogConfig, LogWriter};
    use super::*;

    fn all(reader: &mut Reader) -> Vec<String> {
        std::iter::from_fn(|| reader.next().unwrap())
            .map(|entry| entry.text)
            .collect()
    }

    #[test]
    fn what_is_written_meanwhile_is_read_once_across_rotations() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(all(&mut reader), Vec::<String>::new());
        let config = LogConfig {
            file_bytes: 1000,
            files: 50,
            ..LogConfig::default()
        };
        let log = LogWriter::open(&path, &config).unwrap().unwrap();
        let mut lines = LineBuffer::new("stderr");
        let mut read = Vec::new();
        for number in 0..200 {
            lines.push(&log, format!("{number}\n").as_bytes());
            if number % 37 == 0 {
                read.extend(all(&mut reader));
            }
        }
        read.extend(all(&mut reader));
        let want: Vec<_> = (0..200).map(|number| format!("{number}\n")).collect();
        assert_eq!(read, want);
        assert_eq!(all(&mut Reader::open(&path).unwrap()), want);
    }

    #[test]
    fn half_a_line_waits_and_what_is_no_entry_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = File::create(&path).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        write!(file, "nonsense\n{{\"log\":\"a\\n\",\"stream\":\"std").unwrap();
        assert_eq!(reader.next().unwrap(), None);
        writeln!(file, "out\",\"time\":\"2025-01-02T03:04:05.6Z\"}}").unwrap();
        let entry = reader.next().unwrap().unwrap();
        assert_eq!(
            (entry.text.as_str(), entry.stream.as_str()),
            ("a\n", "stdout")
        );
        file.write_all(&vec![b'x'; 3 * ENTRY_BYTES_MAX]).unwrap();
        writeln!(file).unwrap();
        assert_eq!(reader.next().unwrap(), None);
        assert!(reader.partial.is_empty());
    }

    #[test]
    fn a_change_wakes_who_follows() {
        let folder = tempfile::tempdir().unwrap();
        let (log, disk) = (folder.path().join("log"), folder.path().join("disk"));
        std::fs::write(&log, "x").unwrap();
        std::fs::write(&disk, "x").unwrap();
        let follow = Follow::new(&log).unwrap();
        // What is beside it does not.
        let write = |path: &Path| {
            let mut file = File::options().append(true).open(path).unwrap();
            file.write_all(b"y").unwrap();
        };
        write(&disk);
        follow.wait(Duration::ZERO).unwrap();
        assert!(follow.inotify.read_events().is_err());
        write(&log);
        follow.wait(Duration::from_secs(600)).unwrap();
        std::fs::rename(&disk, folder.path().join("log.1")).unwrap();
        follow.wait(Duration::from_secs(600)).unwrap();
    }
}
