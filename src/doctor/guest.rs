//! What a VM is made of besides KVM: kernel, agent, a blank disk, a place for state. Called by
//! [`super`].

use std::fs::{self, File};
use std::path::Path;

use images::Digest;
use serde_json::Value;

use super::{Finding, Host};
use crate::sandbox::paths::{GuestFiles, Root};

/// Free bytes of the state root below which a pull is likely to fail.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// Where programs of an administrator are, which are not on every user's PATH.
const PROGRAMS: [&str; 4] = ["usr/sbin", "sbin", "usr/bin", "bin"];

/// Whether the guest's kernel and agent are there and can be read.
pub fn files() -> Finding {
    let found = match GuestFiles::find() {
        Ok(found) => found,
        Err(error) => {
            return Finding::fail(
                format!("{error:#}"),
                "build them with `cargo xtask artifacts`, or name their folder in BULKHEAD_GUEST",
            );
        }
    };
    for path in [&found.kernel, &found.initramfs] {
        if let Err(error) = File::open(path) {
            return Finding::fail(
                format!("read {}: {error}", path.display()),
                "let your user read it, or build your own with `cargo xtask artifacts`",
            );
        }
    }
    Finding::ok(format!(
        "guest kernel {} and agent {}",
        found.kernel.display(),
        found.initramfs.display()
    ))
}

/// Whether the guest's kernel is the one that was built; nothing when there is none.
pub fn checksum() -> Option<Finding> {
    let found = GuestFiles::find().ok()?;
    Some(match compare(&found) {
        Ok(hash) => Finding::ok(format!("guest kernel of configuration {hash}")),
        Err(what) => Finding::warn(
            what,
            "the kernel and its kernel.json were not built together: build them again with \
             `cargo xtask artifacts`",
        ),
    })
}

/// The hash of the kernel's configuration, if the kernel has the checksum that belongs to it.
fn compare(found: &GuestFiles) -> Result<String, String> {
    let manifest = fs::read_to_string(&found.manifest)
        .map_err(|error| format!("read {}: {error}", found.manifest.display()))?;
    let manifest: Value = serde_json::from_str(&manifest).unwrap_or_default();
    let member = |name: &str| {
        manifest
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let kernel = fs::read(&found.kernel)
        .map_err(|error| format!("read {}: {error}", found.kernel.display()))?;
    let sum = Digest::of(&kernel).hex();
    if sum != member("sha256") {
        return Err(format!(
            "{} has the SHA-256 {sum}, its kernel.json says {}",
            found.kernel.display(),
            member("sha256")
        ));
    }
    Ok(member("config_hash").to_owned())
}

/// Whether blank disks can be made.
pub fn mke2fs(host: &Host) -> Finding {
    let found = PROGRAMS
        .iter()
        .map(|folder| host.path(folder).join("mke2fs"))
        .find(|path| path.exists());
    match found {
        Some(path) => Finding::ok(format!("{}, which makes writable layers", path.display())),
        None => Finding::fail(
            "mke2fs is missing, which makes writable layers",
            "install it: `sudo apt-get install e2fsprogs`",
        ),
    }
}

/// Whether there is a place for images and containers, and room.
pub fn state_root() -> Finding {
    match Root::of_user() {
        Ok(root) => room(root.path()),
        Err(error) => Finding::fail(
            format!("{error:#}"),
            "name a writable folder in BULKHEAD_ROOT",
        ),
    }
}

fn room(folder: &Path) -> Finding {
    let shown = folder.display();
    if let Err(error) = tempfile::tempfile_in(folder) {
        return Finding::fail(
            format!("write to {shown}: {error}"),
            "make room there or name another folder in BULKHEAD_ROOT",
        );
    }
    let free = nix::sys::statvfs::statvfs(folder)
        .map(|stat| stat.blocks_available().saturating_mul(stat.fragment_size()));
    match free {
        Ok(free) if free < FREE_BYTES_MIN => Finding::warn(
            format!("state in {shown}, with {} MiB free", free >> 20),
            "remove images with `bulkhead rmi`, or name a folder on a larger disk in BULKHEAD_ROOT",
        ),
        Ok(free) => Finding::ok(format!("state in {shown}, with {} GiB free", free >> 30)),
        Err(_) => Finding::ok(format!("state in {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Level, fake};
    use super::*;

    fn files_with(manifest: &str) -> (tempfile::TempDir, GuestFiles) {
        let (folder, host) = fake::host(&[
            ("vmlinux", "kernel"),
            ("initramfs.cpio", "agent"),
            ("kernel.json", manifest),
        ]);
        let files = GuestFiles {
            kernel: host.path("vmlinux"),
            initramfs: host.path("initramfs.cpio"),
            manifest: host.path("kernel.json"),
        };
        (folder, files)
    }

    #[test]
    fn a_kernel_has_the_checksum_of_its_manifest() {
        let sum = Digest::of(b"kernel").hex();
        let manifest = format!(r#"{{"sha256":"{sum}","config_hash":"abc"}}"#);
        let (_folder, files) = files_with(&manifest);
        assert_eq!(compare(&files).unwrap(), "abc");
        for wrong in ["", "{}", r#"{"sha256":"00"}"#] {
            let (_folder, files) = files_with(wrong);
            let error = compare(&files).unwrap_err();
            assert!(error.contains(&sum), "{error}");
        }
    }

    #[test]
    fn mke2fs_is_found_where_administrators_have_it() {
        let (_folder, host) = fake::host(&[("usr/sbin/mke2fs", "")]);
        assert_eq!(mke2fs(&host).level, Level::Ok);
        let (_folder, host) = fake::host(&[("usr/sbin/mkfs", "")]);
        assert_eq!(mke2fs(&host).level, Level::Fail);
    }

    #[test]
    fn state_needs_a_folder_that_can_be_written_to() {
        let (folder, host) = fake::host(&[("file", "")]);
        assert_ne!(room(folder.path()).level, Level::Fail);
        assert_eq!(room(&host.path("file")).level, Level::Fail);
        assert_eq!(room(&host.path("missing")).level, Level::Fail);
    }
}
