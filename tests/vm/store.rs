//! Images and their layer disks: loaded in each form, shared, made once, removed with the last
//! image that uses them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use fixtures::Recipe;
use harness::{Sandbox, images};

use crate::world::World;

crate::tests![
    every_form_of_archive_is_loaded,
    a_layer_disk_is_made_once_and_shared,
    layer_disks_go_with_the_last_image,
    tags_and_ids_name_images,
    an_image_in_use_is_not_removed,
    what_only_a_container_still_uses_goes_with_it,
];

/// Layer disks with their inodes: a disk that is made again has another.
fn layer_disks(vm: &Sandbox) -> Result<BTreeMap<PathBuf, u64>> {
    let folder = vm.root().join("images/layers");
    fs::read_dir(&folder)
        .with_context(|| format!("read {}", folder.display()))?
        .map(|entry| {
            let entry = entry.context("read the layers")?;
            Ok((
                entry.path(),
                entry.metadata().context("look at a layer")?.ino(),
            ))
        })
        .collect()
}

fn every_form_of_archive_is_loaded(_: &World) -> Result<()> {
    let vm = Sandbox::empty()?;
    let mut ids = Vec::new();
    for form in ["busybox.tar", "busybox-oci", "busybox-oci.tar"] {
        let path = images::path(Recipe::Busybox, form)?;
        let out = vm.load(&path)?;
        assert_eq!(out.stdout, "Loaded image: busybox:latest\n", "{form}");
        ids.push(
            vm.bulkhead(["images", "-q", "--no-trunc"])
                .output()?
                .only_stdout()?,
        );
        assert_eq!(
            vm.run(["busybox", "echo", form])?.only_stdout()?,
            format!("{form}\n")
        );
        vm.bulkhead(["rmi", "busybox"]).output()?.code(0)?;
    }
    // The image is its configuration, however its layers are stored.
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[1], ids[2]);
    let piped = format!(
        "bulkhead load <{}",
        images::path(Recipe::Busybox, "busybox.tar")?.display()
    );
    vm.shell(&piped).output()?.code(0)?;
    vm.bulkhead(["rmi", "busybox"]).output()?.code(0)?;
    let left: Vec<_> = layer_disks(&vm)?.into_keys().collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    Ok(())
}

fn a_layer_disk_is_made_once_and_shared(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = layer_disks(&vm)?;
    // busybox and all variants have one layer, the probe image has one more.
    assert_eq!(before.len(), 2, "{before:?}");
    for image in ["busybox", "variant:env", "variant:bare", "probe"] {
        vm.run([image, "true"])?.code(0)?;
    }
    assert_eq!(layer_disks(&vm)?, before);
    Ok(())
}

fn layer_disks_go_with_the_last_image(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.bulkhead(["rmi", "probe"]).output()?.code(0)?;
    assert_eq!(layer_disks(&vm)?.len(), 1);
    let names = vm
        .bulkhead(["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .output()?;
    for name in names.only_stdout()?.lines() {
        assert_eq!(layer_disks(&vm)?.len(), 1, "before {name} goes");
        vm.bulkhead(["rmi", name]).output()?.code(0)?;
    }
    assert_eq!(layer_disks(&vm)?.len(), 0);
    assert_eq!(vm.bulkhead(["images", "-q"]).output()?.only_stdout()?, "");
    let blobs = fs::read_dir(vm.root().join("images/blobs/sha256"))?.count();
    assert_eq!(blobs, 0, "blobs stay");
    Ok(())
}

fn tags_and_ids_name_images(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.bulkhead(["tag", "busybox", "example.org:5000/team/box:v1"])
        .output()?
        .code(0)?;
    let out = vm.run(["example.org:5000/team/box:v1", "echo", "tagged"])?;
    assert_eq!(out.only_stdout()?, "tagged\n");
    let format = "{{.Id}}";
    let id = vm
        .bulkhead(["image", "inspect", "-f", format, "busybox"])
        .output()?
        .only_stdout()?;
    let short = &id.trim_end().trim_start_matches("sha256:")[..12];
    assert_eq!(vm.run([short, "echo", "by id"])?.only_stdout()?, "by id\n");
    let out = vm
        .bulkhead(["rmi", "example.org:5000/team/box:v1"])
        .output()?;
    assert_eq!(
        out.only_stdout()?,
        "Untagged: example.org:5000/team/box:v1\n"
    );
    let config = vm
        .bulkhead(["inspect", "-f", "{{json .Config.Env}}", "variant:env"])
        .output()?;
    assert!(config.only_stdout()?.contains("GREETING=hello world"));
    Ok(())
}

fn an_image_in_use_is_not_removed(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.bulkhead(["run", "--name", "user", "probe", "true"])
        .output()?
        .code(0)?;
    let out = vm.bulkhead(["rmi", "probe"]).output()?.code(1)?;
    assert!(
        out.stderr.contains("user") || out.stderr.contains("container"),
        "{out}"
    );
    vm.bulkhead(["rm", "user"]).output()?.code(0)?;
    vm.bulkhead(["rmi", "probe"]).output()?.code(0)?;
    Ok(())
}

fn what_only_a_container_still_uses_goes_with_it(world: &World) -> Result<()> {
    let vm = world.own()?;
    for name in ["one", "two"] {
        vm.bulkhead(["run", "--name", name, "probe", "true"])
            .output()?
            .code(0)?;
    }
    vm.bulkhead(["rmi", "-f", "probe"]).output()?.code(0)?;
    assert_eq!(layer_disks(&vm)?.len(), 2);
    vm.bulkhead(["rm", "one"]).output()?.code(0)?;
    assert_eq!(layer_disks(&vm)?.len(), 2, "two needs its layer");
    vm.bulkhead(["rm", "two"]).output()?.code(0)?;
    assert_eq!(layer_disks(&vm)?.len(), 1);
    Ok(())
}
