//! `bulkhead push`: an image to a registry, with Docker's words for what happens to its layers.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use images::registry::{LayerPush, PushState};
use images::{Digest, Platform, Reference, Store};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::policy::Policy;
use super::values::given;
use super::{output, pull, run, variables};
use crate::sandbox::events;
use crate::sandbox::paths::Root;

/// Flags of `push`.
#[derive(Debug, clap::Args)]
#[command(after_help = variables::of_pull())]
pub struct PushArgs {
    /// Every tag of the repository that there is here
    #[arg(short, long)]
    all_tags: bool,
    /// Print nothing but the image's name
    #[arg(short, long)]
    quiet: bool,
    /// Refuse an image that is for another platform: os[/arch[/variant]]
    #[arg(long)]
    platform: Option<String>,
    /// No image is signed; without effect, as for Docker by default
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true")]
    disable_content_trust: bool,
    #[command(flatten)]
    registry: pull::RegistryArgs,
    /// Image: `NAME` or `NAME:TAG`
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

/// Pushes one image, or every tag of a repository.
///
/// # Errors
/// There is no such image, or what the registry says.
pub fn run(args: &PushArgs) -> Result<()> {
    if !args.disable_content_trust {
        bail!("--disable-content-trust=false is not supported: images are not signed");
    }
    let variable = run::variable(pull::PLATFORM_VARIABLE)?.filter(|text| !text.is_empty());
    let platform = given(&args.platform).or(variable.as_deref());
    let platform = platform.map(Platform::parse).transpose()?;
    let reference = Reference::parse(&args.name)?;
    let is_name_only = Reference::parse_name(&args.name).is_some();
    if args.all_tags && !is_name_only {
        bail!("tag can't be used with --all-tags/-a");
    }
    if reference.digest().is_some() {
        bail!("cannot push a digest reference");
    }
    let say = |text: &str| match args.quiet {
        true => Ok(()),
        false => output::line(text),
    };
    if is_name_only && !args.all_tags {
        say("Using default tag: latest")?;
    }
    let root = Root::of_user()?;
    Policy::of_user()?.check_registry(&reference)?;
    let store = Store::open(&root.images())?;
    let repository = reference.repository();
    say(&format!("The push refers to repository [{repository}]"))?;
    let names = names(&store, &reference, args.all_tags)?;
    let options = args.registry.options();
    for name in &names {
        check_platform(&store, name, platform.as_ref())?;
        let lines = Lines::new(args.quiet);
        let pushed = images::push(&store, name, &options, &|layer| lines.show(&layer));
        lines.end();
        let pushed = pushed?;
        let tag = name.tag().unwrap_or_default();
        let (digest, size) = (pushed.digest, pushed.size);
        say(&format!("{tag}: digest: {digest} size: {size}"))?;
        let familiar = name.familiar();
        events::of_image(root.path(), "push", &familiar, &name.familiar_repository());
    }
    if args.quiet {
        output::line(&match args.all_tags {
            true => repository,
            false => reference.to_string(),
        })?;
    }
    Ok(())
}

/// The names to push, in the words in which Docker misses them.
fn names(store: &Store, reference: &Reference, all: bool) -> Result<Vec<Reference>> {
    let mut names = store.names()?;
    names.retain(|name| name.repository() == reference.repository());
    if names.is_empty() {
        let repository = reference.familiar_repository();
        bail!("An image does not exist locally with the tag: {repository}");
    }
    if all {
        names.retain(|name| name.tag().is_some());
        names.sort();
        return Ok(names);
    }
    if !names.contains(reference) {
        bail!("tag does not exist: {}", reference.familiar());
    }
    Ok(vec![reference.clone()])
}

fn check_platform(store: &Store, name: &Reference, wanted: Option<&Platform>) -> Result<()> {
    if let (Some(wanted), Some(image)) = (wanted, store.find(name)?) {
        image.config.check_platform(wanted)?;
    }
    Ok(())
}

/// A bar per layer at a terminal, a line for each of its states elsewhere.
struct Lines {
    all: MultiProgress,
    by_layer: Mutex<HashMap<Digest, (ProgressBar, Option<PushState>)>>,
    plain: bool,
}

impl Lines {
    fn new(quiet: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let target = match quiet || !terminal {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stdout(),
        };
        Self {
            all: MultiProgress::with_draw_target(target),
            by_layer: Mutex::default(),
            plain: !quiet && !terminal,
        }
    }

    fn show(&self, layer: &LayerPush) {
        let mut layers = self.by_layer.lock().unwrap_or_else(PoisonError::into_inner);
        let (bar, before) = layers.entry(layer.diff_id).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(layer.total));
            bar.set_prefix(layer.diff_id.short());
            (bar, None)
        });
        let has_bytes = matches!(
            layer.state,
            PushState::Packing | PushState::Pushing | PushState::Retrying
        );
        let is_new = before.as_ref() != Some(&layer.state);
        if is_new {
            let style = match has_bytes {
                true => "{prefix}: {msg} {bar:30} {bytes}/{total_bytes}",
                false => "{prefix}: {msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.set_message(word(&layer.state));
        }
        bar.set_length(layer.total);
        bar.set_position(layer.current);
        // Bytes on their way are for terminals only, as in Docker.
        if self.plain && is_new && !has_bytes {
            let line = format!("{}: {}", layer.diff_id.short(), word(&layer.state));
            // That it can't be printed ends the command at its last line.
            let _ = output::line(&line);
        }
        *before = Some(layer.state.clone());
    }

    /// Leaves the bars as they are, or none where it failed before there were any.
    fn end(&self) {
        let layers = self.by_layer.lock().unwrap_or_else(PoisonError::into_inner);
        for (bar, _) in layers.values() {
            bar.abandon();
        }
    }
}

fn word(state: &PushState) -> String {
    match state {
        PushState::Preparing => "Preparing".to_owned(),
        PushState::Waiting => "Waiting".to_owned(),
        PushState::Packing => "Compressing".to_owned(),
        PushState::Pushing => "Pushing".to_owned(),
        PushState::Retrying => "Retrying".to_owned(),
        PushState::Pushed => "Pushed".to_owned(),
        PushState::Exists => "Layer already exists".to_owned(),
        PushState::Mounted(from) => format!("Mounted from {from}"),
    }
}
