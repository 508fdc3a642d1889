//! The disks of a VM: layer disks, made once per layer inside a converter VM, and the blank
//! writable disk of a container.
//!
//! The host never looks into a layer or into what a converter VM made of it: it hands a blob in
//! as one disk, takes another disk back, and keeps it under the name of what it came from.
//! Called by `run`, `start` and `system share`, and by those who start a VM: the supervisor, builds,
//! [`super::access`] and [`super::decompress`].

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use images::layers::Begin;
use images::store::StoreError;
use images::{Layer, LayerDisk, LayerDisks, LayerKey, Store};
use protocol::message::{Converted, Event, Request};
use protocol::spec::{Compression, ConvertLimits, ConvertSpec, LayerExtent};

use super::agent::{AgentError, AgentLink};
use super::control_group::{ControlGroup, CpuShare};
use super::launch::Launch;
use super::launcher::Launcher;
use super::paths::{self, GuestFiles, Root};
use super::state::Folder;
use super::vm::{self, DISK_ALIGNMENT, DiskSource, RunningVm, Segment, VmRequest};

/// Memory of a converter VM in MiB: the layer's tree is held in memory while it is built, some
/// 300 bytes an entry, so that this is enough for the most entries a layer may have.
pub(super) const CONVERTER_MEMORY_MIB: u32 = 2048;

/// One vCPU unpacks, the other decompresses.
const CONVERTER_VCPUS_MAX: u8 = 2;

/// A file system with less room is full: a converter writes a MiB at a time.
const FULL_BYTES: u64 = 8 << 20;

/// Converters at once: each may take its memory, and more than a few wait for the same disk.
const CONVERTERS_MAX: usize = 4;

/// Limits of one layer. The largest public images have layers of some 30 GiB and a million files;
/// a bomb beyond that ends with a sentence and not with a full disk.
pub(super) const LAYER_LIMITS: ConvertLimits = ConvertLimits {
    tar_bytes: 64 << 30,
    image_bytes: 64 << 30,
    entries: 4_000_000,
};

/// How long a converter is waited for.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// From one word to the next.
    silence: Duration,
    /// Without a further byte of the blob, whatever it says.
    stall: Duration,
    /// In all.
    whole: Duration,
}

/// Longer than anything takes in which nothing is wrong. It reports every 64 MiB, and its flush at the end
/// waits for the host's disk. [`LAYER_LIMITS`] of zeros are a few hundred KiB of a blob, read at once and
/// unpacked at some 36 MiB/s then; the whole is theirs at less than a MiB/s.
const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(300),
    stall: Duration::from_secs(1800),
    whole: Duration::from_secs(24 * 3600),
};

/// What happens while layers are made ready: index of the layer, number of layers, bytes read,
/// bytes of its blob. Several layers at once call it.
pub type ConvertProgress<'a> = &'a (dyn Fn(usize, usize, u64, u64) + Sync);

/// Makes the disk of every layer that has none yet, lowest first, as many at once as there are
/// CPUs, up to [`CONVERTERS_MAX`].
///
/// # Errors
/// When a layer is corrupt, exceeds a limit, or can't be stored; the message names the layer. No
/// other layer is begun then.
pub fn prepare_layers(
    root: &Root,
    guest: &GuestFiles,
    store: &Store,
    layers: &[Layer],
    progress: ConvertProgress,
) -> Result<()> {
    let disks = store.layer_disks()?;
    let mut missing = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        if disks.get(&layer.key())?.is_none() {
            missing.push((index, layer));
        }
    }
    let missing_count = missing.len();
    let queue = Mutex::new(missing.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<()> {
        while let Some((index, layer)) = next() {
            let tell = |bytes| progress(index, layers.len(), bytes, layer.size);
            let converted = convert(root, guest, store, &disks, layer, &tell);
            if converted.is_err() {
                // The others finish what they have begun.
                while next().is_some() {}
            }
            converted.with_context(|| format!("unpack layer {}", layer.diff_id))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        // Fewer at once where the host has no further thread.
        let others: Vec<_> = (1..cpu_count().min(CONVERTERS_MAX).min(missing_count))
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut result = work();
        for other in others {
            let end = other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(end);
        }
        result
    })
}

/// CPUs that this process may use.
fn cpu_count() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Unpacks one layer in a VM of its own and stores its disk.
fn convert(
    root: &Root,
    guest: &GuestFiles,
    store: &Store,
    disks: &LayerDisks,
    layer: &Layer,
    progress: &dyn Fn(u64),
) -> Result<LayerDisk> {
    let pending = match disks.begin(&layer.key())? {
        Begin::Ready(disk) => return Ok(disk),
        Begin::Pending(pending) => pending,
    };
    let output = pending.file().try_clone().context("share the layer disk")?;
    output
        .set_len(LAYER_LIMITS.image_bytes)
        .context("size the layer disk")?;
    let blob = store.blob(&layer.blob)?;
    let blob_bytes = blob.metadata().context("read the size of the blob")?.len();
    let spec = ConvertSpec {
        blob_bytes,
        compression: compression(layer.compression),
        diff_id: layer.diff_id.hex().to_owned(),
        limits: LAYER_LIMITS,
    };
    let mut log = tempfile::tempfile().context("create the converter's log")?;
    let disks = vec![
        DiskSource::ReadOnly(vec![Segment {
            file: blob,
            len: blob_bytes,
        }]),
        DiskSource::Writable {
            file: output,
            bytes: LAYER_LIMITS.image_bytes,
            durable: false,
        },
    ];
    let mut vm = start_converter(root, guest, disks, Vec::new(), &log)?;
    let converted = match converse(&mut vm.agent, spec, PATIENCE, progress) {
        Ok(converted) => converted,
        Err(error) if error.is::<AgentError>() => return Err(vm.post_mortem(&error, &mut log)),
        Err(error) => {
            // To the guest, a full disk of the host is a disk that fails.
            return Err(if is_full(pending.file()) {
                error.context("no space left for layer disks")
            } else {
                error
            });
        }
    };
    drop(vm);
    let len = converted.image_bytes;
    if len == 0 || len > LAYER_LIMITS.image_bytes {
        bail!("the agent reports a layer disk of {len} bytes");
    }
    Ok(pending.commit(len)?)
}

/// Starts a VM that works on a stranger's bytes. All have one shape, and so one template.
///
/// # Errors
/// As [`RunningVm::spawn`].
pub(super) fn start_converter(
    root: &Root,
    guest: &GuestFiles,
    disks: Vec<DiskSource>,
    stream_ports: Vec<u32>,
    log: &File,
) -> Result<RunningVm> {
    let vcpus = u8::try_from(cpu_count()).unwrap_or(u8::MAX);
    let vcpu_count = vcpus.min(CONVERTER_VCPUS_MAX);
    let limits = vm::limits(root, vcpu_count, CONVERTER_MEMORY_MIB, CpuShare::default());
    RunningVm::spawn(
        &Launcher::Here,
        root,
        guest,
        VmRequest {
            // It reaches nobody.
            card: None,
            vcpu_count,
            memory_mib: CONVERTER_MEMORY_MIB,
            group: ControlGroup::make(limits)?,
            host_cpus: Vec::new(),
            disks,
            stream_ports,
            shares: Vec::new(),
            log: log.try_clone().context("share the converter's log")?,
        },
    )
}

/// Whether the file system of `file` has hardly any room.
fn is_full(file: &File) -> bool {
    nix::sys::statvfs::fstatvfs(file).is_ok_and(|status| {
        let free = status.blocks_available() * status.fragment_size();
        free < FULL_BYTES
    })
}

/// Has the agent of a converter VM unpack, and hands on how far it says it is.
fn converse(
    agent: &mut AgentLink,
    spec: ConvertSpec,
    patience: Patience,
    progress: &dyn Fn(u64),
) -> Result<Converted> {
    let blob_bytes = spec.blob_bytes;
    let begun = Instant::now();
    agent.greet(Some(begun + patience.silence.min(patience.whole)))?;
    agent.send(&Request::Convert(Box::new(spec)))?;
    // How much of the blob was told, and when that last was more than before.
    let (mut told, mut grown) = (0, begun);
    loop {
        let deadlines = [
            Instant::now() + patience.silence,
            grown + patience.stall,
            begun + patience.whole,
        ];
        match agent.next(deadlines.into_iter().min())? {
            Event::Converting { bytes } if (told..=blob_bytes).contains(&bytes) => {
                if bytes > told {
                    (told, grown) = (bytes, Instant::now());
                }
                progress(bytes);
            }
            Event::Converted(converted) => return Ok(converted),
            Event::Failed { message, .. } => bail!("{}", super::printable(&message)),
            other => bail!(super::unexpected(&other)),
        }
    }
}

pub(super) fn compression(of: images::Compression) -> Compression {
    match of {
        images::Compression::None => Compression::None,
        images::Compression::Gzip => Compression::Gzip,
        images::Compression::Zstd => Compression::Zstd,
        images::Compression::Sniff => Compression::Sniff,
    }
}

/// The disks of a container's VM: its layers end to end, and the writable one, which is made when it
/// is missing. Also where the layers lie on the first.
///
/// # Errors
/// When a layer's disk is missing, or a file can't be opened or made.
pub fn of_container(
    root: &Root,
    folder: &Folder,
    launch: &Launch,
) -> Result<(Vec<LayerExtent>, Vec<DiskSource>)> {
    let (extents, image) = of_layers(root, &launch.layers)?;
    let path = folder.upper();
    let mut open = OpenOptions::new();
    // A supervisor may write in this folder: a link there would give a VM another file.
    open.read(true).write(true).custom_flags(libc::O_NOFOLLOW);
    let upper = match open.open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            create_writable(root, &path, launch.writable_bytes)?
        }
        other => other.with_context(|| format!("open {}", path.display()))?,
    };
    let writable = DiskSource::Writable {
        file: upper,
        bytes: launch.writable_bytes,
        durable: !launch.auto_remove,
    };
    Ok((extents, vec![image, writable]))
}

/// The disks of a VM that leaves nothing: layers end to end, and a writable one that goes with it.
/// Also where the layers lie on the first.
///
/// # Errors
/// As [`of_container`].
pub fn for_a_while(
    root: &Root,
    layers: &[LayerKey],
    writable_bytes: u64,
) -> Result<(Vec<LayerExtent>, Vec<DiskSource>)> {
    let (extents, image) = of_layers(root, layers)?;
    // Without a name, so that nothing is left of it whatever happens.
    let file = tempfile::tempfile_in(root.disks()).context("create a writable disk")?;
    fill_blank(root, &file, writable_bytes)?;
    let writable = DiskSource::Writable {
        file,
        bytes: writable_bytes,
        durable: false,
    };
    Ok((extents, vec![image, writable]))
}

/// Layers end to end, and where they lie.
fn of_layers(root: &Root, layers: &[LayerKey]) -> Result<(Vec<LayerExtent>, DiskSource)> {
    let disks = LayerDisks::at(&Store::layers_of(&root.images()));
    let (mut extents, mut segments) = (Vec::new(), Vec::new());
    let mut offset = 0;
    for key in layers {
        let disk = disks.get(key)?.with_context(|| {
            let id = key.diff_id;
            format!("the disk of layer {id} is missing\nhint: bulkhead start unpacks it again")
        })?;
        extents.push(LayerExtent {
            offset,
            len: disk.len,
        });
        offset += disk.len.next_multiple_of(DISK_ALIGNMENT);
        segments.push(Segment {
            file: disk.file,
            len: disk.len,
        });
    }
    if segments.is_empty() {
        // The writable disk is the second one, also of an image without layers.
        segments.push(Segment {
            file: empty()?,
            len: DISK_ALIGNMENT,
        });
    }
    Ok((extents, DiskSource::ReadOnly(segments)))
}

/// The disks of a VM that has no use for any: each has as many as its template.
///
/// # Errors
/// When a file can't be made.
pub(super) fn unused() -> Result<Vec<DiskSource>> {
    Ok(vec![
        DiskSource::ReadOnly(vec![Segment {
            file: empty()?,
            len: DISK_ALIGNMENT,
        }]),
        DiskSource::Writable {
            file: empty()?,
            bytes: DISK_ALIGNMENT,
            durable: false,
        },
    ])
}

/// A file without a name that is a disk of zeros.
fn empty() -> Result<File> {
    let file = tempfile::tempfile().context("create an empty disk")?;
    file.set_len(DISK_ALIGNMENT)
        .context("create an empty disk")?;
    Ok(file)
}

/// Makes the disks of a container's layers that root shared once, and shares no more. A supervisor could
/// not: who starts a container does it before.
///
/// # Errors
/// When the image is gone, too, or as [`prepare_layers`].
pub fn ensure(root: &Root, layers: &[LayerKey]) -> Result<()> {
    let store = Store::open(&root.images())?;
    let disks = store.layer_disks()?;
    for key in layers {
        if disks.get(key)?.is_none() {
            again(root, &store, &disks, key)?;
        }
    }
    Ok(())
}

fn again(root: &Root, store: &Store, disks: &LayerDisks, key: &LayerKey) -> Result<LayerDisk> {
    let blob = match store.blob(&key.blob) {
        Ok(blob) => blob,
        Err(StoreError::NoBlob(_)) => bail!(
            "the disk of layer {} is missing, and so is the image's layer\n\
             hint: pull or load the image again",
            key.diff_id
        ),
        Err(error) => return Err(error.into()),
    };
    let layer = Layer {
        blob: key.blob,
        diff_id: key.diff_id,
        compression: images::Compression::Sniff,
        size: blob.metadata().context("read the size of the blob")?.len(),
    };
    convert(root, &GuestFiles::find()?, store, disks, &layer, &|_| {})
        .with_context(|| format!("unpack layer {}", key.diff_id))
}

/// Makes `path` a blank ext4 of `bytes`, sparse. The blank of each size is made once by `mke2fs`
/// and copied from then on; no guest has ever written to it. The caller holds the container's lock.
///
/// # Errors
/// When `mke2fs` is missing or the disk is full; there is nothing at `path` then.
fn create_writable(root: &Root, path: &Path, bytes: u64) -> Result<File> {
    let about = || format!("create the writable disk {}", path.display());
    // What has the disk's name is taken for a whole one, whatever happened to who made it.
    let unfinished = path.with_extension(UNFINISHED);
    remove_if_there(&unfinished).with_context(about)?;
    let target = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .with_context(about)?;
    let filled = fill_blank(root, &target, bytes)
        .and_then(|()| std::fs::rename(&unfinished, path).context("name it"));
    if filled.is_err() {
        let _ = remove_if_there(&unfinished);
    }
    filled.with_context(about)?;
    Ok(target)
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a new file a blank ext4.
fn fill_blank(root: &Root, target: &File, bytes: u64) -> Result<()> {
    let blank = root.disks().join(format!("blank-{bytes}.ext4"));
    let source = match open_blank(&blank)? {
        Some(file) => file,
        None => make_blank(&root.disks(), &blank, bytes)?,
    };
    copy_sparse(&source, target, bytes)
}

/// File system features of a blank disk: no reserved blocks (no user of the guest is more equal),
/// inode tables and journal left unwritten until used, a small journal.
const MKE2FS: [&str; 12] = [
    "-q",
    "-F",
    "-t",
    "ext4",
    "-m",
    "0",
    "-J",
    "size=8",
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
    "-O",
    "^resize_inode",
];

/// How the name of a writable disk ends that is being made, or that nobody finished.
const UNFINISHED: &str = "new";

/// What begins the names of blank disks that are being made, or that nobody finished.
const NEW_BLANK: &str = ".blank-";

fn open_blank(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("open {}", path.display())),
    }
}

fn make_blank(folder: &Path, path: &Path, bytes: u64) -> Result<File> {
    // One at a time, so that what is half made is of a process that was killed.
    let _alone = paths::lock(folder)?;
    if let Some(made_meanwhile) = open_blank(path)? {
        return Ok(made_meanwhile);
    }
    remove_unfinished(folder)?;
    let file = tempfile::Builder::new()
        .prefix(NEW_BLANK)
        .tempfile_in(folder)
        .context("create a blank disk")?;
    file.as_file().set_len(bytes).context("size a blank disk")?;
    let output = Command::new("mke2fs")
        .args(MKE2FS)
        .arg(file.path())
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            let hint = "install it (sudo apt-get install e2fsprogs)";
            anyhow!("run mke2fs: {error}\nhint: {hint}")
        })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("mke2fs for a disk of {bytes} bytes: {}", text.trim());
    }
    file.as_file().sync_all().context("write a blank disk")?;
    file.persist(path).context("keep a blank disk")?;
    File::open(path).with_context(|| format!("open {}", path.display()))
}

/// Removes blank disks that nobody finished. The caller holds the folder's lock.
fn remove_unfinished(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).context("read the blank disks")? {
        let entry = entry.context("read the blank disks")?;
        if entry.file_name().to_string_lossy().starts_with(NEW_BLANK) {
            std::fs::remove_file(entry.path()).context("remove an unfinished blank disk")?;
        }
    }
    Ok(())
}

/// Copies the data of `source` and leaves its holes; shares the blocks where the host can.
fn copy_sparse(source: &File, target: &File, bytes: u64) -> Result<()> {
    use nix::errno::Errno;
    use nix::unistd::{Whence, lseek};

    target.set_len(bytes)?;
    let mut at: i64 = 0;
    loop {
        let start = match lseek(source, at, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => return Ok(()),
            Err(error) => return Err(error).context("find data"),
        };
        let end = lseek(source, start, Whence::SeekHole).context("find a hole")?;
        let (mut from, mut to) = (start, start);
        while from < end {
            let left = usize::try_from(end - from).context("copy a range")?;
            let copied =
                nix::fcntl::copy_file_range(source, Some(&mut from), target, Some(&mut to), left)
                    .context("copy a range")?;
            if copied == 0 {
                bail!("copy a range: the source ended");
            }
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a full disk and a killed supervisor leave it.
    #[test]
    fn a_writable_disk_has_its_name_when_it_is_whole() {
        let home = tempfile::tempdir().unwrap();
        let root = Root::at(home.path().to_owned());
        std::fs::create_dir_all(root.disks()).unwrap();
        let path = home.path().join("upper.img");
        let blank = root.disks().join("blank-4096.ext4");
        std::fs::create_dir(&blank).unwrap();
        create_writable(&root, &path, 4096).unwrap_err();
        std::fs::remove_dir(&blank).unwrap();
        let names = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
        assert_eq!(names(home.path()), 1, "more than the folder of blanks");
        std::fs::write(&blank, [7; 4096]).unwrap();
        std::fs::write(path.with_extension(UNFINISHED), "half").unwrap();
        create_writable(&root, &path, 4096).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [7; 4096]);
        assert!(!path.with_extension(UNFINISHED).exists());
    }

    #[test]
    fn only_unfinished_blanks_go() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".blank-x", "blank-1.ext4"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        remove_unfinished(folder.path()).unwrap();
        assert!(!folder.path().join(".blank-x").exists());
        assert!(
            open_blank(&folder.path().join("blank-1.ext4"))
                .unwrap()
                .is_some()
        );
        assert!(
            open_blank(&folder.path().join("blank-2.ext4"))
                .unwrap()
                .is_none()
        );
    }

    /// What comes of a converter whose agent says these events, the last one again and again.
    fn told(events: &[Event], patience: Patience) -> Result<Converted> {
        let (ours, mut guest) = std::os::unix::net::UnixStream::pair().unwrap();
        let words: Vec<_> = events
            .iter()
            .map(|event| protocol::frame::encode(event).unwrap())
            .collect();
        let spec = ConvertSpec {
            blob_bytes: 100,
            compression: Compression::None,
            diff_id: String::new(),
            limits: LAYER_LIMITS,
        };
        thread::scope(|scope| {
            scope.spawn(move || {
                use std::io::Write;
                let again = words.iter().chain(words.last().into_iter().cycle());
                for word in again {
                    // The host has enough of it.
                    if guest.write_all(word).is_err() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let mut agent = AgentLink::new(ours);
            let end = converse(&mut agent, spec, patience, &|_| {});
            drop(agent);
            end
        })
    }

    fn hello() -> Event {
        Event::Hello {
            version: protocol::PROTOCOL_VERSION,
            kernel: String::new(),
            boottime_ns: 0,
        }
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(30);

    #[test]
    fn a_converter_that_gets_nowhere_is_not_waited_for() {
        let converting = |bytes| Event::Converting { bytes };
        let patience = |stall, whole| Patience {
            silence: LONG,
            stall,
            whole,
        };
        for patience in [patience(SHORT, LONG), patience(LONG, SHORT)] {
            let error = told(&[hello(), converting(7)], patience).unwrap_err();
            let is_timeout = matches!(error.downcast_ref(), Some(AgentError::Timeout));
            assert!(is_timeout, "{error}");
        }
    }

    #[test]
    fn a_converter_is_taken_at_its_word_only_in_order() {
        let converted = Converted {
            image_bytes: 4096,
            inodes: 1,
            tar_bytes: 1024,
        };
        let converting = |bytes| Event::Converting { bytes };
        let done = Event::Converted(converted);
        let honest = [hello(), converting(7), converting(100), done.clone()];
        assert_eq!(told(&honest, PATIENCE).unwrap(), converted);
        for events in [
            &[hello(), hello()][..],
            &[hello(), converting(101)],
            &[hello(), converting(7), converting(6)],
            &[hello(), Event::Bye],
            &[done],
        ] {
            let error = told(events, PATIENCE).unwrap_err().to_string();
            assert!(error.contains("broke the protocol"), "{error}");
        }
    }
}
