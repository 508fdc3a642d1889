//! Prepares the root of a plain container: unpacks its layers, looks its user up, says its filter.
//!
//! The host's command starts the agent's program so for `--isolation container`, in namespaces of
//! their own and with the container's root as the process's own root; nothing else of the host is
//! there. It reads one [`Job`] from standard input and writes one [`Answer`]. It must not know which
//! runtime runs the container.
#![allow(unsafe_code)] // takes ownership of inherited descriptors by number

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd};

use protocol::message::FailureKind;
use protocol::plain::{Answer, FIRST_FD, Job, MESSAGE_BYTES_MAX, Prepared};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::failure::{Context, Failure};
use crate::launch::identify;
use crate::{caps, seccomp, spawn, unpack};

/// Does it and ends.
pub fn run() -> ! {
    rustix::process::umask(Mode::empty());
    let answer = match prepare() {
        Ok(prepared) => Answer::Done(prepared),
        Err(Failure { message, .. }) => Answer::Failed { message },
    };
    let mut out = std::io::stdout().lock();
    let written = serde_json::to_writer(&mut out, &answer)
        .map_err(std::io::Error::from)
        .and_then(|()| out.flush());
    spawn::exit(i32::from(written.is_err()))
}

fn prepare() -> Result<Prepared, Failure> {
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .take(MESSAGE_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(|error| Failure::other(format!("read the job: {error}")))?;
    let job: Job = serde_json::from_slice(&text)
        .map_err(|error| Failure::other(format!("read the job: {error}")))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, "/", flags, Mode::empty()).context(|| "open the root".into())?;
    // SAFETY: the command put the scratch file there, and nothing else in this process knows it.
    let scratch = unsafe { File::from_raw_fd(FIRST_FD) };
    let mut devices_left_out: u64 = 0;
    for (number, layer) in (FIRST_FD + 1..).zip(&job.layers) {
        // SAFETY: as above, of the layer's blob.
        let blob = unsafe { File::from_raw_fd(number) };
        let left_out = unpack::into_directory(&blob, &scratch, root.as_fd(), layer)?;
        devices_left_out = devices_left_out.saturating_add(left_out);
    }
    let identity = identify(root.as_fd(), &job.user, &job.group_add)?;
    let capabilities =
        caps::parse(&job.capabilities).map_err(|error| Failure::bad_config(error.to_string()))?;
    let home = String::from_utf8(identity.home).map_err(|_| {
        Failure::new(
            FailureKind::BadConfig,
            "the user's home directory is not UTF-8",
        )
    })?;
    Ok(Prepared {
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups,
        home,
        devices_left_out,
        filter: seccomp::docker_default_rules(capabilities),
    })
}
