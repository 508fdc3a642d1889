//! The one job of a VM that decompresses: an archive of the user's comes in by one stream and goes out by
//! another, since nothing is decompressed on the host.
//!
//! Called by [`crate::init`] for what `load`, `import` and `build` are given. Knows the streams and the events;
//! the formats are [`crate::packing`]'s, and what is in the archive is nobody's here.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use protocol::message::Event;

use crate::control::{Control, ControlError};
use crate::failure::{Context, Failure};
use crate::packing::{self, Packing};
use crate::tasks;
use crate::vsock;

/// Bytes sent at once.
const PIECE: usize = 256 << 10;

/// How long the last bytes may take to leave the guest: the host reads when it has use for them.
const LAST_BYTES: Duration = Duration::from_secs(24 * 3600);

/// Decompresses and tells the host how it went.
///
/// # Errors
/// Only those of the control connection.
pub fn run(compressed: u32, plain: u32, control: &mut Control) -> Result<(), ControlError> {
    let outcome = tasks::connect(compressed).and_then(|from| {
        let mut to = tasks::connect(plain)?;
        copy(from, &mut to)?;
        vsock::wait_sent(to.as_fd(), LAST_BYTES).context(|| "send the archive".into())
    });
    control.send(&match outcome {
        Ok(()) => Event::Decompressed,
        Err(failure) => Event::Failed {
            process: 0,
            kind: failure.kind,
            message: failure.message,
        },
    })
}

fn copy(mut from: impl Read, to: &mut impl Write) -> Result<(), Failure> {
    let mut head = Vec::new();
    Read::by_ref(&mut from)
        .take(packing::MAGIC_LEN)
        .read_to_end(&mut head)
        .context(|| "read the archive".into())?;
    let packing = Packing::of(&head);
    if packing == Packing::None {
        return Err(Failure::bad_config(
            "the archive is compressed with neither gzip, bzip2, xz nor zstd",
        ));
    }
    let mut whole = head.as_slice().chain(from);
    let mut decoder = packing::decoded(packing, &mut whole)?;
    let mut piece = vec![0; PIECE];
    loop {
        match decoder.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(len) => to
                .write_all(piece.get(..len).unwrap_or_default())
                .context(|| "send the archive".into())?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(packing::bad(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn message(bytes: &[u8]) -> String {
        copy(bytes, &mut Vec::new()).unwrap_err().message
    }

    #[test]
    fn each_format_is_read_to_its_end() {
        let content = vec![b'x'; 3 * PIECE + 1];
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&content).unwrap();
        let (first, second) = content.split_at(1000);
        for packed in [
            gzip(&content),
            [gzip(first), gzip(second)].concat(),
            bzip2.finish().unwrap(),
            zstd::encode_all(content.as_slice(), 1).unwrap(),
        ] {
            let mut out = Vec::new();
            copy(packed.as_slice(), &mut out).unwrap();
            assert!(out == content);
        }
    }

    #[test]
    fn what_is_wrong_with_an_archive_is_told() {
        let packed = gzip(&[b'x'; 5000]);
        let (head, tail) = packed.split_at(packed.len() - 8);
        assert_eq!(message(head), "the archive is truncated");
        let damaged = [head, &[0; 8], &tail[8..]].concat();
        assert!(
            message(&damaged).starts_with("the archive is corrupt: "),
            "{}",
            message(&damaged)
        );
        assert!(message(b"no archive at all").contains("neither gzip, bzip2, xz nor zstd"));
    }
}
