//! Writes a container's log. Called by the pumps of [`crate::sandbox::streams`], one per stream,
//! which share the files.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use super::{Driver, LINE_BYTES_MAX, LogConfig, rotated};
use crate::sandbox::clock;

/// Bytes of entries that are written at once.
const ENTRIES_BYTES: usize = 64 << 10;

/// The files, shared by the streams.
#[derive(Debug)]
pub struct LogWriter(Mutex<Files>);

#[derive(Debug)]
struct Files {
    path: PathBuf,
    file: File,
    len: u64,
    file_bytes: u64,
    files: u32,
    /// Whether it was said that writing fails.
    complained: bool,
}

impl LogWriter {
    /// Opens the log for appending; `None` when none is kept.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub fn open(path: &Path, config: &LogConfig) -> Result<Option<Self>> {
        if config.driver == Driver::None {
            return Ok(None);
        }
        let (file, len) = open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Some(Self(Mutex::new(Files {
            path: path.to_owned(),
            file,
            len,
            file_bytes: config.file_bytes,
            files: config.files,
            complained: false,
        }))))
    }

    /// Appends entries, each a line of JSON. A host whose disk is full loses them, and says so once.
    fn append(&self, entries: &[u8]) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = files.append(entries)
            && !std::mem::replace(&mut files.complained, true)
        {
            eprintln!("bulkhead: write the container's log: {error}");
        }
    }
}

fn open(path: &Path) -> std::io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    let len = file.metadata()?.len();
    Ok((file, len))
}

impl Files {
    fn append(&mut self, entries: &[u8]) -> std::io::Result<()> {
        let mut rest = entries;
        while !rest.is_empty() {
            if self.len >= self.file_bytes {
                self.rotate()?;
            }
            // Up to the end of the line that fills the file.
            let room = usize::try_from(self.file_bytes - self.len).unwrap_or(usize::MAX);
            let cut = match rest.get(room..) {
                Some(beyond) => match beyond.iter().position(|byte| *byte == b'\n') {
                    Some(at) => room + at + 1,
                    None => rest.len(),
                },
                None => rest.len(),
            };
            let (now, later) = rest.split_at(cut);
            self.file.write_all(now)?;
            self.len += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Begins a new file; the oldest goes. That goes first, so that at any moment a file with a greater
    /// number is an older one and no file's number ever gets smaller: readers, who hold no lock, find
    /// the next one by that.
    fn rotate(&mut self) -> std::io::Result<()> {
        if self.files <= 1 {
            // Readers see by its number that it is another file.
            match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        for age in (0..self.files.saturating_sub(1)).rev() {
            match std::fs::rename(rotated(&self.path, age), rotated(&self.path, age + 1)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        (self.file, self.len) = open(&self.path)?;
        Ok(())
    }
}

/// Cuts one stream's bytes into lines and hands them to the log.
#[derive(Debug)]
pub struct LineBuffer {
    stream: &'static str,
    partial: Vec<u8>,
    entries: Vec<u8>,
}

impl LineBuffer {
    /// For `stdout` or `stderr`.
    #[must_use]
    pub fn new(stream: &'static str) -> Self {
        Self {
            stream,
            partial: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Logs the lines that are whole with these bytes.
    pub fn push(&mut self, log: &LogWriter, bytes: &[u8]) {
        let end = self.end_of_entry();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut piece = piece;
            while !piece.is_empty() {
                let room = LINE_BYTES_MAX - self.partial.len();
                let (now, later) = piece.split_at(room.min(piece.len()));
                self.partial.extend_from_slice(now);
                piece = later;
                if self.partial.ends_with(b"\n") || self.partial.len() == LINE_BYTES_MAX {
                    self.entry(&end);
                    if self.entries.len() > ENTRIES_BYTES {
                        self.flush(log);
                    }
                }
            }
        }
        self.flush(log);
    }

    /// Logs what has no newline at the stream's end.
    pub fn finish(&mut self, log: &LogWriter) {
        if !self.partial.is_empty() {
            let end = self.end_of_entry();
            self.entry(&end);
            self.flush(log);
        }
    }

    /// What is behind the text of each entry that is written now.
    fn end_of_entry(&self) -> String {
        let time = clock::now();
        format!(",\"stream\":\"{}\",\"time\":\"{time}\"}}\n", self.stream)
    }

    fn entry(&mut self, end: &str) {
        self.entries.extend_from_slice(b"{\"log\":");
        match self.partial.split_last() {
            // Most lines need no second look at each byte.
            Some((b'\n', line)) if line.iter().all(|byte| is_plain(*byte)) => {
                self.entries.push(b'"');
                self.entries.extend_from_slice(line);
                self.entries.extend_from_slice(b"\\n\"");
            }
            _ => {
                let text = String::from_utf8_lossy(&self.partial);
                // A string always is JSON, and a vector takes it.
                let _ = serde_json::to_writer(&mut self.entries, text.as_ref());
            }
        }
        self.entries.extend_from_slice(end.as_bytes());
        self.partial.clear();
    }

    fn flush(&mut self, log: &LogWriter) {
        log.append(&self.entries);
        self.entries.clear();
    }
}

/// Whether a byte stands for itself in a JSON string.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                assert!(entry["time"].as_str().unwrap().ends_with('Z'));
                assert_eq!(entry["stream"], "stdout");
                entry["log"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    fn config(file_bytes: u64, files: u32) -> LogConfig {
        LogConfig {
            file_bytes,
            files,
            ..LogConfig::default()
        }
    }

    #[test]
    fn lines_are_kept_whole_and_long_ones_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = LogWriter::open(&path, &config(1 << 20, 2))
            .unwrap()
            .unwrap();
        let mut lines = LineBuffer::new("stdout");
        lines.push(&log, b"one\ntw");
        lines.push(&log, b"o\n\xff\"\n");
        lines.push(&log, &[b'x'; LINE_BYTES_MAX + 1]);
        lines.finish(&log);
        let texts = texts(&path);
        assert_eq!(&texts[..3], ["one\n", "two\n", "\u{fffd}\"\n"]);
        assert_eq!((texts[3].len(), texts[4].as_str()), (LINE_BYTES_MAX, "x"));
    }

    #[test]
    fn files_are_rotated_at_whole_lines_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = LogWriter::open(&path, &config(1000, 3)).unwrap().unwrap();
        let mut lines = LineBuffer::new("stdout");
        for number in 0..100 {
            lines.push(&log, format!("{number}\n").as_bytes());
        }
        let mut kept = Vec::new();
        for age in (0..3).rev() {
            kept.extend(texts(&rotated(&path, age)));
        }
        assert!(!rotated(&path, 3).exists());
        assert_eq!(kept.last().unwrap(), "99\n");
        let first = 100 - kept.len();
        let want: Vec<_> = (first..100).map(|number| format!("{number}\n")).collect();
        assert_eq!(kept, want);
        // A log that is opened again goes on.
        drop(log);
        let log = LogWriter::open(&path, &config(1000, 1)).unwrap().unwrap();
        for number in 100..120 {
            lines.push(&log, format!("{number}\n").as_bytes());
        }
        assert_eq!(texts(&path).last().unwrap(), "119\n");
        assert!(path.metadata().unwrap().len() < 1100);
    }
}
