//! What a build is made from: the build context and the Dockerfile, from a folder, from standard input,
//! or from a commit of a repository that is here.

use std::fs::{DirBuilder, File};
use std::io::{Cursor, IsTerminal, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use images::archive::compression_of;
use images::context::{Context, Ignore};
use images::limits::DOCKERFILE_BYTES;
use nix::fcntl::{Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat2};

use crate::sandbox::decompress;
use crate::sandbox::paths::Root;
use crate::sandbox::receive::{self, Owners};
use crate::sandbox::removal;

/// Bytes of a tar's header, which tell it from a Dockerfile.
const HEADER_LEN: usize = 512;

/// The Dockerfile that is looked for.
const DOCKERFILE: &str = "Dockerfile";

/// What a build is made from.
pub struct Input {
    /// The user's files.
    pub context: Context,
    /// The Dockerfile's bytes.
    pub dockerfile: Vec<u8>,
    /// How it is called in messages.
    pub name: String,
    /// Holds the files of an archive until the build is done.
    _unpacked: Option<Unpacked>,
}

/// A folder for the files of an archive. One that a killed build left is known by its free lock, and goes
/// with the next build.
struct Unpacked {
    folder: tempfile::TempDir,
    _lock: Flock<File>,
}

impl Unpacked {
    fn new(root: &Root) -> Result<Self> {
        let all = root.build_contexts();
        let about = || format!("make a folder for the build context in {}", all.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&all)
            .with_context(about)?;
        loop {
            let folder = tempfile::tempdir_in(&all).with_context(about)?;
            // Another build may have taken it for a dead one's.
            if let Some(lock) = try_lock(folder.path())
                && folder.path().exists()
            {
                return Ok(Self {
                    folder,
                    _lock: lock,
                });
            }
        }
    }
}

impl Drop for Unpacked {
    /// Also where an archive has folders that nobody may write to, which [`tempfile::TempDir`] leaves.
    fn drop(&mut self) {
        // What can't be removed now is tried again by the next build.
        let _ = removal::remove_tree(self.folder.path());
    }
}

/// Removes the folders that killed builds left.
fn clear(all: &Path) {
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        if let Some(_lock) = try_lock(&entry.path()) {
            // What can't be removed now is tried again the next time.
            let _ = removal::remove_tree(&entry.path());
        }
    }
}

fn try_lock(path: &Path) -> Option<Flock<File>> {
    let file = File::open(path).ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

/// Finds it: `word` is what the user wants built, `file` is `--file`.
///
/// # Errors
/// Docker's sentence when something is not there.
pub fn find(root: &Root, word: &str, file: Option<&str>) -> Result<Input> {
    clear(&root.build_contexts());
    if word == "-" {
        if file == Some("-") {
            bail!("invalid argument: can't use stdin for both build context and dockerfile");
        }
        return from_stdin(root, file);
    }
    if ["http://", "https://", "git://", "git@", "ssh://"]
        .iter()
        .any(|scheme| word.starts_with(scheme))
        || word.starts_with("github.com/")
    {
        bail!(
            "{word} is not fetched: clone or download it, and build the folder or pass the archive on standard input"
        );
    }
    if let Some((folder, commit)) = word.split_once('#')
        && !Path::new(word).exists()
        && Path::new(folder).is_dir()
    {
        return from_commit(root, folder, commit, file);
    }
    if !Path::new(word).exists() {
        bail!("unable to prepare context: path {word:?} not found");
    }
    if !Path::new(word).is_dir() {
        bail!("unable to prepare context: context must be a directory: {word}");
    }
    from_folder(Path::new(word), file)
}

fn from_folder(folder: &Path, file: Option<&str>) -> Result<Input> {
    let (dockerfile, name, path) = match file {
        Some("-") => {
            let bytes = limited(std::io::stdin().lock(), "standard input")?;
            (bytes, DOCKERFILE.to_owned(), None)
        }
        file => {
            // The flag's path is of the current folder, as in Docker.
            let path = match file {
                Some(path) => PathBuf::from(path),
                None => default_dockerfile(folder),
            };
            let opened = File::open(&path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => anyhow::anyhow!(
                    "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {}: no such file or directory",
                    std::path::absolute(&path).unwrap_or(path.clone()).display()
                ),
                _ => anyhow::Error::from(error).context(format!("open {}", path.display())),
            })?;
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (
                limited(opened, &path.display().to_string())?,
                name,
                Some(path),
            )
        }
    };
    let ignore = Ignore::of(folder, path.as_deref())?;
    Ok(Input {
        context: Context::open(folder, ignore)?,
        dockerfile,
        name,
        _unpacked: None,
    })
}

/// `Dockerfile`, or in lower case where there is only that.
fn default_dockerfile(folder: &Path) -> PathBuf {
    let usual = folder.join(DOCKERFILE);
    let lower = folder.join(DOCKERFILE.to_lowercase());
    match !usual.exists() && lower.exists() {
        true => lower,
        false => usual,
    }
}

/// An archive, which may be compressed, or a Dockerfile alone.
fn from_stdin(root: &Root, file: Option<&str>) -> Result<Input> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        bail!("standard input is a terminal: give it an archive or a Dockerfile");
    }
    let mut head = Vec::new();
    stdin
        .by_ref()
        .take(HEADER_LEN as u64)
        .read_to_end(&mut head)
        .context("read standard input")?;
    let is_compressed = compression_of(&head).is_some();
    let is_archive = head.get(257..262) == Some(b"ustar");
    let whole = Cursor::new(head).chain(stdin);
    if is_compressed {
        return from_archive(root, decompress::plain(root, whole)?, file);
    }
    if is_archive {
        return from_archive(root, whole, file);
    }
    if file.is_some() {
        bail!("--file names a file of the archive on standard input, and there is none");
    }
    Ok(Input {
        context: Context::empty(),
        dockerfile: limited(whole, "standard input")?,
        name: DOCKERFILE.to_owned(),
        _unpacked: None,
    })
}

/// Unpacks an archive into a folder of our own, by the rules of what a stranger sends.
fn from_archive(root: &Root, archive: impl Read, file: Option<&str>) -> Result<Input> {
    let unpacked = Unpacked::new(root)?;
    let folder = &unpacked.folder;
    let target = File::open(folder.path()).context("open the folder of the build context")?;
    receive::receive(&target, "", None, Owners::Own, archive)
        .context("unpack the build context")?;
    let name = file.unwrap_or(DOCKERFILE);
    // What links in the archive lead out of it is not the archive's.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let dockerfile = openat2(&target, name, how)
        .map_err(std::io::Error::from)
        .and_then(|file| std::io::Result::Ok(File::from(file)))
        .with_context(|| format!("failed to read dockerfile: open {name}"))?;
    let dockerfile = limited(dockerfile, name)?;
    let ignore = Ignore::of(folder.path(), Some(&folder.path().join(name)))?;
    Ok(Input {
        context: Context::open(folder.path(), ignore)?,
        dockerfile,
        name: name.to_owned(),
        _unpacked: Some(unpacked),
    })
}

/// `FOLDER#COMMIT[:SUBFOLDER]` of a repository that is here.
fn from_commit(root: &Root, folder: &str, commit: &str, file: Option<&str>) -> Result<Input> {
    let (commit, below) = commit.split_once(':').unwrap_or((commit, ""));
    let commit = if commit.is_empty() { "HEAD" } else { commit };
    if commit.starts_with('-') {
        bail!("{commit} is no commit");
    }
    let mut child = Command::new("git")
        .args(["-C", folder, "archive", "--format=tar"])
        .arg(format!("{commit}:{}", below.trim_matches('/')))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run git (install the package git)")?;
    let stdout = child.stdout.take().context("read from git")?;
    let input = from_archive(root, stdout, file);
    let output = child.wait_with_output().context("wait for git")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("git archive {commit} in {folder}: {}", text.trim());
    }
    input
}

fn limited(from: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(DOCKERFILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {name}"))?;
    if bytes.len() > DOCKERFILE_BYTES {
        bail!("{name} is larger than {DOCKERFILE_BYTES} bytes, the limit of a Dockerfile");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn root() -> Root {
        Root::at("/nonexistent".into())
    }

    #[test]
    fn what_is_not_here_is_not_fetched() {
        for word in [
            "https://example.org/x.git",
            "git@example.org:x",
            "github.com/x/y",
        ] {
            let error = find(&root(), word, None).err().unwrap().to_string();
            assert!(error.contains("is not fetched"), "{error}");
        }
        let error = find(&root(), "/no/such/folder", None)
            .err()
            .unwrap()
            .to_string();
        assert_eq!(
            error,
            "unable to prepare context: path \"/no/such/folder\" not found"
        );
        let error = find(&root(), "-", Some("-")).err().unwrap().to_string();
        assert!(
            error.contains("both build context and dockerfile"),
            "{error}"
        );
    }

    /// As an ordinary user: nothing keeps root from removing them.
    #[test]
    fn an_archives_read_only_folders_go_with_the_build() {
        let temp = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            // Of this thread alone.
            let user = scope.spawn(|| {
                let nobody = nix::unistd::Uid::from_raw(65534);
                if nix::unistd::geteuid().is_root() {
                    nix::unistd::chown(temp.path(), Some(nobody), None).unwrap();
                    nix::unistd::setfsuid(nobody);
                }
                let root = Root::at(temp.path().join("root"));
                let unpacked = Unpacked::new(&root).unwrap();
                let folder = unpacked.folder.path().to_owned();
                std::fs::create_dir_all(folder.join("a/b")).unwrap();
                std::fs::write(folder.join("a/b/file"), "").unwrap();
                for name in ["a/b", "a", ""] {
                    let mode = std::fs::Permissions::from_mode(0o555);
                    std::fs::set_permissions(folder.join(name), mode).unwrap();
                }
                drop(unpacked);
                assert!(!folder.exists());
                assert_eq!(std::fs::read_dir(root.build_contexts()).unwrap().count(), 0);
            });
            user.join().unwrap();
        });
    }

    #[test]
    fn a_folder_needs_a_dockerfile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let error = find(&root(), path, None).err().unwrap().to_string();
        assert!(
            error.ends_with("Dockerfile: no such file or directory"),
            "{error}"
        );
        std::fs::write(folder.path().join("dockerfile"), "FROM scratch\n").unwrap();
        assert_eq!(
            find(&root(), path, None).unwrap().dockerfile,
            b"FROM scratch\n"
        );
        std::fs::write(folder.path().join("Dockerfile"), "FROM x\n").unwrap();
        assert_eq!(find(&root(), path, None).unwrap().dockerfile, b"FROM x\n");
    }
}
