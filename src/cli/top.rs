//! `bulkhead top`: the processes of a running container, in the columns of `ps`.

use std::io::{ErrorKind, Read};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use protocol::frame::Decoder;
use protocol::task::{ProcessInfo, Task};

use super::output;
use crate::sandbox::access::{ANSWER_TIMEOUT, Access};
use crate::sandbox::agent::AgentError;
use crate::sandbox::containers;
use crate::sandbox::launch::MIB;
use crate::sandbox::paths::Root;

/// Narrowest column, its gap included, and the gap: Docker's for this verb.
const COLUMN_MIN: usize = 20;
const COLUMN_GAP: usize = 3;

/// Longest user name that `ps` shows instead of a number.
const USER_CHARS: usize = 8;

/// Processes that are shown: as many as the agent tells.
const PROCESSES_MAX: usize = 65_536;

/// Bytes read at once.
const READ_LEN: usize = 64 << 10;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Container and options of `ps`.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// -ef (the default), -e, aux, or -o with a list of columns
    #[arg(
        value_name = "ps OPTIONS",
        allow_hyphen_values = true,
        trailing_var_arg = true
    )]
    options: Vec<String>,
}

/// Prints a table of them.
///
/// # Errors
/// Options that are not known, or a container that does not run.
pub fn run(args: &TopArgs) -> Result<()> {
    let columns = columns(&args.options)?;
    let root = Root::of_user()?;
    let (folder, config) = containers::find(&root, &args.container)?;
    let mut access = Access::running(&folder, &config)?;
    let processes = processes(&mut access)?;
    let moment = Moment {
        now_ms: u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0),
        memory_bytes: u64::from(config.launch.memory_mib) * MIB,
    };
    let mut rows = vec![columns.iter().map(|column| column.1.to_owned()).collect()];
    for process in &processes {
        let cells = columns.iter().map(|column| column.2(process, &moment));
        rows.push(cells.collect());
    }
    for line in aligned(&rows) {
        output::line(&line)?;
    }
    Ok(())
}

fn processes(access: &mut Access) -> Result<Vec<ProcessInfo>> {
    let mut stream = access.begin(Task::Processes)?;
    let about = || "read the processes";
    stream
        .set_read_timeout(Some(ANSWER_TIMEOUT))
        .with_context(about)?;
    let mut decoder = Decoder::new();
    let mut processes = Vec::new();
    let mut buffer = vec![0; READ_LEN];
    loop {
        let len = match stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(AgentError::Timeout).with_context(about);
            }
            read => read.with_context(about)?,
        };
        if len == 0 {
            break;
        }
        decoder.push(buffer.get(..len).unwrap_or_default());
        while let Some(process) = decoder.decode()? {
            processes.push(process);
        }
        if processes.len() > PROCESSES_MAX {
            bail!("the guest told more than {PROCESSES_MAX} processes");
        }
    }
    access.end_until(Some(Instant::now() + ANSWER_TIMEOUT))?;
    Ok(processes)
}

/// What cells need besides the process.
struct Moment {
    /// Milliseconds since 1970.
    now_ms: u64,
    /// Of the VM.
    memory_bytes: u64,
}

/// Names in `-o`, the header, and what a cell shows.
type Column = (
    &'static [&'static str],
    &'static str,
    fn(&ProcessInfo, &Moment) -> String,
);

const COLUMNS: [Column; 27] = [
    (&["uid", "euid"], "UID", |p, _| p.uid.to_string()),
    (&["user", "euser", "uname"], "USER", |p, _| user(p)),
    (&["pid"], "PID", |p, _| p.pid.to_string()),
    (&["ppid"], "PPID", |p, _| p.parent.to_string()),
    (&["pgid", "pgrp"], "PGID", |p, _| p.group.to_string()),
    (&["sid", "sess", "session"], "SID", |p, _| {
        p.session.to_string()
    }),
    (&["c"], "C", |p, _| (cpu_permille(p) / 10).to_string()),
    (&["%cpu", "pcpu"], "%CPU", |p, _| permille(cpu_permille(p))),
    (&["%mem", "pmem"], "%MEM", |p, m| {
        permille(p.resident_bytes.saturating_mul(1000) / m.memory_bytes.max(1))
    }),
    (&["vsz", "vsize"], "VSZ", |p, _| {
        (p.virtual_bytes / 1024).to_string()
    }),
    (&["rss", "rssize", "rsz"], "RSS", |p, _| {
        (p.resident_bytes / 1024).to_string()
    }),
    (&["tty", "tt", "tname"], "TTY", |p, _| terminal(p)),
    (&["stat"], "STAT", |p, _| state(p)),
    (&["s", "state"], "S", |p, _| p.state.to_string()),
    (&["stime", "start_time"], "STIME", started),
    (&["start", "bsdstart"], "START", started),
    (&["time", "cputime"], "TIME", |p, _| clock(p.cpu_ms)),
    (&["bsdtime"], "TIME", |p, _| minutes(p.cpu_ms)),
    (&["etime"], "ELAPSED", |p, _| elapsed(p.age_ms)),
    (&["etimes"], "ELAPSED", |p, _| (p.age_ms / 1000).to_string()),
    (&["ni", "nice"], "NI", |p, _| p.nice.to_string()),
    (&["nlwp", "thcount"], "NLWP", |p, _| p.threads.to_string()),
    (&["comm", "ucmd", "ucomm"], "COMMAND", |p, _| p.name.clone()),
    (&["args", "command"], "COMMAND", |p, _| p.command.clone()),
    (&["cmd"], "CMD", |p, _| p.command.clone()),
    // Those of the usual listings that have other headers there.
    (&["-ef uid"], "UID", |p, _| user(p)),
    (&["-e cmd"], "CMD", |p, _| p.name.clone()),
];

/// The columns that options of `ps` ask for.
fn columns(options: &[String]) -> Result<Vec<Column>> {
    const FULL: &str = "-ef uid,pid,ppid,c,stime,tty,time,cmd";
    const SHORT: &str = "pid,tty,time,-e cmd";
    const USERS: &str = "user,pid,%cpu,%mem,vsz,rss,tty,stat,start,bsdtime,command";
    let words: Vec<&str> = options
        .iter()
        .flat_map(|text| text.split_whitespace())
        .collect();
    let (mut list, mut wanted) = (Vec::new(), None);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let letters = word.strip_prefix('-').unwrap_or(word);
        let is_plain = word == letters;
        match letters.split_once('o') {
            // All letters before it choose processes, of which there is one set here.
            Some((before, after)) if before.chars().all(|c| "eAax".contains(c)) => {
                let names = match after {
                    "" => words
                        .next()
                        .context("ps: a list of columns must follow -o")?,
                    names => names,
                };
                list.extend(names.split(','));
            }
            _ => {
                wanted = Some(match letters {
                    "ef" | "fe" | "Af" | "fA" | "f" if !is_plain => FULL,
                    "e" | "A" if !is_plain => match wanted {
                        Some(FULL) => FULL,
                        _ => SHORT,
                    },
                    "aux" | "axu" | "uax" | "auxw" | "auxww" => USERS,
                    _ => bail!(
                        "ps options {word} are not supported: use -ef, -e, aux, or -o with a list of columns"
                    ),
                });
            }
        }
    }
    if list.is_empty() {
        list.extend(wanted.unwrap_or(FULL).split(','));
    }
    list.into_iter()
        .map(|name| {
            let known = COLUMNS.iter().find(|column| column.0.contains(&name));
            known
                .copied()
                .with_context(|| format!("ps: unknown column \"{name}\" in -o"))
        })
        .collect()
}

fn user(process: &ProcessInfo) -> String {
    match process.user.chars().count() <= USER_CHARS {
        true => process.user.clone(),
        false => process.uid.to_string(),
    }
}

fn terminal(process: &ProcessInfo) -> String {
    process
        .terminal
        .map_or_else(|| "?".to_owned(), |number| format!("pts/{number}"))
}

/// The state and what `ps` adds to it.
fn state(process: &ProcessInfo) -> String {
    let mut text = process.state.to_string();
    match process.nice {
        ..0 => text.push('<'),
        1.. => text.push('N'),
        0 => {}
    }
    if process.session == process.pid {
        text.push('s');
    }
    if process.threads > 1 {
        text.push('l');
    }
    text
}

/// Thousandths of a CPU used since the process began.
fn cpu_permille(process: &ProcessInfo) -> u64 {
    process.cpu_ms.saturating_mul(1000) / process.age_ms.max(1)
}

fn permille(value: u64) -> String {
    format!("{}.{}", value / 10, value % 10)
}

/// When a process began, in UTC: the time of a day that is not over, else the day.
fn started(process: &ProcessInfo, moment: &Moment) -> String {
    let began = moment.now_ms.saturating_sub(process.age_ms);
    let time = i64::try_from(began)
        .ok()
        .and_then(|began| jiff::Timestamp::from_millisecond(began).ok());
    let format = match process.age_ms < DAY_MS {
        true => "%H:%M",
        false => "%b%d",
    };
    time.map_or_else(|| "?".to_owned(), |time| time.strftime(format).to_string())
}

/// `HH:MM:SS`.
fn clock(ms: u64) -> String {
    let seconds = ms / 1000;
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// `M:SS`.
fn minutes(ms: u64) -> String {
    let seconds = ms / 1000;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// `[[DD-]HH:]MM:SS`.
fn elapsed(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let rest = format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => rest,
        (0, hours) => format!("{hours:02}:{rest}"),
        (days, hours) => format!("{days:02}-{hours:02}:{rest}"),
    }
}

fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.first().map_or(0, Vec::len);
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        let widest = cells.map(|cell| cell.chars().count()).max();
        (widest.unwrap_or(0) + COLUMN_GAP).max(COLUMN_MIN)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate();
        cells
            .map(|(at, (cell, width))| match at + 1 == count {
                true => cell.clone(),
                false => output::padded(cell, *width),
            })
            .collect()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> ProcessInfo {
        ProcessInfo {
            pid: 7,
            parent: 1,
            group: 7,
            session: 7,
            uid: 1000,
            user: "someone".to_owned(),
            state: 'S',
            terminal: Some(0),
            cpu_ms: 61_000,
            age_ms: 3_600_000,
            virtual_bytes: 2 << 20,
            resident_bytes: 1 << 20,
            nice: 0,
            threads: 2,
            name: "sh".to_owned(),
            command: "sh -c x".to_owned(),
        }
    }

    fn row(options: &[&str]) -> Result<(Vec<&'static str>, Vec<String>), String> {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let columns = columns(&options).map_err(|error| error.to_string())?;
        let moment = Moment {
            now_ms: 1_000_000_000_000,
            memory_bytes: 100 << 20,
        };
        let cells = columns.iter().map(|column| column.2(&process(), &moment));
        let cells = cells.collect();
        Ok((columns.iter().map(|column| column.1).collect(), cells))
    }

    #[test]
    fn the_usual_listings() {
        let full = row(&[]).unwrap();
        assert_eq!(
            full.0,
            ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        );
        assert_eq!(
            full.1,
            [
                "someone", "7", "1", "1", "00:46", "pts/0", "00:01:01", "sh -c x"
            ]
        );
        for options in [&["-ef"][..], &["-e", "-f"], &["-f", "-e"], &["-Af"]] {
            assert_eq!(row(options).unwrap(), full, "{options:?}");
        }
        assert_eq!(row(&["-e"]).unwrap().1, ["7", "pts/0", "00:01:01", "sh"]);
        let users = row(&["aux"]).unwrap();
        assert_eq!(
            users.0,
            [
                "USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME",
                "COMMAND"
            ]
        );
        assert_eq!(
            users.1,
            [
                "someone", "7", "1.6", "1.0", "2048", "1024", "pts/0", "Ssl", "00:46", "1:01",
                "sh -c x"
            ]
        );
    }

    #[test]
    fn columns_by_name() {
        let cells = row(&["-o", "pid,comm,etime,ni"]).unwrap();
        assert_eq!(cells.0, ["PID", "COMMAND", "ELAPSED", "NI"]);
        assert_eq!(cells.1, ["7", "sh", "01:00:00", "0"]);
        for options in [
            &["-eo", "pid"][..],
            &["-opid"],
            &["axo", "pid"],
            &["-e -o pid"],
        ] {
            assert_eq!(row(options).unwrap().1, ["7"], "{options:?}");
        }
        for (options, want) in [
            (&["-o"][..], "ps: a list of columns must follow -o"),
            (&["-o", "pid,x"], "ps: unknown column \"x\" in -o"),
            (
                &["--forest"],
                "ps options --forest are not supported: use -ef, -e, aux, or -o with a list of columns",
            ),
        ] {
            assert_eq!(row(options).unwrap_err(), want);
        }
    }

    #[test]
    fn times_and_columns_have_their_width() {
        assert_eq!(elapsed(59_000), "00:59");
        assert_eq!(elapsed(90_061_000), "01-01:01:01");
        let rows = vec![
            vec!["A".to_owned(), "B".to_owned()],
            vec!["x".repeat(18), "y".to_owned()],
        ];
        let lines = aligned(&rows);
        assert_eq!(lines[0], format!("A{}B", " ".repeat(20)));
        assert_eq!(lines[1], format!("{}   y", "x".repeat(18)));
    }
}
