//! Layer disks that root shares: users use them, keep none of their own, and can't change them. They are
//! every user's of this host, so that no other test runs meanwhile.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::{ALICE, BOB, Tenant, below};
use crate::tenant::{GroupsDevice, needs_root};
use crate::world::World;

crate::tests![
    what_root_shares_is_used_and_nobody_else_can_change_it,
    what_is_shared_no_more_is_unpacked_again,
];

/// How the names of this file's tests begin.
pub(crate) const NAME: &str = "tenants::sharing::";

/// Where root shares layer disks, until it is dropped.
struct Shared(&'static str);

impl Shared {
    fn new() -> Result<Self> {
        let shared = Self("/var/lib/bulkhead-layers");
        ensure!(
            !Path::new(shared.0).exists(),
            "this host shares layers of its own"
        );
        Ok(shared)
    }

    /// The disks, of which there has to be one.
    fn disk(&self) -> Result<PathBuf> {
        let all = below(Path::new(self.0))?;
        let is_disk = |path: &&PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.len() == 129
        };
        let disks: Vec<_> = all.iter().filter(is_disk).collect();
        match disks.as_slice() {
            [disk] => Ok((*disk).clone()),
            other => anyhow::bail!("{other:?} of {all:?}"),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0);
    }
}

/// Layer disks of the user's own.
fn own_disks(tenant: &Tenant) -> Result<Vec<PathBuf>> {
    let mut all = below(&tenant.vm.root().join("images/layers"))?;
    all.retain(|path| path.is_file());
    Ok(all)
}

fn forget_disks(tenant: &Tenant) -> Result<()> {
    for disk in own_disks(tenant)? {
        fs::remove_file(disk)?;
    }
    Ok(())
}

const RUN: &str = "run --rm --network none busybox echo done";

fn what_root_shares_is_used_and_nobody_else_can_change_it(world: &World) -> Result<()> {
    needs_root()?;
    let _alone = world.alone();
    let _device = GroupsDevice::set()?;
    let shared = Shared::new()?;
    let root = Tenant::new(world, 0, "root", "077")?;
    let alice = Tenant::new(world, ALICE, "alice", "022")?;
    for verb in ["share", "unshare"] {
        let out = alice.bulkhead(&format!("system {verb} busybox"))?.code(1)?;
        assert!(out.stderr.contains("is for root"), "{out}");
    }
    assert!(!Path::new(shared.0).exists());
    let out = root.bulkhead("system share busybox")?;
    assert_eq!(out.only_stdout()?, "Shared: busybox\n");
    for path in below(Path::new(shared.0))? {
        let metadata = fs::symlink_metadata(&path)?;
        let mode = if metadata.is_dir() { 0o755 } else { 0o444 };
        let found = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
        assert_eq!(found, (0, 0, mode), "{path:?}");
    }
    let out = alice.bulkhead("system share")?.only_stdout()?;
    assert!(out.contains("busybox:latest"), "{out}");
    // Nothing is unpacked or kept, and what prunes takes and tells is the user's own.
    forget_disks(&alice)?;
    assert_eq!(alice.bulkhead(RUN)?.only_stdout()?, "done\n");
    assert_eq!(own_disks(&alice)?, Vec::<PathBuf>::new());
    let out = alice.bulkhead("system df")?.only_stdout()?;
    let line = out.lines().find(|line| line.starts_with("Layer Disks"));
    assert!(line.is_some_and(|line| line.contains("0B")), "{out}");
    alice.bulkhead("tag busybox kept")?.code(0)?;
    alice.bulkhead("system prune -f")?.code(0)?;
    let disk = shared.disk()?;
    let bytes = fs::read(&disk)?;
    let script = format!(
        "cd {folder}; for file in * .; do \
           chmod u+w \"$file\" && echo chmod; mv \"$file\" x && echo mv; \
           rm -f \"$file\" && [ ! -e \"$file\" ] && echo rm; \
           (echo evil >> \"$file\") && echo write; ln /bin/sh \"$file.new\" && echo ln; \
           ln -sf /etc/passwd \"$file\" && echo symlink; done; touch new && echo touch; true",
        folder = shared.0
    );
    let out = alice
        .shell(&format!("{{ {script}; }} 2>/dev/null"))
        .output()?;
    assert_eq!(out.only_stdout()?, "");
    assert!(fs::read(shared.disk()?)? == bytes);
    // What somebody else may have made is told and not used.
    let evil = alice.vm.folder().join("evil");
    fs::copy(&disk, &evil)?;
    chown(&evil, Some(ALICE), Some(ALICE))?;
    fs::set_permissions(&evil, Permissions::from_mode(0o444))?;
    fs::rename(&disk, alice.vm.folder().join("good"))?;
    fs::hard_link(&evil, &disk)?;
    untrusted(&alice, &disk, "it is not root's")?;
    fs::remove_file(&disk)?;
    std::os::unix::fs::symlink(alice.vm.folder().join("good"), &disk)?;
    untrusted(&alice, &disk, "it is a link")?;
    fs::set_permissions(shared.0, Permissions::from_mode(0o777))?;
    let folder = Path::new(shared.0);
    untrusted(&alice, folder, "others than root may write it")?;
    Ok(())
}

/// A run that says so once, and unpacks the layer itself.
fn untrusted(tenant: &Tenant, path: &Path, why: &str) -> Result<()> {
    forget_disks(tenant)?;
    let out = tenant.bulkhead(RUN)?.code(0)?;
    assert_eq!(out.stdout, "done\n");
    let sentence = format!("WARNING: {} is not used: {why}\n", path.display());
    assert_eq!(out.stderr, sentence);
    assert_eq!(own_disks(tenant)?.len(), 1);
    Ok(())
}

fn what_is_shared_no_more_is_unpacked_again(world: &World) -> Result<()> {
    needs_root()?;
    let _alone = world.alone();
    let _device = GroupsDevice::set()?;
    let shared = Shared::new()?;
    let root = Tenant::new(world, 0, "root", "022")?;
    let bob = Tenant::new(world, BOB, "bob", "022")?;
    root.bulkhead("system share busybox")?.code(0)?;
    forget_disks(&bob)?;
    bob.bulkhead("run -d --name long --network none busybox sleep 1000")?
        .code(0)?;
    bob.bulkhead("create --name orphan --network none busybox true")?
        .code(0)?;
    // The next life's VM has them of a supervisor that is shut in.
    bob.bulkhead("restart -t 0 long")?.code(0)?;
    assert_eq!(own_disks(&bob)?, Vec::<PathBuf>::new());
    let out = root.bulkhead("system unshare nothing")?.code(1)?;
    assert!(out.stderr.contains("no shared image: nothing"), "{out}");
    let out = root.bulkhead("system unshare busybox")?.only_stdout()?;
    assert!(out.starts_with("Unshared: busybox\nTotal"), "{out}");
    assert_eq!(below(Path::new(shared.0))?.len(), 1);
    // The VM that runs has its disk open; what it has not read yet is there, too.
    bob.bulkhead("exec long sh -c 'echo 3 > /proc/sys/vm/drop_caches; sha256sum /bin/busybox'")?
        .code(0)?;
    bob.bulkhead("restart -t 0 long")?.code(0)?;
    assert_eq!(own_disks(&bob)?.len(), 1);
    bob.bulkhead("exec long true")?.code(0)?;
    bob.bulkhead("rm -f long")?.code(0)?;
    // Without the image there is nothing to unpack.
    forget_disks(&bob)?;
    let out = bob.bulkhead("images -q --no-trunc")?.only_stdout()?;
    for id in out.lines() {
        bob.bulkhead(&format!("rmi -f {id}"))?.code(0)?;
    }
    let out = bob.bulkhead("start -a orphan")?;
    assert_ne!(out.code, 0, "{out}");
    assert!(out.stderr.contains("pull or load the image again"), "{out}");
    bob.bulkhead("rm orphan")?.code(0)?;
    Ok(())
}
