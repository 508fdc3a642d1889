//! `ps` and `rm`: the containers of this user.

use anyhow::Result;

use super::{human_age, print_table, template};
use crate::sandbox::paths::Root;
use crate::sandbox::state::{self, ContainerConfig, ContainerState, SHORT_ID_LEN, Status};

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
    /// `json` or a template such as '{{.Names}}'
    #[arg(long)]
    format: Option<String>,
}

/// Lists containers.
///
/// # Errors
/// When a container's files can't be read.
pub fn ps(args: &PsArgs) -> Result<()> {
    let root = Root::of_user()?;
    let mut rows = Vec::new();
    for (folder, config) in state::list(&root)? {
        let state = match folder.true_state() {
            Ok(state) => state,
            Err(error) => {
                eprintln!("bulkhead: {error:#}");
                continue;
            }
        };
        if args.all || state.status == Status::Running {
            rows.push((config, state));
        }
    }
    let id = |config: &ContainerConfig| match config.id.get(..SHORT_ID_LEN) {
        Some(short) if !args.no_trunc => short.to_owned(),
        _ => config.id.clone(),
    };
    if args.quiet {
        rows.iter()
            .for_each(|(config, _)| println!("{}", id(config)));
        return Ok(());
    }
    let now = jiff::Timestamp::now();
    let since = |time: &str| match time.parse::<jiff::Timestamp>() {
        Ok(then) => human_age(now.as_second() - then.as_second()),
        Err(_) => "N/A".to_owned(),
    };
    let command = |config: &ContainerConfig| {
        let text = config.launch.run.process.args.join(" ");
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        if args.no_trunc || text.chars().count() <= 20 {
            format!("\"{text}\"")
        } else {
            format!("\"{}…\"", text.chars().take(19).collect::<String>())
        }
    };
    let status = |state: &ContainerState| match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => format!("Up {}", since(&state.started_at).trim_end_matches(" ago")),
        Status::Exited => format!("Exited ({}) {}", state.exit_code, since(&state.finished_at)),
    };
    if let Some(format) = args
        .format
        .as_deref()
        .filter(|format| !format.starts_with("table"))
    {
        for (config, state) in &rows {
            let value = serde_json::json!({
                "ID": id(config), "Image": config.image, "Command": command(config),
                "CreatedAt": config.created, "RunningFor": since(&config.created),
                "Status": status(state), "State": state.status.word(), "Names": config.name,
                "Ports": "", "Labels": config.labels, "Mounts": "", "Networks": "none",
            });
            println!("{}", template::render(format, &value)?);
        }
        return Ok(());
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|(config, state)| {
            vec![
                id(config),
                config.image.clone(),
                command(config),
                since(&config.created),
                status(state),
                String::new(),
                config.name.clone(),
            ]
        })
        .collect();
    let headers = [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ];
    print_table(&headers, &cells);
    Ok(())
}

/// Flags of `rm`.
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// Remove a running container, too, by pulling its plug
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes; there are none
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Removes containers; goes on after an error and fails at the end.
///
/// # Errors
/// The first thing that could not be removed.
pub fn rm(args: &RmArgs) -> Result<()> {
    let root = Root::of_user()?;
    let mut first = None;
    for name in &args.containers {
        let removed = state::find(&root, name)
            .and_then(|(folder, config)| state::remove(&folder, &config, args.force));
        match removed {
            Ok(()) => println!("{name}"),
            Err(error) => match &first {
                None => first = Some(error),
                Some(_) => eprintln!("bulkhead: {error:#}"),
            },
        }
    }
    first.map_or(Ok(()), Err)
}
