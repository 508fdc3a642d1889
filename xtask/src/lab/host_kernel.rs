//! The kernel of the emulated host: Debian's own, found in /boot, or one below
//! `$BULKHEAD_LAB_KERNEL`, with the modules that the initramfs loads. `emulator` and `initramfs` call
//! it, `packages` asks whether there is one. It must not know how the kernel is started.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What the initramfs loads, in this order; what they depend on comes before each.
const MODULES: &[&str] = &[
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "virtio_blk",
    "crc32c_generic",
    "ext4",
    "overlay",
    "virtio_net",
    "kvm-amd",
    "tun",
    "fuse",
    "loop",
];

/// Not in every kernel: since Linux 6.15 the library that ext4 uses does without.
const OPTIONAL: &[&str] = &["crc32c_generic"];

/// Without these the machine's files can't be seen inside.
const ESSENTIAL: &[&str] = &["kernel/fs/9p/9p.ko", "kernel/arch/x86/kvm/kvm-amd.ko"];

/// Names a folder with `boot` and `lib/modules` of another kernel than this machine's, such as its
/// packages unpack to (`dpkg-deb -x`, then `depmod -b FOLDER RELEASE`).
const VARIABLE: &str = "BULKHEAD_LAB_KERNEL";

/// What an xz stream begins with (xz file format, 2.1.1.1).
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

/// How names of modules end that later releases of Debian ship. busybox's insmod can't load them.
const PACKED: &str = ".xz";

/// A module's name as a file and what is in it, unpacked.
///
/// # Errors
///
/// It can't be read or unpacked.
pub(crate) fn read_module(path: &Path) -> Result<(String, Vec<u8>)> {
    let name = path.file_name().context("a module has a name")?;
    let name = name.to_string_lossy();
    let Some(unpacked) = name.strip_suffix(PACKED) else {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        return Ok((name.into_owned(), bytes));
    };
    let output = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(path)
        .stderr(Stdio::inherit())
        .output()
        .context("start xz")?;
    if !output.status.success() {
        bail!("xz of {} ended with {}", path.display(), output.status);
    }
    Ok((unpacked.to_owned(), output.stdout))
}

/// A kernel and its modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostKernel {
    image: PathBuf,
    modules: PathBuf,
}

/// Finds the newest kernel whose modules are there and have what the lab needs.
///
/// # Errors
///
/// There is none.
pub(crate) fn find() -> Result<HostKernel> {
    let root = std::env::var_os(VARIABLE).filter(|folder| !folder.is_empty());
    let root = root.map_or_else(|| PathBuf::from("/"), PathBuf::from);
    find_in(&root.join("boot"), &root.join("lib/modules"))
}

fn find_in(boot: &Path, modules: &Path) -> Result<HostKernel> {
    let mut kernels = Vec::new();
    for entry in fs::read_dir(boot)
        .with_context(|| format!("list {}", boot.display()))?
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(release) = name.strip_prefix("vmlinuz-") else {
            continue;
        };
        let modules = modules.join(release);
        let is_there = |module: &&str| {
            let packed = format!("{module}{PACKED}");
            modules.join(module).exists() || modules.join(packed).exists()
        };
        if ESSENTIAL.iter().all(is_there) {
            kernels.push((
                version_key(release),
                HostKernel {
                    image: entry.path(),
                    modules,
                },
            ));
        }
    }
    kernels.sort_by(|(a, _), (b, _)| a.cmp(b));
    match kernels.pop() {
        Some((_, kernel)) => Ok(kernel),
        None => bail!(
            "no kernel in {} has the modules 9p and kvm-amd",
            boot.display()
        ),
    }
}

/// Numbers compare as numbers: 6.1.0-9 is older than 6.1.0-10.
fn version_key(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

impl HostKernel {
    /// The files to load, in order, as paths in the file system.
    ///
    /// # Errors
    ///
    /// modules.dep can't be read, or a module is neither in it nor built in.
    pub(crate) fn modules(&self) -> Result<Vec<PathBuf>> {
        let read = |name: &str| {
            let path = self.modules.join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let order = load_order(&read("modules.dep")?, &read("modules.builtin")?, MODULES)?;
        Ok(order
            .iter()
            .map(|module| self.modules.join(module))
            .collect())
    }

    /// The kernel to start: the ELF image inside the bzImage, unpacked once into `folder`, since
    /// an emulated CPU needs 3 s to unpack it; where that fails, the bzImage itself.
    pub(crate) fn bootable(&self, folder: &Path) -> PathBuf {
        self.unpack(folder).unwrap_or_else(|_| self.image.clone())
    }

    fn unpack(&self, folder: &Path) -> Result<PathBuf> {
        let release = self
            .modules
            .file_name()
            .context("modules folder has a name")?;
        let unpacked = folder
            .join("vmlinux-")
            .with_file_name(format!("vmlinux-{}", release.to_string_lossy()));
        let newer = |a: &Path, b: &Path| {
            Ok::<_, anyhow::Error>(a.metadata()?.modified()? > b.metadata()?.modified()?)
        };
        if newer(&unpacked, &self.image).unwrap_or(false) {
            return Ok(unpacked);
        }
        let image = fs::read(&self.image)?;
        let start = image
            .windows(XZ_MAGIC.len())
            .position(|window| window == XZ_MAGIC)
            .context("no xz stream")?;
        let temporary = tempfile::NamedTempFile::new_in(folder)?;
        let mut xz = Command::new("xz")
            .args(["--decompress", "--stdout", "--single-stream"])
            .stdin(Stdio::piped())
            .stdout(temporary.reopen()?)
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = xz.stdin.take() {
            // xz stops reading at the end of its stream; the rest of the image is not for it.
            let _ = std::io::Write::write_all(&mut stdin, &image[start..]);
        }
        // Its status is no help: it complains of what follows the stream. The ELF header tells.
        xz.wait()?;
        let head = fs::read(temporary.path())?;
        if !head.starts_with(b"\x7fELF") || head.len() < image.len() {
            bail!("what was unpacked is no ELF image");
        }
        temporary.persist(&unpacked)?;
        Ok(unpacked)
    }
}

/// Orders `wanted` and their dependencies by modules.dep; what is built in is left out.
fn load_order(dependencies: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut by_name = HashMap::new();
    for line in dependencies.lines() {
        if let Some((module, needs)) = line.split_once(':') {
            by_name.insert(
                module_name(module),
                (module, needs.split_whitespace().collect::<Vec<_>>()),
            );
        }
    }
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let name = name.replace('-', "_");
        let Some((module, needs)) = by_name.get(&name) else {
            let is_builtin = builtin.lines().any(|module| module_name(module) == name);
            if is_builtin || OPTIONAL.contains(&name.as_str()) {
                continue;
            }
            bail!("module {name} is neither in modules.dep nor in modules.builtin");
        };
        // modules.dep names the last to load first.
        for path in needs.iter().rev().chain([module]) {
            if !order.iter().any(|known| known == path) {
                order.push((*path).to_owned());
            }
        }
    }
    Ok(order)
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
kernel/arch/x86/kvm/kvm.ko: kernel/virt/lib/irqbypass.ko
kernel/arch/x86/kvm/kvm-amd.ko: kernel/drivers/crypto/ccp/ccp.ko kernel/arch/x86/kvm/kvm.ko kernel/virt/lib/irqbypass.ko
kernel/drivers/net/tun.ko:
";

    #[test]
    fn dependencies_come_first_and_once() {
        let order = load_order(DEPENDENCIES, "", &["tun", "kvm-amd", "kvm"]).expect("order");
        let names: Vec<_> = order.iter().map(|path| module_name(path)).collect();
        assert_eq!(names, ["tun", "irqbypass", "kvm", "ccp", "kvm_amd"]);
    }

    #[test]
    fn a_module_that_is_built_in_is_left_out_and_an_unknown_one_is_an_error() {
        let builtin = "kernel/fs/ext4/ext4.ko\n";
        assert!(
            load_order(DEPENDENCIES, builtin, &["ext4"])
                .expect("order")
                .is_empty()
        );
        assert!(
            load_order(DEPENDENCIES, builtin, OPTIONAL)
                .expect("order")
                .is_empty()
        );
        let error = load_order(DEPENDENCIES, builtin, &["9p"]).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "module 9p is neither in modules.dep nor in modules.builtin"
        );
    }

    #[test]
    fn a_module_that_is_packed_is_unpacked() {
        let folder = tempfile::tempdir().expect("tempdir");
        let plain = folder.path().join("a.ko");
        fs::write(&plain, "module").expect("write");
        let read = |path: &Path| read_module(path).expect("read");
        let module = ("a.ko".to_owned(), b"module".to_vec());
        assert_eq!(read(&plain), module);
        let packed = Command::new("xz").arg(&plain).status().expect("xz");
        assert!(packed.success());
        assert_eq!(read(&folder.path().join("a.ko.xz")), module);
        fs::write(&plain, "").expect("write");
        fs::write(folder.path().join("b.ko.xz"), "none").expect("write");
        assert!(read_module(&folder.path().join("b.ko.xz")).is_err());
    }

    #[test]
    fn the_newest_kernel_with_the_modules_is_taken() {
        let root = tempfile::tempdir().expect("tempdir");
        for (release, complete) in [
            ("6.1.0-9-amd64", true),
            ("6.1.0-10-amd64", true),
            ("6.12.1-cloud", false),
        ] {
            fs::create_dir_all(root.path().join("boot")).expect("boot");
            fs::write(
                root.path().join("boot").join(format!("vmlinuz-{release}")),
                "",
            )
            .expect("image");
            for module in ESSENTIAL.iter().filter(|_| complete) {
                let path = root.path().join("modules").join(release).join(module);
                fs::create_dir_all(path.parent().expect("parent")).expect("folder");
                fs::write(path, "").expect("module");
            }
        }
        let kernel =
            find_in(&root.path().join("boot"), &root.path().join("modules")).expect("kernel");
        assert!(
            kernel.image.ends_with("vmlinuz-6.1.0-10-amd64"),
            "{kernel:?}"
        );
    }
}
