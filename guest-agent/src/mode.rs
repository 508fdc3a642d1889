//! What this program is, by the name it was started with: PID 1 of a VM, or one of the few things
//! that the same static binary does elsewhere.
//!
//! Called by `main`. A container's own processes can start it under any name, too (`/proc/1/exe` of a
//! probe): nothing here has a right that its caller lacks.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;

use protocol::plain::PLAIN_NAME;
use protocol::probe::PROBE_NAME;

use crate::{init, plain, probe, reaper};

/// Exit code of the agent as a container's process: found, and not to be executed.
const NO_PROGRAM: i32 = 126;

/// Becomes what the first argument says; without a known name, the agent.
pub fn run() -> ! {
    let mut args = std::env::args_os();
    // An OCI runtime starts a program by its path.
    let first = args.next().unwrap_or_default();
    let name = Path::new(&first).file_name().unwrap_or_default();
    if name == OsStr::new(PROBE_NAME) {
        probe::run(args.collect());
    }
    if name == OsStr::new(PLAIN_NAME) {
        plain::run();
    }
    if name == OsStr::new(reaper::NAME) {
        reaper::go_on();
    }
    // The kernel starts it where there is nothing but itself; a container's process has `/proc`.
    if Path::new("/proc/self").exists() {
        let _ = writeln!(
            std::io::stderr(),
            "this is the agent of a microVM, no program of a container"
        );
        std::process::exit(NO_PROGRAM);
    }
    init::run()
}
