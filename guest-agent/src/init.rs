//! PID 1 of the VM: the few mounts, the control connection, the one request, the power-off.
//!
//! A VM may sleep at the point where it has called the host and waits for an answer: that is where
//! templates are taken (`src/sandbox/template.rs`), so nothing before it may depend on the host.
//!
//! Called by the kernel through `main`. Its start-up is part of every container's, so it makes only
//! what the request needs.

use std::os::fd::AsRawFd;

use protocol::message::{Event, Request};
use protocol::{CONTROL_PORT, PROTOCOL_VERSION};
use rustix::fs::{Mode, OFlags, mkdir, open};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, mount_remount};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask,
};
use rustix::system::{RebootCommand, reboot};

use crate::build;
use crate::container;
use crate::control::{Control, ControlError};
use crate::convert;
use crate::decompress;
use crate::failure::{Context, Failure};
use crate::hold;
use crate::mount::Setup;
use crate::spawn;
use crate::vsock;
use crate::wake;

/// Open files of the agent: two streams of each process that the kernel has a number for (32,768 by
/// default), since those that an exec leaves behind keep them open. Children set their own limit
/// ([`crate::rlimits`], [`crate::tasks`]).
const MAX_FILES: u64 = 1 << 16;

/// Why the agent gave up; told on the console, since there is nobody else to tell.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error(transparent)]
    Setup(#[from] Failure),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(
        "the host's first requests are not wake and then run, hold, build, convert or decompress"
    )]
    WrongRequest,
}

/// Does what the host asks for and powers the VM off.
pub fn run() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        console(&format!("bug: {panic}"));
        if spawn::is_child() {
            spawn::exit(1);
        }
        power_off();
    }));
    if let Err(error) = serve() {
        console(&error.to_string());
    }
    power_off()
}

fn serve() -> Result<(), InitError> {
    // What the agent makes gets the mode that it says, and nobody may look into the agent.
    umask(Mode::empty());
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context(|| "hide the agent's memory".into())?;
    let files = MAX_FILES.into();
    let limit = Rlimit {
        current: files,
        maximum: files,
    };
    setrlimit(Resource::Nofile, limit).context(|| "raise the limit of open files".into())?;
    mount_dev()?;
    fill_standard_descriptors().context(|| "open /dev/null".into())?;
    let connect = || format!("connect control port {CONTROL_PORT}");
    let connecting = vsock::connect_when_present(CONTROL_PORT).context(connect)?;
    // Most VMs run a container, and the host's side of the connection takes its time.
    let prepared = container::Prepared::new();
    let mut control = Control::new(connecting.finish().context(connect)?);
    control.send(&Event::Hello {
        version: PROTOCOL_VERSION,
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        boottime_ns: spawn::boottime_ns(),
    })?;
    let mut requests = control.wait()?.into_iter();
    let Some(Request::Wake {
        entropy,
        realtime_ns,
    }) = requests.next()
    else {
        return Err(InitError::WrongRequest);
    };
    wake::up(&entropy, realtime_ns)?;
    if requests.len() == 0 {
        requests = control.wait()?.into_iter();
    }
    match requests.next() {
        Some(Request::Run(spec)) => container::run(&spec, prepared, requests, &mut control)?,
        Some(Request::Hold(spec)) => hold::run(&spec, requests, &mut control)?,
        Some(Request::Build(spec)) => build::run(*spec, requests, &mut control)?,
        Some(Request::Convert(spec)) => convert::run(&spec, &mut control)?,
        Some(Request::Decompress { compressed, plain }) => {
            decompress::run(compressed, plain, &mut control)?;
        }
        Some(Request::Shutdown) => {}
        _ => return Err(InitError::WrongRequest),
    }
    Ok(control.finish(&Event::Bye)?)
}

/// The guest's own device nodes. After that the initramfs is read-only: this program is in it, and
/// a container with every privilege could find it.
fn mount_dev() -> Result<(), Failure> {
    for path in ["/dev", crate::layers::STAGE] {
        match mkdir(path, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).context(|| format!("make {path}")),
        }
    }
    Setup::new("devtmpfs", "devtmpfs")?
        .create(MountAttrFlags::empty())?
        .attach_at("/dev")
        .context(|| "mount /dev".into())?;
    mount_remount("/", MountFlags::RDONLY, c"").context(|| "make the initramfs read-only".into())
}

/// Keeps 0, 1 and 2 taken, which children replace.
fn fill_standard_descriptors() -> Result<(), Errno> {
    loop {
        let null = open("/dev/null", OFlags::RDWR, Mode::empty())?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        std::mem::forget(null);
    }
}

/// Writes one line to the VM's console.
fn console(line: &str) {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    if let Ok(console) = open("/dev/console", flags, Mode::empty()) {
        let line = format!("bulkhead agent: {line}\r\n");
        let _ = rustix::io::write(&console, line.as_bytes());
    }
}

/// Ends the VM. The kernel's restart is what the VMM takes for it.
fn power_off() -> ! {
    loop {
        // Only a process without the capability is refused.
        let _ = reboot(RebootCommand::Restart);
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
