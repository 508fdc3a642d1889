//! `bulkhead logs`: what a container's process wrote.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use jiff::Timestamp;

use super::values::time;
use crate::sandbox::containers;
use crate::sandbox::logs::{self, Driver, Entry, Follow, Reader};
use crate::sandbox::paths::Root;
use crate::sandbox::state::Folder;

/// Longest time between two looks at a container that is followed: one whose supervisor was killed
/// writes no more.
const LOOK: Duration = Duration::from_secs(1);

/// Flags of `logs`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Show extra details; there are none, but the blank before the text
    #[arg(long)]
    details: bool,
    /// Go on while the container runs
    #[arg(short, long)]
    follow: bool,
    /// Only what is newer: a time such as 2025-01-02T13:23:37Z, or 42m for so long ago
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Only what is older, in the same forms
    #[arg(long, value_name = "string")]
    until: Option<String>,
    /// So many lines from the end, or all
    #[arg(
        short = 'n',
        long,
        value_name = "string",
        default_value = "all",
        allow_hyphen_values = true
    )]
    tail: String,
    /// With the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Prints the log, and what comes while it is followed.
///
/// # Errors
/// The container keeps no log, or it can't be read.
pub fn run(args: &LogsArgs) -> Result<()> {
    let now = Timestamp::now();
    let since = time::moment_of_flag(args.since.as_deref(), "since", now)?;
    let until = time::moment_of_flag(args.until.as_deref(), "until", now)?;
    let (folder, config) = containers::find(&Root::of_user()?, &args.container)?;
    if config.launch.log.driver == Driver::None {
        if config.launch.auto_remove {
            bail!(
                "configured logging driver does not support reading: in the foreground with --rm \
                 no log is kept unless --log-driver says so"
            );
        }
        bail!("configured logging driver does not support reading");
    }
    // Before the first look, so that nothing falls between.
    let follow = match args.follow {
        true => Some(Follow::new(&logs::path(folder.path(), &config.id))?),
        false => None,
    };
    let mut reader = Reader::open(&logs::path(folder.path(), &config.id))?;
    let is_wanted = |entry: &Entry| {
        since.is_none_or(|since| entry.time >= since)
            && until.is_none_or(|until| entry.time <= until)
    };
    let printer = Printer {
        timestamps: args.timestamps,
        details: args.details,
    };
    if let Some(count) = lines(&args.tail) {
        for entry in last(&mut reader, count, &is_wanted)? {
            printer.print(&entry)?;
        }
    }
    loop {
        // In this order: what was written before the end is read after it was seen.
        let is_alive = is_alive(&folder);
        while let Some(entry) = reader.next()? {
            if follow.is_some() && until.is_some_and(|until| entry.time > until) {
                return Ok(());
            }
            if is_wanted(&entry) {
                printer.print(&entry)?;
            }
        }
        let Some(follow) = &follow else {
            return Ok(());
        };
        if !is_alive || until.is_some_and(|until| Timestamp::now() > until) {
            return Ok(());
        }
        follow.wait(LOOK)?;
    }
}

/// Whether more may be written. A container whose folder is gone has ended.
fn is_alive(folder: &Folder) -> bool {
    folder.is_locked().unwrap_or(false)
}

/// How many lines are wanted; `None` for all. Docker takes what is no number for all.
fn lines(tail: &str) -> Option<usize> {
    tail.parse().ok()
}

/// The last so many entries of those that are wanted.
fn last(
    reader: &mut Reader,
    count: usize,
    is_wanted: &impl Fn(&Entry) -> bool,
) -> Result<Vec<Entry>> {
    let mut entries = VecDeque::new();
    // A piece of a line is not a line.
    let mut ends = 0;
    while let Some(entry) = reader.next()? {
        if !is_wanted(&entry) {
            continue;
        }
        let is_end = |entry: &Entry| entry.text.ends_with('\n');
        ends += usize::from(is_end(&entry));
        entries.push_back(entry);
        let partial = usize::from(entries.back().is_some_and(|entry| !is_end(entry)));
        while ends + partial > count {
            match entries.pop_front() {
                Some(first) => ends -= usize::from(is_end(&first)),
                None => break,
            }
        }
    }
    Ok(entries.into())
}

struct Printer {
    timestamps: bool,
    details: bool,
}

impl Printer {
    fn print(&self, entry: &Entry) -> Result<()> {
        let mut text = String::new();
        if self.timestamps {
            text = format!("{:.9} ", entry.time);
        }
        if self.details {
            text.push(' ');
        }
        text.push_str(&entry.text);
        if entry.stream == "stderr" {
            // That nobody reads errors is no reason to stop.
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
            return Ok(());
        }
        // As the process wrote it, as when it is attached.
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }
}
