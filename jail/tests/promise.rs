//! docs/security.md promises what the table of calls says, no more and no less: whoever adds a call
//! changes the promise.

use std::collections::BTreeSet;

use bulkhead_jail::table::{self, Call, Thread};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/security.md");

/// The rows of the table below a heading of the document.
fn promised(heading: &str) -> Vec<String> {
    let text = std::fs::read_to_string(DOCUMENT).expect("docs/security.md");
    let (_, rest) = text.split_once(heading).expect("the heading");
    rest.lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_calls_of_each_process_are_the_promised_ones() {
    for (heading, calls, _) in table::TABLES {
        assert_eq!(promised(heading), table::rows(calls), "{heading}");
    }
}

/// Names of the calls that these threads may make, together.
fn names(threads: &[Thread]) -> BTreeSet<&'static str> {
    let calls = threads.iter().flat_map(|thread| thread.calls());
    calls.map(Call::name).collect()
}

/// The threads of a VMM.
const VMM: [Thread; 4] = [
    Thread::Vcpu,
    Thread::EventLoop,
    Thread::TemplateMaker,
    Thread::Disk,
];

#[test]
fn they_are_as_few_as_promised() {
    let all = names(&VMM);
    assert!(all.len() <= table::UNION_MAX, "{}: {all:?}", all.len());
    let vcpu = names(&[Thread::Vcpu]);
    assert!(vcpu.len() <= table::VCPU_MAX, "{}: {vcpu:?}", vcpu.len());
}

#[test]
fn what_can_name_a_file_a_peer_or_a_program_is_not_among_them() {
    let all = names(&VMM);
    let server = names(&[Thread::Files, Thread::Waiter]);
    for call in [
        "socket", "connect", "execve", "clone", "clone3", "ptrace", "mount", "prctl",
    ] {
        assert!(!server.contains(call), "{call}");
    }
    for call in [
        "open",
        "openat",
        "openat2",
        "socket",
        "connect",
        "bind",
        "accept",
        "accept4",
        "execve",
        "execveat",
        "clone",
        "clone3",
        "fork",
        "vfork",
        "ptrace",
        "prctl",
        "kill",
        "mount",
        "setns",
        "unshare",
        "bpf",
        "io_uring_setup",
        "memfd_create",
        "process_vm_readv",
    ] {
        assert!(!all.contains(call), "{call}");
    }
}
