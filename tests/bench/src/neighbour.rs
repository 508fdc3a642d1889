//! How long a container's `exec` takes beside another that takes what it can get, next to how long it
//! takes alone: guests that are busy, and guests without Linux that flood their VMM (`tests/hostile-guest`).

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::hostile;

use crate::host::{Host, time};
use crate::table::{Table, median, spread};

/// The container that is asked, with a CPU as the loud one has.
const QUIET: &[&str] = &[
    "run", "-d", "--name", "quiet", "-m", "128m", "--cpus", "1", "busybox", "sleep", "100000",
];

/// What a hostile guest counts to: it is removed long before.
const ENDLESS: u64 = 1_000_000_000;

/// A VM whose guest says nothing is ended after a minute; it is loud long before.
const LOUD_AFTER: Duration = Duration::from_secs(50);
const POLL: Duration = Duration::from_millis(100);

/// Who is loud, how, and with which limit of CPUs.
struct Loud {
    name: &'static str,
    cpus: &'static str,
    how: How,
}

/// What the loud container does.
enum How {
    /// As a process of a container, with these flags.
    Process(&'static [&'static str], &'static str),
    /// As a guest without Linux in this mode.
    Guest(&'static str),
}

const LOUD: [Loud; 7] = [
    Loud {
        name: "spins",
        cpus: "1",
        how: How::Process(&[], "while :; do :; done"),
    },
    Loud {
        name: "prints without end",
        cpus: "1",
        how: How::Process(&["--log-opt", "max-size=1m"], "yes"),
    },
    Loud {
        name: "writes to its disk",
        cpus: "1",
        how: How::Process(
            &[],
            "while :; do dd if=/dev/zero of=/f bs=1M count=16 conv=fsync 2>/dev/null; done",
        ),
    },
    Loud {
        name: "lists a share",
        cpus: "1",
        how: How::Process(
            &["-v", "/usr/share:/host:ro"],
            "while :; do ls -lR /host >/dev/null; done",
        ),
    },
    Loud {
        name: "touches registers at random, without Linux",
        cpus: "1",
        how: How::Guest("random"),
    },
    Loud {
        name: "floods with bad vsock packets, without Linux",
        cpus: "1",
        how: How::Guest("packets"),
    },
    Loud {
        name: "does so with `--cpus 0.5`",
        cpus: "0.5",
        how: How::Guest("packets"),
    },
];

/// Measures beside each and adds the rows.
pub fn measure(host: &Host, table: &mut Table) -> Result<()> {
    host.output(QUIET)?;
    // The first fills caches.
    ask(host)?;
    for loud in &LOUD {
        let alone = asked(host)?;
        let guest = host.scratch().join("loud");
        let mut child = loud.start(host, &guest)?;
        let beside = asked(host)?;
        // Else it was measured beside nobody.
        let is_loud = match &mut child {
            // What its guest boots never says that it runs.
            Some(command) => command.try_wait().context("look at a command")?.is_none(),
            None => host.output(&["inspect", "-f", "{{.State.Running}}", "loud"])? == "true\n",
        };
        if !is_loud {
            bail!("it ended before it was measured: {}", loud.name);
        }
        host.output(&["rm", "-f", "loud"])?;
        if let Some(mut child) = child {
            child.wait().context("wait for a hostile guest's command")?;
        }
        table.add(
            &format!("`exec true` beside one that {}", loud.name),
            spread(&beside, "s"),
            "",
            &format!("{} runs, median (min to max)", host.runs),
        );
        table.add(
            "ratio to before",
            format!("{:.2}", median(&beside) / median(&alone)),
            "at most 2",
            &format!("medians; before: {}", spread(&alone, "s")),
        );
    }
    host.output(&["rm", "-f", "quiet"]).map(drop)
}

fn ask(host: &Host) -> Result<f64> {
    time(&mut host.command(&["exec", "quiet", "true"]))
}

fn asked(host: &Host) -> Result<Vec<f64>> {
    (0..host.runs).map(|_| ask(host)).collect()
}

impl Loud {
    /// Starts it and waits until it is loud. A hostile guest's command has no end before its guest's.
    fn start(&self, host: &Host, guest: &Path) -> Result<Option<Child>> {
        let run = ["run", "--name", "loud", "-m", "128m", "--cpus", self.cpus];
        match self.how {
            How::Process(flags, script) => {
                let command = ["-d", "busybox", "sh", "-c", script];
                host.output(&[&run[..], flags, &command].concat())?;
                Ok(None)
            }
            How::Guest(mode) => {
                let orders = format!("{mode} 1 {ENDLESS}");
                hostile::kernel(&host.guest, guest, &orders)?;
                let mut child = host
                    .command(&[&run[..], &["busybox", "true"]].concat())
                    .env("BULKHEAD_GUEST", guest)
                    .env("BULKHEAD_TEMPLATES", "off")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .context("start a hostile guest's command")?;
                let begun = Instant::now();
                while !host.vm_said("loud", "hostile: ")? {
                    let ended = child.try_wait().context("look at a command")?;
                    if ended.is_some() || begun.elapsed() > LOUD_AFTER {
                        bail!("a hostile guest said nothing: {mode}");
                    }
                    std::thread::sleep(POLL);
                }
                Ok(Some(child))
            }
        }
    }
}
