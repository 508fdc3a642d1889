//! `bulkhead export`: a container's file system as a tar, on standard output or in a file.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use protocol::task::Task;

use super::policy::Policy;
use super::values::given;
use crate::sandbox::access::with_files;
use crate::sandbox::containers;
use crate::sandbox::paths::Root;
use crate::sandbox::state::Lock;

/// Flags of `export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "string")]
    output: Option<String>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Writes the archive. What is mounted in the container is no part of it.
///
/// # Errors
/// Docker's sentence when it would go to a terminal; nothing is left of a file that is not whole.
pub fn run(args: &ExportArgs) -> Result<()> {
    let mut output = Output::open(given(&args.output))?;
    let root = Root::of_user()?;
    let (folder, config) = containers::find(&root, &args.container)?;
    let admit = |lock: &Lock| Policy::admit_files(&root, &config, lock);
    with_files(&root, &folder, &config, &admit, |access| {
        let mut stream = access.begin_reading(Task::Export)?;
        // Errors of writing are told as they are: a reader that goes away is no failure.
        std::io::copy(&mut stream, &mut output)?;
        access.end()
    })?;
    output.finish()
}

/// Where an archive goes: a file gets its name when it is whole.
#[derive(Debug)]
pub enum Output {
    /// Standard output.
    Stdout(std::io::Stdout),
    /// A file beside the one that it becomes.
    File(tempfile::NamedTempFile, PathBuf),
}

impl Output {
    /// Opens it.
    ///
    /// # Errors
    /// A terminal, or a place where no file can be made.
    pub fn open(path: Option<&str>) -> Result<Self> {
        let Some(path) = path.map(Path::new) else {
            let stdout = std::io::stdout();
            if stdout.is_terminal() {
                bail!("cowardly refusing to save to a terminal. Use the -o flag or redirect");
            }
            return Ok(Self::Stdout(stdout));
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            bail!(
                "invalid output path: directory \"{}\" does not exist",
                folder.display()
            );
        }
        if path.metadata().is_ok_and(|there| !there.is_file()) {
            bail!(
                "invalid output path: \"{}\" must be a regular file",
                path.display()
            );
        }
        let file = tempfile::NamedTempFile::new_in(folder)
            .with_context(|| format!("create {}", path.display()))?;
        Ok(Self::File(file, path.to_owned()))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        if let Self::File(file, path) = self {
            let file: File = file
                .persist(&path)
                .with_context(|| format!("write {}", path.display()))?;
            drop(file);
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::File(file, _) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::File(file, _) => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.tar");
        let name = path.to_str();
        let mut output = Output::open(name).unwrap();
        output.write_all(b"bytes").unwrap();
        assert!(!path.exists());
        output.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
        drop(Output::open(name).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn places_for_no_file_are_refused() {
        for (path, want) in [
            (
                "/no/such/folder/x",
                "directory \"/no/such/folder\" does not exist",
            ),
            ("/dev/null", "must be a regular file"),
            ("/", "must be a regular file"),
        ] {
            let error = Output::open(Some(path)).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
