//! `bulkhead system share` and `system unshare`: which layer disks root shares with every user of the host.
//!
//! docs/tenants.md has what comes of it, `images::layers::SharedDisks` the files.

use anyhow::{Context, Result, bail};
use images::{Layer, LayerDisk, SharedDisks, SharedImage, Store};
use serde_json::json;

use super::output::{self, Column, List};
use super::pull::ConvertBar;
use crate::doctor;
use crate::sandbox::disks;
use crate::sandbox::paths::{GuestFiles, Root};

/// Flags of `system share`.
#[derive(Debug, clap::Args)]
pub struct ShareArgs {
    /// Names or ids of root's images; without any, those that are shared are listed
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

/// Flags of `system unshare`.
#[derive(Debug, clap::Args)]
pub struct UnshareArgs {
    /// Names or ids of shared images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

const COLUMNS: [Column; 3] = [("ID", "IMAGE ID"), ("Names", "NAMES"), ("Size", "SIZE")];

/// Shares images, unpacking what is not yet; or lists what is shared.
///
/// # Errors
/// Another user than root asks for it, there is no such image, or its disks can't be made or written.
pub fn share(args: &ShareArgs) -> Result<()> {
    let shared = SharedDisks::of_host();
    if args.images.is_empty() {
        return list(&shared);
    }
    check_root("share")?;
    doctor::can_run()?;
    let root = Root::of_user()?;
    let store = Store::open(&root.images())?;
    let _lease = store.lease()?;
    for name in &args.images {
        let image = store.resolve(name)?;
        let progress = ConvertBar::new(false);
        let tell = |index, count, done, all| progress.show(index, count, done, all);
        disks::prepare_layers(&root, &GuestFiles::find()?, &store, &image.layers, &tell)?;
        drop(progress);
        let disks = store.layer_disks()?;
        let open = |layer: &Layer| {
            let disk = disks.get(&layer.key())?;
            disk.with_context(|| format!("the disk of layer {} is missing", layer.diff_id))
        };
        let disks: Vec<LayerDisk> = image.layers.iter().map(open).collect::<Result<_>>()?;
        let names = image.tags.iter().map(images::Reference::familiar);
        let image = SharedImage {
            id: image.id,
            names: names.collect(),
            layers: image.layers.iter().map(Layer::key).collect(),
        };
        shared.add(&image, &disks)?;
        output::line(&format!("Shared: {name}"))?;
    }
    Ok(())
}

/// Ends the sharing of images.
///
/// # Errors
/// Another user than root asks for it, or one is not shared.
pub fn unshare(args: &UnshareArgs) -> Result<()> {
    check_root("unshare")?;
    let shared = SharedDisks::of_host();
    let mut freed = 0_u64;
    for name in &args.images {
        let familiar = images::Reference::parse(name).map(|reference| reference.familiar());
        let bytes = shared.remove(name).or_else(|error| match familiar {
            Ok(familiar) if familiar != *name => shared.remove(&familiar).map_err(|_| error),
            _ => Err(error),
        });
        freed = freed.saturating_add(bytes?);
        output::line(&format!("Unshared: {name}"))?;
    }
    output::line(&format!("Total reclaimed space: {}", output::space(freed)))
}

/// Tells, once, that what root shares is not used, where somebody else may have made it.
///
/// # Errors
/// When the user's own cache can't be read.
pub fn tell_untrusted(store: &Store, layers: &[Layer]) -> Result<()> {
    if let Some(why) = store.layer_disks()?.shared_trouble(layers)? {
        output::note(&format!("WARNING: {why}"));
    }
    Ok(())
}

fn list(shared: &SharedDisks) -> Result<()> {
    let rows = shared.images()?.into_iter().map(|(image, bytes)| {
        let values = [
            image.id.short(),
            image.names.join(", "),
            output::space(bytes),
        ];
        let names = COLUMNS.iter().map(|(name, _)| (*name).to_owned());
        names.zip(values.map(|value| json!(value))).collect()
    });
    let list = List {
        columns: &COLUMNS,
        table: &["ID", "Names", "Size"],
        format: None,
        only: None,
    };
    list.print(&rows.collect::<Vec<_>>())
}

fn check_root(verb: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("system {verb} is for root: what is shared is used by every user of this host");
    }
    Ok(())
}
