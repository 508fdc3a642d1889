//! What is below a folder at one moment, while others may change it. The leftover search uses it, and tests
//! that compare a whole host or count what a folder takes.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Calls `visit` with the path of each thing below `folder`; a folder is gone into where it says so. What is
/// removed meanwhile is passed over. No link is followed.
///
/// # Errors
///
/// A folder can't be read.
pub fn walk(folder: &Path, mut visit: impl FnMut(&Path, &Metadata) -> bool) -> Result<()> {
    let mut pending = vec![folder.to_owned()];
    while let Some(at) = pending.pop() {
        let entries = match fs::read_dir(&at) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("read {}", at.display())),
        };
        for entry in entries {
            let path = entry
                .with_context(|| format!("read {}", at.display()))?
                .path();
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            if visit(&path, &metadata) && metadata.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(())
}

/// Whose something is and which it is. Whatever is done to a file sets its change time; a folder's is also set
/// by what was there for a while.
#[must_use]
pub fn shape(metadata: &Metadata) -> String {
    let whose = format!(
        "{:o} {}:{}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid()
    );
    if metadata.is_dir() {
        return whose;
    }
    format!(
        "{whose} device {} {} bytes changed {}.{:09}",
        metadata.rdev(),
        metadata.size(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_is_gone_into_where_that_is_wanted_and_a_link_never() {
        let temp = tempfile::tempdir().expect("tempdir");
        for folder in ["in/deep", "out/deep"] {
            fs::create_dir_all(temp.path().join(folder)).expect("folders");
            fs::write(temp.path().join(folder).join("file"), "x").expect("file");
        }
        symlink("out", temp.path().join("link")).expect("link");
        let mut seen = Vec::new();
        walk(temp.path(), |path, _| {
            let below = path.strip_prefix(temp.path()).expect("below");
            seen.push(below.display().to_string());
            below != Path::new("out")
        })
        .expect("walk");
        seen.sort();
        assert_eq!(seen, ["in", "in/deep", "in/deep/file", "link", "out"]);
        walk(&temp.path().join("gone"), |_, _| true).expect("nothing");
    }
}
