//! `--device`, `--tmpfs` and `--storage-opt`.

use anyhow::{Context, Result, bail};
use protocol::spec::DeviceNode;

use super::number::bytes;

/// Smallest and largest writable layer in bytes: below, ext4 has no room for its own structures;
/// above, no host has the disk.
const WRITABLE_BYTES: std::ops::RangeInclusive<u64> = 16 << 20..=16 << 40;

/// `--device HOST[:CONTAINER][:rwm]`, of the guest's own `/dev`.
///
/// # Errors
/// In Docker's words, or that the host's devices are out of reach.
pub fn device(text: &str) -> Result<DeviceNode> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts.as_slice() {
        [] | ["", ..] | [_, _, _, _, ..] => bail!("bad format for path: {text}"),
        [source] => (*source, *source, "rwm"),
        [source, access] if is_access(access) => (*source, *source, *access),
        [source, target] => (*source, *target, "rwm"),
        [source, target, access] if is_access(access) => (*source, *target, *access),
        [_, _, access] => bail!("bad mode specified: {access}"),
    };
    if !target.starts_with('/') {
        bail!("{target} is not an absolute path");
    }
    let of_the_guest = source
        .strip_prefix("/dev/")
        .is_some_and(|rest| !rest.is_empty() && rest.split('/').all(|part| part != ".."));
    if !of_the_guest {
        bail!(
            "--device {text} is not supported: only devices of the guest's own /dev are, such as \
             /dev/fuse"
        );
    }
    Ok(DeviceNode {
        source: source.to_owned(),
        target: target.to_owned(),
        access: access.to_owned(),
    })
}

/// Each of `r`, `w` and `m` at most once.
fn is_access(text: &str) -> bool {
    let once = |letter: char| text.matches(letter).count() <= 1;
    !text.is_empty() && text.chars().all(|c| "rwm".contains(c) && once(c))
}

/// `--tmpfs PATH[:OPTIONS]`: path and options. The guest's own parser reads the options.
///
/// # Errors
/// In Docker's words.
pub fn tmpfs(text: &str) -> Result<(String, String)> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    if !path.starts_with('/') {
        bail!("invalid mount path: '{path}' mount path must be absolute");
    }
    let path = clean(path)?;
    if path == "/" {
        bail!("invalid specification: destination can't be '/'");
    }
    Ok((path, options.to_owned()))
}

/// An absolute path without empty parts and dots, and with `..` taken back.
///
/// # Errors
/// When it has a NUL byte.
pub fn clean(path: &str) -> Result<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ if part.contains('\0') => bail!("invalid mount path: it has a NUL byte"),
            _ => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// `--storage-opt size=BYTES`, rounded up to whole MiB.
///
/// # Errors
/// For another option, or a size that no writable layer can have.
pub fn storage(text: &str) -> Result<u64> {
    let (key, value) = text.split_once('=').context("invalid storage option")?;
    if key != "size" {
        bail!("--storage-opt {key} is not supported: only size is, the size of the writable layer");
    }
    let size = bytes(value)?;
    if !WRITABLE_BYTES.contains(&size) {
        bail!("--storage-opt size={value}: the writable layer can have 16m to 16t");
    }
    Ok(size.next_multiple_of(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_a_target_and_an_access() {
        for (text, source, target, access) in [
            ("/dev/fuse", "/dev/fuse", "/dev/fuse", "rwm"),
            ("/dev/fuse:rw", "/dev/fuse", "/dev/fuse", "rw"),
            ("/dev/fuse:/dev/x", "/dev/fuse", "/dev/x", "rwm"),
            ("/dev/net/tun:/t:m", "/dev/net/tun", "/t", "m"),
        ] {
            let node = device(text).unwrap();
            assert_eq!(
                (&*node.source, &*node.target, &*node.access),
                (source, target, access)
            );
        }
        for (text, want) in [
            ("", "bad format for path: "),
            ("a:b:c:d", "bad format for path: a:b:c:d"),
            (":b", "bad format for path: :b"),
            ("/dev/x:/dev/y:zz", "bad mode specified: zz"),
            ("/dev/x:/dev/y:rr", "bad mode specified: rr"),
            ("/dev/x:rr", "rr is not an absolute path"),
            ("foo", "foo is not an absolute path"),
            ("/etc/passwd", "only devices of the guest's own /dev"),
            ("/dev/../etc/x", "only devices of the guest's own /dev"),
            ("/dev/", "only devices of the guest's own /dev"),
            ("foo:/dev/x", "only devices of the guest's own /dev"),
        ] {
            let error = device(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn tmpfs_paths_are_absolute_and_not_the_root() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(tmpfs("/t").unwrap(), pair("/t", ""));
        assert_eq!(
            tmpfs("/a/./b//../c/:size=1m").unwrap(),
            pair("/a/c", "size=1m")
        );
        for (text, want) in [
            ("rel", "'rel' mount path must be absolute"),
            (":x", "'' mount path must be absolute"),
            ("/", "destination can't be '/'"),
            ("/a/..:x", "destination can't be '/'"),
        ] {
            let error = tmpfs(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn the_writable_layer_has_a_size_and_nothing_else() {
        assert_eq!(storage("size=1g").unwrap(), 1 << 30);
        assert_eq!(storage("size=16777217").unwrap(), 17 << 20);
        for (text, want) in [
            ("foo", "invalid storage option"),
            ("dm.basesize=1g", "dm.basesize is not supported"),
            ("size=x", "invalid size: 'x'"),
            ("size=1m", "16m to 16t"),
            ("size=1p", "16m to 16t"),
        ] {
            let error = storage(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
