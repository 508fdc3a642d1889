//! What the host makes of the bytes a guest's agent sends: frames of events, in whatever pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::frame::{Decoder, encode};
use protocol::message::Event;

fuzz_target!(|input: &[u8]| {
    // The first byte says in what pieces the rest arrives.
    let Some((piece, stream)) = input.split_first() else {
        return;
    };
    let mut decoder = Decoder::new();
    for bytes in stream.chunks(usize::from(*piece).max(1)) {
        decoder.push(bytes);
        loop {
            match decoder.decode::<Event>() {
                Ok(Some(event)) => {
                    // What was understood can be said again, and means the same.
                    let frame = encode(&event).expect("an event that fit a frame fits one again");
                    let mut again = Decoder::new();
                    again.push(&frame);
                    let event_again: Event =
                        again.decode().expect("own frame").expect("whole frame");
                    assert_eq!(format!("{event:?}"), format!("{event_again:?}"));
                }
                Ok(None) => break,
                // The connection is closed.
                Err(_) => return,
            }
        }
    }
});
