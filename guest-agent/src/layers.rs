//! An image's layers under a writable one: the container's root file system.
//!
//! Called by [`crate::container`] once, and by [`crate::build`] for each step. The image device holds every layer's EROFS end to end; each
//! becomes a partition that only this kernel knows, is mounted, and goes under one overlay. The
//! agent's own tree shows none of it afterwards: the overlay keeps what it needs alive.
//!
//! ```text
//! upperdir   ext4 on the second disk, or a tmpfs
//! lowerdir   init layer        (tmpfs, see init_layer)
//!            sealed layers     (of a build's earlier steps, on the second disk)
//!            layers            (EROFS each, the highest first)
//! ```
// BLKPG has no safe wrapper.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_longlong, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use protocol::spec::{LayerExtent, RunSpec, StepSource};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, mkdirat, open, openat, statat,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::failure::{Context, Failure};
use crate::init_layer::{self, InitLayer, Places};
use crate::mount::{self, Detached, Setup};
use crate::paths::{self, Want};
use crate::shares::Share;
use crate::wake;

/// The image device, read-only.
const IMAGE_DEVICE: &str = "/dev/vda";

/// The disk of the writable layer.
const UPPER_DEVICE: &str = "/dev/vdb";

/// Where the layers are mounted while the overlay is being made; an empty directory.
pub const STAGE: &str = "/stage";

/// Place inside the stage on which every layer is mounted, one over the other: the overlay takes
/// the mount that is on top at that moment.
const SLOT: &str = "/stage/slot";

/// Place of the writable disk meanwhile.
const DISK: &str = "/stage/disk";

/// Directory of the writable disk that is overlayfs's own.
const WORK: &str = "work";

/// Directory of the writable disk with what is written.
pub const UPPER: &str = "upper";

/// Directory of the writable disk with what steps of a build wrote before.
pub const SEALED: &str = "sealed";

/// Directory of the writable disk with what steps of a build are to see besides.
pub const SCRATCH: &str = "scratch";

/// Layers of one image; Docker's own limit is 127, and a partition of the image device is numbered
/// by a byte.
const MAX_LAYERS: usize = 255;

/// The root file system of a container and what must be kept of its making.
#[derive(Debug)]
pub struct Stack {
    /// The overlay.
    pub root: Detached,
    /// Files to mount over the container's own.
    pub init_layer: InitLayer,
    /// The writable layer as it is on its disk.
    pub changes: OwnedFd,
    /// What a step of a build sees besides.
    pub step_mounts: Vec<Share>,
    upper: Option<Detached>,
}

impl Stack {
    /// Writes everything back and leaves the writable disk clean. No process of the container may
    /// be left.
    ///
    /// # Errors
    /// `EBUSY` when something is still open for writing; everything is written back even so.
    pub fn finish(&self) -> Result<(), Errno> {
        match &self.upper {
            Some(upper) => upper.freeze_file_system().inspect_err(|_| {
                rustix::fs::sync();
            }),
            None => Ok(()),
        }
    }

    /// The writable disk without the overlay on it.
    #[must_use]
    pub fn into_disk(self) -> Option<Detached> {
        self.upper
    }

    /// The writable disk, if it is one.
    #[must_use]
    pub fn disk(&self) -> Option<BorrowedFd<'_>> {
        self.upper.as_ref().map(AsFd::as_fd)
    }
}

/// Mounts the layers and the overlay over them.
///
/// # Errors
/// A device that is missing, a layer that is no EROFS, an upper disk that is no ext4.
pub fn stack(spec: &RunSpec, places: Places) -> Result<Stack, Failure> {
    if spec.layers.len() > MAX_LAYERS {
        return Err(Failure::bad_config(format!(
            "{} layers, the limit is {MAX_LAYERS}",
            spec.layers.len()
        )));
    }
    let disk = spec.upper_disk.then(mount_upper_disk).transpose()?;
    let stage = make_stage()?;
    if let Some(disk) = &disk {
        disk.attach_at(DISK)
            .context(|| format!("attach {UPPER_DEVICE}"))?;
    }
    let lower = lower(spec, stage, disk.as_ref(), places)?;
    let (overlay, stage) = (&lower.overlay, lower.stage.as_fd());
    let (place, path) = match &disk {
        Some(disk) => (disk.as_fd(), DISK),
        None => (stage, STAGE),
    };
    let changes = make_upper(place)?;
    overlay.value("upperdir", &format!("{path}/{UPPER}"))?;
    overlay.value("workdir", &format!("{path}/{WORK}"))?;
    let root = overlay.create(MountAttrFlags::empty())?;
    let step_mounts = step_mounts(spec, stage, disk.as_ref())?;
    mount::detach(STAGE).context(|| "detach the stage".into())?;
    Ok(Stack {
        root,
        init_layer: lower.init_layer,
        changes,
        step_mounts,
        upper: disk,
    })
}

/// The root file system as it was before the container changed anything, read-only.
///
/// To be called in a mount namespace of the caller's own, while the layers are stacked already.
///
/// # Errors
/// As [`stack`].
pub fn unchanged(spec: &RunSpec) -> Result<Detached, Failure> {
    let lower = lower(spec, make_stage()?, None, Places::All)?;
    if lower.layers.is_empty() {
        // An overlay without an upper layer wants two; the init layer is all there is.
        return Detached::clone_of(lower.stage.as_fd(), "init")
            .context(|| "clone the init layer".into());
    }
    lower.overlay.create(MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// What is below the writable layer, and an overlay that knows it so far.
struct Lower {
    overlay: Setup,
    stage: Detached,
    /// The highest first.
    layers: Vec<OwnedFd>,
    init_layer: InitLayer,
}

/// `disk` is the writable one, attached at [`DISK`], where earlier steps of a build have left layers.
fn lower(
    spec: &RunSpec,
    stage: Detached,
    disk: Option<&Detached>,
    places: Places,
) -> Result<Lower, Failure> {
    wake::wait_for_disk(IMAGE_DEVICE)?;
    let overlay = Setup::new("overlay", "overlay")?;
    // Never follow what a layer's xattrs may say of other places, and never make such xattrs. One
    // device number for all files, as on Docker, whose layers lie on one file system.
    for (key, value) in [
        ("redirect_dir", "nofollow"),
        ("metacopy", "off"),
        ("index", "off"),
        ("nfs_export", "off"),
        ("xino", "on"),
        ("uuid", "null"),
    ] {
        overlay.value(key, value)?;
    }
    overlay.value("lowerdir+", &format!("{STAGE}/init"))?;
    let mut layers = Vec::with_capacity(spec.layers.len());
    if let Some(disk) = disk {
        for number in (0..spec.sealed).rev() {
            let path = format!("{SEALED}/{number}");
            overlay.value("lowerdir+", &format!("{DISK}/{path}"))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let layer = openat(disk, path, flags, Mode::empty());
            layers.push(layer.context(|| format!("open the layer of step {number}"))?);
        }
    }
    for (device, extent) in devices(&spec.layers)?.iter().zip(&spec.layers).rev() {
        let layer = mount_layer(device).map_err(|failure| Failure {
            message: format!("layer at {}: {failure}", extent.offset),
            ..failure
        })?;
        overlay.value("lowerdir+", SLOT)?;
        layers.push(layer.into());
    }
    let roots: Vec<BorrowedFd<'_>> = layers.iter().map(AsFd::as_fd).collect();
    let init_layer = init_layer::build(stage.as_fd(), &roots, spec, places)?;
    Ok(Lower {
        overlay,
        stage,
        layers,
        init_layer,
    })
}

/// A tmpfs in the agent's tree for the init layer, the slot and, without a disk, the upper layer.
fn make_stage() -> Result<Detached, Failure> {
    let stage = Setup::new("tmpfs", "tmpfs")?.create(MountAttrFlags::empty())?;
    stage
        .attach_at(STAGE)
        .context(|| format!("mount {STAGE}"))?;
    for (name, mode) in [("slot", 0o700), ("disk", 0o700), ("init", 0o755)] {
        mkdirat(&stage, name, Mode::from_raw_mode(mode))
            .context(|| format!("make {STAGE}/{name}"))?;
    }
    Ok(stage)
}

fn mount_layer(device: &str) -> Result<Detached, Failure> {
    let erofs = Setup::new("erofs", device)?;
    erofs.flag("ro")?;
    let layer = erofs.create(MountAttrFlags::empty())?;
    layer
        .attach_at(SLOT)
        .context(|| format!("attach {device}"))?;
    Ok(layer)
}

fn mount_upper_disk() -> Result<Detached, Failure> {
    wake::wait_for_disk(UPPER_DEVICE)?;
    let ext4 = Setup::new("ext4", UPPER_DEVICE)?;
    // The disk's file on the host is sparse: zeroing unused inode tables would fill it.
    ext4.flag("noinit_itable")?;
    ext4.create(MountAttrFlags::empty())
}

/// What a step of a build sees besides, while the stage is attached.
fn step_mounts(
    spec: &RunSpec,
    stage: BorrowedFd<'_>,
    disk: Option<&Detached>,
) -> Result<Vec<Share>, Failure> {
    let mut shares = Vec::with_capacity(spec.step_mounts.len());
    for (index, mount) in spec.step_mounts.iter().enumerate() {
        let about = || format!("mount {}", mount.target);
        let source = match &mount.source {
            StepSource::Scratch { number, path } => {
                let disk = disk.ok_or_else(|| Failure::other("there is no writable disk"))?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let aside = openat(disk, format!("{SCRATCH}/{number}"), flags, Mode::empty())
                    .context(about)?;
                match paths::open(aside.as_fd(), path, Want::Directory) {
                    Err(Errno::NOTDIR) => paths::open(aside.as_fd(), path, Want::NewFile),
                    found => found,
                }
                .config(|| format!("mount {}: find {path:?}", mount.target))?
            }
            StepSource::Secret {
                content,
                mode,
                uid,
                gid,
            } => {
                let name = format!("secret-{index}");
                init_layer::write(stage, &name, (*mode).into(), content)?;
                let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
                chownat(stage, &name, Some(uid), Some(gid), AtFlags::empty()).context(about)?;
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(stage, name, flags, Mode::empty()).context(about)?
            }
        };
        let status = statat(&source, "", AtFlags::EMPTY_PATH).context(about)?;
        let view = Detached::clone_of(source.as_fd(), "").context(about)?;
        if mount.read_only {
            view.make_read_only().context(about)?;
        }
        shares.push(Share {
            target: mount.target.clone(),
            mount: view,
            is_directory: FileType::from_raw_mode(status.st_mode) == FileType::Directory,
        });
    }
    Ok(shares)
}

/// The two directories that an overlay wants. The upper one is the container's `/`, which is root's and
/// entered by all, whatever a layer says of its own, as with Docker. It is returned.
fn make_upper(disk: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    match mkdirat(disk, WORK, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).context(|| "make the work directory".into()),
    }
    match mkdirat(disk, UPPER, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).context(|| "make the upper directory".into()),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(disk, UPPER, flags, Mode::empty()).context(|| "open the upper directory".into())
}

/// A block device for each layer. One layer at the start needs no partition.
fn devices(layers: &[LayerExtent]) -> Result<Vec<String>, Failure> {
    if let [LayerExtent { offset: 0, .. }] = layers {
        return Ok(vec![IMAGE_DEVICE.to_owned()]);
    }
    let disk = open(
        IMAGE_DEVICE,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(|| format!("open {IMAGE_DEVICE}"))?;
    (1..)
        .zip(layers)
        .map(|(number, extent)| {
            let added = match add_partition(&disk, number, *extent) {
                // Made when the layers were stacked first.
                Err(Errno::BUSY) => Ok(()),
                added => added,
            };
            added.context(|| {
                let LayerExtent { offset, len } = extent;
                format!("make partition {number} of {len} bytes at {offset}")
            })?;
            Ok(format!("{IMAGE_DEVICE}{number}"))
        })
        .collect()
}

/// `struct blkpg_partition` (Linux uapi/linux/blkpg.h).
#[repr(C)]
struct Partition {
    start: c_longlong,
    length: c_longlong,
    number: c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct PartitionRequest {
    operation: c_int,
    flags: c_int,
    data_len: c_int,
    data: *mut c_void,
}

/// Makes the kernel treat a part of a disk as a device of its own; nothing is written to the disk.
fn add_partition(disk: &OwnedFd, number: c_int, extent: LayerExtent) -> Result<(), Errno> {
    /// `BLKPG`, `_IO(0x12, 105)`
    const BLKPG: libc::c_ulong = 0x1269;
    const ADD_PARTITION: c_int = 1;
    let mut partition = Partition {
        start: extent.offset.try_into().map_err(|_| Errno::OVERFLOW)?,
        length: extent.len.try_into().map_err(|_| Errno::OVERFLOW)?,
        number,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let request = PartitionRequest {
        operation: ADD_PARTITION,
        flags: 0,
        data_len: c_int::try_from(size_of::<Partition>()).map_err(|_| Errno::OVERFLOW)?,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: the descriptor is open; the request and the partition that it points to have the
    // kernel's layout and live over the call.
    let answer = unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const request) };
    if answer != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}
