//! What the host makes of any report of a probe. What is taken keeps to every limit and means the same
//! when it is written and read again; what is said of the rest is fit for a terminal.
#![no_main]

use bulkhead_fuzz::words::assert_printable;
use libfuzzer_sys::fuzz_target;
use protocol::probe::{LIST_MAX, Report, TEXT_BYTES_MAX};

fuzz_target!(|bytes: &[u8]| {
    let report = match Report::parse(bytes) {
        Ok(report) => report,
        Err(error) => return assert_printable(&error),
    };
    assert!(report.seen.devices.len() <= LIST_MAX && report.files.len() <= LIST_MAX);
    assert!(report.kernel.release.len() <= TEXT_BYTES_MAX);
    let again = serde_json::to_vec(&report).expect("JSON");
    assert_eq!(Report::parse(&again).expect("own JSON"), report);
});
