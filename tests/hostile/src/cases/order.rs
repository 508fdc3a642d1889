//! e9 and e10: whiteouts, and entries and layers in an order that no builder writes.

use serde_json::json;

use super::{Case, Expected, alive, draft, layer, not_started, prints, reading, refused};
use crate::image::{Draft, Layer};
use crate::tarball::{Header, Tar};

pub(super) fn cases() -> Vec<Case> {
    [whiteouts(), order()].into_iter().flatten().collect()
}

fn whiteouts() -> Vec<Case> {
    let none = "a whiteout of no name";
    let gone = || not_started(127, "stat /bin/sh: no such file or directory");
    vec![
        refused(
            9,
            "whiteout-of-the-parent",
            "the parent is taken away",
            |tar| tar.file(".wh...", b""),
            none,
        ),
        refused(
            9,
            "whiteout-of-the-folder",
            "the folder itself is taken away",
            |tar| tar.file("etc/.wh..", b""),
            none,
        ),
        refused(
            9,
            "whiteout-of-nothing",
            "nothing is taken away",
            |tar| tar.file(".wh.", b""),
            none,
        ),
        refused(
            9,
            "whiteout-above",
            "something above the root is taken away",
            |tar| tar.file("../.wh.tmp", b""),
            "leads out of the layer",
        ),
        layer(
            9,
            "whiteout-through-a-link",
            "a file of the host is taken away through a link",
            |tar| {
                tar.link(b'2', "out", "/tmp/bulkhead-canary")
                    .file("out/.wh.file", b"")
            },
            alive(),
        ),
        layer(
            9,
            "whiteout-through-a-dead-link",
            "the same through a link that leads nowhere",
            |tar| tar.link(b'2', "out", "/no/where").file("out/.wh.file", b""),
            alive(),
        ),
        layer(
            9,
            "opaque-through-a-link",
            "a folder of the host is emptied through a link",
            |tar| {
                tar.link(b'2', "out", "/tmp/bulkhead-canary")
                    .file("out/.wh..wh..opq", b"")
            },
            alive(),
        ),
        layer(
            9,
            "whiteout-of-mount-points",
            "what the agent mounts upon is taken away",
            |tar| {
                tar.file(".wh.proc", b"")
                    .file(".wh.sys", b"")
                    .file(".wh.dev", b"")
                    .file(".wh.tmp", b"")
            },
            prints("test -e /proc/self && test -e /dev/null; echo $?", "0\n"),
        ),
        layer(
            9,
            "whiteout-of-etc",
            "what the agent writes to is taken away",
            |tar| tar.file(".wh.etc", b""),
            prints("test -e /etc/passwd; echo $?", "1\n"),
        ),
        layer(
            9,
            "whiteout-of-programs",
            "every program is taken away",
            |tar| tar.file(".wh.bin", b""),
            gone(),
        ),
        layer(
            9,
            "opaque-root",
            "everything is taken away, which overlayfs does not do to a root",
            |tar| tar.file(".wh..wh..opq", b""),
            prints("grep -c ^root: /etc/passwd", "1\n"),
        ),
        layer(
            9,
            "opaque-behind-files",
            "a mark that comes behind what it must not hide",
            |tar| tar.file("etc/new", b"x").file("etc/.wh..wh..opq", b""),
            prints("test -e /etc/passwd; echo $?; cat /etc/new", "1\nx"),
        ),
        layer(
            9,
            "opaque-as-a-directory",
            "the mark as a directory",
            |tar| tar.dir("etc/.wh..wh..opq"),
            alive(),
        ),
        layer(
            9,
            "whiteout-and-file",
            "a file that is taken away and there",
            |tar| tar.file("etc/.wh.passwd", b"").file("etc/passwd", b"new\n"),
            prints("cat /etc/passwd", "new\n"),
        ),
        layer(
            9,
            "file-and-whiteout",
            "the same the other way round",
            |tar| tar.file("etc/passwd", b"new\n").file("etc/.wh.passwd", b""),
            prints("cat /etc/passwd", "new\n"),
        ),
        layer(
            9,
            "whiteout-with-data",
            "a whiteout with data behind it",
            |tar| tar.file("etc/.wh.passwd", &[b'x'; 700]).file("end", b"x"),
            prints("test -e /etc/passwd; cat /end", "x"),
        ),
        layer(
            9,
            "whiteout-as-a-link",
            "a whiteout that is a link to the host",
            |tar| tar.link(b'2', "etc/.wh.passwd", "/tmp/bulkhead-canary/file"),
            prints("test -e /etc/passwd; echo $?", "1\n"),
        ),
        layer(
            9,
            "whiteout-as-a-device",
            "a whiteout as overlayfs has it",
            |tar| tar.header(&Header::new(b'3', "etc/passwd"), b""),
            prints("test -e /etc/passwd; echo $?", "1\n"),
        ),
        layer(
            9,
            "whiteout-of-a-long-name",
            "a whiteout of 255 bytes",
            |tar| {
                tar.long(b'L', format!(".wh.{}", "n".repeat(251)))
                    .file("cut", b"")
            },
            alive(),
        ),
        Case::new(
            9,
            "whiteouts-in-the-lowest-layer",
            "whiteouts where there is nothing to take away",
            draft(|base| {
                let mut draft = Draft::on(base);
                draft.layers.insert(
                    0,
                    Layer::plain(
                        Tar::new()
                            .file(".wh.x", b"")
                            .file("etc/.wh..wh..opq", b"")
                            .end(),
                    ),
                );
                draft
            }),
            alive(),
        ),
    ]
}

fn order() -> Vec<Case> {
    vec![
        layer(
            10,
            "file-twice",
            "one file, two contents: the last counts",
            |tar| tar.file("f", b"first").file("f", b"last"),
            prints("cat /f", "last"),
        ),
        layer(
            10,
            "file-directory-file",
            "one name as three things",
            |tar| {
                tar.file("f", b"x")
                    .dir("f")
                    .file("f/y", b"z")
                    .file("f", b"last")
            },
            prints("cat /f", "last"),
        ),
        layer(
            10,
            "root-twice",
            "two roots",
            |tar| tar.dir("./").dir("/").file("f", b"x"),
            prints("cat /f", "x"),
        ),
        layer(
            10,
            "file-before-its-directory",
            "a directory that comes behind what is in it",
            |tar| {
                let mut header = Header::new(b'5', "d");
                header.mode = 0o700;
                tar.file("d/f", b"x").header(&header, b"")
            },
            prints("cat /d/f; stat -c %a /d", "x700\n"),
        ),
        layer(
            10,
            "a-thousand-times",
            "one file a thousand times",
            |tar| {
                (0..1000).fold(tar, |tar, number| {
                    tar.file("f", format!("{number}").as_bytes())
                })
            },
            prints("cat /f", "999"),
        ),
        layer(10, "empty", "a layer without an entry", |tar| tar, alive()),
        Case::new(
            10,
            "no-bytes",
            "a layer without a byte",
            draft(|base| Draft::on(base).layer(Layer::plain(Vec::new()))),
            alive(),
        ),
        Case::new(
            10,
            "base-twice",
            "one layer at two places",
            draft(|base| {
                let mut draft = Draft::on(base).tar(Tar::new().file("etc/.wh.passwd", b""));
                draft.layers.push(Layer::plain(base.tar.clone()));
                draft
            }),
            prints("grep -c ^root: /etc/passwd", "1\n"),
        ),
        Case::new(
            10,
            "most-layers",
            "as many layers as there may be, all the same one",
            draft(|base| {
                (0..126).fold(Draft::on(base), |draft, _| {
                    draft.tar(Tar::new().file("f", b"x"))
                })
            }),
            prints("cat /f", "x"),
        )
        .large(),
        Case::new(
            10,
            "layers-beyond-the-limit",
            "two more",
            draft(|base| {
                (0..128).fold(Draft::on(base), |draft, _| {
                    draft.tar(Tar::new().file("f", b"x"))
                })
            }),
            reading("the image has 129 layers, above the limit of 127"),
        ),
        Case::new(
            10,
            "diff-id-missing",
            "a layer that the configuration does not know",
            draft(|base| {
                Draft::on(base)
                    .tar(Tar::new().file("f", b"x"))
                    .beside(json!({"rootfs": {"type": "layers", "diff_ids": [crate::image::digest(&base.tar)]}}))
            }),
            reading("the image has 2 layers, but its config has 1 diff_ids"),
        ),
        Case::new(
            10,
            "diff-ids-swapped",
            "the layers' diff_ids in the wrong order",
            draft(|base| {
                let mut draft = Draft::on(base).tar(Tar::new().file("f", b"x"));
                let first = draft.layers[0].diff_id.clone();
                draft.layers[0].diff_id = draft.layers[1].diff_id.clone();
                draft.layers[1].diff_id = first;
                draft
            }),
            Expected::Unpacking("its diff_id is"),
        ),
        Case::new(
            10,
            "history-of-others",
            "a history of a thousand steps for two layers",
            draft(|base| {
                let step = json!({"created_by": "RUN \u{1b}[2J pwned", "empty_layer": false});
                Draft::on(base)
                    .tar(Tar::new().file("f", b"x"))
                    .beside(json!({"history": vec![step; 1000]}))
            }),
            prints("cat /f", "x"),
        ),
        Case::new(
            10,
            "history-beyond-the-limit",
            "a history of ten thousand",
            draft(|base| Draft::on(base).beside(json!({"history": vec![json!({}); 10_000]}))),
            reading("the image config has 10000 entries in history, above the limit of 1024"),
        ),
    ]
}
