//! `cargo xtask kernel`: the guest kernel, built once per source, fragment and patches and kept in
//! a cache outside the work tree. main.rs calls it; `artifacts` takes what is in the cache.
//!
//! The cache's key is a hash over the source tarball, the fragment, the patches and the recipe
//! (steps and environment). The compiler is not part of it: what is cached stays valid when
//! Debian updates gcc, and `kernel.json` names the compiler beside the image's own hash.

mod build;
mod fragment;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::build::Built;
use crate::packages::{self, Package};
use crate::paths;
use crate::progress::Step;

/// What Debian's package of the source brings.
const DEBIAN_SOURCE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// The series that the fragment is written for.
const SERIES: &str = "6.12.";

const SOURCE_PACKAGES: &[Package] = &[
    Package::file("linux-source-6.12", &[DEBIAN_SOURCE]),
    Package::file("xz-utils", &["/usr/bin/xz"]),
];

/// Build the guest kernel, or find it in the cache
#[derive(Args, Debug, Default)]
pub(crate) struct KernelArgs {
    /// Source of Linux 6.12 [default: Debian's linux-source-6.12]
    #[arg(long, value_name = "TARBALL")]
    source: Option<PathBuf>,
    /// Build a second time in another folder and compare the bits
    #[arg(long)]
    twice: bool,
}

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The ELF image.
    pub(crate) vmlinux: PathBuf,
    /// What is known of it, as JSON.
    pub(crate) description: PathBuf,
}

/// `kernel.json`, beside the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Description {
    source_version: String,
    /// Hex SHA-256 over source, fragment, patches and recipe: the cache's key.
    config_hash: String,
    /// Hex SHA-256 of the image.
    sha256: String,
    bytes: u64,
    source_sha256: String,
    compiler: String,
    linker: String,
}

/// The verb.
///
/// # Errors
///
/// See [`provide`].
pub(crate) fn main(arguments: &KernelArgs) -> Result<()> {
    let kernel = provide(arguments)?;
    print!(
        "{}",
        fs::read_to_string(&kernel.description).context("read the description")?
    );
    println!("{}", kernel.vmlinux.display());
    Ok(())
}

/// What [`provide`] will need: the source, and the tools unless the kernel is in the cache.
///
/// # Errors
///
/// The fragment or a patch can't be read.
pub(crate) fn needs(arguments: &KernelArgs) -> Result<Vec<Package>> {
    let source = arguments
        .source
        .clone()
        .unwrap_or_else(|| DEBIAN_SOURCE.into());
    let cached = source.exists() && {
        let inputs = Inputs::read(source, &paths::workspace().join("kernel-config"))?;
        is_whole(
            &paths::cache()?.join("kernel").join(&inputs.hash),
            &inputs.hash,
        )
    };
    let mut needs = Vec::new();
    if arguments.source.is_none() {
        needs.extend(SOURCE_PACKAGES);
    }
    if !cached || arguments.twice {
        needs.extend(build::PACKAGES);
    }
    Ok(needs)
}

/// Finds the kernel in the cache, or builds it.
///
/// # Errors
///
/// A package is missing and can't be installed, the source is of another series, or the build
/// fails; with `twice`, the second image differs.
pub(crate) fn provide(arguments: &KernelArgs) -> Result<Kernel> {
    packages::ensure(&needs(arguments)?)?;
    let source = match &arguments.source {
        Some(source) => std::path::absolute(source).context("resolve the source")?,
        None => PathBuf::from(DEBIAN_SOURCE),
    };
    let inputs = Inputs::read(source, &paths::workspace().join("kernel-config"))?;
    let cache = paths::cache()?.join("kernel");
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let home = cache.join(&inputs.hash);
    // What is there appeared whole, so only who builds needs the lock.
    if !is_whole(&home, &inputs.hash) {
        let _lock = lock(&cache)?;
        // Another build may have made it while this one waited.
        if !is_whole(&home, &inputs.hash) {
            inputs.build_into(&cache, &home)?;
        }
    }
    if arguments.twice {
        let _lock = lock(&cache)?;
        inputs.build_again(&cache, &home)?;
    }
    Ok(Kernel {
        vmlinux: home.join("vmlinux"),
        description: home.join("kernel.json"),
    })
}

/// All that a kernel is made of.
#[derive(Debug)]
struct Inputs {
    source: PathBuf,
    source_sha256: String,
    fragment: PathBuf,
    patches: Vec<PathBuf>,
    hash: String,
}

impl Inputs {
    fn read(source: PathBuf, folder: &Path) -> Result<Self> {
        let fragment = folder.join("fragment.config");
        let patches = patches(&folder.join("patches"))?;
        let source_sha256 = sha256(&source)?;
        let mut parts = vec![
            ("source".to_owned(), source_sha256.clone()),
            ("fragment".to_owned(), sha256(&fragment)?),
        ];
        for patch in &patches {
            parts.push(("patch".to_owned(), sha256(patch)?));
        }
        parts.extend(
            build::ENVIRONMENT
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        parts.push(("recipe".to_owned(), build::RECIPE.to_owned()));
        let hash = combine(&parts);
        Ok(Self {
            source,
            source_sha256,
            fragment,
            patches,
            hash,
        })
    }

    fn build_into(&self, cache: &Path, home: &Path) -> Result<()> {
        let folder = build_folder(cache, "build-")?;
        let built = self.build(folder.path())?;
        if !built.version.starts_with(SERIES) {
            bail!(
                "{} is Linux {}, the fragment is for {SERIES}x",
                self.source.display(),
                built.version
            );
        }
        let description = Description {
            source_version: built.version.clone(),
            config_hash: self.hash.clone(),
            sha256: sha256(&built.vmlinux)?,
            bytes: built.vmlinux.metadata().context("size of the image")?.len(),
            source_sha256: self.source_sha256.clone(),
            compiler: built.compiler.clone(),
            linker: built.linker.clone(),
        };
        let whole = tempfile::Builder::new()
            .prefix("new-")
            .tempdir_in(cache)
            .context("create a folder")?;
        fs::copy(&built.vmlinux, whole.path().join("vmlinux")).context("copy the image")?;
        let json =
            serde_json::to_string_pretty(&description).context("write the description")? + "\n";
        fs::write(whole.path().join("kernel.json"), json).context("write the description")?;
        // The image and its description appear together or not at all.
        let _ = fs::remove_dir_all(home);
        let whole = whole.keep();
        fs::rename(&whole, home)
            .with_context(|| format!("rename {} to {}", whole.display(), home.display()))
    }

    fn build_again(&self, cache: &Path, home: &Path) -> Result<()> {
        let first = read_description(home)?;
        // Another length of path shows where one is written into the image.
        let folder = build_folder(cache, "build-a-second-time-")?;
        let built = self.build(folder.path())?;
        if (&built.compiler, &built.linker) != (&first.compiler, &first.linker) {
            bail!(
                "the cached image is by {}, {}; remove {} first",
                first.compiler,
                first.linker,
                home.display()
            );
        }
        let second = sha256(&built.vmlinux)?;
        if second != first.sha256 {
            let kept = folder.keep();
            bail!(
                "two builds differ: {} and {second}; the second is in {}",
                first.sha256,
                kept.display()
            );
        }
        println!("two builds in different folders are bit-identical: {second}");
        Ok(())
    }

    fn build(&self, folder: &Path) -> Result<Built> {
        let step = Step::begin("build the guest kernel (some minutes)");
        let built = build::build(folder, &self.source, &self.fragment, &self.patches)?;
        step.done_with(format!("Linux {}", built.version));
        Ok(built)
    }
}

/// A fresh folder for one build; those of builds that were killed are removed.
fn build_folder(cache: &Path, prefix: &str) -> Result<tempfile::TempDir> {
    for entry in fs::read_dir(cache)
        .with_context(|| format!("list {}", cache.display()))?
        .flatten()
    {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("build-") || name.starts_with("new-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(cache)
        .context("create a build folder")
}

/// Whether the cache has an image that is what its description says.
fn is_whole(home: &Path, hash: &str) -> bool {
    read_description(home).is_ok_and(|description| {
        description.config_hash == hash
            && sha256(&home.join("vmlinux")).is_ok_and(|sha256| sha256 == description.sha256)
    })
}

fn read_description(home: &Path) -> Result<Description> {
    let json = fs::read(home.join("kernel.json")).context("read the description")?;
    serde_json::from_slice(&json).context("parse the description")
}

/// One build at a time: two would only share the cores.
fn lock(cache: &Path) -> Result<Flock<File>> {
    let path = cache.join("lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, _)) => file,
    };
    let step = Step::begin("wait for another kernel build to end");
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => {
            step.done();
            Ok(lock)
        }
        Err((_, error)) => bail!("lock {}: {error}", path.display()),
    }
}

/// The patches in the order of their names; no folder is no patch.
fn patches(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", folder.display())),
    };
    let mut patches = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("list {}", folder.display()))?
            .path();
        if path.extension() == Some(OsStr::new("patch")) {
            patches.push(path);
        }
    }
    patches.sort();
    Ok(patches)
}

/// Hashes named parts so that no two lists give the same bytes to hash.
fn combine(parts: &[(String, String)]) -> String {
    let mut hash = Sha256::new();
    for (name, value) in parts {
        hash.update(format!("{} {} {name}={value}\n", name.len(), value.len()));
    }
    hex(&hash.finalize())
}

/// Hex SHA-256 of a file.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = file
            .read(&mut buffer)
            .with_context(|| format!("read {}", path.display()))?;
        match buffer.get(..len) {
            None | Some([]) => break,
            Some(bytes) => hash.update(bytes),
        }
    }
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(fragment: &str, patch_names: &[&str]) -> (tempfile::TempDir, Inputs) {
        let folder = tempfile::tempdir().expect("tempdir");
        let write =
            |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("write");
        write("source", "tarball");
        write("fragment.config", fragment);
        fs::create_dir(folder.path().join("patches")).expect("folder");
        patch_names
            .iter()
            .for_each(|name| write(&format!("patches/{name}"), name));
        let inputs = Inputs::read(folder.path().join("source"), folder.path()).expect("inputs");
        (folder, inputs)
    }

    #[test]
    fn the_hash_changes_with_fragment_and_patches_and_with_nothing_else() {
        let hash = |fragment, patches: &[&str]| inputs(fragment, patches).1.hash;
        let base = hash("CONFIG_A=y", &["1.patch"]);
        assert_eq!(base, hash("CONFIG_A=y", &["1.patch", "README.md"]));
        assert_ne!(base, hash("CONFIG_A=n", &["1.patch"]));
        assert_ne!(base, hash("CONFIG_A=y", &["1.patch", "2.patch"]));
        assert_ne!(base, hash("CONFIG_A=y", &[]));
    }

    #[test]
    fn patches_are_applied_in_the_order_of_their_names() {
        let (_folder, inputs) = inputs("", &["0010-b.patch", "0002-a.patch"]);
        let names: Vec<_> = inputs
            .patches
            .iter()
            .filter_map(|path| path.file_name()?.to_str())
            .collect();
        assert_eq!(names, ["0002-a.patch", "0010-b.patch"]);
    }

    #[test]
    fn an_image_that_is_not_what_its_description_says_is_built_again() {
        let home = tempfile::tempdir().expect("tempdir");
        assert!(!is_whole(home.path(), "h"));
        let vmlinux = home.path().join("vmlinux");
        fs::write(&vmlinux, "kernel").expect("write");
        let description = Description {
            source_version: "6.12.1".into(),
            config_hash: "h".into(),
            sha256: sha256(&vmlinux).expect("hash"),
            bytes: 6,
            source_sha256: String::new(),
            compiler: String::new(),
            linker: String::new(),
        };
        let json = serde_json::to_vec(&description).expect("json");
        fs::write(home.path().join("kernel.json"), json).expect("write");
        assert!(is_whole(home.path(), "h"));
        assert!(!is_whole(home.path(), "other"));
        fs::write(&vmlinux, "kernel, cut").expect("write");
        assert!(!is_whole(home.path(), "h"));
    }

    #[test]
    fn a_file_has_the_known_hash() {
        let file = tempfile::NamedTempFile::new().expect("file");
        fs::write(file.path(), "abc").expect("write");
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(file.path()).expect("hash"), expected);
    }
}
