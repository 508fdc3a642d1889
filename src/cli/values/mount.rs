//! `-v`, `--mount` and `--volumes-from`: Docker's grammars and Docker's words. Pure, but for the
//! folder that a relative path starts from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::device::clean;
use super::number::bytes;
use super::security::switch;
use crate::sandbox::volumes::{MountKind, Origin, Wanted};

/// What a `--mount` comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// A volume or a path of the host.
    Shared(Wanted),
    /// A tmpfs: path and options, as of `--tmpfs`.
    Tmpfs(String, String),
}

/// Words of a mode, of each group at most one.
const MODES: [&[&str]; 5] = [
    &["ro", "rw"],
    &["z", "Z"],
    PROPAGATION,
    &["nocopy"],
    &["consistent", "cached", "delegated", "default"],
];

const PROPAGATION: &[&str] = &[
    "shared", "rshared", "slave", "rslave", "private", "rprivate",
];

/// Where a relative path starts.
fn absolute(source: &str) -> Result<PathBuf> {
    std::path::absolute(source).with_context(|| format!("resolve {source}"))
}

fn is_relative_path(source: &str) -> bool {
    source.starts_with('.')
}

/// Refuses what only mounts of one kernel can do.
fn check_propagation(word: &str) -> Result<()> {
    match word {
        "private" | "rprivate" => Ok(()),
        word if PROPAGATION.contains(&word) => bail!(
            "propagation mode {word} is not supported: mounts do not pass between the host and a VM"
        ),
        word => bail!("invalid propagation mode: {word}"),
    }
}

/// The path in the container.
fn target(text: &str) -> Result<String> {
    if !text.starts_with('/') {
        bail!("invalid mount path: '{text}' mount path must be absolute");
    }
    let path = clean(text)?;
    if path == "/" {
        bail!("invalid specification: destination can't be '/'");
    }
    Ok(path)
}

fn is_mode(text: &str) -> bool {
    let words: Vec<&str> = text.split(',').collect();
    let of = |group: &[&str]| words.iter().filter(|word| group.contains(word)).count();
    text.is_empty()
        || (MODES.iter().all(|group| of(group) <= 1)
            && MODES.iter().map(|group| of(group)).sum::<usize>() == words.len())
}

/// `-v [SOURCE:]TARGET[:MODE]`.
///
/// # Errors
/// In Docker's words, or that a propagation mode can't be had.
pub fn volume(text: &str) -> Result<Wanted> {
    let invalid = || format!("invalid volume specification: '{text}'");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, place, mode) = match parts.as_slice() {
        ["", ..] => bail!(invalid()),
        [target] => ("", *target, ""),
        [_, mode] if is_mode(mode) => bail!(invalid()),
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => bail!(invalid()),
    };
    if !is_mode(mode) {
        bail!("invalid mode: {mode}");
    }
    let words: Vec<&str> = mode.split(',').collect();
    for word in words.iter().filter(|word| PROPAGATION.contains(word)) {
        check_propagation(word)?;
    }
    let target = target(place).with_context(invalid)?;
    // Also `.cache`: no volume has such a name.
    let source = if source.starts_with('.') {
        absolute(source)?.display().to_string()
    } else {
        source.to_owned()
    };
    let kind = if source.starts_with('/') {
        MountKind::Bind
    } else {
        MountKind::Volume
    };
    let source = match kind {
        MountKind::Bind => clean(&source)?,
        MountKind::Volume => source,
    };
    let has = |word: &str| words.contains(&word);
    if kind == MountKind::Bind && has("nocopy") {
        bail!(
            "{}: invalid mount config for type \"bind\": field VolumeOptions must not be specified",
            invalid()
        );
    }
    Ok(Wanted {
        kind,
        target,
        read_only: has("ro"),
        // The engine's own for a volume by name.
        mode: match (kind, mode) {
            (MountKind::Volume, "") if !source.is_empty() => "z".to_owned(),
            _ => mode.to_owned(),
        },
        copy_up: kind == MountKind::Volume && !has("nocopy"),
        labels: BTreeMap::new(),
        origin: if source.is_empty() {
            Origin::Other
        } else {
            Origin::Bind
        },
        source,
    })
}

/// An image's `VOLUME`.
///
/// # Errors
/// When it is no path that can be mounted on.
pub fn of_image(path: &str) -> Result<Wanted> {
    Ok(Wanted {
        kind: MountKind::Volume,
        source: String::new(),
        target: target(path)?,
        read_only: false,
        mode: String::new(),
        copy_up: true,
        labels: BTreeMap::new(),
        origin: Origin::Other,
    })
}

/// `--volumes-from CONTAINER[:MODE]`: the container, and whether its mounts are read-only here.
///
/// # Errors
/// In Docker's words.
pub fn volumes_from(text: &str) -> Result<(String, bool)> {
    let (container, mode) = text.split_once(':').unwrap_or((text, "rw"));
    if container.is_empty() {
        bail!("malformed volumes-from specification: {text}");
    }
    if !is_mode(mode) || mode.split(',').any(|word| word == "nocopy") {
        bail!("invalid mode: {mode}");
    }
    for word in mode.split(',').filter(|word| PROPAGATION.contains(word)) {
        check_propagation(word)?;
    }
    Ok((
        container.to_owned(),
        mode.split(',').any(|word| word == "ro"),
    ))
}

/// What the keys of a `--mount` say.
#[derive(Debug, Default)]
struct Keys {
    kind: Option<String>,
    source: String,
    target: String,
    read_only: bool,
    /// `bind-recursive=readonly`, as every bind that is read-only is.
    all_read_only: bool,
    is_private: bool,
    /// The first key of a kind's own, without its value: `bind`, `volume`, `tmpfs`, `image`.
    used: Vec<&'static str>,
    no_copy: bool,
    labels: BTreeMap<String, String>,
    tmpfs_size: Option<u64>,
    tmpfs_mode: Option<u32>,
}

/// `--mount type=…,source=…,target=…`.
///
/// # Errors
/// In Docker's words, or that a kind or an option can't be had.
pub fn mount(text: &str) -> Result<Attachment> {
    let mut keys = Keys::default();
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        apply(&mut keys, &key, value, &field)?;
    }
    attachment(keys)
}

/// The fields of one line of comma-separated values, in which quotes are doubled (RFC 4180).
fn fields(text: &str) -> Result<Vec<String>> {
    let mut all = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let at_start = all.last().is_some_and(String::is_empty);
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                push(&mut all, c);
            }
            '"' if quoted || at_start => quoted = !quoted,
            '"' => bail!("parse error: bare \" in non-quoted field"),
            ',' if !quoted => all.push(String::new()),
            c => push(&mut all, c),
        }
    }
    if quoted {
        bail!("parse error: extraneous or missing \" in quoted field");
    }
    Ok(all)
}

fn push(all: &mut [String], c: char) {
    if let Some(last) = all.last_mut() {
        last.push(c);
    }
}

fn apply(keys: &mut Keys, key: &str, value: Option<&str>, field: &str) -> Result<()> {
    let no_value = |name: &str| format!("invalid value for {name}: {}", value.unwrap_or_default());
    let on = |name: &str| switch(value.unwrap_or("true")).with_context(|| no_value(name));
    match key {
        "readonly" | "ro" => {
            keys.read_only = on(key)?;
            return Ok(());
        }
        "volume-nocopy" => {
            keys.used.push("volume");
            keys.no_copy = on(key)?;
            return Ok(());
        }
        "bind-nonrecursive" => {
            keys.used.push("bind");
            if on(key)? {
                bail!("bind-nonrecursive is not supported: a bind has what is mounted below it");
            }
            return Ok(());
        }
        _ => {}
    }
    let Some(value) = value else {
        bail!("invalid field '{field}' must be a key=value pair");
    };
    match key {
        "type" => keys.kind = Some(value.to_ascii_lowercase()),
        "source" | "src" => keys.source = value.to_owned(),
        "target" | "dst" | "destination" => keys.target = value.to_owned(),
        "consistency" => {}
        "bind-propagation" => {
            keys.used.push("bind");
            let value = value.to_ascii_lowercase();
            check_propagation(&value)?;
            keys.is_private = value == "rprivate";
        }
        "bind-recursive" => {
            keys.used.push("bind");
            match value {
                "enabled" => {}
                "readonly" => keys.all_read_only = true,
                "disabled" | "writable" => bail!(
                    "bind-recursive={value} is not supported: what is mounted below a bind goes with \
                     it, and is as writable as it"
                ),
                _ => bail!(
                    "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                ),
            }
        }
        "volume-driver" => {
            keys.used.push("volume");
            check_driver(value)?;
        }
        "volume-label" => {
            keys.used.push("volume");
            let (name, value) = value.split_once('=').unwrap_or((value, ""));
            keys.labels.insert(name.to_owned(), value.to_owned());
        }
        "volume-opt" => {
            bail!("volume-opt is not supported: a volume is a folder of the state root")
        }
        "volume-subpath" => bail!("volume-subpath is not supported: mount the whole volume"),
        "image-subpath" => keys.used.push("image"),
        "tmpfs-size" => {
            keys.used.push("tmpfs");
            keys.tmpfs_size = Some(bytes(value).with_context(|| no_value(key))?);
        }
        "tmpfs-mode" => {
            keys.used.push("tmpfs");
            keys.tmpfs_mode = Some(u32::from_str_radix(value, 8).with_context(|| no_value(key))?);
        }
        _ => bail!("unexpected key '{key}' in '{field}'"),
    }
    Ok(())
}

/// A driver of volumes that is there.
///
/// # Errors
/// For any but Docker's own.
pub fn check_driver(name: &str) -> Result<()> {
    if name != "local" && !name.is_empty() {
        bail!("volume driver {name} is not supported: only local is");
    }
    Ok(())
}

fn attachment(keys: Keys) -> Result<Attachment> {
    let kind = keys.kind.clone().unwrap_or_else(|| "volume".to_owned());
    match kind.as_str() {
        "bind" | "volume" | "tmpfs" => {}
        "image" => bail!("--mount type=image is not supported: run a container of that image"),
        "npipe" | "cluster" => {
            bail!("--mount type={kind} is not supported: it is not of Linux containers")
        }
        _ => bail!("mount type unknown: \"{kind}\""),
    }
    if keys.target.is_empty() {
        bail!("target is required");
    }
    for other in ["volume", "bind", "tmpfs", "image"] {
        if other != kind && keys.used.contains(&other) {
            bail!("cannot mix '{other}-*' options with mount type '{kind}'");
        }
    }
    if keys.all_read_only {
        for (is_given, option) in [
            (keys.read_only, "readonly"),
            (keys.is_private, "bind-propagation=rprivate"),
        ] {
            if !is_given {
                bail!(
                    "option 'bind-recursive=readonly' requires '{option}' to be specified in conjunction"
                );
            }
        }
    }
    let invalid = || format!("invalid mount config for type \"{kind}\"");
    let target = target(&keys.target).with_context(invalid)?;
    if kind == "tmpfs" {
        if !keys.source.is_empty() {
            bail!("{}: field Source must not be specified", invalid());
        }
        let mut options = Vec::new();
        options.extend(keys.read_only.then(|| "ro".to_owned()));
        options.extend(
            keys.tmpfs_size
                .filter(|size| *size > 0)
                .map(|size| format!("size={size}")),
        );
        options.extend(keys.tmpfs_mode.map(|mode| format!("mode={mode:o}")));
        return Ok(Attachment::Tmpfs(target, options.join(",")));
    }
    let is_bind = kind == "bind";
    let mut source = keys.source;
    if is_bind {
        if source.is_empty() {
            bail!("{}: field Source must not be empty", invalid());
        }
        if is_relative_path(&source) {
            source = absolute(&source)?.display().to_string();
        }
        if !Path::new(&source).is_absolute() {
            bail!(
                "{}: invalid mount path: '{source}' mount path must be absolute",
                invalid()
            );
        }
        source = clean(&source)?;
    } else if source.is_empty() && keys.read_only {
        bail!(
            "{}: must not set ReadOnly mode when using anonymous volumes",
            invalid()
        );
    }
    Ok(Attachment::Shared(Wanted {
        kind: if is_bind {
            MountKind::Bind
        } else {
            MountKind::Volume
        },
        source,
        target,
        read_only: keys.read_only,
        mode: if is_bind {
            String::new()
        } else {
            "z".to_owned()
        },
        copy_up: !is_bind && !keys.no_copy,
        labels: keys.labels,
        origin: Origin::Mount,
    }))
}

#[cfg(test)]
mod tests;
