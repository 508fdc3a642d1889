//! `bulkhead pull`, and the pull that `run` does when an image is missing.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use images::registry::{LayerProgress, LayerState};
use images::{Digest, Platform, PullStatus, Pulled, Reference, RegistryOptions, Store};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::policy::Policy;
use super::values::given;
use super::{output, run, variables};
use crate::sandbox::events;
use crate::sandbox::paths::Root;

/// Registries that may speak plain HTTP besides those on this machine, separated by commas.
pub const INSECURE_VARIABLE: &str = "BULKHEAD_INSECURE_REGISTRIES";

/// Further certificate authorities: PEM files separated by colons.
pub const CA_VARIABLE: &str = "BULKHEAD_CA_FILES";

/// The platform where `--platform` names none.
pub const PLATFORM_VARIABLE: &str = "DOCKER_DEFAULT_PLATFORM";

/// What [`PLATFORM_VARIABLE`] says, else the host's.
///
/// # Errors
/// It says what is none.
pub fn default_platform(named: Option<String>) -> Result<Platform> {
    let named = named.filter(|text| !text.is_empty());
    named.map_or(Ok(Platform::host()), |text| {
        Platform::parse(&text).with_context(|| format!("{PLATFORM_VARIABLE}={text}"))
    })
}

/// Flags of `pull`.
#[derive(Debug, clap::Args)]
#[command(after_help = variables::of_pull())]
pub struct PullArgs {
    /// Print nothing but the image's name
    #[arg(short, long)]
    quiet: bool,
    /// Every tag of the repository; refused, name each tag
    #[arg(short, long)]
    all_tags: bool,
    /// Platform, where the image is for several: os[/arch[/variant]]
    #[arg(long)]
    platform: Option<String>,
    /// No image is signed; without effect, as for Docker by default
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true")]
    disable_content_trust: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Image: `NAME`, `NAME:TAG` or `NAME@DIGEST`
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

/// Flags of the verbs that talk to a registry: `pull`, `push` and `login`.
#[derive(Debug, clap::Args)]
pub struct RegistryArgs {
    /// Allow plain HTTP to this registry (host or host:port); may be repeated
    #[arg(long, value_name = "HOST")]
    insecure_registry: Vec<String>,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Flags of the verbs that talk to any server: those of [`RegistryArgs`], and `import`, whose address says
/// itself whether it is plain HTTP.
#[derive(Debug, clap::Args)]
pub struct TrustArgs {
    /// Trust this certificate authority (PEM), too; may be repeated
    #[arg(long, value_name = "FILE")]
    ca_file: Vec<std::path::PathBuf>,
}

impl RegistryArgs {
    /// What the environment says, and the flags besides.
    #[must_use]
    pub fn options(&self) -> RegistryOptions {
        let mut options = self.trust.options();
        options.insecure.extend(self.insecure_registry.clone());
        options
    }
}

impl TrustArgs {
    /// What the environment says, and the flags besides.
    #[must_use]
    pub fn options(&self) -> RegistryOptions {
        let mut options = options();
        options.ca_files.extend(self.ca_file.clone());
        options
    }
}

/// Pulls one image.
///
/// # Errors
/// What the registry or the store says.
pub fn run(args: PullArgs) -> Result<()> {
    if args.all_tags {
        bail!("--all-tags is not supported: name each tag");
    }
    if !args.disable_content_trust {
        bail!("--disable-content-trust=false is not supported: images are not signed");
    }
    let platform = match given(&args.platform) {
        Some(text) => Platform::parse(text)?,
        None => default_platform(run::variable(PLATFORM_VARIABLE)?)?,
    };
    let reference = Reference::parse(&args.name)?;
    let store = Store::open(&Root::of_user()?.images())?;
    if !args.quiet && Reference::parse_name(&args.name).is_some() {
        output::line("Using default tag: latest")?;
    }
    let options = args.registry.options();
    let quiet = args.quiet;
    let pulled = pull_with(&store, &reference, &platform, quiet, To::Output, &options)?;
    if !args.quiet {
        for line in outcome(&pulled, &reference) {
            output::line(&line)?;
        }
    }
    output::line(&canonical(&reference))
}

/// What Docker says at the end of a pull.
fn outcome(pulled: &Pulled, reference: &Reference) -> [String; 2] {
    let familiar = reference.familiar();
    [
        format!("Digest: {}", pulled.digest),
        match pulled.status {
            PullStatus::Downloaded => format!("Status: Downloaded newer image for {familiar}"),
            PullStatus::UpToDate => format!("Status: Image is up to date for {familiar}"),
        },
    ]
}

/// Domain, path and tag, as Docker prints it last.
fn canonical(reference: &Reference) -> String {
    match (reference.tag(), reference.digest()) {
        (_, Some(digest)) => format!("{}@{digest}", reference.repository()),
        (Some(tag), None) => format!("{}:{tag}", reference.repository()),
        (None, None) => reference.repository(),
    }
}

/// What the environment says of registries.
pub fn options() -> RegistryOptions {
    let mut options = RegistryOptions::default();
    if let Ok(list) = std::env::var(INSECURE_VARIABLE) {
        options
            .insecure
            .extend(list.split(',').filter(|s| !s.is_empty()).map(str::to_owned));
    }
    if let Some(list) = std::env::var_os(CA_VARIABLE) {
        options.ca_files.extend(std::env::split_paths(&list));
    }
    options
}

/// Pulls with progress on stderr.
///
/// # Errors
/// What the registry or the store says.
pub fn pull(
    store: &Store,
    reference: &Reference,
    platform: &Platform,
    quiet: bool,
) -> Result<Pulled> {
    let pulled = pull_with(store, reference, platform, quiet, To::Messages, &options())?;
    if !quiet {
        for line in outcome(&pulled, reference) {
            output::note(&line);
        }
    }
    Ok(pulled)
}

fn pull_with(
    store: &Store,
    reference: &Reference,
    platform: &Platform,
    quiet: bool,
    to: To,
    options: &RegistryOptions,
) -> Result<Pulled> {
    let say = |text: &str| to.say(text);
    let (policy, root) = (Policy::of_user()?, Root::of_user()?);
    policy.check_registry(reference)?;
    policy.check_disk(&root)?;
    if !quiet {
        let version = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        say(&format!("{version}: Pulling from {}", reference.path()));
    }
    let bars = Bars::new(quiet, to);
    let pulled = images::pull(store, reference, platform, options, &|layer| {
        bars.show(layer)
    });
    // What the terminal says to that changes nothing.
    let _ = bars.all.clear();
    let pulled = pulled?;
    let (name, repository) = (reference.familiar(), reference.familiar_repository());
    events::of_image(root.path(), "pull", &name, &repository);
    Ok(pulled)
}

/// Where progress goes, as in Docker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// Standard output: it is what was asked for.
    Output,
    /// Standard error: a pull by `run`.
    Messages,
}

impl To {
    /// That nobody reads it keeps nothing from being pulled.
    fn say(self, text: &str) {
        match self {
            Self::Output => drop(output::line(text)),
            Self::Messages => output::note(text),
        }
    }
}

/// A bar per layer on a terminal, a line per layer that is done elsewhere.
struct Bars {
    to: To,
    all: MultiProgress,
    by_layer: Mutex<HashMap<Digest, (ProgressBar, LayerState)>>,
    lines: bool,
}

impl Bars {
    fn new(quiet: bool, to: To) -> Self {
        let terminal = match to {
            To::Output => std::io::stdout().is_terminal(),
            To::Messages => std::io::stderr().is_terminal(),
        };
        let target = match to {
            _ if quiet || !terminal => ProgressDrawTarget::hidden(),
            To::Output => ProgressDrawTarget::stdout(),
            To::Messages => ProgressDrawTarget::stderr(),
        };
        Self {
            to,
            all: MultiProgress::with_draw_target(target),
            by_layer: Mutex::default(),
            lines: !quiet && !terminal,
        }
    }

    fn show(&self, layer: LayerProgress) {
        let mut bars = self
            .by_layer
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (bar, before) = bars.entry(layer.digest).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(layer.total));
            if let Ok(style) =
                ProgressStyle::with_template("{prefix}: {msg:11} {bar:30} {bytes}/{total_bytes}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(layer.digest.short());
            (bar, LayerState::Waiting)
        });
        let word = match layer.state {
            LayerState::Waiting => "Waiting",
            LayerState::Exists => "Already exists",
            LayerState::Downloading => "Downloading",
            LayerState::Retrying => "Retrying",
            LayerState::Verifying => "Verifying",
            LayerState::Done => "Pull complete",
        };
        bar.set_message(word);
        bar.set_position(layer.current);
        let ended = matches!(layer.state, LayerState::Exists | LayerState::Done);
        if self.lines && ended && *before != layer.state {
            self.to.say(&format!("{}: {word}", layer.digest.short()));
        }
        *before = layer.state;
    }
}

/// One bar for the conversion of layers, shown on a terminal only.
pub struct ConvertBar(Option<ProgressBar>);

impl ConvertBar {
    /// A bar that shows nothing when `quiet` or where there is no terminal.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Self((!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) =
                ProgressStyle::with_template("unpacking layer {msg} {bar:30} {bytes}/{total_bytes}")
            {
                bar.set_style(style);
            }
            bar
        }))
    }

    /// Layer `index` of `count`: `done` of `all` bytes are read.
    pub fn show(&self, index: usize, count: usize, done: u64, all: u64) {
        if let Some(bar) = &self.0 {
            bar.set_message(format!("{} of {count}", index + 1));
            bar.set_length(all);
            bar.set_position(done);
        }
    }
}

impl Drop for ConvertBar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
