//! Packs the emulated host's initramfs: static busybox, `init.sh`, modules, this executable and
//! what they are told. `emulator` calls it. It must not know how the emulator is started.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::host_kernel::{HostKernel, read_module};
use super::server::Configuration;
use crate::cpio::Archive;

const INIT: &str = include_str!("init.sh");

/// A folder of this machine that the emulated host sees as it is, not through the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Name of the 9p share.
    pub(super) tag: String,
    pub(super) folder: PathBuf,
    pub(super) access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
}

/// Packs the initramfs.
///
/// # Errors
///
/// A file that goes into it can't be read.
pub(super) fn pack(
    kernel: &HostKernel,
    mounts: &[Mount],
    configuration: &Configuration,
) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in [
        "bin", "dev", "lab", "lower", "modules", "new", "proc", "scratch", "sys",
    ] {
        archive.directory(folder, 0o755);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.character_device("dev/null", 0o666, 1, 3);
    archive.file("bin/busybox", 0o755, &read(Path::new("/bin/busybox"))?);
    archive.file("init", 0o755, INIT.as_bytes());
    let mut names = String::new();
    for module in kernel.modules()? {
        let (name, bytes) = read_module(&module)?;
        archive.file(&format!("modules/{name}"), 0o644, &bytes);
        names.push_str(&name);
        names.push('\n');
    }
    archive.file("lab/modules", 0o644, names.as_bytes());
    archive.file("lab/mounts", 0o644, &mount_lines(mounts)?);
    archive.file(
        "lab/server.json",
        0o600,
        &serde_json::to_vec(configuration).context("write the configuration")?,
    );
    archive.file(
        "lab/xtask",
        0o755,
        &read(&std::env::current_exe().context("find this executable")?)?,
    );
    Ok(archive.finish())
}

/// Two lines each: `tag mode cache`, then the folder.
fn mount_lines(mounts: &[Mount]) -> Result<Vec<u8>> {
    let mut lines = Vec::new();
    for Mount {
        tag,
        folder,
        access,
    } in mounts
    {
        let path = folder.as_os_str().as_bytes();
        if path.contains(&b'\n') {
            bail!(
                "{}: a folder with a line break in its name can't be shared",
                folder.display()
            );
        }
        // `none` asks this machine each time; `mmap` as well, and allows shared writable maps.
        let options = match access {
            Access::ReadOnly => "ro none",
            Access::ReadWrite => "rw mmap",
        };
        lines.extend_from_slice(format!("{tag} {options}\n").as_bytes());
        lines.extend_from_slice(path);
        lines.push(b'\n');
    }
    Ok(lines)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(folder: &str) -> Mount {
        Mount {
            tag: "t1".into(),
            folder: folder.into(),
            access: Access::ReadWrite,
        }
    }

    #[test]
    fn a_mount_is_two_lines_and_its_folder_may_have_blanks() {
        let lines = mount_lines(&[
            mount("/a b/c"),
            Mount {
                access: Access::ReadOnly,
                ..mount("/d")
            },
        ]);
        assert_eq!(
            lines.expect("lines"),
            b"t1 rw mmap\n/a b/c\nt1 ro none\n/d\n"
        );
    }

    #[test]
    fn a_line_break_in_a_folder_is_refused() {
        assert!(mount_lines(&[mount("/a\nb")]).is_err());
    }
}
