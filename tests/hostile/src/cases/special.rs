//! e5 and e6: names that the guest's agent, its kernel or a program of the host uses itself, and device
//! nodes.

use serde_json::json;

use super::{Case, agent_as_program, alive, draft, layer, not_started, prints, refused};
use crate::image::Draft;
use crate::tarball::{Header, Tar};

const THERE: &str = "/tmp/bulkhead-canary";
const FILE: &str = "/tmp/bulkhead-canary/file";

fn symlink(tar: Tar, path: &str, target: &str) -> Tar {
    tar.link(b'2', path, target)
}

fn fifo(tar: Tar, path: &str) -> Tar {
    tar.header(&Header::new(b'6', path), b"")
}

fn device(tar: Tar, kind: u8, path: &str, numbers: (u32, u32)) -> Tar {
    let mut node = Header::new(kind, path);
    node.mode = 0o666;
    node.device = numbers;
    tar.header(&node, b"")
}

pub(super) fn cases() -> Vec<Case> {
    [names(), users(), devices()]
        .into_iter()
        .flatten()
        .collect()
}

fn names() -> Vec<Case> {
    vec![
        layer(
            5,
            "proc-files",
            "files where processes are mounted",
            |tar| {
                tar.file("proc/self/exe", b"x")
                    .file("proc/sys/kernel/core_pattern", b"|/pwned")
            },
            prints("grep -c pwned /proc/sys/kernel/core_pattern", "0\n"),
        ),
        layer(
            5,
            "proc-as-a-link",
            "a link where processes are mounted",
            |tar| symlink(tar, "proc", THERE),
            alive(),
        ),
        layer(
            5,
            "proc-as-a-file",
            "a file there",
            |tar| tar.file("proc", b"x"),
            alive(),
        ),
        layer(
            5,
            "dev-as-a-link",
            "a link where devices are made",
            |tar| symlink(tar, "dev", THERE),
            alive(),
        ),
        layer(
            5,
            "dev-as-a-file",
            "a file there",
            |tar| tar.file("dev", b"x"),
            alive(),
        ),
        layer(
            5,
            "dev-by-steps-up",
            "a link there that leads up",
            |tar| symlink(tar, "dev", "../../../../tmp/bulkhead-canary"),
            alive(),
        ),
        layer(
            5,
            "sys-as-a-link",
            "a link where the kernel's view is mounted",
            |tar| symlink(tar, "sys", THERE),
            alive(),
        ),
        layer(
            5,
            "dev-null-as-a-file",
            "a file in place of /dev/null",
            |tar| tar.file("dev/null", b"x"),
            prints("wc -c </dev/null", "0\n"),
        ),
        layer(
            5,
            "dev-null-as-a-link",
            "a link in place of /dev/null, by which paths are masked",
            |tar| symlink(tar, "dev/null", FILE),
            prints("wc -c </dev/null; wc -c </proc/keys", "0\n0\n"),
        ),
        layer(
            5,
            "dev-console-as-a-link",
            "a link in place of the console",
            |tar| symlink(tar, "dev/console", FILE),
            alive(),
        ),
        layer(
            5,
            "dev-pts-as-a-link",
            "a link in place of the terminals' folder",
            |tar| symlink(tar, "dev/pts", THERE),
            alive(),
        ),
        layer(
            5,
            "dev-shm-as-a-link",
            "a link in place of shared memory's folder",
            |tar| symlink(tar, "dev/shm", THERE),
            alive(),
        ),
        layer(
            5,
            "resolv-conf-as-a-link",
            "a link where the agent writes name servers",
            |tar| symlink(tar, "etc/resolv.conf", FILE),
            alive(),
        ),
        layer(
            5,
            "resolv-conf-up",
            "the same by steps up",
            |tar| {
                symlink(
                    tar,
                    "etc/resolv.conf",
                    "../../../../tmp/bulkhead-canary/file",
                )
            },
            alive(),
        ),
        layer(
            5,
            "resolv-conf-as-a-pipe",
            "a named pipe there",
            |tar| fifo(tar, "etc/resolv.conf"),
            alive(),
        ),
        layer(
            5,
            "resolv-conf-as-a-directory",
            "a directory there",
            |tar| tar.dir("etc/resolv.conf"),
            alive(),
        ),
        layer(
            5,
            "hosts-as-a-link",
            "a link where the agent writes hosts",
            |tar| symlink(tar, "etc/hosts", FILE),
            alive(),
        ),
        layer(
            5,
            "hosts-through-proc",
            "a link there to what would be its own memory",
            |tar| symlink(tar, "etc/hosts", "/proc/self/mem"),
            alive(),
        ),
        layer(
            5,
            "hostname-as-a-link",
            "a link where the agent writes the name",
            |tar| symlink(tar, "etc/hostname", FILE),
            alive(),
        ),
        Case::new(
            5,
            "etc-as-a-link",
            "a link in place of all of that",
            draft(|base| {
                Draft::on(base).tar(symlink(Tar::new().file(".wh.etc", b""), "etc", THERE))
            }),
            alive(),
        ),
        layer(
            5,
            "init",
            "programs where a guest's first one is looked for",
            |tar| {
                tar.file("init", b"#!/pwned\n")
                    .file("guest-agent", b"#!/pwned\n")
                    .file("sbin/init", b"#!/pwned\n")
            },
            alive(),
        ),
        layer(
            5,
            "dockerenv-as-a-link",
            "a link in place of Docker's own mark",
            |tar| symlink(tar, ".dockerenv", FILE),
            alive(),
        ),
        layer(
            5,
            "aufs-files",
            "what aufs kept for itself",
            |tar| {
                tar.file(".wh..wh.plnk/1.2", b"x")
                    .file(".wh..wh.aufs", b"x")
            },
            prints("ls -a / | grep -c wh", "0\n"),
        ),
        Case::new(
            5,
            "working-folder-through-a-link",
            "a working folder to be made through a link to the host",
            draft(|base| {
                Draft::on(base)
                    .tar(symlink(Tar::new(), "w", THERE))
                    .with(json!({"WorkingDir": "/w/pwned"}))
            }),
            prints("pwd -P", "/tmp/bulkhead-canary/pwned\n"),
        ),
        Case::new(
            5,
            "volume-through-a-link",
            "a volume whose folder is a link to the host",
            draft(|base| {
                Draft::on(base)
                    .tar(symlink(Tar::new(), "v", THERE))
                    .with(json!({"Volumes": {"/v": {}}}))
            }),
            alive(),
        )
        .into("/v/copied"),
        Case::new(
            5,
            "program-of-the-runtime",
            "a program that would be the one that starts it",
            draft(|base| {
                Draft::on(base)
                    .tar(symlink(Tar::new(), "start", "/proc/self/exe"))
                    .with(json!({"Entrypoint": ["/start"]}))
            }),
            agent_as_program(),
        ),
    ]
}

/// Files in which users are looked up.
fn users() -> Vec<Case> {
    let as_app = |make: fn(Tar) -> Tar| {
        draft(move |base| {
            Draft::on(base)
                .tar(make(Tar::new()))
                .with(json!({"User": "app"}))
        })
    };
    let unknown = not_started(125, "unable to find user app");
    vec![
        Case::new(
            5,
            "passwd-as-a-pipe",
            "a named pipe in place of the list of users, which would be waited for",
            as_app(|tar| fifo(tar, "etc/passwd")),
            unknown.clone(),
        ),
        Case::new(
            5,
            "passwd-of-the-kernel",
            "a link in place of the list of users to all memory",
            as_app(|tar| symlink(tar, "etc/passwd", "/proc/kcore")),
            unknown.clone(),
        ),
        Case::new(
            5,
            "passwd-without-end",
            "a list of users that never ends",
            as_app(|tar| device(tar, b'3', "etc/passwd", (1, 5))),
            unknown.clone(),
        ),
        Case::new(
            5,
            "passwd-of-the-host",
            "a link in place of the list of users to one of the host",
            as_app(|tar| symlink(tar, "etc/passwd", "/tmp/bulkhead-canary/passwd")),
            unknown.clone(),
        ),
        Case::new(
            5,
            "passwd-as-a-directory",
            "a directory there",
            as_app(|tar| tar.dir("etc/passwd")),
            unknown,
        ),
        Case::new(
            5,
            "passwd-of-one-line",
            "a list of users with a line of 16 MiB",
            as_app(|tar| tar.file("etc/passwd", &[b'a'; 16 << 20])),
            not_started(125, "read /etc/passwd of the image"),
        ),
    ]
}

fn devices() -> Vec<Case> {
    let denied = || prints("head -c 1 /devnode 2>&1 | grep -c 'not permitted'", "1\n");
    vec![
        layer(
            6,
            "disk",
            "the host's first disk",
            |tar| device(tar, b'4', "devnode", (8, 0)),
            denied(),
        ),
        layer(
            6,
            "own-disk",
            "the guest's own disk, below its file systems",
            |tar| device(tar, b'4', "devnode", (254, 0)),
            denied(),
        ),
        layer(
            6,
            "memory",
            "all memory",
            |tar| device(tar, b'3', "devnode", (1, 1)),
            denied(),
        ),
        layer(
            6,
            "kernel-log",
            "the kernel's log",
            |tar| device(tar, b'3', "devnode", (1, 11)),
            denied(),
        ),
        layer(
            6,
            "kvm",
            "KVM",
            |tar| device(tar, b'3', "devnode", (10, 232)),
            denied(),
        ),
        layer(
            6,
            "fuse",
            "the kernel's door for file systems",
            |tar| device(tar, b'3', "devnode", (10, 229)),
            denied(),
        ),
        layer(
            6,
            "vsock",
            "the door to the agent's host",
            |tar| device(tar, b'3', "devnode", (10, 121)),
            denied(),
        ),
        layer(
            6,
            "tun",
            "a network card of its own, which Docker allows to open",
            |tar| device(tar, b'3', "devnode", (10, 200)),
            prints("head -c 1 /devnode >/dev/null 2>&1; echo $?", "1\n"),
        ),
        layer(
            6,
            "kvm-in-dev",
            "KVM where devices are looked for",
            |tar| device(tar, b'3', "dev/kvm", (10, 232)),
            prints("test -e /dev/kvm; echo $?", "1\n"),
        ),
        layer(
            6,
            "zero",
            "a device that may be read",
            |tar| device(tar, b'3', "devnode", (1, 5)),
            prints("head -c 3 /devnode | wc -c", "3\n"),
        ),
        layer(
            6,
            "pipe",
            "a named pipe, which who reads it waits for",
            |tar| fifo(tar, "devnode"),
            prints("test -p /devnode; echo $?", "0\n"),
        ),
        refused(
            6,
            "socket",
            "a socket, as some archivers write it",
            |tar| tar.header(&Header::new(b's', "devnode"), b""),
            "an entry of the unknown type 0x73",
        ),
        layer(
            6,
            "device-with-data",
            "a device with a size, and the next entry in its data",
            |tar| {
                let mut node = Header::new(b'3', "devnode");
                node.device = (1, 3);
                node.size = Some(512);
                tar.header(&node, b"").file("next", b"x")
            },
            prints("cat /next", "x"),
        ),
        refused(
            6,
            "device-numbers",
            "numbers beyond those of devices",
            |tar| device(tar, b'3', "devnode", (4096, 0)),
            "a device 4096:0, 4095:1048575 is the last",
        ),
        refused(
            6,
            "device-negative",
            "a negative number",
            |tar| tar.header(&Header::new(b'3', "devnode").patch(329, [0xff; 8]), b""),
            "its device major -1 is out of range",
        ),
        layer(
            6,
            "device-as-a-file",
            "the disk in place of a file",
            |tar| device(tar, b'4', "etc/hostname", (8, 0)),
            alive(),
        ),
    ]
}
