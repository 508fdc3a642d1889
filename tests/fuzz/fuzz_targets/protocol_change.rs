//! What the host makes of the changes that a guest tells: records in whatever pieces. What comes out
//! keeps to its limits, and is the same however the bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::task::{CHANGE_PATH_MAX, Change, ChangeDecoder};

/// All changes up to the end or the first error.
fn read(stream: &[u8], piece: usize) -> Vec<Change> {
    let mut decoder = ChangeDecoder::new();
    let mut changes = Vec::new();
    for bytes in stream.chunks(piece.max(1)) {
        decoder.push(bytes);
        loop {
            match decoder.decode() {
                Ok(Some(change)) => changes.push(change),
                Ok(None) => break,
                Err(_) => return changes,
            }
        }
    }
    changes
}

fuzz_target!(|input: &[u8]| {
    let Some((piece, stream)) = input.split_first() else {
        return;
    };
    let changes = read(stream, usize::from(*piece));
    for change in &changes {
        assert!(b"ACD".contains(&change.kind));
        assert!(change.path.len() <= CHANGE_PATH_MAX && change.path.starts_with(b"/"));
        assert!(!change.path.contains(&0));
    }
    assert_eq!(changes, read(stream, stream.len()));
});
