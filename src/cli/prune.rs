//! `bulkhead container prune`, `image prune`, `volume prune`, `system prune`: removes what is not used.

use std::io::{BufRead, Write};

use anyhow::{Result, bail};
use images::{Image, Store};
use jiff::Timestamp;

use super::filter::Filters;
use super::images::created_seconds;
use super::{builder, output, rmi};
use crate::sandbox::containers;
use crate::sandbox::paths::{self, Root};
use crate::sandbox::volumes::Volumes;

/// Keys of `--filter`.
const KEYS: [&str; 3] = ["label", "label!", "until"];

/// Keys of `volume prune --filter`.
const VOLUME_KEYS: [&str; 3] = ["all", "label", "label!"];

/// Keys of `image prune --filter`.
const IMAGE_KEYS: [&str; 4] = ["dangling", "label", "label!", "until"];

/// Flags of `container prune`.
#[derive(Debug, clap::Args)]
pub struct ContainerPruneArgs {
    /// Only containers of which KEY=VALUE holds: until, label, label!
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Flags of `image prune`.
#[derive(Debug, clap::Args)]
pub struct ImagePruneArgs {
    /// Every image that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Only images of which KEY=VALUE holds: until, label, label!, dangling
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Flags of `volume prune`.
#[derive(Debug, clap::Args)]
pub struct VolumePruneArgs {
    /// Every volume that no container uses, not only anonymous ones
    #[arg(short, long)]
    all: bool,
    /// Only volumes of which KEY=VALUE holds: label, label!, all
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Flags of `system prune`.
#[derive(Debug, clap::Args)]
pub struct SystemPruneArgs {
    /// Every image that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Only what KEY=VALUE holds of: until, label, label!
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Anonymous volumes, too
    #[arg(long)]
    volumes: bool,
}

/// Removes stopped containers.
///
/// # Errors
/// A filter that is none, or the containers can't be read.
pub fn containers(args: &ContainerPruneArgs) -> Result<()> {
    let filters = Filters::parse(&args.filter, "--filter", &KEYS)?;
    if !(args.force || confirm("WARNING! This will remove all stopped containers.")?) {
        return Ok(());
    }
    let root = Root::of_user()?;
    let removed = remove_containers(&root, &filters)?;
    removed.print("Deleted Containers:")?;
    total(removed.bytes)
}

/// Removes images without a name, or all that no container uses.
///
/// # Errors
/// A filter that is none, or the store can't be read.
pub fn images(args: &ImagePruneArgs) -> Result<()> {
    let filters = Filters::parse(&args.filter, "--filter", &IMAGE_KEYS)?;
    // As in Docker, where the filter is what the flag is made of.
    let all = match filters.switch("dangling")? {
        Some(dangling) => !dangling,
        None => args.all,
    };
    let warning = match all {
        true => {
            "WARNING! This will remove all images without at least one container associated to them."
        }
        false => "WARNING! This will remove all dangling images.",
    };
    if !(args.force || confirm(warning)?) {
        return Ok(());
    }
    let removed = remove_images(&Root::of_user()?, &filters, all)?;
    removed.print("Deleted Images:")?;
    total(removed.bytes)
}

/// Removes anonymous volumes, or all that no container uses.
///
/// # Errors
/// A filter that is none, or the volumes can't be read.
pub fn volumes(args: &VolumePruneArgs) -> Result<()> {
    let filters = Filters::parse(&args.filter, "--filter", &VOLUME_KEYS)?;
    let all = args.all || filters.switch("all")? == Some(true);
    let which = if all { "all" } else { "anonymous" };
    let warning = format!(
        "WARNING! This will remove {which} local volumes not used by at least one container."
    );
    if !(args.force || confirm(&warning)?) {
        return Ok(());
    }
    let removed = remove_volumes(&Root::of_user()?, &filters, all)?;
    removed.print("Deleted Volumes:")?;
    total(removed.bytes)
}

/// Removes stopped containers, and then images that none uses.
///
/// # Errors
/// A filter that is none, or something can't be read.
pub fn system(args: &SystemPruneArgs) -> Result<()> {
    let filters = Filters::parse(&args.filter, "--filter", &KEYS)?;
    if args.volumes && filters.until(Timestamp::now())?.is_some() {
        bail!("the \"until\" filter is not supported with \"--volumes\"");
    }
    if !(args.force || confirm(&warning(args.all, args.volumes, &args.filter))?) {
        return Ok(());
    }
    let root = Root::of_user()?;
    let containers = remove_containers(&root, &filters)?;
    containers.print("Deleted Containers:")?;
    let volumes = match args.volumes {
        true => remove_volumes(&root, &filters, false)?,
        false => Pruned::default(),
    };
    volumes.print("Deleted Volumes:")?;
    let images = remove_images(&root, &filters, args.all)?;
    images.print("Deleted Images:")?;
    // Labels are of images and containers: with one of them a cache has nothing to match.
    let cache = match filters.has("label") || filters.has("label!") {
        true => Pruned::default(),
        false => builder::remove(&root, &filters, args.all, 0)?,
    };
    cache.print("Deleted build cache objects:")?;
    let all = [containers.bytes, volumes.bytes, images.bytes, cache.bytes];
    total(all.into_iter().fold(0, u64::saturating_add))
}

/// Removes anonymous volumes that no container has, or all such.
fn remove_volumes(root: &Root, filters: &Filters, all: bool) -> Result<Pruned> {
    let volumes = Volumes::lock(root)?;
    let uses = volumes.uses()?;
    let mut pruned = Pruned::default();
    for volume in volumes.list()? {
        let is_free = (all || volume.is_anonymous()) && !uses.contains_key(&volume.name);
        if is_free && filters.labels_of_prune(&volume.labels) {
            let bytes = volumes.disk_bytes(&volume.name);
            // Some are root's to remove; the others go.
            if let Err(error) = volumes.remove(&volume.name) {
                output::note(&format!("bulkhead: {error:#}"));
                continue;
            }
            pruned.bytes = pruned.bytes.saturating_add(bytes);
            pruned.lines.push(volume.name);
        }
    }
    Ok(pruned)
}

fn warning(all: bool, volumes: bool, filters: &[String]) -> String {
    let images = match all {
        true => "all images without at least one container associated to them",
        false => "all dangling images",
    };
    let mut text = "WARNING! This will remove:\n  - all stopped containers\n".to_owned();
    if volumes {
        text.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    let cache = if all {
        "all build cache"
    } else {
        "unused build cache"
    };
    text.push_str(&format!("  - {images}\n  - {cache}\n"));
    if !filters.is_empty() {
        text.push_str("\n  Items to be pruned will be filtered with:");
        for filter in filters {
            text.push_str("\n  - ");
            text.push_str(filter);
        }
        text.push('\n');
    }
    text
}

/// Asks the user; what is not `y` is no.
///
/// # Errors
/// When standard output is closed.
pub fn confirm(warning: &str) -> Result<bool> {
    let mut stdout = std::io::stdout().lock();
    write!(
        stdout,
        "{}\nAre you sure you want to continue? [y/N] ",
        output::harmless(warning)
    )?;
    stdout.flush()?;
    Ok(is_yes(std::io::stdin().lock()))
}

/// Longest answer in bytes.
const ANSWER_MAX: u64 = 64;

fn is_yes(input: impl BufRead) -> bool {
    let mut answer = String::new();
    let read = std::io::Read::take(input, ANSWER_MAX).read_line(&mut answer);
    read.is_ok() && answer.trim().eq_ignore_ascii_case("y")
}

/// What was removed.
#[derive(Debug, Default)]
pub struct Pruned {
    /// A line for each thing.
    pub lines: Vec<String>,
    /// Bytes that are free now.
    pub bytes: u64,
}

impl Pruned {
    /// Prints the lines below a title, if there are any.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print(&self, title: &str) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        output::line(title)?;
        for line in &self.lines {
            output::line(line)?;
        }
        output::line("")
    }
}

/// Prints what a prune gave back.
///
/// # Errors
/// When standard output is closed.
pub fn total(bytes: u64) -> Result<()> {
    output::line(&format!("Total reclaimed space: {}", output::space(bytes)))
}

fn remove_containers(root: &Root, filters: &Filters) -> Result<Pruned> {
    let until = filters.until(Timestamp::now())?;
    let mut pruned = Pruned::default();
    for (folder, config) in containers::list(root)? {
        let is_old = until.is_none_or(|until| {
            let created = config.created.parse::<Timestamp>();
            created.is_ok_and(|created| created < until)
        });
        let state = folder.true_state();
        let has_ended = state.is_ok_and(|state| !state.status.is_alive());
        if !(is_old && has_ended && filters.labels_of_prune(&config.labels)) {
            continue;
        }
        let bytes = folder.writable_bytes();
        match containers::remove(&folder, &config, false) {
            Ok(()) => {
                pruned.lines.push(config.id);
                pruned.bytes = pruned.bytes.saturating_add(bytes);
            }
            // It may have been started since.
            Err(error) => output::note(&format!("bulkhead: {error:#}")),
        }
    }
    if !pruned.lines.is_empty() {
        // An image that was removed by force leaves what its last container needed.
        let freed = space_of_images(root, |store| {
            store.collect(&|| containers::uses(root))?;
            Ok(())
        })?;
        pruned.bytes = pruned.bytes.saturating_add(freed);
    }
    Ok(pruned)
}

fn remove_images(root: &Root, filters: &Filters, all: bool) -> Result<Pruned> {
    let until = filters.until(Timestamp::now())?.map(Timestamp::as_second);
    let mut lines = Vec::new();
    let bytes = space_of_images(root, |store| {
        let listing = store.list()?;
        for damaged in &listing.damaged {
            output::note(&format!(
                "bulkhead: image {} is damaged and kept: {}",
                damaged.id.short(),
                damaged.error
            ));
        }
        let is_meant = |image: &Image| {
            (all || image.tags.is_empty())
                && until.is_none_or(|until| created_seconds(image) < until)
                && filters.labels_of_prune(&image.config.labels)
        };
        let unused = store.remove_unused(&is_meant, &|| containers::uses(root))?;
        for (id, removed) in unused.removed {
            rmi::journal(root, &id.to_string(), &removed);
            lines.extend(removed.iter().map(|line| lower(&line.to_string())));
        }
        if unused.postponed > 0 {
            output::note(&format!(
                "bulkhead: {} images with names are kept: a pull, a load, a build or a start is under way, which may \
                 have chosen them",
                unused.postponed
            ));
        }
        Ok(())
    })?;
    Ok(Pruned { lines, bytes })
}

/// `Untagged: x` as prune has it: `untagged: x`.
fn lower(line: &str) -> String {
    let mut chars = line.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

/// Bytes of the store that `act` gives back.
///
/// # Errors
/// Those of `act`.
pub fn space_of_images(root: &Root, act: impl FnOnce(&Store) -> Result<()>) -> Result<u64> {
    let store = Store::open(&root.images())?;
    let before = paths::space_below(&root.images());
    act(&store)?;
    Ok(before.saturating_sub(paths::space_below(&root.images())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_y_is_yes() {
        for (answer, want) in [
            ("y\n", true),
            ("Y", true),
            (" y \n", true),
            ("yes\n", false),
            ("\n", false),
            ("", false),
            ("n\ny\n", false),
        ] {
            assert_eq!(is_yes(answer.as_bytes()), want, "{answer:?}");
        }
    }

    #[test]
    fn the_warning_names_what_goes() {
        assert_eq!(
            warning(false, false, &[]),
            "WARNING! This will remove:\n  - all stopped containers\n  - all dangling images\n  - unused build cache\n"
        );
        let filtered = warning(true, true, &["label=a".to_owned()]);
        let end = "associated to them\n  - all build cache\n\n  Items to be pruned will be filtered with:\n  - label=a\n";
        assert!(filtered.ends_with(end), "{filtered}");
        assert_eq!(lower("Untagged: X:1"), "untagged: X:1");
    }
}
