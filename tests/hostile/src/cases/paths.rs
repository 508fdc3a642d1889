//! e1: names of entries that lead out, are no names, or are more than a name.

use super::{Case, layer, prints, refused};
use crate::tarball::{Header, Tar};

/// A file whose name is longer than a header has room for.
fn long(tar: Tar, path: impl AsRef<[u8]>) -> Tar {
    tar.long(b'L', path).file("cut", b"x")
}

pub(super) fn cases() -> Vec<Case> {
    let out = "leads out of the layer";
    vec![
        refused(
            1,
            "up",
            "a file beside the root",
            |tar| tar.file("../pwned", b"x"),
            out,
        ),
        refused(
            1,
            "down-and-up",
            "the same behind a directory",
            |tar| tar.file("a/../../pwned", b"x"),
            out,
        ),
        refused(
            1,
            "up-to-the-canary",
            "a file of the host, by many steps up",
            |tar| tar.file("../../../../../../../tmp/bulkhead-canary/pwned", b"x"),
            out,
        ),
        refused(
            1,
            "absolute-up",
            "the same from the root",
            |tar| tar.file("/../../tmp/bulkhead-canary/pwned", b"x"),
            out,
        ),
        refused(
            1,
            "directory-up",
            "the parent as a directory",
            |tar| tar.dir(".."),
            out,
        ),
        refused(
            1,
            "escape-in-an-error",
            "escape sequences in the error that names the entry",
            |tar| tar.file("../\x1b[2J\x1b]0;pwned\x07", b"x"),
            "\\x1b[2J",
        ),
        layer(
            1,
            "absolute",
            "a file of the host by its absolute name",
            |tar| tar.file("/tmp/bulkhead-canary/pwned", b"guest"),
            prints("cat /tmp/bulkhead-canary/pwned", "guest"),
        )
        .into("/tmp/bulkhead-canary/copied"),
        layer(
            1,
            "two-slashes",
            "a name that begins with two slashes",
            |tar| tar.file("//pwned", b"x"),
            prints("cat /pwned", "x"),
        ),
        layer(
            1,
            "dots",
            "a name full of dots",
            |tar| tar.file("./././pwned", b"x"),
            prints("cat /pwned", "x"),
        ),
        layer(
            1,
            "back-in",
            "a step up within the layer",
            |tar| tar.file("a/../pwned", b"x"),
            prints("cat /pwned", "x"),
        ),
        layer(
            1,
            "dots-and-slashes",
            "every way to say nothing",
            |tar| tar.file("a//./b/.././../pwned", b"x"),
            prints("cat /pwned", "x"),
        ),
        refused(
            1,
            "empty-name",
            "a file without a name",
            |tar| tar.file("", b"x"),
            "the root is no directory",
        ),
        refused(
            1,
            "dot-as-a-file",
            "the root as a file",
            |tar| tar.file(".", b"x"),
            "the root is no directory",
        ),
        refused(
            1,
            "slash-as-a-link",
            "the root as a symbolic link",
            |tar| tar.link(b'2', "/", "/tmp/bulkhead-canary"),
            "the root is no directory",
        ),
        layer(
            1,
            "root-mode",
            "the root with odd permissions",
            |tar| {
                let mut header = Header::new(b'5', "./");
                header.mode = 0o711;
                tar.header(&header, b"")
            },
            prints("stat -c %a /", "711\n"),
        ),
        layer(
            1,
            "slash-behind-a-file",
            "a file whose name ends in a slash",
            |tar| tar.file("slash/", b"x"),
            prints("cat /slash", "x"),
        ),
        refused(
            1,
            "nul",
            "a name that ends for C and goes on for others",
            |tar| tar.pax(&[("path", b"good\0/../pwned")]).file("f", b"x"),
            "its record path is damaged",
        ),
        layer(
            1,
            "newline",
            "a name of two lines",
            |tar| tar.file("two\nlines", b"x"),
            prints("cat '/two\nlines'", "x"),
        ),
        layer(
            1,
            "name-of-255",
            "the longest name",
            |tar| long(tar, "n".repeat(255)),
            prints("ls / | grep -c '^n*$'", "1\n"),
        ),
        refused(
            1,
            "name-of-256",
            "a longer one",
            |tar| long(tar, "n".repeat(256)),
            "a name of 256 bytes",
        ),
        layer(
            1,
            "deep",
            "directories in each other, a thousand",
            |tar| long(tar, format!("deep/{}end", "a/".repeat(1000))),
            prints("find /deep -name end | wc -c", "2010\n"),
        ),
        refused(
            1,
            "path-of-4099",
            "a path that no program could name",
            |tar| long(tar, format!("{}end", "a/".repeat(2048))),
            "a path of 4099 bytes",
        ),
        layer(
            1,
            "not-utf-8",
            "a name that is no text",
            |tar| tar.file(b"bytes\xff\xfe", b"x"),
            prints("cat /bytes*", "x"),
        ),
        layer(
            1,
            "right-to-left",
            "a name that reads backwards",
            |tar| tar.file("\u{202e}gpj.sh", b"x"),
            prints("cat /*gpj.sh", "x"),
        ),
        layer(
            1,
            "control",
            "a name that changes a terminal",
            |tar| tar.file("\x1b]0;pwned\x07\x1b[2J", b"x"),
            prints("cat /*pwned*", "x"),
        ),
        layer(
            1,
            "backslashes",
            "a name that leads up for Windows",
            |tar| tar.file("..\\..\\pwned", b"x"),
            prints("cat '/..\\..\\pwned'", "x"),
        ),
        layer(
            1,
            "option",
            "a name that is an option of tar",
            |tar| tar.file("--checkpoint-action=exec=sh pwned", b"x"),
            prints("cat /--checkpoint*", "x"),
        ),
        layer(
            1,
            "four-dots",
            "what is almost a step up",
            |tar| tar.file("....//.. /pwned", b"x"),
            prints("cat '/..../.. /pwned'", "x"),
        ),
    ]
}
