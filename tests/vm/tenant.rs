//! An ordinary user, as on a lab host: in group `kvm` VMs run, outside of it one sentence says what
//! is missing. Other tests run as whoever started them, in an emulated host as root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use harness::{Invocation, Sandbox};
use rustix::process::geteuid;

use crate::world::World;

crate::tests![
    a_user_of_the_group_runs_an_image,
    a_user_outside_of_the_group_is_told,
];

/// User and group that no one has.
pub(crate) const ID: u32 = 54_321;

/// Stands for the group `kvm`, whose number is another on each host.
pub(crate) const KVM_GROUP: u32 = 54_322;

/// /dev/kvm as a distribution has it: for root and a group. Dropped, it is what it was. Tests that
/// run beside it are root's.
pub(crate) struct GroupsDevice {
    gid: u32,
    mode: u32,
    _alone: MutexGuard<'static, ()>,
}

const DEVICE: &str = "/dev/kvm";

/// Held by the test that has changed the device: tests run side by side where there are CPUs.
static ALONE: Mutex<()> = Mutex::new(());

impl GroupsDevice {
    pub(crate) fn set() -> Result<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata = fs::metadata(DEVICE).context("look at /dev/kvm")?;
        let before = Self {
            gid: metadata.gid(),
            mode: metadata.mode(),
            _alone: alone,
        };
        set_access(KVM_GROUP, 0o660)?;
        Ok(before)
    }
}

impl Drop for GroupsDevice {
    fn drop(&mut self) {
        if let Err(error) = set_access(self.gid, self.mode & 0o7777) {
            eprintln!("{error:#}");
        }
    }
}

fn set_access(gid: u32, mode: u32) -> Result<()> {
    chown(DEVICE, None, Some(gid)).context("give /dev/kvm to a group")?;
    fs::set_permissions(DEVICE, Permissions::from_mode(mode)).context("change /dev/kvm's mode")
}

/// The sandbox's folders become the user's. The command and the guest's files, which other
/// sandboxes share, stay root's and can be read, as where an administrator installed them.
pub(crate) fn give(vm: &Sandbox) -> Result<()> {
    give_to(vm, ID)
}

/// The same for another user.
pub(crate) fn give_to(vm: &Sandbox, id: u32) -> Result<()> {
    chown(vm.folder(), Some(id), Some(id)).context("give a folder to the user")?;
    Invocation::new("/bin/chown")
        .args(["-R", &format!("{id}:{id}")])
        .args([vm.root(), vm.home(), vm.work()])
        .output()?
        .code(0)?;
    Ok(())
}

/// `bulkhead run` by the user, who is in no group but their own and these.
fn run(vm: &Sandbox, groups: &str, script: &str) -> Result<harness::Output> {
    let user = format!("setpriv --reuid={ID} --regid={ID} {groups}");
    let command = format!("exec {user} bulkhead run --rm busybox sh -c '{script}'");
    // Templates that others made are theirs.
    vm.shell(&command)
        .env("BULKHEAD_TEMPLATES", vm.work().join("templates"))
        .output()
}

/// Whether files below a folder all belong to the user.
fn all_of_the_user(folder: &Path) -> Result<bool> {
    let out = Invocation::new("/usr/bin/find")
        .arg(folder)
        .args(["!", "-uid", &ID.to_string()])
        .output()?;
    Ok(out.only_stdout()?.is_empty())
}

pub(crate) fn needs_root() -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "this test becomes another user: run the tests as root"
    );
    Ok(())
}

fn a_user_of_the_group_runs_an_image(world: &World) -> Result<()> {
    needs_root()?;
    let vm = world.own()?;
    give(&vm)?;
    let before = vm.snapshot()?;
    let device = GroupsDevice::set()?;
    let script = "id -u; touch /file && echo written";
    for way in ["makes a template", "goes on from it"] {
        let out = run(&vm, &format!("--groups={KVM_GROUP}"), script)?;
        let text = out.only_stdout().with_context(|| way.to_owned())?;
        assert_eq!(text, "0\nwritten\n", "{way}");
    }
    drop(device);
    assert!(all_of_the_user(&vm.root())?);
    assert!(all_of_the_user(&vm.work())?);
    before.no_leftovers(&vm)
}

fn a_user_outside_of_the_group_is_told(world: &World) -> Result<()> {
    needs_root()?;
    let vm = world.own()?;
    give(&vm)?;
    let before = vm.snapshot()?;
    let device = GroupsDevice::set()?;
    let out = run(&vm, "--clear-groups", "true")?;
    drop(device);
    assert!(out.stderr.contains("to the group kvm"), "{out}");
    out.refusal("no permission for /dev/kvm")?;
    before.no_leftovers(&vm)
}
