//! `bulkhead ps`, `bulkhead container ls`: the containers of this user.

mod selection;

use std::collections::HashMap;

use anyhow::Result;
use images::{Reference, Store};
use serde_json::{Map, Value, json};

use super::output::{self, Column, List};
use super::ports;
use super::run::format_of;
use super::template::quoted;
use crate::sandbox::containers;
use crate::sandbox::health::Verdict;
use crate::sandbox::network;
use crate::sandbox::paths::Root;
use crate::sandbox::state::{ContainerConfig, ContainerState, SHORT_ID_LEN, Status};
use crate::sandbox::volumes::Mount;
use selection::Selection;

/// Characters of a command that are shown, without its quotes.
const COMMAND_CHARS: usize = 20;

/// Characters of a mount that are shown.
const MOUNT_CHARS: usize = 15;

/// What is said where a format has no effect.
const FORMAT_IGNORED: &str =
    "WARNING: Ignoring custom format, because both --format and --quiet are set.";

/// Every column.
pub const COLUMNS: [Column; 15] = [
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
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Size", "SIZE"),
    ("Platform", "PLATFORM"),
];

/// Columns of the table.
const TABLE: [&str; 7] = [
    "ID",
    "Image",
    "Command",
    "RunningFor",
    "Status",
    "Ports",
    "Names",
];

/// Flags of `ps`.
#[derive(Debug, Clone, clap::Args)]
pub struct PsArgs {
    /// Show all, not only running ones
    #[arg(short, long)]
    pub(super) all: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show the newest ones only, so many, whether they run or not
    #[arg(
        short = 'n',
        long,
        value_name = "int",
        default_value_t = -1,
        allow_negative_numbers = true
    )]
    last: i64,
    /// Show the newest one only, whether it runs or not
    #[arg(short, long)]
    latest: bool,
    /// Show sizes: of the writable layer on the host, and with the image
    #[arg(short, long)]
    size: bool,
    /// Only containers of which KEY=VALUE holds: id, name, label, status, exited, ancestor, before,
    /// since, network, volume, publish, expose, health, is-task
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Show whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// `json`, a template such as '{{.Names}}', or `table` and a template
    #[arg(long)]
    format: Option<String>,
}

/// A container with all that a list shows or asks of it.
#[derive(Debug)]
struct Shown {
    config: ContainerConfig,
    state: ContainerState,
    /// Names of its networks.
    networks: Vec<String>,
    /// Names of its volumes, paths of its binds, and the targets of both.
    mounts: Vec<String>,
    /// Ports of the host, such as `80/tcp`.
    published: Vec<String>,
    /// Docker's word.
    health: &'static str,
}

impl Shown {
    fn new(config: ContainerConfig, state: ContainerState) -> Self {
        let health = state.health.as_ref().map(|health| health.verdict.word());
        Self {
            health: health.unwrap_or("none"),
            networks: vec![network::mode(config.launch.network.as_ref()).to_owned()],
            published: match &state.network {
                Some(network) => {
                    let ports = network.ports.iter();
                    let shown =
                        ports.map(|port| format!("{}/{}", port.host_port, port.protocol.word()));
                    shown.collect()
                }
                None => Vec::new(),
            },
            mounts: config
                .launch
                .mounts
                .iter()
                .flat_map(|mount| {
                    let source = match mount.name.is_empty() {
                        true => mount.source.display().to_string(),
                        false => mount.name.clone(),
                    };
                    [source, mount.target.clone()]
                })
                .collect(),
            config,
            state,
        }
    }

    /// How many volumes it has.
    fn volumes(&self) -> usize {
        let mounts = self.config.launch.mounts.iter();
        mounts.filter(|mount| !mount.name.is_empty()).count()
    }
}

/// Lists containers.
///
/// # Errors
/// When the folder of containers can't be read, or a filter is wrong.
pub fn run(args: &PsArgs) -> Result<()> {
    let args = &PsArgs {
        format: format_of(args.format.as_deref(), args.quiet, |formats| formats.ps),
        ..args.clone()
    };
    let root = Root::of_user()?;
    let selection = Selection::parse(&args.filter, &root)?;
    let most = match (args.latest, usize::try_from(args.last)) {
        (_, Ok(count)) if count > 0 => Some(count),
        (true, _) => Some(1),
        _ => None,
    };
    let all = args.all || most.is_some() || selection.is_of_all();
    let table = TABLE.iter().copied().chain(args.size.then_some("Size"));
    let table: Vec<_> = table.collect();
    let list = list(args, &table)?;
    let format = list.format.unwrap_or_default();
    let with_sizes = args.size || asks(format, "Size");
    let images = match with_sizes || asks_for_platforms(format) {
        true => Some(Images::new(&root)?),
        false => None,
    };
    let now = jiff::Timestamp::now().as_second();
    let mut names = Names::new(&root);
    let mut rows = Vec::new();
    for (folder, config) in containers::list(&root)? {
        if most.is_some_and(|most| rows.len() >= most) {
            break;
        }
        match folder.true_state() {
            Ok(state) if all || state.status.is_alive() => {
                let shown = Shown::new(config, state);
                if selection.takes(&shown) {
                    let image = images
                        .as_ref()
                        .and_then(|images| images.0.get(&shown.config.image_id));
                    let size = match with_sizes {
                        true => size(folder.writable_bytes(), image.map_or(0, |image| image.size)),
                        false => output::size(0),
                    };
                    let platform = image.map_or("", |image| image.platform.as_str());
                    let name = match list.only {
                        Some(_) => String::new(),
                        None => names.of(&shown.config, args.no_trunc),
                    };
                    rows.push(row(&shown, name, size, platform, args.no_trunc, now));
                }
            }
            Ok(_) => {}
            // Removed since it was listed.
            Err(_) if !folder.path().exists() => {}
            Err(error) => output::note(&format!("bulkhead: {error:#}")),
        }
    }
    list.print(&rows)
}

/// How the list is shown. Of ids alone, a format changes nothing, and is checked all the same.
///
/// # Errors
/// A format that is none.
fn list<'a>(args: &'a PsArgs, table: &'a [&'a str]) -> Result<List<'a>> {
    let list = List {
        columns: &COLUMNS,
        table,
        format: args.format.as_deref().filter(|format| !format.is_empty()),
        only: None,
    };
    if !args.quiet {
        return Ok(list);
    }
    if list.format.is_some() {
        output::note(FORMAT_IGNORED);
        list.check()?;
    }
    Ok(List {
        format: None,
        only: Some("ID"),
        ..list
    })
}

/// Whether a format names a column.
fn asks(format: &str, column: &str) -> bool {
    format.contains(&format!(".{column}"))
}

/// Whether it shows for which platform images are.
fn asks_for_platforms(format: &str) -> bool {
    output::is_json(format) || asks(format, "Platform")
}

/// What is shown of the images of containers, by id. One that was removed by force is none of them.
struct Images(HashMap<String, OneImage>);

/// See [`Images`].
struct OneImage {
    size: u64,
    platform: String,
}

impl Images {
    fn new(root: &Root) -> Result<Self> {
        let images = Store::open(&root.images())?.list()?.images.into_iter();
        let images = images.map(|image| {
            let shown = OneImage {
                size: image.size,
                platform: image.platform().to_string(),
            };
            (image.id.to_string(), shown)
        });
        Ok(Self(images.collect()))
    }
}

/// What the names that containers were made by mean now.
pub struct Names<'a> {
    root: &'a Root,
    /// Opened when the first one is asked for; `None` in it where that can't be.
    store: Option<Option<Store>>,
    meanings: HashMap<String, Meaning>,
}

/// See [`Names`].
enum Meaning {
    /// An image's id.
    Image(String),
    /// There is no such image any more.
    Nothing,
    /// It can't be read.
    Unknown,
}

impl<'a> Names<'a> {
    /// Those of this state root.
    pub fn new(root: &'a Root) -> Self {
        Self {
            root,
            store: None,
            meanings: HashMap::new(),
        }
    }

    /// The name of a container's image, as lists show it. As in Docker, the image's id where the name is
    /// another one's by now, or nobody's.
    fn of(&mut self, config: &ContainerConfig, whole: bool) -> String {
        let (name, id) = (config.image.as_str(), config.image_id.as_str());
        let open = || Store::open(&self.root.images()).ok();
        let store = self.store.get_or_insert_with(open).as_ref();
        let mean = || match store.map(|store| store.resolve(name)) {
            Some(Ok(image)) => Meaning::Image(image.id.to_string()),
            Some(Err(error)) if error.is_no_such_image() => Meaning::Nothing,
            Some(Err(_)) | None => Meaning::Unknown,
        };
        let meaning = self.meanings.entry(name.to_owned()).or_insert_with(mean);
        let is_its_own = match meaning {
            Meaning::Image(other) => other == id,
            Meaning::Nothing => false,
            Meaning::Unknown => true,
        };
        let name = if is_its_own { name } else { id };
        match whole {
            true => name.to_owned(),
            false => image_name(name, id),
        }
    }
}

/// A name without what a column has no room for: of an id twelve digits, and neither a digest nor what a
/// familiar name does without. A tag is there if it was given.
fn image_name(name: &str, id: &str) -> String {
    let short = |id: &str| {
        let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
        digits.chars().take(SHORT_ID_LEN).collect::<String>()
    };
    if short(name) == short(id) {
        return short(id);
    }
    let Ok(reference) = Reference::parse(name) else {
        return name.to_owned();
    };
    let repository = reference.familiar_repository();
    match reference.tag() {
        Some(tag) if Reference::parse_name(name).is_none() => format!("{repository}:{tag}"),
        _ => repository,
    }
}

/// `5B (virtual 4.2MB)`.
fn size(writable: u64, image: u64) -> String {
    format!(
        "{} (virtual {})",
        output::size(writable),
        output::size(writable.saturating_add(image))
    )
}

/// A row of another list, all of whose rows have the same `names`.
pub fn plain_row(
    names: &mut Names<'_>,
    config: &ContainerConfig,
    state: &ContainerState,
    size: String,
    whole: bool,
) -> Map<String, Value> {
    let shown = Shown::new(config.clone(), state.clone());
    // No table has that column.
    let platform = match whole {
        true => platform_of(&config.image_id).unwrap_or_default(),
        false => String::new(),
    };
    let name = names.of(config, whole);
    let now = jiff::Timestamp::now().as_second();
    row(&shown, name, size, &platform, whole, now)
}

/// The platform of an image, unless it was removed by force.
fn platform_of(image: &str) -> Option<String> {
    let store = Store::open(&Root::of_user().ok()?.images()).ok()?;
    let image = store.resolve(image).ok()?;
    Some(image.platform().to_string())
}

fn row(
    shown: &Shown,
    image: String,
    size: String,
    platform: &str,
    whole: bool,
    now: i64,
) -> Map<String, Value> {
    let (config, state) = (&shown.config, &shown.state);
    let since = |time: &str| match time.parse::<jiff::Timestamp>() {
        Ok(then) => output::duration(now - then.as_second()),
        Err(_) => "N/A".to_owned(),
    };
    let labels: Vec<String> = config
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let values = [
        if whole { &config.id } else { config.short_id() }.to_owned(),
        image,
        command(&config.launch.run.process.args, whole),
        output::local_time(&config.created),
        since(&config.created) + " ago",
        status(state, &since),
        state.status.word().to_owned(),
        match state.status.is_alive() {
            true => ports::column(state.network.as_ref(), &config.exposed_ports),
            false => String::new(),
        },
        config.name.clone(),
        labels.join(","),
        mounts(&config.launch.mounts, whole),
        shown.networks.join(","),
        shown.volumes().to_string(),
        size,
        platform.to_owned(),
    ];
    let names = COLUMNS.iter().map(|(name, _)| (*name).to_owned());
    let mut row: Map<_, _> = names.zip(values.map(|value| json!(value))).collect();
    row.insert(output::LABEL.to_owned(), json!(config.labels));
    row
}

/// In Docker's words.
fn status(state: &ContainerState, since: &dyn Fn(&str) -> String) -> String {
    let (code, started, finished) = (state.exit_code, &state.started_at, &state.finished_at);
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => {
            let health = match state.health.as_ref().map(|health| health.verdict) {
                None => String::new(),
                Some(Verdict::Starting) => " (health: starting)".to_owned(),
                Some(verdict) => format!(" ({})", verdict.word()),
            };
            format!("Up {}{health}", since(started))
        }
        Status::Paused => format!("Up {} (Paused)", since(started)),
        Status::Restarting => format!("Restarting ({code}) {} ago", since(finished)),
        Status::Exited => format!("Exited ({code}) {} ago", since(finished)),
    }
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

/// As a text of Go's, with quotes around arguments that have blanks, cut to what a column bears: what is
/// escaped in it does not count.
fn command(args: &[String], whole: bool) -> String {
    let words = args
        .iter()
        .enumerate()
        .map(|(at, arg)| match at > 0 && arg.contains(' ') {
            true => format!("'{arg}'"),
            false => arg.clone(),
        });
    let text = words.collect::<Vec<_>>().join(" ");
    if whole || text.chars().count() <= COMMAND_CHARS {
        return quoted(&text);
    }
    let cut: String = text.chars().take(COMMAND_CHARS - 1).collect();
    quoted(&(cut + "…"))
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};
    use images::{Digest, ImageConfig};

    use super::*;
    use crate::sandbox::containers::tests::config;

    #[test]
    fn commands_are_quoted_and_cut() {
        let args = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(command(&args("sh -c x"), false), "\"sh -c x\"");
        let long = args("sleep 1000 and then some more");
        assert_eq!(command(&long, false), "\"sleep 1000 and then…\"");
        assert_eq!(command(&long, true), "\"sleep 1000 and then some more\"");
        let blank = ["sh", "-c", "exit 3"].map(str::to_owned);
        assert_eq!(command(&blank, false), "\"sh -c 'exit 3'\"");
        assert_eq!(command(&args("a\x1bb\n\"c\\"), true), r#""a\x1bb\n\"c\\""#);
        // What is cut is what was given.
        let lines = args(&"\n".repeat(21));
        let cut = format!("\"{}…\"", "\\n".repeat(19));
        assert_eq!(command(&lines, false), cut);
        let lines = args(&"\n".repeat(20));
        assert_eq!(command(&lines, false), format!("\"{}\"", "\\n".repeat(20)));
    }

    fn args(words: &[&str]) -> PsArgs {
        let command = PsArgs::augment_args(clap::Command::new("ps"));
        let words = std::iter::once(&"ps").chain(words);
        PsArgs::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap()
    }

    #[test]
    fn ids_alone_have_no_format() {
        let names = Some("{{.Names}}");
        for (words, format, only) in [
            (&[][..], None, None),
            (&["--format", ""], None, None),
            (&["--format", "{{.Names}}"], names, None),
            (&["-q"], None, Some("ID")),
            (&["-q", "--format", ""], None, Some("ID")),
            (&["-q", "--format", "{{.Names}}"], None, Some("ID")),
        ] {
            let args = args(words);
            let list = list(&args, &TABLE).unwrap();
            assert_eq!((list.format, list.only), (format, only), "{words:?}");
        }
        assert!(list(&args(&["-q", "--format", "{{.Names"]), &TABLE).is_err());
    }

    #[test]
    fn platforms_are_shown_where_they_are_asked_for() {
        for (format, is_asked) in [
            ("", false),
            ("{{.Names}}", false),
            ("json", true),
            ("table {{.Names}}\t{{.Platform}}", true),
        ] {
            assert_eq!(asks_for_platforms(format), is_asked, "{format}");
        }
        let state = ContainerState::created();
        let shown = Shown::new(config('a', "x", false), state);
        let name = "busybox".to_owned();
        let row = row(&shown, name, output::size(0), "linux/amd64", false, 0);
        assert_eq!(row["Platform"], "linux/amd64");
        assert_eq!(row["Image"], "busybox");
    }

    #[test]
    fn names_of_images_are_cut_as_by_docker() {
        let digits = "0123456789abcdef".repeat(4);
        let id = format!("sha256:{digits}");
        let at = |name: &str| format!("{name}@sha256:{}", "f".repeat(64));
        for (name, want) in [
            (id.clone(), "0123456789ab"),
            (digits.clone(), "0123456789ab"),
            (digits[..12].to_owned(), "0123456789ab"),
            ("012345".to_owned(), "012345"),
            (at("busybox"), "busybox"),
            (at("busybox:1"), "busybox:1"),
            (at("h.io:5000/x/y"), "h.io:5000/x/y"),
            ("docker.io/library/busybox".to_owned(), "busybox"),
            ("docker.io/library/busybox:1".to_owned(), "busybox:1"),
            ("busybox:latest".to_owned(), "busybox:latest"),
            ("busybox".to_owned(), "busybox"),
            ("No name".to_owned(), "No name"),
        ] {
            assert_eq!(image_name(&name, &id), want, "{name}");
        }
    }

    #[test]
    fn an_image_that_has_its_name_no_more_is_shown_by_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(folder.path().to_owned());
        let store = Store::open(&root.images()).unwrap();
        let make = |comment: &str, names: &[&str]| {
            let config = json!({
                "architecture": "amd64", "os": "linux", "config": {}, "comment": comment,
                "rootfs": {"type": "layers", "diff_ids": []},
            });
            let config = ImageConfig::parse(config.to_string().as_bytes()).unwrap();
            let names = names.iter().map(|name| Reference::parse(name).unwrap());
            let names: Vec<_> = names.collect();
            let lease = store.lease().unwrap();
            store.compose(&lease, &[], config, &names).unwrap().id
        };
        let of = |name: &str, id: &Digest, whole: bool| {
            let config = ContainerConfig {
                image: name.to_owned(),
                image_id: id.to_string(),
                ..config('a', "x", false)
            };
            Names::new(&root).of(&config, whole)
        };
        let old = make("old", &["moves:1", "stays:1"]);
        for (name, whole) in [("moves:1", false), ("stays:1", true)] {
            assert_eq!(of(name, &old, whole), name);
        }
        let new = make("new", &["moves:1"]);
        assert_eq!(of("moves:1", &old, false), old.short());
        assert_eq!(of("moves:1", &old, true), old.to_string());
        assert_eq!(of("moves:1", &new, false), "moves:1");
        assert_eq!(of("stays:1", &old, false), "stays:1");
        assert_eq!(of("gone", &old, false), old.short());
        // Where there is no store that could be asked.
        std::fs::remove_dir_all(root.images()).unwrap();
        std::fs::write(root.images(), "").unwrap();
        assert_eq!(of("moves:1", &old, false), "moves:1");
    }
}
