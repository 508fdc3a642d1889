//! VMs that have booted already: the state and memory of one whose agent waits for its host, kept
//! per shape, that every VM of that shape goes on from. It holds nothing but our own kernel and
//! agent: no image, no container, no connection.
//!
//! ```text
//! <root>/templates/<key>/memory   guest memory, sparse
//!                        state    vmm::Snapshot as JSON
//! ```
//! The key is a digest of all that a template depends on, so that another kernel, agent, command,
//! CPU or host kernel makes another. Called by [`super::vm`]. It must not know what a VM is for.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use super::launcher::Launcher;
use super::paths::{self, GuestFiles, Root};
use super::program;
use super::trust;
use super::vm;

/// Another folder for all templates, or `off` for none.
pub const TEMPLATES_VARIABLE: &str = "BULKHEAD_TEMPLATES";

/// What it says for none.
pub const TEMPLATES_OFF: &str = "off";

/// Changes when a template of the same command, kernel and agent would not do any more.
const FORMAT: u32 = 2;

/// Templates that are kept, each some 60 MiB of disk: shapes of VMs that one user has in use.
const TEMPLATES_MAX: usize = 8;

/// Bytes of `/proc/cpuinfo` that describe the first CPU.
const CPU_BYTES_MAX: usize = 4096;

/// Frequencies are told apart by as much. Those of CPUs are multiples of 100 MHz, or nearly.
const FREQUENCY_STEP_MHZ: f64 = 10.0;

/// What begins the names of templates that are being made, or that nobody finished.
const NEW: &str = ".new-";

/// What VMs that go on from one template have in common: their size and their devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of vCPUs.
    pub vcpu_count: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Whether there is a network card.
    pub network: bool,
    /// Whether it has the file system device, for folders of the host.
    pub shares: bool,
}

/// A VM's state and memory, opened for reading.
#[derive(Debug)]
pub struct Template {
    /// Where it is.
    pub folder: PathBuf,
    /// JSON.
    pub state: File,
    /// Guest memory.
    pub memory: File,
}

/// Names of a template's files.
const STATE: &str = "state";
const MEMORY: &str = "memory";

/// Where templates are.
#[derive(Debug)]
pub struct Templates(PathBuf);

impl Templates {
    /// Those of a state root; `None` where the user wants none.
    #[must_use]
    pub fn of(root: &Root) -> Option<Self> {
        match std::env::var_os(TEMPLATES_VARIABLE) {
            Some(off) if off == TEMPLATES_OFF => None,
            Some(folder) if !folder.is_empty() => Some(Self(folder.into())),
            _ => Some(Self(root.templates())),
        }
    }

    /// The folder that they are in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The template of this shape, made now if there is none: that takes as long as a boot.
    ///
    /// # Errors
    /// When a file can't be written or the guest does not come up.
    pub fn find_or_make(
        &self,
        launcher: &Launcher,
        guest: &GuestFiles,
        shape: Shape,
    ) -> Result<Template> {
        let key = key(guest, shape)?;
        let folder = self.0.join(&key);
        // Who is shut in has done so before.
        if launcher.is_here() {
            paths::create_private(&self.0)?;
            trust::check_own(&self.0).context("use a folder of templates")?;
        }
        if let Some(found) = open(&folder)? {
            return Ok(found);
        }
        if !launcher.is_here() {
            bail!("a supervisor makes no template");
        }
        // One at a time, so that what is half made is of a process that was killed.
        let _alone = paths::lock(&self.0)?;
        // Another process may have made it meanwhile.
        if let Some(found) = open(&folder)? {
            return Ok(found);
        }
        self.make_room()?;
        let new = tempfile::Builder::new()
            .prefix(NEW)
            // Whatever the umask is.
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&self.0)
            .context("create a template")?;
        let state = create(&new.path().join(STATE))?;
        let memory = create(&new.path().join(MEMORY))?;
        vm::make_template(guest, shape, &state, &memory)?;
        for file in [&state, &memory] {
            file.sync_all().context("write a template")?;
        }
        let new = new.keep();
        fs::rename(&new, &folder)
            .inspect_err(|_| drop(fs::remove_dir_all(&new)))
            .with_context(|| format!("keep the template {key}"))?;
        open(&folder)?.context("open the template just made")
    }

    /// Removes what nobody finished, and the oldest beyond the limit. VMs that run keep theirs: an
    /// open file lives on.
    fn make_room(&self) -> Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.0).context("read the templates")? {
            let entry = entry.context("read the templates")?;
            let metadata = entry.metadata().context("look at a template")?;
            if !metadata.is_dir() {
                continue;
            }
            let is_new = entry.file_name().to_string_lossy().starts_with(NEW);
            if is_new || open(&entry.path())?.is_none() {
                fs::remove_dir_all(entry.path()).context("remove an unfinished template")?;
                continue;
            }
            let made = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            kept.push((made, entry.path()));
        }
        kept.sort();
        let surplus = (kept.len() + 1).saturating_sub(TEMPLATES_MAX);
        for (_, path) in kept.into_iter().take(surplus) {
            fs::remove_dir_all(&path).context("remove an old template")?;
        }
        Ok(())
    }
}

/// Removes a template, as who may not list folders can.
pub fn remove(folder: &Path) {
    for name in [STATE, MEMORY] {
        let _ = fs::remove_file(folder.join(name));
    }
    let _ = fs::remove_dir(folder);
}

fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create {}", path.display()))
}

fn open(folder: &Path) -> Result<Option<Template>> {
    let open = |name: &str| {
        let path = folder.join(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("open {}", path.display())),
        }
    };
    let (state, memory) = (open(STATE)?, open(MEMORY)?);
    Ok(state.zip(memory).map(|(state, memory)| Template {
        folder: folder.to_owned(),
        state,
        memory,
    }))
}

/// The name of the template for a VM of this shape on this host, by this command.
fn key(guest: &GuestFiles, shape: Shape) -> Result<String> {
    let command = program::own()?;
    let host = nix::sys::utsname::uname().context("ask for the host's kernel")?;
    let cpu = first_cpu(&beginning("/proc/cpuinfo"));
    let Shape {
        vcpu_count,
        memory_mib,
        network,
        shares,
    } = shape;
    let text = format!(
        "{FORMAT} {vcpu_count} {memory_mib} {network} {shares}\n{}\n{}\n{}\n{} {}\n{cpu}",
        identity(&command)?,
        identity(&guest.kernel)?,
        identity(&guest.initramfs)?,
        host.release().to_string_lossy(),
        host.version().to_string_lossy(),
    );
    Ok(images::Digest::of(text.as_bytes()).hex().to_owned())
}

/// Tells one build of a file from another.
fn identity(path: &Path) -> Result<String> {
    let metadata = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    Ok(format!(
        "{} {}.{}",
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    ))
}

/// The first bytes of a file that describe the first CPU: the kernel would make up those of all others.
fn beginning(path: &str) -> String {
    let mut bytes = Vec::new();
    // What can't be read is the same each time.
    let file = File::open(path).map(|file| file.take(CPU_BYTES_MAX as u64));
    let _ = file.and_then(|mut file| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What `/proc/cpuinfo` says of the first CPU, without what changes from moment to moment.
fn first_cpu(text: &str) -> String {
    let end = text.find("\n\n").unwrap_or(text.len()).min(CPU_BYTES_MAX);
    let lines = text.get(..end).unwrap_or_default().lines();
    lines
        .filter(|line| !line.starts_with("cpu MHz"))
        .map(|line| match line.strip_prefix("bogomips") {
            Some(value) => Cow::Owned(frequency(value)),
            None => Cow::Borrowed(line),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// The frequency of the time-stamp counter, by which a guest that goes on counts time: on x86 the kernel
/// gives twice its MHz as `bogomips`. It measures it at each boot, so the last digits differ.
fn frequency(bogomips: &str) -> String {
    let value: f64 = bogomips
        .trim_start_matches([':', ' ', '\t'])
        .parse()
        .unwrap_or_default();
    format!(
        "some {} MHz",
        (value / (2.0 * FREQUENCY_STEP_MHZ)).round() * FREQUENCY_STEP_MHZ
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(folder: &Path) -> GuestFiles {
        for name in ["vmlinux", "initramfs.cpio", "kernel.json"] {
            fs::write(folder.join(name), name).unwrap();
        }
        GuestFiles {
            kernel: folder.join("vmlinux"),
            initramfs: folder.join("initramfs.cpio"),
            manifest: folder.join("kernel.json"),
        }
    }

    #[test]
    fn another_shape_or_kernel_is_another_template() {
        let folder = tempfile::tempdir().unwrap();
        let guest = guest(folder.path());
        let shape = Shape {
            vcpu_count: 1,
            memory_mib: 256,
            network: false,
            shares: false,
        };
        let first = key(&guest, shape).unwrap();
        assert_eq!(key(&guest, shape).unwrap(), first);
        let others = [
            Shape {
                memory_mib: 257,
                ..shape
            },
            Shape {
                network: true,
                ..shape
            },
            Shape {
                shares: true,
                ..shape
            },
        ];
        for other in others {
            assert_ne!(key(&guest, other).unwrap(), first);
        }
        fs::write(&guest.kernel, "another kernel").unwrap();
        assert_ne!(key(&guest, shape).unwrap(), first);
    }

    #[test]
    fn the_speed_of_the_moment_is_no_part_of_a_cpu() {
        let text = "processor\t: 0\ncpu MHz\t\t: 2594.3\nflags\t: fpu\n\nprocessor\t: 1\n";
        assert_eq!(first_cpu(text), "processor\t: 0\nflags\t: fpu");
        assert_eq!(first_cpu(""), "");
    }

    #[test]
    fn the_frequency_of_the_counter_is_part_of_a_cpu() {
        let of = |bogomips: &str| first_cpu(&format!("bogomips\t: {bogomips}\n\nprocessor\t: 1\n"));
        assert_eq!(of("5599.98"), "some 2800 MHz");
        assert_eq!(of("5600.31"), of("5599.98"));
        assert_eq!(of("5187.81"), of("5187.92"));
        assert_ne!(of("5187.81"), of("5199.99"));
        assert_eq!(of("none"), "some 0 MHz");
    }

    #[test]
    fn a_folder_that_others_may_replace_has_none_from_the_first_on() {
        let temp = tempfile::tempdir().unwrap();
        let guest = guest(temp.path());
        let shared = temp.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        let shape = Shape {
            vcpu_count: 1,
            memory_mib: 256,
            network: false,
            shares: false,
        };
        let templates = Templates(shared.join("templates"));
        for _ in 0..2 {
            let error = templates.find_or_make(&Launcher::Here, &guest, shape);
            let error = format!("{:#}", error.unwrap_err());
            assert!(error.starts_with("use a folder of templates: "), "{error}");
        }
    }

    #[test]
    fn unfinished_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let templates = Templates(folder.path().to_owned());
        for name in [".new-x", "half"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        for number in 0..TEMPLATES_MAX + 2 {
            let path = folder.path().join(format!("t{number:02}"));
            fs::create_dir(&path).unwrap();
            fs::write(path.join("state"), "").unwrap();
            fs::write(path.join("memory"), "").unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
            File::open(&path).unwrap().set_modified(time).unwrap();
        }
        templates.make_room().unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left.len(), TEMPLATES_MAX - 1, "room for one more: {left:?}");
        assert_eq!(left.first().unwrap(), "t03");
    }

    #[test]
    fn half_a_template_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(open(folder.path()).unwrap().is_none());
        fs::write(folder.path().join("state"), "{}").unwrap();
        assert!(open(folder.path()).unwrap().is_none());
        fs::write(folder.path().join("memory"), "").unwrap();
        assert!(open(folder.path()).unwrap().is_some());
    }
}
