//! Hard links, symbolic links, and paths that lead through them.

use super::*;

#[test]
fn hard_links_share_an_inode() {
    let image = image(
        Tar::new()
            .file("a", b"same")
            .link(b'1', "b", "a")
            .link(b'1', "deep/c", "/./a")
            .link(b'2', "soft", "../../etc/passwd")
            .link(b'1', "soft-too", "soft")
            .header(&tarball::Header::new(b'6', "fifo"), b"")
            .link(b'1', "deep/fifo", "fifo")
            // Again, and in a circle.
            .link(b'1', "b", "a")
            .link(b'1', "a", "b"),
    );
    let a = image.get("/a");
    assert_eq!((a.links, image.data("/deep/c")), (3, b"same".to_vec()));
    assert_eq!(
        (image.get("/b").nid, image.get("/deep/c").nid),
        (a.nid, a.nid)
    );
    assert_eq!(image.get("/soft").links, 2);
    assert_eq!(image.data("/soft-too"), b"../../etc/passwd");
    assert_eq!(image.get("/deep/fifo").nid, image.get("/fifo").nid);
}

#[test]
fn hard_links_keep_the_metadata_of_their_target() {
    let mut link = tarball::Header::new(b'1', "b");
    link.link = b"a".to_vec();
    link.mode = 0o777;
    link.uid = 9;
    // Some archivers give the size, without the data.
    link.size = Some(4);
    let image = image(Tar::new().file("a", b"same").header(&link, b"").dir("d"));
    assert_eq!((image.get("/b").mode, image.get("/b").uid), (0o100_644, 0));
    assert!(image.has("/d"));
}

#[test]
fn what_replaces_a_linked_file_leaves_the_other_names() {
    let image = image(
        Tar::new()
            .file("a", b"old")
            .link(b'1', "b", "a")
            .link(b'1', "d/c", "a")
            .file("a", b"new")
            .file("d", b"no directory any more"),
    );
    assert_eq!(
        (image.data("/a"), image.data("/b")),
        (b"new".to_vec(), b"old".to_vec())
    );
    assert_eq!((image.get("/a").links, image.get("/b").links), (1, 1));
}

#[test]
fn hard_links_to_nothing_are_refused() {
    for (tar, want) in [
        (
            Tar::new().link(b'1', "h", "../../etc/shadow"),
            "leads out of the layer",
        ),
        (
            Tar::new().link(b'1', "h", "nothing"),
            "which this layer does not have",
        ),
        (
            Tar::new().link(b'1', "h", ""),
            "which this layer does not have",
        ),
        (
            Tar::new().link(b'1', "h", "later").file("later", b""),
            "does not have",
        ),
        (
            Tar::new().file("h", b"").link(b'1', "h", "h"),
            "does not have",
        ),
        (
            Tar::new().file("h", b"").link(b'1', "h", "./h"),
            "does not have",
        ),
        // Where the link goes there was the directory with its target.
        (
            Tar::new().file("d/f", b"x").link(b'1', "d", "d/f"),
            "does not have",
        ),
        (
            Tar::new().dir("d").link(b'1', "h", "d"),
            "a hard link to the directory d",
        ),
        (Tar::new().link(b'1', "h", "/"), "does not have"),
        (
            Tar::new().file(".wh.w", b"").link(b'1', "h", "w"),
            "does not have",
        ),
        (
            Tar::new()
                .link(b'2', "loop", "loop")
                .link(b'1', "h", "loop/x"),
            "more than 40 symbolic links",
        ),
    ] {
        let error = refused(tar);
        assert!(error.starts_with("entry "), "{error}");
        assert!(error.contains(want), "{error:?} has no {want:?}");
    }
}

#[test]
fn a_symbolic_link_on_the_way_is_followed_within_the_layer() {
    let image = image(
        Tar::new()
            .dir("usr/lib/")
            .link(b'2', "lib", "usr/lib")
            .link(b'2', "abs", "/usr/lib")
            .link(b'2', "up", "../../../usr")
            .link(b'2', "usr/lib/back", "..")
            .link(b'2', "nowhere", "made/on/the/way")
            .file("lib/a", b"1")
            .file("abs/b", b"2")
            .file("up/c", b"3")
            .file("lib/back/lib/d", b"4")
            .file("nowhere/e", b"5")
            .link(b'1', "h", "abs/back/lib/a"),
    );
    assert_eq!(image.data("/usr/lib/a"), b"1");
    assert_eq!(image.data("/usr/lib/b"), b"2");
    assert_eq!(image.data("/usr/c"), b"3");
    assert_eq!(image.data("/usr/lib/d"), b"4");
    assert_eq!(image.data("/made/on/the/way/e"), b"5");
    assert_eq!(image.get("/h").nid, image.get("/usr/lib/a").nid);
    assert_eq!(image.get("/lib").mode, 0o120_777, "whatever the tar says");
}

#[test]
fn forty_links_are_followed_and_no_more() {
    let chain = |links: usize| {
        let mut tar = Tar::new().dir("0");
        for number in 0..links {
            tar = tar.link(b'2', &format!("{}", number + 1), &number.to_string());
        }
        tar.file(format!("{links}/x"), b"")
    };
    assert!(image(chain(40)).has("/0/x"));
    assert!(refused(chain(41)).contains("more than 40 symbolic links"));
    let around = Tar::new()
        .link(b'2', "a", "b")
        .link(b'2', "b", "a")
        .file("a/x", b"");
    assert!(refused(around).contains("more than 40 symbolic links"));
}

#[test]
fn symbolic_links_of_every_length() {
    let lengths = [1, 59, 3999, 4031, 4032, 4033, 4064, 4095];
    let mut tar = Tar::new();
    for length in lengths {
        tar = tar
            .long(b'K', "t".repeat(length))
            .pax(&[("SCHILY.xattr.trusted.x", &[b'v'; 300])])
            .link(b'2', &format!("with-{length}"), "")
            .long(b'K', "t".repeat(length))
            .link(b'2', &format!("plain-{length}"), "");
    }
    let image = image(tar);
    for length in lengths {
        for kind in ["with", "plain"] {
            let path = format!("/{kind}-{length}");
            assert_eq!(image.data(&path), "t".repeat(length).as_bytes(), "{path}");
        }
    }
    let tar = Tar::new().long(b'K', "t".repeat(4096)).link(b'2', "l", "");
    assert!(refused(tar).contains("a symbolic link of 4096 bytes"));
    assert!(refused(Tar::new().link(b'2', "l", "")).contains("a symbolic link of 0 bytes"));
}
