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
    /// The age at which that file was found. It has no lesser one any more.
    age: u32,
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
            age: 0,
            partial: Vec::new(),
        };
        if let Some(oldest) = reader.newer()? {
            reader.begin(oldest);
        }
        Ok(reader)
    }

    fn begin(&mut self, found: Found) {
        self.partial.clear();
        self.age = found.age;
        self.file = Some(BufReader::with_capacity(64 << 10, found.file));
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
        // The file after this one, once its end was seen.
        let mut newer = None;
        loop {
            if let Some(file) = &mut self.file
                && read_line(file, &mut self.partial).context("read the log")?
            {
                let entry = serde_json::from_slice(&self.partial);
                self.partial.clear();
                match entry {
                    Ok(entry) => return Ok(Some(entry)),
                    Err(_) => continue,
                }
            }
            match newer.take() {
                // What was written before it was begun has been read since it was found.
                Some(found) => self.begin(found),
                None => match self.newer()? {
                    None => return Ok(None),
                    found => newer = found,
                },
            }
        }
    }

    /// The file that was begun after the one that is read; the oldest when there is none or it was
    /// dropped. `None` when nothing newer was there at the beginning of the look.
    fn newer(&self) -> Result<Option<Found>> {
        // Mostly its next number is that of the one after it, and not all need to be looked at.
        let near = self.age.saturating_sub(1);
        match self.look(near)? {
            None if near > 0 => self.look(0),
            found => Ok(found),
        }
    }

    /// As [`Self::newer`], of the files whose age is `from` or more. No lock keeps the writer from
    /// rotating meanwhile, since who reads must not hold it up. It need not be: a file only ever gets
    /// older, in its place between the others ([`super::writer`]). Who looks from the newest on thus
    /// comes upon every file that is older than the last one found, so that the one before ours is
    /// its neighbour, whatever number either has by then and wherever there is a gap.
    fn look(&self, from: u32) -> Result<Option<Found>> {
        let own = self.file.as_ref().map(|file| number(file.get_ref()));
        let own = own.transpose()?;
        let mut newer = None;
        for age in from..FILES_MAX {
            let path = rotated(&self.path, age);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("open {}", path.display()));
                }
            };
            if own == Some(number(&file)?) {
                break;
            }
            newer = Some(Found { age, file });
        }
        Ok(newer)
    }
}

/// A file of the log.
#[derive(Debug)]
struct Found {
    /// The number of rotations since it was the newest, when it was opened.
    age: u32,
    file: File,
}

/// What no other file has as long as this one is open.
fn number(file: &File) -> Result<(u64, u64)> {
    let metadata = file.metadata().context("look at the log")?;
    Ok((metadata.dev(), metadata.ino()))
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
    use std::sync::atomic::{AtomicU64, Ordering};

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
    fn a_gap_in_the_numbers_hides_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let write = |age, text: &str| {
            let time = "2025-01-02T03:04:05.6Z";
            let line =
                format!("{{\"log\":\"{text}\",\"stream\":\"stdout\",\"time\":\"{time}\"}}\n");
            std::fs::write(rotated(&path, age), line).unwrap();
        };
        // As a writer leaves them that was killed when it rotated, or between two of its steps.
        write(FILES_MAX - 1, "a");
        write(4, "b");
        write(2, "c");
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(all(&mut reader), ["a", "b", "c"]);
        write(0, "d");
        assert_eq!(all(&mut reader), ["d"]);
        assert_eq!(all(&mut Reader::open(&path).unwrap()), ["a", "b", "c", "d"]);
        // One that was dropped while it was read is followed by the oldest there is.
        let mut reader = Reader::open(&path).unwrap();
        for age in [4, FILES_MAX - 1] {
            std::fs::remove_file(rotated(&path, age)).unwrap();
        }
        assert_eq!(all(&mut reader), ["a", "c", "d"]);
        // What is removed with its container is read to its end, and no further.
        std::fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(all(&mut reader), Vec::<String>::new());
    }

    /// Reads again and again while a writer rotates; each time `check` gets how many lines had been
    /// written before, the lines that were read, and for each how many had been written after.
    fn read_while_it_rotates(files: u32, count: u64, check: impl Fn(u64, &[(u64, u64)]) + Sync) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let config = LogConfig {
            file_bytes: 1000,
            files,
            ..LogConfig::default()
        };
        let log = LogWriter::open(&path, &config).unwrap().unwrap();
        let written = AtomicU64::new(0);
        let read = || {
            while written.load(Ordering::SeqCst) < count {
                let before = written.load(Ordering::SeqCst);
                let mut reader = Reader::open(&path).unwrap();
                let entries = std::iter::from_fn(|| reader.next().unwrap());
                let read: Vec<_> = entries
                    .map(|entry| {
                        let number = entry.text.trim_end().parse().unwrap();
                        (number, written.load(Ordering::SeqCst))
                    })
                    .collect();
                check(before, &read);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(read);
            }
            let mut lines = LineBuffer::new("stdout");
            for number in 0..count {
                lines.push(&log, format!("{number:08}\n").as_bytes());
                written.store(number + 1, Ordering::SeqCst);
            }
        });
    }

    /// Fewest lines of the test above in a file that is full.
    const LINES_OF_A_FILE: u64 = 12;

    #[test]
    fn readers_miss_nothing_while_files_are_rotated() {
        let files = 200;
        let count = u64::from(files - 1) * LINES_OF_A_FILE;
        read_while_it_rotates(files, count, |before, read| {
            let numbers = read.iter().map(|(number, _)| *number);
            assert!(numbers.eq(0..read.len() as u64), "a hole: {read:?}");
            assert!(read.len() as u64 >= before, "{} of {before}", read.len());
        });
    }

    #[test]
    fn readers_miss_what_was_dropped_and_nothing_else() {
        let files = 40;
        let kept = u64::from(files - 2) * LINES_OF_A_FILE;
        read_while_it_rotates(files, 8_000, |before, read| {
            let mut next = 0;
            for (number, written) in read {
                let is_dropped = written.saturating_sub(*number) >= kept;
                assert!(
                    *number == next || (*number > next && is_dropped),
                    "{next}: {read:?}"
                );
                next = number + 1;
            }
            assert!(next >= before, "{next} of {before}");
        });
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
