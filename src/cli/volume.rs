//! `bulkhead volume …`: volumes of this user.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::filter::Filters;
use super::inspect::{Form, fail_with};
use super::output::{self, Column, List};
use super::prune;
use super::run::format_of;
use super::values::{lines, mount};
use crate::sandbox::paths::Root;
use crate::sandbox::volumes::{Volume, Volumes};

const COLUMNS: [Column; 7] = [
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
];

/// Keys of `volume ls --filter`.
const KEYS: [&str; 4] = ["dangling", "driver", "label", "name"];

/// `bulkhead volume …`.
#[derive(Debug, Subcommand)]
pub enum VolumeVerb {
    /// Create a volume
    Create(CreateArgs),
    /// Show volumes in detail
    Inspect(InspectArgs),
    /// List volumes
    #[command(alias = "list")]
    Ls(LsArgs),
    /// Remove volumes that no container uses
    Prune(prune::VolumePruneArgs),
    /// Remove volumes
    #[command(alias = "remove")]
    Rm(RmArgs),
}

/// Flags of `volume create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Driver; only `local` is there
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// Set a label (key=value)
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Options of a driver; `local` has none here
    #[arg(short, long, value_name = "map")]
    opt: Vec<String>,
    /// The name, as it was given before it had a place of its own
    #[arg(long = "name", hide = true, value_name = "string", default_value = "")]
    old_name: String,
    /// Name; 64 random digits when absent
    #[arg(value_name = "VOLUME")]
    name: Option<String>,
}

impl CreateArgs {
    /// The name that was given, in either way.
    ///
    /// # Errors
    /// In both.
    fn name(&self) -> Result<Option<&str>> {
        match (self.old_name.as_str(), self.name.as_deref()) {
            ("", name) => Ok(name.filter(|name| !name.is_empty())),
            (name, None) => Ok(Some(name)),
            (_, Some(_)) => bail!(
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
            ),
        }
    }
}

/// Flags of `volume inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// `json` or a template such as '{{.Mountpoint}}'
    #[arg(short, long)]
    format: Option<String>,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

/// Flags of `volume ls`.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Only volumes such as `dangling=true`, `driver=local`, `label=key[=value]`, `name=part`
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// `json`, a template such as '{{.Name}}', or `table` and a template
    #[arg(long)]
    format: Option<String>,
    /// Show names only
    #[arg(short, long)]
    quiet: bool,
}

/// Flags of `volume rm`.
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// A volume that is not there is no error
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

/// Does what the verb says.
///
/// # Errors
/// In Docker's words.
pub fn run(verb: &VolumeVerb) -> Result<()> {
    match verb {
        VolumeVerb::Create(args) => create(args),
        VolumeVerb::Inspect(args) => inspect(args),
        VolumeVerb::Ls(args) => ls(args),
        VolumeVerb::Prune(args) => prune::volumes(args),
        VolumeVerb::Rm(args) => rm(args),
    }
}

fn lock() -> Result<Volumes> {
    Volumes::lock(&Root::of_user()?)
}

fn create(args: &CreateArgs) -> Result<()> {
    let name = args.name()?;
    mount::check_driver(&args.driver)?;
    if let Some(option) = args.opt.first() {
        bail!("--opt {option} is not supported: a volume is a folder of the state root");
    }
    let labels: BTreeMap<String, String> = args
        .label
        .iter()
        .map(|label| lines::label(label))
        .collect::<Result<_>>()?;
    let volumes = lock()?;
    let volume = match name {
        Some(name) => volumes.create(name, &labels)?,
        None => volumes.create_anonymous(&labels, None)?,
    };
    output::line(&volume.name)
}

/// One volume in Docker's shape.
fn shown(volumes: &Volumes, volume: &Volume) -> Value {
    let labels = Some(&volume.labels).filter(|labels| !labels.is_empty());
    json!({
        "CreatedAt": volume.created,
        "Driver": "local",
        "Labels": labels,
        "Mountpoint": volumes.data(&volume.name),
        "Name": volume.name,
        "Options": null,
        "Scope": "local",
    })
}

/// One volume as `inspect` shows it, if it is there.
pub fn find(root: &Root, name: &str) -> Result<Option<Value>> {
    let volumes = Volumes::lock(root)?;
    Ok(volumes
        .get(name)
        .ok()
        .map(|volume| shown(&volumes, &volume)))
}

fn inspect(args: &InspectArgs) -> Result<()> {
    let form = Form::parse(args.format.as_deref())?;
    let volumes = lock()?;
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in &args.names {
        match volumes.get(name) {
            Ok(volume) => found.push(shown(&volumes, &volume)),
            Err(error) => failed.push(error),
        }
    }
    failed.extend(form.show(&found, |value| Ok(value.clone()), output::line)?);
    fail_with(failed)
}

fn ls(args: &LsArgs) -> Result<()> {
    let filters = Filters::parse(&args.filter, "-f, --filter", &KEYS)?;
    let volumes = lock()?;
    let uses = volumes.uses()?;
    let mut rows = Vec::new();
    for volume in volumes.list()? {
        if is_wanted(&filters, &volume, uses.contains_key(&volume.name))? {
            rows.push(row(&volumes, &volume));
        }
    }
    let format = format_of(args.format.as_deref(), args.quiet, |formats| {
        formats.volumes
    });
    let list = List {
        columns: &COLUMNS,
        table: &["Driver", "Name"],
        format: format.as_deref(),
        only: args.quiet.then_some("Name"),
    };
    list.print(&rows)
}

fn row(volumes: &Volumes, volume: &Volume) -> Map<String, Value> {
    let labels: Vec<String> = volume
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let unknown = || "N/A".to_owned();
    let values = [
        "local".to_owned(),
        volume.name.clone(),
        "local".to_owned(),
        volumes.data(&volume.name).display().to_string(),
        labels.join(","),
        unknown(),
        unknown(),
    ];
    let names = COLUMNS.iter().map(|(name, _)| (*name).to_owned());
    let mut row: Map<_, _> = names.zip(values.map(|value| json!(value))).collect();
    row.insert(output::LABEL.to_owned(), json!(volume.labels));
    row
}

fn rm(args: &RmArgs) -> Result<()> {
    let volumes = lock()?;
    let mut failed: Option<anyhow::Error> = None;
    // That nobody reads it keeps the next one from nothing.
    let mut told = Ok(());
    for name in &args.names {
        if args.force && volumes.get(name).is_err() {
            told = told.and(output::line(name));
            continue;
        }
        match volumes.remove(name) {
            Ok(()) => told = told.and(output::line(name)),
            Err(error) => {
                if let Some(before) = failed.replace(error) {
                    output::note(&format!("bulkhead: {before:#}"));
                }
            }
        }
    }
    failed.map_or(told, Err)
}

/// Whether a list shows a volume.
///
/// # Errors
/// When `dangling` is neither true nor false.
fn is_wanted(filters: &Filters, volume: &Volume, is_used: bool) -> Result<bool> {
    let dangling = filters.switch("dangling")?;
    Ok(dangling.is_none_or(|dangling| dangling != is_used)
        && filters.is("driver", "local")
        && filters.matches("name", &volume.name)
        && filters.labels("label", &volume.labels))
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn volume(name: &str, labels: &[(&str, &str)]) -> Volume {
        Volume {
            name: name.to_owned(),
            created: "2025-01-01T00:00:00Z".to_owned(),
            labels: labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            goes_with: None,
        }
    }

    fn takes(filters: &[&str], volume: &Volume, is_used: bool) -> Result<bool> {
        let texts: Vec<String> = filters.iter().map(|text| (*text).to_owned()).collect();
        let filters = Filters::parse(&texts, "-f, --filter", &KEYS)?;
        is_wanted(&filters, volume, is_used)
    }

    #[test]
    fn the_name_is_given_once() {
        let command = CreateArgs::augment_args(clap::Command::new("create"));
        let named = |words: &[&str]| {
            let words = std::iter::once(&"create").chain(words);
            let matches = command.clone().try_get_matches_from(words).unwrap();
            let args = CreateArgs::from_arg_matches(&matches).unwrap();
            args.name().map(|name| name.map(str::to_owned))
        };
        for (words, want) in [
            (&[][..], None),
            (&[""], None),
            (&["x"], Some("x")),
            (&["--name", "x"], Some("x")),
            (&["--name", "", "x"], Some("x")),
        ] {
            assert_eq!(named(words).unwrap().as_deref(), want, "{words:?}");
        }
        let error = named(&["--name", "x", "y"]).unwrap_err().to_string();
        assert!(error.starts_with("conflicting options: cannot specify a volume-name"));
    }

    #[test]
    fn single_labels_are_in_the_list() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = Volumes::lock(&Root::at(folder.path().to_owned())).unwrap();
        let row = row(&volumes, &volume("data", &[("tier", "web")]));
        assert_eq!(row[output::LABEL]["tier"], "web");
    }

    #[test]
    fn filters_are_dockers() {
        let data = volume("data", &[("env", "prod"), ("x", "")]);
        for (filters, is_used, taken) in [
            (vec![], true, true),
            (vec!["dangling=true"], true, false),
            (vec!["dangling=1"], false, true),
            (vec!["dangling=false"], true, true),
            (vec!["driver=local"], true, true),
            (vec!["driver=nfs"], true, false),
            (vec!["name=at"], true, true),
            (vec!["name=zz"], true, false),
            (vec!["name=zz", "name=da"], true, true),
            (vec!["label=env"], true, true),
            (vec!["label=env=prod", "label=x"], true, true),
            (vec!["label=env=test"], true, false),
        ] {
            let got = takes(&filters, &data, is_used).unwrap();
            assert_eq!(got, taken, "{filters:?}");
        }
    }

    #[test]
    fn filters_that_are_none_are_refused() {
        for (text, error) in [
            ("dangling", "bad format of filter"),
            ("size=3", "invalid filter 'size'"),
            ("dangling=maybe", "invalid filter 'dangling=[maybe]'"),
        ] {
            let told = takes(&[text], &volume("data", &[]), true).err().unwrap();
            assert!(told.to_string().contains(error), "{told}");
        }
    }
}
