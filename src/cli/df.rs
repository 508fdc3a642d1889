//! `bulkhead system df`: what images, containers and what is made of them take on the host.

mod cached;

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use images::{Digest, Image, LayerKey, Store};
use serde_json::{Map, Value, json};

use super::output::{self, Column, List};
use super::template::Template;
use super::{images as image_list, ps};
use crate::sandbox::containers;
use crate::sandbox::paths::{self, Root};
use crate::sandbox::state::{ContainerConfig, ContainerState};
use crate::sandbox::volumes::Volumes;
use cached::BuildCache;

const COLUMNS: [Column; 5] = [
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

/// Flags of `system df`.
#[derive(Debug, clap::Args)]
pub struct DfArgs {
    /// `json`, a template such as '{{.Type}} {{.Size}}', or `table` and a template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show each image and container
    #[arg(short, long)]
    verbose: bool,
}

/// A row of the table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Usage {
    kind: &'static str,
    total: usize,
    active: usize,
    bytes: u64,
    /// What a prune of all gives back.
    reclaimable: u64,
}

impl Usage {
    fn row(&self) -> Map<String, Value> {
        let reclaimable = output::space(self.reclaimable);
        let values = [
            self.kind.to_owned(),
            self.total.to_string(),
            self.active.to_string(),
            output::space(self.bytes),
            match self.reclaimable.saturating_mul(100).checked_div(self.bytes) {
                Some(percent) => format!("{reclaimable} ({percent}%)"),
                None => reclaimable,
            },
        ];
        let names = COLUMNS.iter().map(|(name, _)| (*name).to_owned());
        names.zip(values.map(|value| json!(value))).collect()
    }
}

/// A container and its writable layer on the host.
struct Container {
    config: ContainerConfig,
    state: ContainerState,
    bytes: u64,
}

/// Prints the table, or every image and container.
///
/// # Errors
/// When the store or the containers can't be read.
pub fn run(args: &DfArgs) -> Result<()> {
    let root = Root::of_user()?;
    let store = Store::open(&root.images())?;
    let images = store.list()?.images;
    let mut all = Vec::new();
    for (folder, config) in containers::list(&root)? {
        // One that can't be read has been removed since.
        if let Ok(state) = folder.true_state() {
            let bytes = folder.writable_bytes();
            all.push(Container {
                config,
                state,
                bytes,
            });
        }
    }
    let volumes = volumes(&root)?;
    let cache = BuildCache::of(&root, &store)?;
    if args.verbose {
        return verbose(
            &root,
            &images,
            &all,
            &volumes,
            &cache,
            args.format.as_deref(),
        );
    }
    let disks = store.layer_disks()?.list()?;
    let usages = [
        of_images(&images, &all),
        of_containers(&all),
        of_volumes(&volumes),
        cache.usage(),
        of_layer_disks(&disks, &all),
        of_templates(&root),
    ];
    let list = List {
        columns: &COLUMNS,
        table: &["Type", "TotalCount", "Active", "Size", "Reclaimable"],
        format: args.format.as_deref(),
        only: None,
    };
    list.print(&usages.iter().map(Usage::row).collect::<Vec<_>>())
}

const VOLUME_COLUMNS: [Column; 3] = [
    ("Name", "VOLUME NAME"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
];

/// A volume, how many containers have it, and the bytes that it takes.
struct OneVolume {
    name: String,
    links: usize,
    bytes: u64,
}

fn volumes(root: &Root) -> Result<Vec<OneVolume>> {
    let volumes = Volumes::lock(root)?;
    let uses = volumes.uses()?;
    let all = volumes.list()?.into_iter().map(|volume| OneVolume {
        links: uses.get(&volume.name).map_or(0, Vec::len),
        bytes: volumes.disk_bytes(&volume.name),
        name: volume.name,
    });
    Ok(all.collect())
}

fn of_volumes(all: &[OneVolume]) -> Usage {
    let sum = |wanted: &dyn Fn(&OneVolume) -> bool| {
        let some = all.iter().filter(|one| wanted(one));
        some.fold(0_u64, |sum, one| sum.saturating_add(one.bytes))
    };
    Usage {
        kind: "Local Volumes",
        total: all.len(),
        active: all.iter().filter(|one| one.links > 0).count(),
        bytes: sum(&|_| true),
        reclaimable: sum(&|one| one.links == 0),
    }
}

fn volume_row(one: &OneVolume) -> Map<String, Value> {
    let fields = [
        ("Name", one.name.clone()),
        ("Links", one.links.to_string()),
        ("Size", output::size(one.bytes)),
    ];
    let fields = fields.into_iter();
    fields
        .map(|(name, text)| (name.to_owned(), json!(text)))
        .collect()
}

/// Whether a container is of this image.
fn uses(image: &Image, all: &[Container]) -> usize {
    let id = image.id.to_string();
    all.iter().filter(|one| one.config.image_id == id).count()
}

/// As stored: layers that several images have count once.
fn of_images(images: &[Image], all: &[Container]) -> Usage {
    let space = |images: &[&Image]| {
        let mut layers = HashMap::new();
        let mut bytes = 0_u64;
        for image in images {
            layers.extend(image.layers.iter().map(|layer| (layer.blob, layer.size)));
            bytes = bytes.saturating_add(documents(image));
        }
        layers
            .values()
            .fold(bytes, |sum, size| sum.saturating_add(*size))
    };
    let every: Vec<&Image> = images.iter().collect();
    let active: Vec<&Image> = images.iter().filter(|image| uses(image, all) > 0).collect();
    let bytes = space(&every);
    Usage {
        kind: "Images",
        total: images.len(),
        active: active.len(),
        bytes,
        reclaimable: bytes.saturating_sub(space(&active)),
    }
}

/// Bytes of an image's manifest and configuration.
fn documents(image: &Image) -> u64 {
    let layers = image.layers.iter();
    layers.fold(image.size, |rest, layer| rest.saturating_sub(layer.size))
}

fn of_containers(all: &[Container]) -> Usage {
    let space = |of: &dyn Fn(&Container) -> bool| {
        let those = all.iter().filter(|one| of(one));
        those.fold(0_u64, |sum, one| sum.saturating_add(one.bytes))
    };
    let runs = |one: &Container| one.state.status.is_alive();
    Usage {
        kind: "Containers",
        total: all.len(),
        active: all.iter().filter(|one| runs(one)).count(),
        bytes: space(&|_| true),
        reclaimable: space(&|one| !runs(one)),
    }
}

/// Layers as file systems, which VMs made of those that images have.
fn of_layer_disks(disks: &[(LayerKey, u64)], all: &[Container]) -> Usage {
    let used: HashSet<LayerKey> = all
        .iter()
        .flat_map(|one| one.config.launch.layers.iter().copied())
        .collect();
    let space = |of: &dyn Fn(&LayerKey) -> bool| {
        let those = disks.iter().filter(|(key, _)| of(key));
        those.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes))
    };
    Usage {
        kind: "Layer Disks",
        total: disks.len(),
        active: disks.iter().filter(|(key, _)| used.contains(key)).count(),
        bytes: space(&|_| true),
        reclaimable: space(&|key| !used.contains(key)),
    }
}

/// VMs that have booted already, and blank writable disks. Nothing prunes them: how many there are
/// is limited.
fn of_templates(root: &Root) -> Usage {
    let folders = std::fs::read_dir(root.templates());
    let total = folders.into_iter().flatten().flatten().count();
    let (templates, blanks) = (root.templates(), root.disks());
    Usage {
        kind: "VM Templates",
        total,
        active: total,
        bytes: paths::space_below(&templates).saturating_add(paths::space_below(&blanks)),
        reclaimable: 0,
    }
}

fn verbose(
    root: &Root,
    images: &[Image],
    all: &[Container],
    volumes: &[OneVolume],
    cache: &BuildCache,
    format: Option<&str>,
) -> Result<()> {
    let format = format.filter(|format| !matches!(*format, "" | "table"));
    // As in Docker, where only the tables are cut.
    let whole = format.is_some();
    let image_rows = image_rows(images, all, whole);
    let mut names = ps::Names::new(root);
    let container_rows: Vec<_> = all
        .iter()
        .map(|one| {
            let size = output::size(one.bytes);
            ps::plain_row(&mut names, &one.config, &one.state, size, whole)
        })
        .collect();
    let volume_rows: Vec<_> = volumes.iter().map(volume_row).collect();
    if let Some(format) = format {
        let all = json!({
            "Images": image_rows,
            "Containers": container_rows,
            "Volumes": volume_rows,
            "BuildCache": cache.rows(whole),
        });
        return output::line(&Template::parse(format)?.render(&all)?);
    }
    output::line("Images space usage:\n")?;
    let list = List {
        columns: &image_list::COLUMNS,
        table: &[
            "Repository",
            "Tag",
            "ID",
            "CreatedSince",
            "Size",
            "SharedSize",
            "UniqueSize",
            "Containers",
        ],
        format: None,
        only: None,
    };
    list.print(&image_rows)?;
    output::line("\nContainers space usage:\n")?;
    let list = List {
        columns: &ps::COLUMNS,
        table: &[
            "ID",
            "Image",
            "Command",
            "LocalVolumes",
            "Size",
            "RunningFor",
            "Status",
            "Names",
        ],
        format: None,
        only: None,
    };
    list.print(&container_rows)?;
    output::line("\nLocal Volumes space usage:\n")?;
    let list = List {
        columns: &VOLUME_COLUMNS,
        table: &["Name", "Links", "Size"],
        format: None,
        only: None,
    };
    list.print(&volume_rows)?;
    let bytes = output::space(cache.usage().bytes);
    output::line(&format!("\nBuild cache usage: {bytes}\n"))?;
    let list = List {
        columns: &cached::COLUMNS,
        table: &cached::TABLE,
        format: None,
        only: None,
    };
    list.print(&cache.rows(whole))
}

fn image_rows(images: &[Image], all: &[Container], whole: bool) -> Vec<Map<String, Value>> {
    let mut counts: HashMap<Digest, usize> = HashMap::new();
    for image in images {
        let layers: HashSet<Digest> = image.layers.iter().map(|layer| layer.blob).collect();
        for layer in layers {
            *counts.entry(layer).or_default() += 1;
        }
    }
    let rows = images.iter().flat_map(|image| {
        let shared = image.layers.iter();
        let shared = shared.filter(|layer| counts.get(&layer.blob).is_some_and(|n| *n > 1));
        let shared = shared.fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        let sizes = image_list::Sizes {
            containers: uses(image, all),
            shared,
        };
        image_list::rows(image, sizes, whole)
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::containers::tests::config;
    use crate::sandbox::state::Status;

    #[test]
    fn shares_are_whole_percents() {
        let row = |bytes, reclaimable| {
            let usage = Usage {
                kind: "Images",
                bytes,
                reclaimable,
                ..Usage::default()
            };
            usage.row()["Reclaimable"].clone()
        };
        assert_eq!(row(0, 0), "0B");
        assert_eq!(row(3_000_000, 2_000_000), "2MB (66%)");
        assert_eq!(row(1000, 0), "0B (0%)");
    }

    #[test]
    fn a_container_that_runs_is_active() {
        let one = |digit, status, bytes| Container {
            config: config(digit, "x", false),
            state: ContainerState {
                status,
                ..ContainerState::created()
            },
            bytes,
        };
        let all = [
            one('a', Status::Running, 5),
            one('b', Status::Exited, 7),
            one('c', Status::Paused, 1),
        ];
        let want = Usage {
            kind: "Containers",
            total: 3,
            active: 2,
            bytes: 13,
            reclaimable: 7,
        };
        assert_eq!(of_containers(&all), want);
    }
}
