//! Docker's table of what a copy becomes, and archives of local files.

use std::fs;
use std::os::unix::fs::symlink;

use tarball::{EntryKind, TarReader};

use super::*;

#[test]
fn arguments_are_split_as_by_docker() {
    for (argument, want) in [
        ("c:/a", (Some("c"), "/a")),
        ("c:a:b", (Some("c"), "a:b")),
        ("c:", (Some("c"), "")),
        ("/a:b", (None, "/a:b")),
        ("./a:b", (None, "./a:b")),
        ("../a:b", (None, "../a:b")),
        ("a/b", (None, "a/b")),
        ("-", (None, "-")),
    ] {
        assert_eq!(split(argument), want, "{argument}");
    }
}

#[test]
fn the_table_of_docker() {
    let to = |folder: &str, name: Option<&str>| {
        Ok(Plan {
            folder: folder.to_owned(),
            name: name.map(str::to_owned),
        })
    };
    let error = |text: &str| Err(text.to_owned());
    for (source, is_dir, target, there, want) in [
        ("/s/f", false, "/t/n", There::Nothing, to("/t", Some("n"))),
        (
            "/s/f",
            false,
            "/t/n/",
            There::Nothing,
            error("no such directory"),
        ),
        ("/s/f", false, "/t/n", There::File, to("/t", Some("n"))),
        ("/s/f", false, "/t", There::Directory, to("/t", Some("f"))),
        ("/s/f", false, "/t/", There::Directory, to("/t/", Some("f"))),
        ("/s/d", true, "/t/n", There::Nothing, to("/t", Some("n"))),
        ("/s/d/", true, "/t/n/", There::Nothing, to("/t", Some("n"))),
        ("/s/d/.", true, "/t/n", There::Nothing, to("/t", Some("n"))),
        (
            "/s/d",
            true,
            "/t/n",
            There::File,
            error("cannot copy directory"),
        ),
        ("/s/d", true, "/t", There::Directory, to("/t", Some("d"))),
        ("/s/d/", true, "/t", There::Directory, to("/t", Some("d"))),
        ("/s/d/.", true, "/t", There::Directory, to("/t", None)),
        ("/", true, "/t", There::Directory, to("/t", None)),
        ("/f", false, "/n", There::Nothing, to("/", Some("n"))),
    ] {
        let got = plan(source, is_dir, target, there).map_err(|error| error.to_string());
        assert_eq!(got, want, "{source} {target} {there:?}");
    }
}

#[test]
fn ends_of_local_paths_are_kept() {
    let here = std::env::current_dir().unwrap();
    let here = here.to_str().unwrap();
    for (path, want) in [
        ("/a/b", "/a/b".to_owned()),
        ("/a/b/", "/a/b/".to_owned()),
        ("/a/b/.", "/a/b/.".to_owned()),
        ("/", "/".to_owned()),
        (".", format!("{here}/.")),
        ("./", format!("{here}/.")),
        ("a/.//", format!("{here}/a/.")),
        ("a.", format!("{here}/a.")),
        ("..a/", format!("{here}/..a/")),
        ("./x", format!("{here}/x")),
        ("/a/./b//../c", "/a/c".to_owned()),
        ("/../a/..", "/".to_owned()),
        ("/.", "/.".to_owned()),
    ] {
        assert_eq!(absolute(path).unwrap(), want, "{path}");
    }
}

#[test]
fn paths_in_a_container_begin_at_its_root() {
    for (path, want) in [
        ("a", "/a"),
        ("/a/../../b/", "/b/"),
        ("../..", "/"),
        ("a/.", "/a/."),
        (".", "/."),
        ("/", "/"),
    ] {
        assert_eq!(in_container(path), want, "{path}");
    }
    assert_eq!(through("/a/link", "../b"), "/b");
    assert_eq!(through("/a/link", "/c/./d"), "/c/d");
}

#[test]
fn destinations_on_the_host_are_found_through_links() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("{}/{name}", folder.path().display());
    fs::create_dir(path("dir")).unwrap();
    symlink("dir", path("to-dir")).unwrap();
    symlink("nothing", path("to-nothing")).unwrap();
    symlink("loop", path("loop")).unwrap();
    let find = |name: &str| Target::find(&path(name)).map(|target| (target.path, target.there));
    assert_eq!(find("to-dir").unwrap(), (path("dir"), There::Directory));
    assert_eq!(
        find("to-nothing").unwrap(),
        (path("nothing"), There::Nothing)
    );
    assert!(
        find("loop")
            .unwrap_err()
            .to_string()
            .contains("too many links")
    );
    let error = find("no/such").unwrap_err().to_string();
    assert!(
        error.starts_with("invalid output path: directory"),
        "{error}"
    );
    let error = Target::find("/dev/null").unwrap_err().to_string();
    assert!(
        error.contains("must be a directory or a regular file"),
        "{error}"
    );
}

#[test]
fn sources_that_are_not_there_are_told() {
    let error = Source::find("/no/such", false).unwrap_err().to_string();
    assert_eq!(error, "lstat /no/such: no such file or directory");
}

#[test]
fn local_files_become_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("d/e")).unwrap();
    fs::write(path("d/file"), "content").unwrap();
    fs::hard_link(path("d/file"), path("d/second")).unwrap();
    symlink("file", path("d/link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("d/socket")).unwrap();
    let mut bytes = Vec::new();
    local::write(&path("d"), b"top", &mut bytes).unwrap();
    let mut reader = TarReader::new(&*bytes);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        found.push((text(entry.path), entry.kind, text(entry.link)));
    }
    let want = [
        ("top/", EntryKind::Directory, ""),
        ("top/e/", EntryKind::Directory, ""),
        ("top/file", EntryKind::File, ""),
        ("top/link", EntryKind::Symlink, "file"),
        ("top/second", EntryKind::HardLink, "top/file"),
    ];
    let want = want.map(|(path, kind, link)| (path.to_owned(), kind, link.to_owned()));
    assert_eq!(found, want);
}
