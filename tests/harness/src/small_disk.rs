//! A disk with little room, to see what becomes of those who need more. It needs root.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Invocation;

/// A tmpfs. Dropped, it is unmounted.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many MiB on a new folder.
    ///
    /// # Errors
    ///
    /// The folder exists, or nobody but root may mount.
    pub fn mount(folder: &Path, mib: u32) -> Result<Self> {
        fs::create_dir(folder).context("create a mount point")?;
        Invocation::new("/bin/mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mib}m,mode=755"),
                "tmpfs",
            ])
            .arg(folder)
            .output()?
            .code(0)?;
        Ok(Self(folder.to_owned()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Invocation::new("/bin/umount").arg(&self.0).output();
    }
}
