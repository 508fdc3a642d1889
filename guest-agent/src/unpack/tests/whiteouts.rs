//! What a layer removes from those below.

use super::*;

#[test]
fn whiteouts_and_opaque_directories_are_overlayfs_s() {
    let image = image(
        Tar::new()
            .dir("./")
            .dir("d/")
            .file("d/.wh.gone", b"")
            .file(".wh.top", b"")
            .file("d/.wh..gone", b"")
            .file(b"d/.wh.\xff\n", b"")
            .dir("after/")
            .file("after/.wh..wh..opq", b"")
            .file("before/.wh..wh..opq", b"")
            .dir("before/")
            .file("before/inside", b"1"),
    );
    for path in ["/d/gone", "/top", "/d/.gone"] {
        assert!(image.is_whiteout(path), "{path}");
        assert_eq!(image.get(path).mode, 0o020_000);
    }
    assert!(image.is_opaque("/after") && image.is_opaque("/before"));
    assert!(!image.is_opaque("/d") && !image.is_opaque("/"));
    assert_eq!(image.data("/before/inside"), b"1");
    assert_eq!(image.implied_count(), None);
}

#[test]
fn a_name_that_is_hidden_and_there_is_there_in_either_order() {
    let image = image(
        Tar::new()
            .dir("./")
            .file(".wh.file-after", b"")
            .file("file-after", b"new")
            .file("file-before", b"new")
            .file(".wh.file-before", b"")
            .file(".wh.dir-after", b"")
            .dir("dir-after")
            .dir("dir-before")
            .file(".wh.dir-before", b"")
            .file(".wh.implied-after", b"")
            .file("implied-after/x", b"1")
            .file("implied-before/x", b"1")
            .file(".wh.implied-before", b"")
            .file(".wh.twice", b"")
            .file(".wh.twice", b"")
            .file(".wh.link-after", b"")
            .link(b'1', "link-after", "file-after"),
    );
    for path in ["/file-after", "/file-before", "/link-after"] {
        assert_eq!(image.data(path), b"new", "{path}");
    }
    for path in [
        "/dir-after",
        "/dir-before",
        "/implied-after",
        "/implied-before",
    ] {
        assert!(image.is_opaque(path), "{path}: lower layers are hidden");
    }
    assert_eq!(image.data("/implied-after/x"), b"1");
    assert!(image.is_whiteout("/twice"));
}

#[test]
fn a_character_device_0_0_is_a_whiteout_and_no_other_is() {
    let mut null = tarball::Header::new(b'3', "null");
    null.device = (1, 3);
    let mut block = tarball::Header::new(b'4', "block");
    block.mode = 0o600;
    let image = image(
        Tar::new()
            .file("gone", b"replaced")
            .header(&tarball::Header::new(b'3', "gone"), b"")
            .header(&null, b"")
            .header(&block, b""),
    );
    assert!(image.is_whiteout("/gone"));
    assert!(!image.is_whiteout("/null"));
    assert_eq!(image.get("/block").mode, 0o060_600);
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    for path in [".wh.", ".wh..", ".wh...", "d/.wh..", "d/.wh..."] {
        let error = refused(Tar::new().file(path, b""));
        assert_eq!(error, format!("entry {path}: a whiteout of no name"));
    }
}

#[test]
fn what_aufs_kept_for_itself_is_passed_over() {
    let image = image(
        Tar::new()
            .dir("./")
            .dir(".wh..wh.plnk/")
            .file(".wh..wh.plnk/12.34", b"data")
            .file(".wh..wh.aufs", b"")
            .file(".wh..wh.", b"")
            .file("d/.wh..wh.orph/x", b"")
            .file(".wh..wh..opq/x", b"")
            .file("next", b"1"),
    );
    assert_eq!(image.paths(), ["/", "/next"]);
    assert!(!image.is_opaque("/"));
}
