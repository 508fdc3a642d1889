//! The guest agent: PID 1 of every VM.
//!
//! A converter VM unpacks one layer ([`convert`], [`unpack`]), another decompresses what the user brings
//! ([`decompress`]); a run VM stacks an image's layers
//! and runs its process as Docker would ([`container`]), a builder VM does so for each step of a build
//! ([`build`]). It is a library so that its parts can be
//! tested without being PID 1; the program itself is [`init::run`].
//!
//! One process, no threads: a container is set up by a child that the agent clones, what the host
//! asks about its files is done by others ([`tasks`], [`hold`]), and everything else is one `poll`
//! loop. It must not know what the host does with what it reports.
//!
//! # Who is trusted
//!
//! The host is trusted. The image and the processes of the container are not: no path of theirs is
//! looked up outside the container's root, nothing of theirs is parsed with unbounded memory, and
//! no descriptor of the agent reaches them. A container that was given everything (`--privileged`)
//! owns its VM, the agent included; the VM's border is the host's to hold. So does one with
//! `CAP_SYS_PTRACE` once somebody runs an `exec` in it: that begins as a copy of the agent among the
//! container's processes, closes the agent's descriptors first of all, and has every capability until
//! it executes its program.
//!
//! vsock has no namespaces, so a workload that opens an `AF_VSOCK` socket can reach the host's ports.
//! The default seccomp profile refuses that to `socket`; a 32-bit program has `socketcall`, whose
//! arguments no filter sees, and which the profile allows as Docker's does. It finds no port open: the
//! control port serves once and the agent takes it before anything else runs, and the streams of the
//! main process are connected before that starts. Only the streams of a later exec or task are
//! offered while the workload runs; the supervisor draws their ports at random for that reason.

pub mod build;
pub mod caps;
pub mod cgroup;
pub mod container;
pub mod control;
pub mod convert;
pub mod copy_up;
pub mod decompress;
pub mod device_filter;
pub mod devices;
pub mod failure;
pub mod hold;
pub mod init;
pub mod init_layer;
pub mod launch;
pub mod layers;
pub mod loopback;
pub mod mode;
pub mod mount;
pub mod namespaces;
pub mod network;
pub mod packing;
pub mod paths;
pub mod plain;
pub mod probe;
pub mod process;
pub mod program;
pub mod pump;
pub mod reaper;
pub mod rlimits;
pub mod rootfs;
pub mod seccomp;
pub mod shares;
pub mod spawn;
pub mod stdio;
pub mod sysctl;
pub mod tasks;
pub mod tmpfs;
pub mod unpack;
pub mod user;
pub mod vsock;
pub mod wake;
