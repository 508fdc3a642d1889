//! e7 and e8: permissions, extended attributes, owners and times.

use super::{Case, alive, layer, prints, refused};
use crate::tarball::{Header, Tar};

/// A file with these records before it.
fn with(tar: Tar, records: &[(&str, &[u8])]) -> Tar {
    tar.pax(records).file("f", b"own")
}

/// The base's folder with this attribute.
fn on_etc(tar: Tar, name: &str, value: &[u8]) -> Tar {
    tar.pax(&[(&format!("SCHILY.xattr.{name}"), value)])
        .dir("etc")
}

fn with_mode(path: &str, kind: u8, mode: u32) -> Header {
    let mut header = Header::new(kind, path);
    header.mode = mode;
    header
}

pub(super) fn cases() -> Vec<Case> {
    [attributes(), numbers()].into_iter().flatten().collect()
}

fn attributes() -> Vec<Case> {
    let etc = || prints("grep -c ^root: /etc/passwd", "1\n");
    let own = || prints("cat /f", "own");
    vec![
        layer(
            7,
            "setuid",
            "a program that is anybody's root",
            |tar| tar.header(&with_mode("su", b'0', 0o4755), b"x"),
            prints("stat -c %a /su", "4755\n"),
        ),
        layer(
            7,
            "setgid-and-sticky",
            "all bits of a folder",
            |tar| tar.header(&with_mode("d", b'5', 0o7777), b""),
            prints("stat -c %a /d", "7777\n"),
        ),
        layer(
            7,
            "capabilities",
            "a file with every capability",
            |tar| {
                with(
                    tar,
                    &[(
                        "SCHILY.xattr.security.capability",
                        &[
                            1, 0, 0, 2, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0,
                            0, 0,
                        ],
                    )],
                )
            },
            own(),
        ),
        layer(
            7,
            "capabilities-cut-short",
            "capabilities of three bytes",
            |tar| with(tar, &[("SCHILY.xattr.security.capability", b"abc")]),
            own(),
        ),
        layer(
            7,
            "overlay-opaque",
            "overlayfs's mark that hides what lies below",
            |tar| on_etc(tar, "trusted.overlay.opaque", b"y"),
            etc(),
        ),
        layer(
            7,
            "overlay-redirect",
            "overlayfs's mark of another folder",
            |tar| on_etc(tar, "trusted.overlay.redirect", b"/bin"),
            etc(),
        ),
        layer(
            7,
            "overlay-redirect-up",
            "the same, leading up",
            |tar| on_etc(tar, "trusted.overlay.redirect", b"../../.."),
            etc(),
        ),
        layer(
            7,
            "overlay-metacopy",
            "overlayfs's mark of data elsewhere",
            |tar| {
                with(
                    tar,
                    &[
                        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
                        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc/shadow"),
                    ],
                )
            },
            own(),
        ),
        layer(
            7,
            "overlay-whiteout",
            "overlayfs's newer mark of what is gone",
            |tar| {
                tar.pax(&[("SCHILY.xattr.trusted.overlay.whiteouts", b"y")])
                    .dir("etc")
                    .pax(&[("SCHILY.xattr.trusted.overlay.whiteout", b"y")])
                    .file("etc/passwd", b"root:x:0:0::/:\n")
            },
            etc(),
        ),
        layer(
            7,
            "overlay-origin",
            "overlayfs's handle of a lower file",
            |tar| {
                with(
                    tar,
                    &[
                        ("SCHILY.xattr.trusted.overlay.origin", &[0, 251, 1, 2]),
                        ("SCHILY.xattr.trusted.overlay.nlink", b"L+9"),
                    ],
                )
            },
            own(),
        ),
        layer(
            7,
            "overlay-of-users",
            "the same marks as an ordinary user would set them",
            |tar| on_etc(tar, "user.overlay.opaque", b"y"),
            etc(),
        ),
        layer(
            7,
            "overlay-escaped",
            "a mark that overlayfs would unescape",
            |tar| on_etc(tar, "trusted.overlay.overlay.opaque", b"y"),
            etc(),
        ),
        layer(
            7,
            "of-the-agent",
            "an attribute in the agent's name",
            |tar| on_etc(tar, "trusted.bulkhead.implied", b"y"),
            etc(),
        ),
        layer(
            7,
            "selinux",
            "a label of another system",
            |tar| {
                with(
                    tar,
                    &[(
                        "SCHILY.xattr.security.selinux",
                        b"system_u:object_r:shadow_t:s0\0",
                    )],
                )
            },
            own(),
        ),
        layer(
            7,
            "ima-and-evm",
            "signatures that are none",
            |tar| {
                with(
                    tar,
                    &[
                        ("SCHILY.xattr.security.ima", b"x"),
                        ("SCHILY.xattr.security.evm", b"x"),
                    ],
                )
            },
            own(),
        ),
        layer(
            7,
            "unknown-namespace",
            "attributes of file systems that are not there",
            |tar| {
                with(
                    tar,
                    &[
                        ("SCHILY.xattr.system.nfs4_acl", b"x"),
                        ("SCHILY.xattr.btrfs.compression", b"zlib"),
                        ("SCHILY.xattr.", b"x"),
                    ],
                )
            },
            own(),
        ),
        refused(
            7,
            "acl-damaged",
            "an access list of one byte",
            |tar| with(tar, &[("SCHILY.xattr.system.posix_acl_access", b"x")]),
            "its attribute system.posix_acl_access is damaged",
        ),
        refused(
            7,
            "attribute-of-64-kib",
            "a value larger than any",
            |tar| with(tar, &[("SCHILY.xattr.user.x", &[0; 65_536])]),
            "65535 bytes of one extended attribute",
        ),
        refused(
            7,
            "attribute-name-of-256",
            "a name longer than any",
            |tar| {
                with(
                    tar,
                    &[(&format!("SCHILY.xattr.user.{}", "n".repeat(251)), b"x")],
                )
            },
            "a name of 256 bytes, 255 are possible",
        ),
        refused(
            7,
            "many-attributes",
            "a thousand of one file",
            |tar| {
                let names: Vec<String> = (0..1000)
                    .map(|number| format!("SCHILY.xattr.user.{number}"))
                    .collect();
                let records: Vec<(&str, &[u8])> = names
                    .iter()
                    .map(|name| (name.as_str(), &b"x"[..]))
                    .collect();
                with(tar, &records)
            },
            "128 extended attributes of one entry",
        ),
        refused(
            7,
            "attributes-of-300-kib",
            "more than an inode has room for",
            |tar| {
                let value = [7; 60_000];
                with(
                    tar,
                    &[
                        ("SCHILY.xattr.user.a", &value),
                        ("SCHILY.xattr.user.b", &value),
                        ("SCHILY.xattr.user.c", &value),
                        ("SCHILY.xattr.user.d", &value),
                        ("SCHILY.xattr.user.e", &value),
                    ],
                )
            },
            "bytes of extended attributes of one entry",
        ),
    ]
}

/// A header of which some bytes are others.
fn patched(at: usize, bytes: &'static [u8]) -> impl Fn(Tar) -> Tar + Send + Sync {
    move |tar| tar.header(&Header::new(b'0', "f").patch(at, bytes), b"own")
}

const UID: usize = 108;
const GID: usize = 116;
const MODE: usize = 100;
const MTIME: usize = 136;

fn numbers() -> Vec<Case> {
    let own = || prints("cat /f", "own");
    vec![
        refused(
            8,
            "uid-negative",
            "an owner of -1 in base 256",
            patched(UID, &[0xff; 8]),
            "its uid -1 is out of range",
        ),
        refused(
            8,
            "gid-negative",
            "a group of -2 in base 256",
            patched(GID, b"\xff\xff\xff\xff\xff\xff\xff\xfe"),
            "its gid -2 is out of range",
        ),
        refused(
            8,
            "uid-2-to-32",
            "an owner that wraps to root",
            patched(UID, b"\x80\0\0\x01\0\0\0\0"),
            "its uid 4294967296 is out of range",
        ),
        layer(
            8,
            "uid-of-nobody-at-all",
            "an owner that chown(2) takes for none",
            patched(UID, b"\x80\0\0\0\xff\xff\xff\xff"),
            prints("stat -c %u /f", "0\n"),
        ),
        layer(
            8,
            "uid-2-to-31",
            "an owner that is negative as an int",
            patched(UID, b"\x80\0\0\0\x80\0\0\0"),
            prints("stat -c %u /f", "2147483648\n"),
        ),
        refused(
            8,
            "uid-by-pax-negative",
            "an owner of -1 in a record",
            |tar| with(tar, &[("uid", b"-1")]),
            "its uid -1 is out of range",
        ),
        refused(
            8,
            "uid-by-pax-no-number",
            "an owner that is a word",
            |tar| with(tar, &[("uid", b"root")]),
            "its record uid is damaged",
        ),
        refused(
            8,
            "gid-by-pax-huge",
            "a group beyond 64 bits",
            |tar| with(tar, &[("gid", b"99999999999999999999")]),
            "its record gid is damaged",
        ),
        layer(
            8,
            "uid-by-pax-wins",
            "two owners for one file: the record's counts",
            |tar| with(tar, &[("uid", b"1000")]),
            prints("stat -c %u /f", "1000\n"),
        ),
        refused(
            8,
            "uid-no-number",
            "an owner that is no octal number",
            patched(UID, b"rootroot"),
            "its uid is no number",
        ),
        refused(
            8,
            "mode-no-number",
            "permissions that are no octal number",
            patched(MODE, b"rwxr-xr-"),
            "its mode is no number",
        ),
        layer(
            8,
            "mode-with-a-type",
            "permissions with the bits of a device",
            patched(MODE, b"0060644\0"),
            prints("test -f /f && stat -c %a /f", "644\n"),
        ),
        layer(
            8,
            "mode-negative",
            "permissions of -1",
            patched(MODE, &[0xff; 8]),
            own(),
        ),
        layer(
            8,
            "time-negative",
            "a time before 1970",
            |tar| with(tar, &[("mtime", b"-1")]),
            prints("stat -c %Y /f", "-1\n"),
        ),
        layer(
            8,
            "time-of-year-9999",
            "a time long after us",
            |tar| with(tar, &[("mtime", b"253402300799")]),
            own(),
        ),
        layer(
            8,
            "time-at-the-end",
            "the last time there is",
            |tar| with(tar, &[("mtime", b"9223372036854775807.999999999")]),
            own(),
        ),
        layer(
            8,
            "time-at-the-beginning",
            "the first time there is, in base 256",
            patched(MTIME, b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0"),
            own(),
        ),
        refused(
            8,
            "time-not-a-number",
            "a time of NaN",
            |tar| with(tar, &[("mtime", b"NaN")]),
            "its record mtime is damaged",
        ),
        refused(
            8,
            "time-with-an-exponent",
            "a time in scientific notation",
            |tar| with(tar, &[("mtime", b"1e308")]),
            "its record mtime is damaged",
        ),
        layer(
            8,
            "names-of-owners",
            "owners' names that lead elsewhere",
            |tar| {
                tar.header(
                    &Header::new(b'0', "f")
                        .patch(265, "../../../etc/passwd")
                        .patch(297, "\x1b[2J"),
                    b"own",
                )
            },
            prints("stat -c %u:%g /f", "0:0\n"),
        ),
        layer(
            8,
            "owner-of-the-root",
            "a root that is not root's",
            |tar| tar.header(&Header::new(b'5', "./").patch(UID, "0001750\0"), b""),
            alive(),
        ),
    ]
}
