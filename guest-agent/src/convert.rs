//! A converter VM's one job: unpack a layer from one disk to another.
//!
//! Called by [`crate::init`]. Knows the devices and the events; the unpacking is [`crate::unpack`]'s.

use std::fs::{File, OpenOptions};
use std::time::{Duration, Instant};

use protocol::message::Event;
use protocol::spec::ConvertSpec;

use crate::control::{Control, ControlError};
use crate::failure::{Context, Failure};
use crate::unpack;
use crate::wake;

/// Holds the layer's blob, read-only.
const BLOB_DEVICE: &str = "/dev/vda";

/// Takes the file system.
const OUTPUT_DEVICE: &str = "/dev/vdb";

/// Progress is told after so many bytes of the blob …
const PROGRESS_BYTES: u64 = 64 << 20;

/// … or so much time, whichever comes first.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);

/// Unpacks the layer and tells the host how it went.
///
/// # Errors
/// Only those of the control connection.
pub fn run(spec: &ConvertSpec, control: &mut Control) -> Result<(), ControlError> {
    let mut told = Progress::new();
    let mut lost = None;
    let outcome = convert(spec, &mut |bytes| {
        if lost.is_none() && told.is_due(bytes) {
            lost = control.send(&Event::Converting { bytes }).err();
        }
    });
    if let Some(error) = lost {
        return Err(error);
    }
    control.send(&match outcome {
        Ok(converted) => Event::Converted(converted),
        Err(failure) => Event::Failed {
            process: 0,
            kind: failure.kind,
            message: failure.message,
        },
    })
}

fn convert(
    spec: &ConvertSpec,
    progress: &mut dyn FnMut(u64),
) -> Result<protocol::message::Converted, Failure> {
    for device in [BLOB_DEVICE, OUTPUT_DEVICE] {
        wake::wait_for_disk(device)?;
    }
    let blob = File::open(BLOB_DEVICE).context(|| format!("open {BLOB_DEVICE}"))?;
    let output = OpenOptions::new()
        .read(true)
        .write(true)
        .open(OUTPUT_DEVICE)
        .context(|| format!("open {OUTPUT_DEVICE}"))?;
    let converted = unpack::convert(&blob, &output, spec, progress)?;
    output
        .sync_all()
        .context(|| format!("flush {OUTPUT_DEVICE}"))?;
    Ok(converted)
}

/// Decides when the host is told again.
struct Progress {
    bytes: u64,
    time: Instant,
}

impl Progress {
    fn new() -> Self {
        Self {
            bytes: 0,
            time: Instant::now(),
        }
    }

    fn is_due(&mut self, bytes: u64) -> bool {
        let due = bytes.saturating_sub(self.bytes) >= PROGRESS_BYTES
            || self.time.elapsed() >= PROGRESS_PAUSE;
        if due {
            self.bytes = bytes;
            self.time = Instant::now();
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_by_bytes() {
        let mut progress = Progress::new();
        assert!(progress.is_due(PROGRESS_BYTES));
        assert!(progress.is_due(3 * PROGRESS_BYTES));
        progress.time = Instant::now() + PROGRESS_PAUSE;
        assert!(!progress.is_due(3 * PROGRESS_BYTES + 1));
    }
}
