//! Packs the demo's image from Debian's static busybox, as `docker save` would write it:
//! a tar of manifest.json, the image's config and one layer (Docker image specification v1.2,
//! "Combined Image JSON + Filesystem Changeset Format"). `demo` calls it.

use std::io;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Folders of the image's root and their permissions.
const FOLDERS: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
];

const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Packs an image called `reference`, with busybox under the names of `applets`. The same
/// input gives the same bytes, so its layer is converted once.
///
/// # Errors
///
/// A name is too long for a tar header.
pub(super) fn pack(reference: &str, busybox: &[u8], applets: &[String]) -> Result<Vec<u8>> {
    let layer = layer(busybox, applets).context("pack the layer")?;
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Cmd": ["sh"], "Env": ["PATH=/bin"], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    });
    let config = serde_json::to_vec(&config).context("write the config")?;
    let config_name = format!("{}.json", sha256(&config));
    let manifest = serde_json::json!([{ "Config": config_name, "RepoTags": [reference], "Layers": ["layer.tar"] }]);
    let manifest = serde_json::to_vec(&manifest).context("write the manifest")?;

    let mut archive = Builder::new(Vec::new());
    for (name, content) in [
        ("manifest.json", &manifest),
        (&config_name, &config),
        ("layer.tar", &layer),
    ] {
        file(&mut archive, name, 0o644, content).with_context(|| format!("pack {name}"))?;
    }
    archive.into_inner().context("end the archive")
}

fn layer(busybox: &[u8], applets: &[String]) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for (name, permissions) in FOLDERS {
        let mut header = header(EntryType::Directory, *permissions, 0);
        archive.append_data(&mut header, name, io::empty())?;
    }
    file(&mut archive, "bin/busybox", 0o755, busybox)?;
    for applet in applets.iter().filter(|applet| *applet != "busybox") {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    file(&mut archive, "etc/passwd", 0o644, PASSWD.as_bytes())?;
    file(&mut archive, "etc/group", 0o644, GROUP.as_bytes())?;
    archive.into_inner()
}

fn file(
    archive: &mut Builder<Vec<u8>>,
    name: &str,
    permissions: u32,
    content: &[u8],
) -> io::Result<()> {
    let size = u64::try_from(content.len()).map_err(io::Error::other)?;
    let mut header = header(EntryType::Regular, permissions, size);
    archive.append_data(&mut header, name, content)
}

fn header(kind: EntryType, permissions: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(permissions);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn entries(bytes: &[u8]) -> BTreeMap<String, (Header, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().expect("entries").map(|entry| {
            let mut entry = entry.expect("entry");
            let name = entry.path().expect("path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            (name, (entry.header().clone(), content))
        });
        entries.collect()
    }

    #[test]
    fn the_manifest_leads_to_a_config_and_a_layer_with_its_hash() {
        let image = pack("demo:1", b"#!busybox", &["sh".into(), "busybox".into()]).expect("pack");
        let files = entries(&image);
        let json =
            |name: &str| serde_json::from_slice::<serde_json::Value>(&files[name].1).expect("json");
        let manifest = json("manifest.json");
        assert_eq!(manifest[0]["RepoTags"][0], "demo:1");
        let config_name = manifest[0]["Config"].as_str().expect("name");
        assert_eq!(
            config_name,
            format!("{}.json", sha256(&files[config_name].1))
        );
        let layer = &files["layer.tar"].1;
        assert_eq!(
            json(config_name)["rootfs"]["diff_ids"][0],
            format!("sha256:{}", sha256(layer))
        );

        let root = entries(layer);
        assert_eq!(root["bin/busybox"].1, b"#!busybox");
        assert_eq!(root["bin/busybox"].0.mode().expect("mode"), 0o755);
        let link = root["bin/sh"]
            .0
            .link_name()
            .expect("link")
            .expect("target")
            .into_owned();
        assert_eq!(link, std::path::Path::new("busybox"));
    }

    #[test]
    fn the_same_input_gives_the_same_image() {
        let pack = || pack("demo:1", b"x", &["sh".into()]).expect("pack");
        assert_eq!(pack(), pack());
    }
}
