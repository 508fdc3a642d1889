//! `bulkhead system policy`: what users may, and by whom it is kept; `--apply` has the kernel keep what it
//! can.
//!
//! docs/policy.md has what comes of it, [`super::slices`] the files.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;
use serde_json::{Map, Value, json};

use super::limits::Limits;
use super::people::{self, Named};
use super::rules::{Document, Rules};
use super::slices::{Change, Host, Keeper, Wanted};
use super::{PATH, document};
use crate::cli::output::{self, Column, List};

/// Flags of `system policy`.
#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    /// Have the kernel keep what it can, by limits of users' slices
    #[arg(long)]
    apply: bool,
    /// Show what --apply would change
    #[arg(long)]
    dry_run: bool,
}

const COLUMNS: [Column; 5] = [
    ("User", "USER"),
    ("Rule", "RULE"),
    ("Value", "VALUE"),
    ("Of", "OF"),
    ("By", "KEPT BY"),
];

/// systemd writes to control groups after it has answered.
const REALIZE_TIMEOUT: Duration = Duration::from_secs(3);
const REALIZE_POLL: Duration = Duration::from_millis(50);

/// Shows the rules, or has them kept.
///
/// # Errors
/// The policy can't be read, another user than root applies it, or the kernel can't keep it here.
pub fn run(args: &PolicyArgs) -> Result<()> {
    let is_applied = args.apply && !args.dry_run;
    if is_applied && !geteuid().is_root() {
        bail!("system policy --apply is for root: it limits what other users run");
    }
    let policy = Everyone::read()?;
    let host = Host::default();
    let keeper = host.keeper();
    if !args.apply && !args.dry_run {
        return policy.show(&host, keeper);
    }
    let Some(keeper) = keeper else {
        bail!(
            "the kernel can't keep the policy: this host has neither systemd nor user.slice in cgroup v2\n\
             hint: the command keeps it; memory and CPU time are limited by whoever logs users in"
        );
    };
    let wanted = policy.wanted(&host, keeper)?;
    let changes = host.changes(keeper, &wanted)?;
    if !is_applied {
        for change in &changes {
            output::line(&format!("would {change}"))?;
        }
    } else {
        let tell = |change: &Change| output::line(&change.to_string());
        host.apply(keeper, &wanted, &changes, &tell)?;
        if keeper == Keeper::Systemd {
            reload()?;
            for missed in missed(&host, &wanted)? {
                output::note(&format!("WARNING: systemd did not {missed}"));
            }
        }
    }
    if changes.is_empty() {
        output::line("Nothing to change")?;
    }
    Ok(())
}

/// The rules of all whom the policy names.
struct Everyone {
    document: Document,
    default: Rules,
    /// By number, with the user's name.
    users: BTreeMap<u32, (String, Rules)>,
}

impl Everyone {
    fn read() -> Result<Self> {
        let document = document()?;
        let about = || format!("read {PATH}");
        let default = document.default_rules().with_context(about)?;
        let Named { users, unknown } = people::named(&document)?;
        for section in unknown {
            output::note(&format!(
                "WARNING: [{section}] of {PATH} is about nobody on this host"
            ));
        }
        let mut all = BTreeMap::new();
        for (uid, who) in users {
            let rules = document.rules(&who).with_context(about)?;
            let [name, _] = who.user;
            all.insert(uid, (name, rules));
        }
        Ok(Self {
            document,
            default,
            users: all,
        })
    }

    /// Root's VMs are in no slice of root's, and what else is there is not the policy's.
    fn wanted(&self, host: &Host, keeper: Keeper) -> Result<Wanted> {
        let users = self.users.iter().filter(|(uid, _)| **uid != 0);
        let mut of_users: BTreeMap<u32, Limits> = users
            .map(|(uid, (_, rules))| (*uid, Limits::of(rules)))
            .collect();
        if keeper == Keeper::Groups {
            // Who is there may be of a group that lists no members.
            for uid in host.slices() {
                let rules = self.document.rules(&people::of(uid)?)?;
                of_users.insert(uid, Limits::of(&rules));
            }
        }
        Ok(Wanted {
            of_all: Limits::of(&self.default),
            of_users,
        })
    }

    fn show(&self, host: &Host, keeper: Option<Keeper>) -> Result<()> {
        let mut rows = rows("all but root", &self.default, keeper.is_some());
        for (uid, (name, rules)) in &self.users {
            let has_slice = keeper.is_some() && *uid != 0;
            rows.extend(self::rows(name, rules, has_slice));
        }
        let list = List {
            columns: &COLUMNS,
            table: &["User", "Rule", "Value", "Of", "By"],
            format: None,
            only: None,
        };
        list.print(&rows)?;
        let Some(keeper) = keeper else {
            output::note("The command alone keeps them: this host has no slices of users");
            return Ok(());
        };
        let changes = host.changes(keeper, &self.wanted(host, keeper)?)?;
        if !changes.is_empty() {
            output::note("The kernel's limits are others: see --dry-run, and --apply for root");
        }
        Ok(())
    }
}

fn rows(user: &str, rules: &Rules, has_slice: bool) -> Vec<Map<String, Value>> {
    let limits = match has_slice {
        true => Limits::of(rules),
        false => Limits::default(),
    };
    let rows = rules.told().into_iter().map(|(rule, section, value)| {
        let by = match limits.property(rule) {
            Some(property) => format!("command, {property}"),
            None => "command".to_owned(),
        };
        let values = [user, rule, &value, &format!("[{section}]"), &by];
        let names = COLUMNS.iter().map(|(name, _)| (*name).to_owned());
        names.zip(values.map(|value| json!(value))).collect()
    });
    rows.collect()
}

/// Slices that are there have their limits then, too.
fn reload() -> Result<()> {
    let mut systemctl = Command::new("systemctl");
    let systemctl = systemctl.arg("daemon-reload").stdin(Stdio::null());
    let status = systemctl.status().context("run systemctl daemon-reload")?;
    if !status.success() {
        bail!("systemctl daemon-reload: {status}");
    }
    Ok(())
}

/// What slices that are there do not have some time after the reload.
fn missed(host: &Host, wanted: &Wanted) -> Result<Vec<Change>> {
    let until = Instant::now() + REALIZE_TIMEOUT;
    loop {
        let missed = host.different(wanted)?;
        if missed.is_empty() || Instant::now() >= until {
            return Ok(missed);
        }
        thread::sleep(REALIZE_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_keeps_a_rule() {
        let text = "[default]\nvms = 2\nvcpus = 4\nmemory = \"1g\"\ndisk = \"1k\"\n";
        let rules = Document::parse(text).unwrap().default_rules().unwrap();
        let by = |has_slice| {
            let rows = rows("bob", &rules, has_slice).into_iter();
            rows.map(|row| row["By"].clone()).collect::<Vec<_>>()
        };
        let wanted = [
            "command, TasksMax=2176",
            "command, CPUQuota=400%",
            "command, MemoryMax=1073741824",
            "command",
        ];
        assert_eq!(by(true), wanted);
        assert_eq!(by(false), ["command"; 4]);
        let row = &rows("bob", &rules, true)[3];
        let cells = ["User", "Rule", "Value", "Of"].map(|name| row[name].clone());
        assert_eq!(cells, ["bob", "disk", "1024 bytes", "[default]"]);
    }
}
