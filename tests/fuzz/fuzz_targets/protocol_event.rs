//! What the host makes of the bytes a guest's agent sends: frames of events, in whatever pieces.
//! What was understood can be said again, and means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::message::Event;

fuzz_target!(|input: &[u8]| bulkhead_fuzz::frames::read::<Event>(input));
