//! What the agent makes of the bytes on its control port: frames of requests, in whatever pieces.
//! What was understood can be said again, and means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::message::Request;

fuzz_target!(|input: &[u8]| bulkhead_fuzz::frames::read::<Request>(input));
