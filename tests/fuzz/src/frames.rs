//! How a target plays its input against a reader of frames: as a peer that sends anything.

use std::fmt::Debug;

use protocol::frame::{Decoder, encode};
use serde::{Serialize, de::DeserializeOwned};

/// Reads messages of one kind. The first byte says in what pieces the rest arrives.
pub fn read<T: Serialize + DeserializeOwned + Debug>(input: &[u8]) {
    let Some((piece, stream)) = input.split_first() else {
        return;
    };
    let mut decoder = Decoder::new();
    for bytes in stream.chunks(usize::from(*piece).max(1)) {
        decoder.push(bytes);
        loop {
            match decoder.decode::<T>() {
                Ok(Some(message)) => check_again(&message),
                Ok(None) => break,
                // The connection is closed.
                Err(_) => return,
            }
        }
    }
}

/// What was understood can be said again, and means the same.
fn check_again<T: Serialize + DeserializeOwned + Debug>(message: &T) {
    let frame = encode(message).expect("a message that fit a frame fits one again");
    let mut decoder = Decoder::new();
    decoder.push(&frame);
    let again: T = decoder.decode().expect("own frame").expect("whole frame");
    assert_eq!(format!("{message:?}"), format!("{again:?}"));
}
