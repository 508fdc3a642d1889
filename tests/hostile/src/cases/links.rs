//! e2 to e4: symbolic links, hard links, and parents that are something else a moment later.

use super::{Case, alive, draft, layer, prints, refused};
use crate::image::Draft;
use crate::tarball::{Header, Tar};

const THERE: &str = "/tmp/bulkhead-canary";

fn symlink(tar: Tar, path: &str, target: &str) -> Tar {
    tar.link(b'2', path, target)
}

fn hardlink(tar: Tar, path: &str, target: &str) -> Tar {
    tar.link(b'1', path, target)
}

/// `1` leads to `0`, a directory, and so on; a file through the last.
fn chain(tar: Tar, links: usize) -> Tar {
    let tar = (0..links).fold(tar.dir("0"), |tar, number| {
        symlink(tar, &(number + 1).to_string(), &number.to_string())
    });
    tar.file(format!("{links}/x"), b"x")
}

pub(super) fn cases() -> Vec<Case> {
    [symbolic(), hard(), parents()]
        .into_iter()
        .flatten()
        .collect()
}

fn symbolic() -> Vec<Case> {
    let guest = || prints("cat /tmp/bulkhead-canary/pwned", "guest");
    vec![
        layer(
            2,
            "through-an-absolute-link",
            "a file through a link to a folder of the host",
            |tar| symlink(tar, "out", THERE).file("out/pwned", b"guest"),
            guest(),
        )
        .into("/out/copied"),
        layer(
            2,
            "through-a-relative-link",
            "the same by steps up",
            |tar| {
                symlink(tar, "out", "../../../../tmp/bulkhead-canary").file("out/pwned", b"guest")
            },
            guest(),
        )
        .into("/out/copied"),
        layer(
            2,
            "through-two-links",
            "the same over another link",
            |tar| {
                symlink(
                    symlink(tar, "first", "/tmp"),
                    "out",
                    "first/bulkhead-canary",
                )
                .file("out/pwned", b"guest")
            },
            guest(),
        )
        .into("/out/copied"),
        layer(
            2,
            "through-the-root",
            "a file through a link to the root",
            |tar| symlink(tar, "out", "/").file("out/etc/pwned", b"guest"),
            prints("cat /etc/pwned", "guest"),
        )
        .into("/out/copied"),
        layer(
            2,
            "through-proc",
            "a file through what would be another root",
            |tar| {
                symlink(tar, "out", concat!("/proc/1/root", "/tmp/bulkhead-canary"))
                    .file("out/pwned", b"guest")
            },
            prints(
                "readlink /out",
                concat!("/proc/1/root", "/tmp/bulkhead-canary\n"),
            ),
        )
        .into("/out/copied"),
        layer(
            2,
            "through-proc-cwd",
            "a file through what would be a process's folder",
            |tar| symlink(tar, "out", "/proc/self/cwd").file("out/pwned", b"guest"),
            prints("readlink /out", "/proc/self/cwd\n"),
        )
        .into("/out/copied"),
        refused(
            2,
            "through-a-loop",
            "a file through a link to itself",
            |tar| symlink(tar, "loop", "loop").file("loop/x", b"x"),
            "more than 40 symbolic links",
        ),
        refused(
            2,
            "through-a-circle",
            "a file through two links to each other",
            |tar| symlink(symlink(tar, "a", "b"), "b", "a").file("a/x", b"x"),
            "more than 40 symbolic links",
        ),
        layer(
            2,
            "loop",
            "a link to itself",
            |tar| symlink(tar, "loop", "loop"),
            prints("readlink /loop", "loop\n"),
        )
        .into("/loop"),
        layer(
            2,
            "forty-links",
            "as many links as a kernel follows",
            |tar| chain(tar, 40),
            prints("cat /0/x", "x"),
        ),
        refused(
            2,
            "forty-one-links",
            "one more",
            |tar| chain(tar, 41),
            "more than 40 symbolic links",
        ),
        layer(
            2,
            "dangling",
            "a file through a link that leads nowhere",
            |tar| symlink(tar, "out", "no/where").file("out/x", b"x"),
            prints("cat /no/where/x", "x"),
        )
        .into("/out/copied"),
        layer(
            2,
            "link-to-a-file",
            "a link to a file of the host, then a file of that name",
            |tar| symlink(tar, "out", "/tmp/bulkhead-canary/file").file("out", b"guest"),
            prints("test -L /out; cat /out", "guest"),
        )
        .into("/out"),
        layer(
            2,
            "copy-over-a-link",
            "a link to a file of the host, over which is copied",
            |tar| symlink(tar, "out", "/tmp/bulkhead-canary/file"),
            prints("readlink /out", "/tmp/bulkhead-canary/file\n"),
        )
        .into("/out"),
        layer(
            2,
            "slash-behind-a-link",
            "a link whose name ends in a slash",
            |tar| symlink(tar, "out/", THERE),
            prints("readlink /out", "/tmp/bulkhead-canary\n"),
        )
        .into("/out/copied"),
        layer(
            2,
            "directory-over-a-link",
            "a link, a directory of its name, a file in that",
            |tar| {
                symlink(tar, "out", THERE)
                    .dir("out/")
                    .file("out/pwned", b"guest")
            },
            prints("cat /out/pwned", "guest"),
        ),
        layer(
            2,
            "link-over-a-directory",
            "the base's folder as a link",
            |tar| symlink(tar, "home", THERE),
            prints("readlink /home", "/tmp/bulkhead-canary\n"),
        )
        .into("/home/copied"),
        refused(
            2,
            "empty-target",
            "a link to nothing",
            |tar| symlink(tar, "out", ""),
            "a symbolic link of 0 bytes",
        ),
        refused(
            2,
            "long-target",
            "a link's target that no path can be",
            |tar| symlink(tar.long(b'K', "t".repeat(4096)), "out", ""),
            "a symbolic link of 4096 bytes",
        ),
        refused(
            2,
            "nul-in-a-target",
            "a target that ends for C and goes on for others",
            |tar| symlink(tar.pax(&[("linkpath", b"a\0/../..")]), "out", ""),
            "its record linkpath is damaged",
        ),
        layer(
            2,
            "target-with-escapes",
            "a target that changes a terminal",
            |tar| symlink(tar, "out", "\x1b[2J\n\u{202e}"),
            prints("readlink /out | wc -c", "9\n"),
        ),
    ]
}

fn hard() -> Vec<Case> {
    let missing = "which this layer does not have";
    vec![
        refused(
            3,
            "hard-link-up",
            "a second name of a file of the host",
            |tar| hardlink(tar, "h", "../../../../etc/shadow"),
            "leads out of the layer",
        ),
        refused(
            3,
            "hard-link-absolute",
            "the same by its absolute name",
            |tar| hardlink(tar, "h", "/tmp/bulkhead-canary/file"),
            missing,
        ),
        refused(
            3,
            "hard-link-below",
            "a second name of a lower layer's file",
            |tar| hardlink(tar, "h", "bin/busybox"),
            missing,
        ),
        refused(
            3,
            "hard-link-later",
            "of a file that only comes",
            |tar| hardlink(tar, "h", "later").file("later", b"x"),
            missing,
        ),
        refused(
            3,
            "hard-link-self",
            "of itself",
            |tar| hardlink(tar, "h", "h"),
            missing,
        ),
        refused(
            3,
            "hard-link-over-itself",
            "of itself, where a file was",
            |tar| hardlink(tar.file("h", b"x"), "h", "./h"),
            missing,
        ),
        refused(
            3,
            "hard-link-through-a-link",
            "of a host's file through a link",
            |tar| hardlink(symlink(tar, "out", THERE), "h", "out/file"),
            missing,
        ),
        refused(
            3,
            "hard-link-directory",
            "of a directory",
            |tar| hardlink(tar.dir("d"), "h", "d"),
            "a hard link to the directory d",
        ),
        refused(
            3,
            "hard-link-root",
            "of the root",
            |tar| hardlink(tar, "h", "/"),
            missing,
        ),
        refused(
            3,
            "hard-link-whiteout",
            "of a file that is taken away",
            |tar| hardlink(tar.file(".wh.w", b""), "h", "w"),
            missing,
        ),
        refused(
            3,
            "hard-link-empty",
            "of nothing",
            |tar| hardlink(tar, "h", ""),
            missing,
        ),
        refused(
            3,
            "hard-link-nul",
            "of a name with a NUL",
            |tar| hardlink(tar.pax(&[("linkpath", b"f\0x")]), "h", ""),
            "its record linkpath is damaged",
        ),
        refused(
            3,
            "hard-link-named-up",
            "a second name outside",
            |tar| hardlink(tar.file("f", b"x"), "../pwned", "f"),
            "leads out of the layer",
        ),
        layer(
            3,
            "hard-link-to-a-link",
            "a second name of a link to the host",
            |tar| hardlink(symlink(tar, "l", "/tmp/bulkhead-canary/file"), "h", "l"),
            prints("readlink /h", "/tmp/bulkhead-canary/file\n"),
        )
        .into("/h"),
        layer(
            3,
            "hard-link-chmod",
            "a second name that makes its target setuid and someone else's",
            |tar| {
                let mut link = Header::new(b'1', "h");
                link.link = b"f".to_vec();
                link.mode = 0o4777;
                link.uid = 1234;
                tar.file("f", b"x").header(&link, b"")
            },
            prints("stat -c '%a %u' /f", "644 0\n"),
        ),
        layer(
            3,
            "hard-link-replaced",
            "a file of a second name's name",
            |tar| hardlink(tar.file("a", b"old"), "b", "a").file("b", b"new"),
            prints("cat /a /b", "oldnew"),
        ),
        layer(
            3,
            "hard-link-with-a-size",
            "a second name that claims the next entry as its data",
            |tar| {
                let mut link = Header::new(b'1', "h");
                link.link = b"f".to_vec();
                link.size = Some(512);
                tar.file("f", b"x").header(&link, b"").file("next", b"y")
            },
            prints("cat /h /next", "xy"),
        ),
        layer(
            3,
            "hard-link-to-a-device",
            "a second name of the host's disk",
            |tar| {
                let mut node = Header::new(b'4', "disk");
                node.device = (8, 0);
                hardlink(tar.header(&node, b""), "h", "disk")
            },
            prints("head -c 1 /h 2>&1 | grep -c 'not permitted'", "1\n"),
        ),
    ]
}

fn parents() -> Vec<Case> {
    vec![
        layer(
            4,
            "directory-then-link",
            "a directory that becomes a link before its file comes",
            |tar| symlink(tar.dir("d"), "d", THERE).file("d/pwned", b"guest"),
            prints("cat /tmp/bulkhead-canary/pwned", "guest"),
        )
        .into("/d/copied"),
        Case::new(
            4,
            "link-in-a-layer-below",
            "a link in one layer, a file through it in the next",
            draft(|base| {
                Draft::on(base)
                    .tar(symlink(Tar::new(), "d", THERE))
                    .tar(Tar::new().file("d/pwned", b"guest"))
            }),
            prints("cat /d/pwned", "guest"),
        ),
        Case::new(
            4,
            "directory-link-directory",
            "a directory, a link and a file beneath it, a layer each",
            draft(|base| {
                Draft::on(base)
                    .tar(Tar::new().dir("d"))
                    .tar(symlink(Tar::new(), "d", THERE))
                    .tar(Tar::new().dir("d").file("d/pwned", b"guest"))
            }),
            prints("cat /d/pwned", "guest"),
        ),
        Case::new(
            4,
            "whiteout-then-link",
            "a directory that is taken away, and a link in its place, in the next layer",
            draft(|base| {
                Draft::on(base)
                    .tar(Tar::new().dir("d").file("d/f", b"x"))
                    .tar(symlink(Tar::new().file(".wh.d", b""), "d", THERE))
            }),
            prints("readlink /d", "/tmp/bulkhead-canary\n"),
        )
        .into("/d/copied"),
        refused(
            4,
            "file-as-parent",
            "a file beneath a file",
            |tar| tar.file("f", b"x").file("f/pwned", b"x"),
            "is no directory, and an entry lies below it",
        ),
        refused(
            4,
            "fifo-as-parent",
            "a file beneath a named pipe",
            |tar| {
                tar.header(&Header::new(b'6', "f"), b"")
                    .file("f/pwned", b"x")
            },
            "is no directory, and an entry lies below it",
        ),
        refused(
            4,
            "device-as-parent",
            "a file beneath a device",
            |tar| {
                let mut node = Header::new(b'3', "f");
                node.device = (1, 1);
                tar.header(&node, b"").file("f/pwned", b"x")
            },
            "is no directory, and an entry lies below it",
        ),
        refused(
            4,
            "link-to-a-file-as-parent",
            "a file beneath a link to a file",
            |tar| symlink(tar.file("f", b"x"), "l", "f").file("l/pwned", b"x"),
            "is no directory, and an entry lies below it",
        ),
        Case::new(
            4,
            "file-in-a-layer-below",
            "a directory of the base as a file, and as a directory in the next layer",
            draft(|base| {
                Draft::on(base)
                    .tar(Tar::new().file("home", b"x"))
                    .tar(Tar::new().file("home/f", b"y"))
            }),
            prints("cat /home/f", "y"),
        ),
        layer(
            4,
            "file-directory-link",
            "one name as three things, and a file beneath the last",
            |tar| {
                symlink(tar.file("d", b"x").dir("d"), "d", THERE)
                    .file("d/pwned", b"guest")
                    .file("end", b"")
            },
            alive(),
        ),
    ]
}
