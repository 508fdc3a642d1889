//! What is in an image, as an archive of `save` has it: its files, by a reader of layers that shares
//! nothing with the program under test, and its config.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Files by path, without a slash in front; each a line that says all but times.
pub type Tree = BTreeMap<String, String>;

/// Members of a config that say what a container has.
const MEMBERS: [&str; 12] = [
    "User",
    "ExposedPorts",
    "Env",
    "Cmd",
    "Healthcheck",
    "Volumes",
    "WorkingDir",
    "Entrypoint",
    "OnBuild",
    "Labels",
    "StopSignal",
    "Shell",
];

/// Files and config of the one image in an archive.
///
/// # Errors
///
/// It is no archive of `save`, or holds several images.
pub fn of_archive(archive: &Path) -> Result<(Tree, Value)> {
    let folder = tempfile::tempdir().context("create a folder")?;
    let status = Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(folder.path())
        .status()
        .context("start tar")?;
    if !status.success() {
        bail!("tar ended with {status}");
    }
    let read = |name: &str| -> Result<Value> {
        let text = fs::read(folder.path().join(name)).with_context(|| format!("read {name}"))?;
        serde_json::from_slice(&text).with_context(|| format!("read {name}"))
    };
    let manifest = read("manifest.json")?;
    let [image] = manifest.as_array().context("a list")?.as_slice() else {
        bail!("not one image: {manifest}");
    };
    let config = read(image["Config"].as_str().context("a config")?)?;
    let mut tree = Tree::new();
    for layer in image["Layers"].as_array().context("layers")? {
        let layer = folder.path().join(layer.as_str().context("a layer")?);
        apply(&layer, &mut tree).with_context(|| format!("read {}", layer.display()))?;
    }
    Ok((tree, members(&config["config"])))
}

/// The members of a config that count, those that say nothing left out.
fn members(config: &Value) -> Value {
    let member = |name: &&str| {
        let value = config[*name].clone();
        let says = match &value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        };
        says.then(|| ((*name).to_owned(), value))
    };
    Value::Object(MEMBERS.iter().filter_map(member).collect())
}

/// Applies a layer (OCI image specification, layer.md).
fn apply(layer: &Path, tree: &mut Tree) -> Result<()> {
    let mut file = File::open(layer)?;
    let mut magic = [0; 2];
    file.read_exact(&mut magic)?;
    let file = BufReader::new(File::open(layer)?);
    let reader: Box<dyn Read> = match magic {
        [0x1f, 0x8b] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./").trim_matches('/').to_owned();
        let name = path.rsplit('/').next().unwrap_or_default();
        let above = path.strip_suffix(name).unwrap_or_default();
        if name == ".wh..wh..opq" {
            remove_below(tree, above.trim_end_matches('/'));
            continue;
        }
        if let Some(gone) = name.strip_prefix(".wh.") {
            let gone = format!("{above}{gone}");
            tree.remove(&gone);
            remove_below(tree, &gone);
            continue;
        }
        if path.is_empty() || path == "." {
            continue;
        }
        let line = describe(&mut entry, tree)?;
        if !line.starts_with('d') {
            remove_below(tree, &path);
        }
        tree.insert(path, line);
    }
    Ok(())
}

fn remove_below(tree: &mut Tree, path: &str) {
    let prefix = match path {
        "" => String::new(),
        path => format!("{path}/"),
    };
    tree.retain(|other, _| !other.starts_with(&prefix));
}

/// Kind, permissions, owner, and link or content.
fn describe(entry: &mut tar::Entry<'_, impl Read>, tree: &Tree) -> Result<String> {
    use tar::EntryType;
    let header = entry.header();
    let attributes = format!(
        "{:04o} {}:{}",
        header.mode()? & 0o7777,
        header.uid()?,
        header.gid()?
    );
    let link = entry
        .link_name()?
        .map(|link| link.to_string_lossy().into_owned());
    Ok(match entry.header().entry_type() {
        EntryType::Directory => format!("d {attributes}"),
        EntryType::Symlink => format!("l {}", link.unwrap_or_default()),
        EntryType::Link => {
            let target = link.unwrap_or_default();
            let target = target.trim_start_matches("./").trim_matches('/').to_owned();
            let line = tree.get(&target);
            line.with_context(|| format!("a hard link to {target}, which is not there"))?
                .clone()
        }
        EntryType::Fifo => format!("p {attributes}"),
        EntryType::Char | EntryType::Block => format!("n {attributes}"),
        _ => {
            let mut hash = Sha256::new();
            let mut buffer = vec![0; 64 << 10];
            let mut bytes = 0;
            loop {
                let len = entry.read(&mut buffer)?;
                if len == 0 {
                    break;
                }
                bytes += len;
                hash.update(&buffer[..len]);
            }
            let digest = hash.finalize();
            let digest: String = digest
                .iter()
                .take(6)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!("f {attributes} {bytes} {digest}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(entries: &[(&str, char)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut tar = tar::Builder::new(file.reopen().unwrap());
        for (path, kind) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            header.set_entry_type(match kind {
                'd' => tar::EntryType::Directory,
                _ => tar::EntryType::Regular,
            });
            tar.append_data(&mut header, path, &b""[..]).unwrap();
        }
        tar.into_inner().unwrap();
        file
    }

    #[test]
    fn whiteouts_take_away_what_lower_layers_have() {
        let mut tree = Tree::new();
        for entries in [
            &[
                ("a", 'd'),
                ("a/x", 'f'),
                ("b", 'd'),
                ("b/y", 'f'),
                ("c", 'f'),
                ("cc", 'f'),
            ][..],
            &[
                ("a", 'd'),
                ("a/.wh..wh..opq", 'f'),
                ("a/z", 'f'),
                (".wh.b", 'f'),
                (".wh.c", 'f'),
            ],
        ] {
            apply(layer(entries).path(), &mut tree).unwrap();
        }
        assert_eq!(tree.keys().collect::<Vec<_>>(), ["a", "a/z", "cc"]);
    }
}
