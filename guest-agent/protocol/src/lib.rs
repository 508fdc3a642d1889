//! What host and guest say to each other: the messages, their framing and their limits.
//!
//! Used by the supervisor (`src/sandbox/agent.rs`), by the agent (`guest-agent`) and by that of plain
//! containers (`src/sandbox/plain/agent.rs`); the command writes flags into its data types. It does no
//! I/O of its own and knows neither KVM, images nor Docker: both sides hand it bytes and get
//! checked values back. The guest is hostile to the host and a hostile workload may own the guest,
//! so every frame has a size cap and every list and string in a message a named limit.
//!
//! # Transport
//!
//! Everything of a VM travels over vsock connections that the *guest* opens to the host (CID 2); a plain
//! container's agent has inherited local sockets instead, for frames and for streams. The VMM
//! accepts a connection only on a port for which the supervisor handed it a descriptor, and each
//! such port serves once:
//!
//! ```text
//! port 1024          control: frames both ways, open as long as the VM lives
//! port 1025 and up   one raw byte stream each, named by the host in a message (stdin, stdout, …)
//! ```
//!
//! # Conversation
//!
//! ```text
//! guest -> Event::Hello                            version, kernel
//! host  -> Request::Wake                           the guest may have slept in a template
//! host  -> Request::Run | Request::Hold | Request::Build | Request::Convert | Request::Decompress
//! run:     Event::Started | Event::Failed
//!          Request::Signal, Resize, Exec, Task …   any time after Started
//!          Event::TaskEnded                        once for each Task
//!          Request::Freeze, then Event::Frozen     so too
//!          Request::Update, then Event::Updated    so too
//!          Request::Clock, then Event::Clock       so too; Request::ShiftClock where it is off
//!          Event::Exited                           after every byte of its output was sent
//! hold:    Event::Held | Event::Failed
//!          Request::Task …, Event::TaskEnded       until Request::Shutdown
//! build:   Event::Held | Event::Failed
//!          Request::Task …, Event::TaskEnded       any time
//!          Request::Run, then as above to Exited   once for each step that runs something
//!          Request::Seal, then Event::Sealed       after each step; until Request::Shutdown
//! convert: Event::Converting* then Event::Converted | Event::Failed
//! decompress: Event::Decompressed | Event::Failed
//! guest -> Event::Bye                              file systems are clean; power-off follows
//! ```

pub mod frame;
pub mod message;
pub mod mode;
pub mod pattern;
pub mod plain;
pub mod probe;
pub mod spec;
pub mod task;

/// The version both sides must agree on; the agent says its own in [`message::Event::Hello`].
pub const PROTOCOL_VERSION: u32 = 9;

/// vsock port of the control connection on the host's side.
pub const CONTROL_PORT: u32 = 1024;

/// First vsock port that the host hands out for byte streams.
pub const FIRST_STREAM_PORT: u32 = 1025;

/// Tag of the file system device that has the host's folders, one below its root per share.
pub const FILES_TAG: &str = "bulkhead";

/// The guest's context id; every VM uses the same one, since no two share a vsock.
pub const GUEST_CID: u32 = 3;

/// The host's context id (virtio 1.2 section 5.10.4).
pub const HOST_CID: u32 = 2;
