//! `bulkhead images`, `bulkhead image ls`: what is in the store.

use anyhow::{Context, Result, bail};
use images::{Digest, Image, Reference, Store};
use protocol::pattern::Pattern;
use serde_json::{Map, Value, json};

use super::filter::Filters;
use super::output::{self, Column, List};
use super::run::format_of;
use crate::sandbox::paths::Root;

/// What Docker shows where there is nothing.
const NONE: &str = "<none>";

/// Every column.
pub const COLUMNS: [Column; 11] = [
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

/// Flags of `images`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImagesArgs {
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show all; there are no intermediate images
    #[arg(short, long)]
    all: bool,
    /// As a tree of platforms; refused, an image here is for one
    #[arg(long)]
    tree: bool,
    /// `json`, a template such as '{{.Repository}}:{{.Tag}}', or `table` and a template
    #[arg(long)]
    format: Option<String>,
    /// dangling=BOOL, label=KEY[=VALUE], before=IMAGE, since=IMAGE, until=TIME, reference=PATTERN
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Only images whose name matches this
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,
}

/// Lists images.
///
/// # Errors
/// When the store can't be read or a filter is unknown.
pub fn run(args: &ImagesArgs) -> Result<()> {
    let args = &ImagesArgs {
        format: format_of(args.format.as_deref(), args.quiet, |formats| formats.images),
        ..args.clone()
    };
    if args.tree {
        bail!("--tree is not supported: an image here is for one platform");
    }
    let store = Store::open(&Root::of_user()?.images())?;
    let filter = Filter::parse(args, &store)?;
    let listing = store.list()?;
    for damaged in &listing.damaged {
        output::note(&format!(
            "bulkhead: image {} is damaged: {}",
            damaged.id.short(),
            damaged.error
        ));
    }
    let mut rows = Vec::new();
    for image in listing.images.iter().filter(|image| filter.takes(image)) {
        for name in names_of(image)
            .iter()
            .filter(|name| filter.takes_name(name))
        {
            rows.push(row(image, name, args.no_trunc));
        }
    }
    let list = List {
        columns: &COLUMNS,
        table: match args.digests {
            true => &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"],
            false => &["Repository", "Tag", "ID", "CreatedSince", "Size"],
        },
        format: args.format.as_deref(),
        only: args.quiet.then_some("ID"),
    };
    list.print(&rows)
}

/// An image under one of its names.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    repository: String,
    tag: String,
    digest: String,
}

fn names_of(image: &Image) -> Vec<Name> {
    let digest_of = |repository: &str| {
        let digests = image.repo_digests.iter();
        digests
            .filter(|name| name.familiar_repository() == repository)
            .find_map(Reference::digest)
            .map_or_else(|| NONE.to_owned(), Digest::to_string)
    };
    let name = |repository: String, tag: &str| Name {
        digest: digest_of(&repository),
        tag: tag.to_owned(),
        repository,
    };
    let tags = image.tags.iter();
    let mut names: Vec<Name> = tags
        .map(|tag| name(tag.familiar_repository(), tag.tag().unwrap_or(NONE)))
        .collect();
    // Where it was pulled from by its digest.
    for pulled in image
        .repo_digests
        .iter()
        .map(Reference::familiar_repository)
    {
        if names.iter().all(|name| name.repository != pulled) {
            names.push(name(pulled, NONE));
        }
    }
    if names.is_empty() {
        names.push(name(NONE.to_owned(), NONE));
    }
    names
}

/// What only a look at all images and containers tells.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// How many are of it.
    pub containers: usize,
    /// Bytes of its layers that other images have, too.
    pub shared: u64,
}

/// The rows of an image in a list with these sizes.
pub fn rows(image: &Image, sizes: Sizes, whole: bool) -> Vec<Map<String, Value>> {
    let names = names_of(image);
    let rows = names.iter().map(|name| {
        let mut row = row(image, name, whole);
        let unique = image.size.saturating_sub(sizes.shared);
        row.insert("Containers".to_owned(), json!(sizes.containers.to_string()));
        row.insert("SharedSize".to_owned(), json!(output::size(sizes.shared)));
        row.insert("UniqueSize".to_owned(), json!(output::size(unique)));
        row
    });
    rows.collect()
}

fn row(image: &Image, name: &Name, whole: bool) -> Map<String, Value> {
    let now = jiff::Timestamp::now().as_second();
    let created = image.created();
    let size = output::size(image.size);
    let values = [
        if whole {
            image.id.to_string()
        } else {
            image.id.short()
        },
        name.repository.clone(),
        name.tag.clone(),
        name.digest.clone(),
        created.map_or_else(
            || "N/A".to_owned(),
            |time| output::duration(now - time.unix_seconds()) + " ago",
        ),
        created.map_or_else(
            || "N/A".to_owned(),
            |time| output::local_time(time.as_str()),
        ),
        size.clone(),
        "N/A".to_owned(),
        "N/A".to_owned(),
        "N/A".to_owned(),
        size,
    ];
    let names = COLUMNS.iter().map(|(name, _)| (*name).to_owned());
    names.zip(values.map(|value| json!(value))).collect()
}

/// Every key of `--filter`.
const KEYS: [&str; 6] = ["before", "dangling", "label", "reference", "since", "until"];

/// Which images are shown: every kind of filter has to hold, of several patterns one.
#[derive(Debug)]
struct Filter {
    filters: Filters,
    dangling: Option<bool>,
    /// Seconds since 1970.
    before: Option<i64>,
    /// Seconds since 1970.
    since: Option<i64>,
    patterns: Vec<Pattern>,
}

impl Filter {
    fn parse(args: &ImagesArgs, store: &Store) -> Result<Self> {
        let filters = Filters::parse(&args.filter, "-f, --filter", &KEYS)?;
        let named = |key: &str| -> Result<Option<i64>> {
            let name = filters.values(key).last();
            let image = name.map(|name| store.resolve(name)).transpose()?;
            Ok(image.as_ref().map(created_seconds))
        };
        let until = filters.until(jiff::Timestamp::now())?;
        let until = until.map(jiff::Timestamp::as_second);
        let patterns = args.repository.iter().chain(filters.values("reference"));
        let pattern = |text: &String| {
            Pattern::shallow(text).with_context(|| format!("invalid reference pattern \"{text}\""))
        };
        Ok(Self {
            dangling: filters.switch("dangling")?,
            before: [named("before")?, until].into_iter().flatten().min(),
            since: named("since")?,
            patterns: patterns.map(pattern).collect::<Result<_>>()?,
            filters,
        })
    }

    fn takes(&self, image: &Image) -> bool {
        let created = created_seconds(image);
        self.dangling
            .is_none_or(|wanted| image.tags.is_empty() == wanted)
            && self.before.is_none_or(|time| created < time)
            && self.since.is_none_or(|time| created > time)
            && self.filters.labels("label", &image.config.labels)
    }

    fn takes_name(&self, name: &Name) -> bool {
        let full = format!("{}:{}", name.repository, name.tag);
        self.patterns.is_empty()
            || self.patterns.iter().any(|pattern| {
                [&full, &name.repository]
                    .iter()
                    .any(|text| pattern.matches(text.as_bytes()))
            })
    }
}

/// Seconds since 1970; an image without a time is as old as can be.
pub fn created_seconds(image: &Image) -> i64 {
    image.created().map_or(0, |time| time.unix_seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_but_not_across_slashes() {
        for (pattern, text, want) in [
            ("busybox", "busybox", true),
            ("busy*", "busybox", true),
            ("*box", "busybox", true),
            ("b*y*x", "busybox", true),
            ("b?sybox", "busybox", true),
            ("busy*:lat*", "busybox:latest", true),
            ("busy", "busybox", false),
            ("b*z", "busybox", false),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("a*b", "a/b", false),
            ("a?b", "a/b", false),
            ("busybox?", "busybox", false),
            ("busybox*", "busybox", true),
            ("busybox:1.3[0-9]", "busybox:1.36", true),
            ("busybox:1.3[^0-9]", "busybox:1.36", false),
            ("deb[a-i]an", "debian", true),
            ("a[.-0]b", "a/b", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(
                Pattern::shallow(pattern).unwrap().matches(text.as_bytes()),
                want,
                "{pattern} {text}"
            );
        }
    }
}
