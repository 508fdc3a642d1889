//! `bulkhead stats`: what running containers use, now and then again.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use protocol::task::{Outcome, Task, Usage};
use serde_json::{Map, Value, json};

use super::output::{self, Column, List};
use super::run::format_of;
use crate::sandbox::access::Access;
use crate::sandbox::agent::AgentError;
use crate::sandbox::containers;
use crate::sandbox::paths::Root;
use crate::sandbox::state::{ContainerConfig, Folder, SHORT_ID_LEN};

/// Time between two looks: what is used per time is told from two.
const PAUSE: Duration = Duration::from_secs(1);

/// How long all guests together are waited for: longer than one that is well takes under load.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Empties the terminal and begins at its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What Docker shows of a container that does not run.
const NONE: &str = "--";

const COLUMNS: [Column; 9] = [
    ("ID", "CONTAINER ID"),
    ("Container", "CONTAINER"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

const TABLE: [&str; 8] = [
    "ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs",
];

/// Flags of `stats`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatsArgs {
    /// Show all containers, not only running ones
    #[arg(short, long)]
    all: bool,
    /// `json`, a template such as '{{.Name}}: {{.CPUPerc}}', or `table` and a template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show once and end
    #[arg(long)]
    no_stream: bool,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Names or ids; all running ones without
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Prints a table, again and again unless it is to be once.
///
/// # Errors
/// A container that there is not, a format that is none, or standard output is closed.
pub fn run(args: &StatsArgs) -> Result<()> {
    let args = &StatsArgs {
        format: format_of(args.format.as_deref(), false, |formats| formats.stats),
        ..args.clone()
    };
    let root = Root::of_user()?;
    // So that a name that is none is told at once, and a format, too.
    let mut watched = Vec::new();
    update(&root, args, &mut watched)?;
    list(args).check()?;
    look(&mut watched);
    loop {
        std::thread::sleep(PAUSE);
        update(&root, args, &mut watched)?;
        look(&mut watched);
        if !args.no_stream {
            let mut stdout = std::io::stdout().lock();
            write!(stdout, "{CLEAR}")?;
            stdout.flush()?;
        }
        let rows: Vec<_> = watched
            .iter()
            .map(|container| container.row(args.no_trunc))
            .collect();
        list(args).print(&rows)?;
        if args.no_stream {
            return Ok(());
        }
    }
}

fn list(args: &StatsArgs) -> List<'_> {
    List {
        columns: &COLUMNS,
        table: &TABLE,
        format: args.format.as_deref(),
        only: None,
    }
}

/// A container that is watched.
struct Watched {
    name: String,
    folder: Folder,
    config: ContainerConfig,
    access: Option<Access>,
    /// Whether it has been asked and has not answered yet.
    asked: bool,
    before: Option<Usage>,
    now: Option<Usage>,
}

/// Which containers there are to watch now.
fn update(root: &Root, args: &StatsArgs, watched: &mut Vec<Watched>) -> Result<()> {
    let mut found = Vec::new();
    if args.containers.is_empty() {
        for (folder, config) in containers::list(root)? {
            // One that is being removed is none.
            let alive = folder
                .true_state()
                .is_ok_and(|state| state.status.is_alive());
            if alive || args.all {
                let name = config.id.get(..SHORT_ID_LEN).unwrap_or_default().to_owned();
                found.push((name, folder, config));
            }
        }
    } else if watched.is_empty() {
        for name in &args.containers {
            let (folder, config) = containers::find(root, name)?;
            found.push((name.clone(), folder, config));
        }
    } else {
        return Ok(());
    }
    let mut old = std::mem::take(watched);
    for (name, folder, config) in found {
        let known = old.iter().position(|one| one.config.id == config.id);
        watched.push(match known {
            Some(at) => old.swap_remove(at),
            None => Watched {
                name,
                folder,
                config,
                access: None,
                asked: false,
                before: None,
                now: None,
            },
        });
    }
    Ok(())
}

/// Looks at all of them, at the same time. One that does not answer shows nothing, and is not asked
/// again before it has.
fn look(watched: &mut [Watched]) {
    for container in &mut *watched {
        container.before = container.now.take();
        container.ask();
    }
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    for container in watched {
        container.answer(deadline);
    }
}

impl Watched {
    fn ask(&mut self) {
        if self.access.is_none() {
            self.asked = false;
            self.access = Access::running(&self.folder, &self.config).ok();
        }
        if let Some(access) = &mut self.access
            && !self.asked
        {
            self.asked = access.send(Task::Usage).is_ok();
            if !self.asked {
                // Its supervisor has gone; the next look finds another, if there is one.
                self.access = None;
            }
        }
    }

    fn answer(&mut self, deadline: Instant) {
        let Some(access) = self.access.as_mut().filter(|_| self.asked) else {
            return;
        };
        match access.end_until(Some(deadline)) {
            Ok(Outcome::Usage(usage)) => {
                self.now = Some(usage);
                self.asked = false;
            }
            Err(error) if matches!(error.downcast_ref(), Some(AgentError::Timeout)) => {}
            _ => self.access = None,
        }
    }

    fn row(&self, whole: bool) -> Map<String, Value> {
        let id = match whole {
            true => self.config.id.as_str(),
            false => self.config.id.get(..SHORT_ID_LEN).unwrap_or_default(),
        };
        let values = match &self.now {
            Some(now) => values(self.before.as_ref(), now),
            None => {
                let two = format!("{NONE} / {NONE}");
                [
                    NONE.to_owned(),
                    two.clone(),
                    NONE.to_owned(),
                    two.clone(),
                    two,
                    NONE.to_owned(),
                ]
            }
        };
        let names = [id.to_owned(), self.name.clone(), self.config.name.clone()];
        let all = names.into_iter().chain(values);
        let keys = COLUMNS.iter().map(|(key, _)| (*key).to_owned());
        keys.zip(all.map(|value| json!(value))).collect()
    }
}

/// The cells behind the names.
fn values(before: Option<&Usage>, now: &Usage) -> [String; 6] {
    let cpu = before.map_or(0.0, |before| {
        let used_us = now.cpu_us.saturating_sub(before.cpu_us);
        let time_ns = now.boottime_ns.saturating_sub(before.boottime_ns);
        ratio(used_us.saturating_mul(1000), time_ns)
    });
    let two = |a: u64, b: u64| format!("{} / {}", output::size(a), output::size(b));
    [
        format!("{:.2}%", cpu * 100.0),
        format!(
            "{} / {}",
            binary(now.memory_bytes),
            binary(now.memory_limit_bytes)
        ),
        format!(
            "{:.2}%",
            ratio(now.memory_bytes, now.memory_limit_bytes) * 100.0
        ),
        two(now.received_bytes, now.sent_bytes),
        two(now.read_bytes, now.written_bytes),
        now.pids.to_string(),
    ]
}

#[allow(clippy::cast_precision_loss)] // two decimals are shown
fn ratio(part: u64, of: u64) -> f64 {
    match of {
        0 => 0.0,
        of => part as f64 / of as f64,
    }
}

/// Bytes in units of 1024 with four digits, as Docker prints memory.
fn binary(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut of = 1;
    while bytes / of >= 1024 && unit + 1 < UNITS.len() {
        of *= 1024;
        unit += 1;
    }
    let value = ratio(bytes, of);
    let digits = match value {
        1000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", UNITS.get(unit).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_tell_what_is_used() {
        let before = Usage {
            boottime_ns: 1_000_000_000,
            cpu_us: 500_000,
            ..Usage::default()
        };
        let now = Usage {
            boottime_ns: 2_000_000_000,
            cpu_us: 2_000_000,
            memory_bytes: 1_234_567,
            memory_limit_bytes: 1 << 30,
            pids: 3,
            read_bytes: 4096,
            written_bytes: 0,
            received_bytes: 1,
            sent_bytes: 2_000_000,
        };
        let want = [
            "150.00%",
            "1.177MiB / 1GiB",
            "0.11%",
            "1B / 2MB",
            "4.1kB / 0B",
            "3",
        ];
        assert_eq!(values(Some(&before), &now), want);
        assert_eq!(values(None, &now)[0], "0.00%");
        // A guest whose clock stands still, or runs backward, is no division by nothing.
        assert_eq!(values(Some(&now), &now)[0], "0.00%");
        assert_eq!(values(Some(&now), &before)[0], "0.00%");
    }

    #[test]
    fn memory_has_four_digits() {
        for (bytes, want) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1536, "1.5KiB"),
            (123_456_789, "117.7MiB"),
            (u64::MAX, "16384PiB"),
        ] {
            assert_eq!(binary(bytes), want);
        }
    }
}
