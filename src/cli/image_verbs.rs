//! `images`, `load`, `tag`, `rmi`: what is in the store.

use std::path::PathBuf;

use anyhow::{Result, bail};
use images::store::{ContainerUse, Force};
use images::{Digest, Image, Platform, Reference, Store};

use super::{human_age, human_size, print_table, template};
use crate::sandbox::paths::Root;
use crate::sandbox::state::{self, Status};

/// Flags of `images`.
#[derive(Debug, clap::Args)]
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
    /// `json` or a template such as '{{.Repository}}:{{.Tag}}'
    #[arg(long)]
    format: Option<String>,
    /// dangling=true|false, label=KEY[=VALUE], reference=NAME
    #[arg(short, long)]
    filter: Vec<String>,
    /// Only images of this repository
    repository: Option<String>,
}

/// One line of the list: an image under one of its names.
struct Row<'a> {
    image: &'a Image,
    repository: String,
    tag: String,
    digest: String,
}

/// Lists images.
///
/// # Errors
/// When the store can't be read or a filter is unknown.
pub fn images(args: &ImagesArgs) -> Result<()> {
    let store = Store::open(&Root::of_user()?.images())?;
    let listing = store.list()?;
    for damaged in &listing.damaged {
        eprintln!(
            "bulkhead: image {} is damaged: {}",
            damaged.id.short(),
            damaged.error
        );
    }
    let mut rows: Vec<Row> = listing.images.iter().flat_map(rows_of).collect();
    for filter in &args.filter {
        filter_rows(&mut rows, filter)?;
    }
    if let Some(wanted) = &args.repository {
        let (repository, tag) = match Reference::parse(wanted) {
            Ok(reference) if wanted.contains(':') => (
                reference.familiar_repository(),
                reference.tag().map(str::to_owned),
            ),
            Ok(reference) => (reference.familiar_repository(), None),
            Err(error) => return Err(error.into()),
        };
        rows.retain(|row| {
            row.repository == repository && tag.as_ref().is_none_or(|t| *t == row.tag)
        });
    }
    let id = |image: &Image| {
        if args.no_trunc {
            image.id.to_string()
        } else {
            image.id.short()
        }
    };
    if args.quiet {
        for row in &rows {
            println!("{}", id(row.image));
        }
        return Ok(());
    }
    let now = jiff::Timestamp::now().as_second();
    let age = |image: &Image| match image.created() {
        Some(time) => human_age(now - time.unix_seconds()),
        None => "N/A".to_owned(),
    };
    if let Some(format) = args
        .format
        .as_deref()
        .filter(|format| !format.starts_with("table"))
    {
        for row in &rows {
            let value = serde_json::json!({
                "ID": id(row.image), "Repository": row.repository, "Tag": row.tag,
                "Digest": row.digest, "CreatedSince": age(row.image),
                "CreatedAt": row.image.created().map(|t| t.as_str().to_owned()),
                "Size": human_size(row.image.size), "Containers": "N/A", "SharedSize": "N/A",
                "UniqueSize": "N/A", "VirtualSize": human_size(row.image.size),
            });
            println!("{}", template::render(format, &value)?);
        }
        return Ok(());
    }
    let mut headers = vec!["REPOSITORY", "TAG"];
    if args.digests {
        headers.push("DIGEST");
    }
    headers.extend(["IMAGE ID", "CREATED", "SIZE"]);
    let cells = |row: &Row| {
        let mut cells = vec![row.repository.clone(), row.tag.clone()];
        if args.digests {
            cells.push(row.digest.clone());
        }
        cells.extend([id(row.image), age(row.image), human_size(row.image.size)]);
        cells
    };
    print_table(&headers, &rows.iter().map(cells).collect::<Vec<_>>());
    Ok(())
}

fn rows_of(image: &Image) -> Vec<Row<'_>> {
    const NONE: &str = "<none>";
    let digest_of = |repository: &str| {
        image
            .repo_digests
            .iter()
            .find(|r| r.familiar_repository() == repository)
            .and_then(Reference::digest)
            .map_or_else(|| NONE.to_owned(), Digest::to_string)
    };
    if image.tags.is_empty() {
        let repository = image
            .repo_digests
            .first()
            .map_or_else(|| NONE.to_owned(), Reference::familiar_repository);
        let digest = digest_of(&repository);
        return vec![Row {
            image,
            repository,
            tag: NONE.to_owned(),
            digest,
        }];
    }
    image
        .tags
        .iter()
        .map(|name| {
            let repository = name.familiar_repository();
            let digest = digest_of(&repository);
            Row {
                image,
                repository,
                tag: name.tag().unwrap_or(NONE).to_owned(),
                digest,
            }
        })
        .collect()
}

fn filter_rows(rows: &mut Vec<Row>, filter: &str) -> Result<()> {
    let Some((key, value)) = filter.split_once('=') else {
        bail!("invalid argument \"{filter}\" for \"-f, --filter\" flag: invalid filter '{filter}'");
    };
    match key {
        "dangling" => {
            let wanted = matches!(value, "true" | "1");
            rows.retain(|row| row.image.tags.is_empty() == wanted);
        }
        "label" => {
            let (name, text) = match value.split_once('=') {
                Some((name, text)) => (name, Some(text)),
                None => (value, None),
            };
            rows.retain(|row| match row.image.config.labels.get(name) {
                Some(found) => text.is_none_or(|text| found == text),
                None => false,
            });
        }
        "reference" => rows.retain(|row| {
            row.repository == value || format!("{}:{}", row.repository, row.tag) == value
        }),
        _ => bail!("invalid filter '{key}'"),
    }
    Ok(())
}

/// Flags of `load`.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// Archive file or OCI layout folder; without it stdin
    #[arg(short, long)]
    input: Option<PathBuf>,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
}

/// Loads images.
///
/// # Errors
/// When the archive is no image or the store can't take it.
pub fn load(args: &LoadArgs) -> Result<()> {
    let store = Store::open(&Root::of_user()?.images())?;
    let platform = Platform::host();
    let loaded = match &args.input {
        Some(path) => images::load(&store, path, &platform)?,
        None => {
            use std::io::IsTerminal;
            if std::io::stdin().is_terminal() {
                bail!("requested load from stdin, but stdin is empty");
            }
            images::archive::load_stream(&store, std::io::stdin().lock(), &platform)?
        }
    };
    for image in loaded {
        println!("{image}");
    }
    Ok(())
}

/// Flags of `tag`.
#[derive(Debug, clap::Args)]
pub struct TagArgs {
    /// An image
    source: String,
    /// Its new name
    target: String,
}

/// Gives an image another name.
///
/// # Errors
/// When there is no such image or the name is none.
pub fn tag(args: &TagArgs) -> Result<()> {
    let store = Store::open(&Root::of_user()?.images())?;
    Ok(store.tag(&args.source, &Reference::parse(&args.target)?)?)
}

/// Flags of `rmi`.
#[derive(Debug, clap::Args)]
pub struct RmiArgs {
    /// Remove although it has several names or a stopped container uses it
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
}

/// Removes images; goes on after an error and fails at the end.
///
/// # Errors
/// The first thing that could not be removed.
pub fn rmi(args: &RmiArgs) -> Result<()> {
    let root = Root::of_user()?;
    let store = Store::open(&root.images())?;
    let force = if args.force { Force::Yes } else { Force::No };
    let mut first = None;
    for image in &args.images {
        match store.remove(image, force, &|| uses(&root)) {
            Ok(lines) => lines.iter().for_each(|line| println!("{line}")),
            Err(error) => match &first {
                None => first = Some(anyhow::Error::from(error)),
                Some(_) => eprintln!("bulkhead: {error}"),
            },
        }
    }
    first.map_or(Ok(()), Err)
}

/// What containers need of the store.
fn uses(root: &Root) -> Result<Vec<ContainerUse>, Box<dyn std::error::Error + Send + Sync>> {
    let mut all = Vec::new();
    for (folder, config) in state::list(root)? {
        all.push(ContainerUse {
            container: config
                .id
                .get(..state::SHORT_ID_LEN)
                .unwrap_or_default()
                .to_owned(),
            image: Digest::parse(&config.image_id)?,
            layers: config.launch.layers.clone(),
            running: folder.true_state()?.status == Status::Running,
        });
    }
    Ok(all)
}
