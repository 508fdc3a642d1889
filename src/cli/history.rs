//! `bulkhead history`, `bulkhead image history`: the steps that made an image.

use anyhow::{Result, bail};
use images::config::History;
use images::{Image, Platform, Store};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::output::{self, Column, List};
use super::values::given;
use crate::sandbox::paths::Root;

/// Characters of a step that are shown.
const STEP_CHARS: usize = 45;

/// What Docker shows for the steps below the last one.
const MISSING: &str = "<missing>";

const COLUMNS: [Column; 6] = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

/// Flags of `history`.
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// `json`, a template such as '{{.CreatedBy}}', or `table` and a template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Sizes and dates for people: with =false in bytes and as RFC 3339
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    human: bool,
    /// Show whole ids and steps
    #[arg(long)]
    no_trunc: bool,
    /// Platform that the image has to be for: os[/arch[/variant]]
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Image
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// Prints the steps, the last one first.
///
/// # Errors
/// When there is no such image, or it is for another platform.
pub fn run(args: &HistoryArgs) -> Result<()> {
    let store = Store::open(&Root::of_user()?.images())?;
    let image = store.resolve(&args.image)?;
    if let Some(text) = given(&args.platform) {
        let platform = Platform::parse(text)?;
        if platform.fit(image.platform()).is_none() {
            bail!(
                "image {} is for {}, not for {platform}",
                args.image,
                image.platform()
            );
        }
    }
    let list = List {
        columns: &COLUMNS,
        table: match args.human {
            true => &["ID", "CreatedSince", "CreatedBy", "Size", "Comment"],
            false => &["ID", "CreatedAt", "CreatedBy", "Size", "Comment"],
        },
        format: args.format.as_deref(),
        only: args.quiet.then_some("ID"),
    };
    list.print(&rows(&image, args, Timestamp::now().as_second()))
}

fn rows(image: &Image, args: &HistoryArgs, now: i64) -> Vec<Map<String, Value>> {
    let mut layers = image.layers.iter();
    let mut steps: Vec<(&History, u64)> = Vec::new();
    for step in &image.config.history {
        let layer = match step.empty_layer {
            true => None,
            false => layers.next(),
        };
        steps.push((step, layer.map_or(0, |layer| layer.size)));
    }
    let steps = steps.iter().rev().enumerate();
    steps
        .map(|(age, (step, bytes))| {
            let id = match (age, args.no_trunc) {
                (0, true) => image.id.to_string(),
                (0, false) => image.id.short(),
                _ => MISSING.to_owned(),
            };
            row(id, step, *bytes, args, now)
        })
        .collect()
}

fn row(id: String, step: &History, bytes: u64, args: &HistoryArgs, now: i64) -> Map<String, Value> {
    let created_at = step
        .created
        .as_ref()
        .map_or_else(|| "N/A".to_owned(), |time| time.as_str().to_owned());
    let since = match (&step.created, args.human) {
        (Some(time), true) => output::duration(now - time.unix_seconds()) + " ago",
        _ => created_at.clone(),
    };
    let values = [
        id,
        since,
        created_at,
        by(&step.created_by, args.no_trunc),
        match args.human {
            true => output::size(bytes),
            false => bytes.to_string(),
        },
        step.comment.replace('\t', " "),
    ];
    let names = COLUMNS.iter().map(|(name, _)| (*name).to_owned());
    names.zip(values.map(|value| json!(value))).collect()
}

/// A step on one line, cut to what a column bears.
fn by(text: &str, whole: bool) -> String {
    let text = text.replace(['\t', '\n'], " ");
    if whole || text.chars().count() <= STEP_CHARS {
        return text;
    }
    let cut: String = text.chars().take(STEP_CHARS - 1).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_cut_to_a_column() {
        let long = "x".repeat(46);
        assert_eq!(by(&long[..45], false), "x".repeat(45));
        assert_eq!(by(&long, false), "x".repeat(44) + "…");
        assert_eq!(by(&long, true), long);
        assert_eq!(by("a\tb", true), "a b");
    }
}
