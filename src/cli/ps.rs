//! `bulkhead ps`, `bulkhead container ls`: the containers of this user.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::output::{self, Column, List};
use crate::sandbox::containers;
use crate::sandbox::health::Verdict;
use crate::sandbox::paths::Root;
use crate::sandbox::state::{ContainerConfig, ContainerState, SHORT_ID_LEN, Status};
use crate::sandbox::volumes::Mount;

/// Characters of a command that are shown, its quotes included.
const COMMAND_CHARS: usize = 20;

/// Characters of a mount that are shown.
const MOUNT_CHARS: usize = 15;

const COLUMNS: [Column; 12] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
];

/// Flags of `ps`.
#[derive(Debug, clap::Args)]
pub struct PsArgs {
    /// Show all, not only running ones
    #[arg(short, long)]
    all: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// `json`, a template such as '{{.Names}}', or `table` and a template
    #[arg(long)]
    format: Option<String>,
}

/// Lists containers.
///
/// # Errors
/// When the folder of containers can't be read.
pub fn run(args: &PsArgs) -> Result<()> {
    let root = Root::of_user()?;
    let now = jiff::Timestamp::now().as_second();
    let mut rows = Vec::new();
    for (folder, config) in containers::list(&root)? {
        match folder.true_state() {
            Ok(state) if args.all || state.status.is_alive() => {
                rows.push(row(&config, &state, args.no_trunc, now));
            }
            Ok(_) => {}
            // Removed since it was listed.
            Err(_) if !folder.path().exists() => {}
            Err(error) => output::note(&format!("bulkhead: {error:#}")),
        }
    }
    let list = List {
        columns: &COLUMNS,
        table: &[
            "ID",
            "Image",
            "Command",
            "RunningFor",
            "Status",
            "Ports",
            "Names",
        ],
        format: args.format.as_deref(),
        only: args.quiet.then_some("ID"),
    };
    list.print(&rows)
}

fn row(
    config: &ContainerConfig,
    state: &ContainerState,
    whole: bool,
    now: i64,
) -> Map<String, Value> {
    let since = |time: &str| match time.parse::<jiff::Timestamp>() {
        Ok(then) => output::duration(now - then.as_second()),
        Err(_) => "N/A".to_owned(),
    };
    let id = match config.id.get(..SHORT_ID_LEN) {
        Some(short) if !whole => short.to_owned(),
        _ => config.id.clone(),
    };
    let status = match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => {
            let health = match state.health.as_ref().map(|health| health.verdict) {
                None => String::new(),
                Some(Verdict::Starting) => " (health: starting)".to_owned(),
                Some(verdict) => format!(" ({})", verdict.word()),
            };
            format!("Up {}{health}", since(&state.started_at))
        }
        Status::Paused => format!("Up {} (Paused)", since(&state.started_at)),
        Status::Restarting => format!(
            "Restarting ({}) {} ago",
            state.exit_code,
            since(&state.finished_at)
        ),
        Status::Exited => {
            format!(
                "Exited ({}) {} ago",
                state.exit_code,
                since(&state.finished_at)
            )
        }
    };
    let labels: Vec<String> = config
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let values = [
        id,
        config.image.clone(),
        command(&config.launch.run.process.args, whole),
        config.created.clone(),
        since(&config.created) + " ago",
        status,
        state.status.word().to_owned(),
        String::new(),
        config.name.clone(),
        labels.join(","),
        mounts(&config.launch.mounts, whole),
        "none".to_owned(),
    ];
    let names = COLUMNS.iter().map(|(name, _)| (*name).to_owned());
    names.zip(values.map(|value| json!(value))).collect()
}

/// Names of volumes and paths of binds.
fn mounts(mounts: &[Mount], whole: bool) -> String {
    let shown = |mount: &Mount| {
        let text = match mount.name.as_str() {
            "" => mount.source.display().to_string(),
            name => name.to_owned(),
        };
        if whole || text.chars().count() <= MOUNT_CHARS {
            return text;
        }
        let cut: String = text.chars().take(MOUNT_CHARS - 1).collect();
        format!("{cut}…")
    };
    mounts.iter().map(shown).collect::<Vec<_>>().join(",")
}

/// In quotes, with quotes around arguments that have blanks, cut to what a column bears, on one line.
fn command(args: &[String], whole: bool) -> String {
    let quoted = args
        .iter()
        .enumerate()
        .map(|(at, arg)| match at > 0 && arg.contains(' ') {
            true => format!("'{arg}'"),
            false => arg.clone(),
        });
    let text = quoted.collect::<Vec<_>>().join(" ");
    let text = output::harmless(&text).replace(['\n', '\t'], "\u{fffd}");
    if whole || text.chars().count() <= COMMAND_CHARS {
        return format!("\"{text}\"");
    }
    let cut: String = text.chars().take(COMMAND_CHARS - 1).collect();
    format!("\"{cut}…\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_quoted_and_cut() {
        let args = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(command(&args("sh -c x"), false), "\"sh -c x\"");
        let long = args("sleep 1000 and then some more");
        assert_eq!(command(&long, false), "\"sleep 1000 and then…\"");
        assert_eq!(command(&long, true), "\"sleep 1000 and then some more\"");
        let blank = ["sh", "-c", "exit 3"].map(str::to_owned);
        assert_eq!(command(&blank, false), "\"sh -c 'exit 3'\"");
        assert_eq!(command(&args("a\x1bb\nc"), true), "\"a\u{fffd}b\u{fffd}c\"");
    }
}
