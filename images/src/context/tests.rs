//! What a build takes from a folder: patterns, links, .dockerignore, digests, archives.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tarball::{EntryKind, TarReader};
use tempfile::TempDir;

use super::*;

mod links;

/// A folder with these files: `a/` is a directory, `a -> b` a link, anything else a file with its own
/// name as content.
fn folder(files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let (path, link) = match file.split_once(" -> ") {
            Some((path, target)) => (path, Some(target)),
            None => (*file, None),
        };
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match link {
            Some(target) => symlink(target, &path).unwrap(),
            None if file.ends_with('/') => fs::create_dir_all(&path).unwrap(),
            None => fs::write(&path, file).unwrap(),
        }
    }
    folder
}

fn open(folder: &TempDir, ignore: &str) -> Context {
    Context::open(folder.path(), Ignore::parse(ignore.as_bytes()).unwrap()).unwrap()
}

fn wanted<'a>(patterns: &'a [&'a str]) -> Wanted<'a> {
    Wanted {
        instruction: "COPY",
        patterns,
        is_literal: false,
        parents: false,
        exclude: &[],
    }
}

fn names(selected: &[Selected]) -> Vec<String> {
    let entries = selected.iter().flat_map(|one| &one.entries);
    entries
        .map(|entry| entry.name.to_str().unwrap().to_owned())
        .collect()
}

/// Names in the archive of a copy of the whole folder.
fn kept(folder: &TempDir, ignore: &str) -> String {
    let context = open(folder, ignore);
    names(&context.resolve(&wanted(&["."])).unwrap()).join(" ")
}

const TREE: &[&str] = &[
    "a.go",
    "b.txt",
    "dir/a.go",
    "dir/b.txt",
    "dir/sub/c.go",
    "dir/sub/d.md",
    "empty/",
    "other/e.md",
];

#[test]
fn what_is_ignored() {
    let folder = folder(TREE);
    let all = "a.go b.txt dir dir/a.go dir/b.txt dir/sub dir/sub/c.go dir/sub/d.md empty other other/e.md";
    for (ignore, want) in [
        ("", all),
        ("# a.go\n\n   \n", all),
        (" #a.go", all),
        (
            "a.go",
            "b.txt dir dir/a.go dir/b.txt dir/sub dir/sub/c.go dir/sub/d.md empty other other/e.md",
        ),
        (
            "  /a.go  \r\n./b.txt\nempty/",
            "dir dir/a.go dir/b.txt dir/sub dir/sub/c.go dir/sub/d.md other other/e.md",
        ),
        ("*.go\n*.txt\ndir\n../x", "empty other other/e.md"),
        (
            "**/*.go",
            "b.txt dir dir/b.txt dir/sub dir/sub/d.md empty other other/e.md",
        ),
        ("**", ""),
        ("*", ""),
        ("dir/*", "a.go b.txt dir empty other other/e.md"),
        (
            "dir/**/*.md\n*/e.md",
            "a.go b.txt dir dir/a.go dir/b.txt dir/sub dir/sub/c.go empty other",
        ),
        // The last one that matches decides.
        ("*\n!dir/a.go", "dir dir/a.go"),
        ("**\n!dir/sub", "dir dir/sub dir/sub/c.go dir/sub/d.md"),
        ("*\n!dir\ndir/sub", "dir dir/a.go dir/b.txt"),
        (
            "dir\n!dir/sub/c.go",
            "a.go b.txt dir dir/sub dir/sub/c.go empty other other/e.md",
        ),
        (
            "!a.go\na.go\n!b.txt",
            "b.txt dir dir/a.go dir/b.txt dir/sub dir/sub/c.go dir/sub/d.md empty other other/e.md",
        ),
        ("**\n!dir/sub/*", "dir dir/sub dir/sub/c.go dir/sub/d.md"),
        (
            "*\n!dir/sub/**\n!other",
            "dir dir/sub dir/sub/c.go dir/sub/d.md other other/e.md",
        ),
        ("dir\nother\n!di", "a.go b.txt empty"),
        (
            "*\n!*/*",
            "dir dir/a.go dir/b.txt dir/sub dir/sub/c.go dir/sub/d.md other other/e.md",
        ),
        ("*\n! **/*.md", "dir dir/sub dir/sub/d.md other other/e.md"),
        (
            "\u{feff}**/sub\nempty",
            "a.go b.txt dir dir/a.go dir/b.txt other other/e.md",
        ),
        ("?.go\n[b-c].txt\nd[^x]r", "empty other other/e.md"),
        (
            "dir/../a.go\nother//e.md",
            "b.txt dir dir/a.go dir/b.txt dir/sub dir/sub/c.go dir/sub/d.md empty other",
        ),
    ] {
        assert_eq!(kept(&folder, ignore), want, "{ignore:?}");
    }
    for (ignore, want) in [
        ("!", "illegal exclusion pattern: \"!\""),
        ("a\n! ", "illegal exclusion pattern: \"!\""),
        ("[", "a pattern of .dockerignore or of a copy"),
    ] {
        assert_eq!(
            Ignore::parse(ignore.as_bytes()).unwrap_err().to_string(),
            want,
            "{ignore:?}"
        );
    }
    assert_eq!(
        Ignore::parse(b"\xff").unwrap_err().to_string(),
        ".dockerignore is not UTF-8"
    );
    // In a comment it means nothing.
    let ignore = Ignore::parse(b"\xef\xbb\xbf# caf\xe9\r\na\r\n#\xff").unwrap();
    assert!(ignore.is_ignored(b"a", &Vec::new()).0);
    assert!(Ignore::parse(b"a\n #\xff").is_err());
    let many = "x\n".repeat(crate::limits::IGNORE_PATTERNS + 1);
    assert_eq!(
        Ignore::parse(many.as_bytes()).unwrap_err().to_string(),
        "there are more than 10000 patterns of files that are ignored"
    );
}

#[test]
fn the_dockerfiles_own_ignore_file_comes_first() {
    let folder = folder(TREE);
    let path = |name: &str| folder.path().join(name);
    let kept = |dockerfile: Option<&Path>| {
        let ignore = Ignore::of(folder.path(), dockerfile).unwrap();
        let context = Context::open(folder.path(), ignore).unwrap();
        names(&context.resolve(&wanted(&["*"])).unwrap()).len()
    };
    assert_eq!(kept(None), 8);
    fs::write(path(".dockerignore"), "*\n!a.go").unwrap();
    assert_eq!(kept(None), 1);
    assert_eq!(kept(Some(&path("x.Dockerfile"))), 1);
    fs::write(path("x.Dockerfile.dockerignore"), "*\n!?.*").unwrap();
    // It is one of them itself.
    assert_eq!(kept(Some(&path("x.Dockerfile"))), 3);
    fs::write(path(".dockerignore"), vec![b'#'; 1024 * 1024 + 1]).unwrap();
    let error = Ignore::of(folder.path(), None).unwrap_err().to_string();
    assert_eq!(error, "there are more than 1048576 bytes in .dockerignore");
}

#[test]
fn an_ignore_file_is_a_file_in_the_folder() {
    let error = |files: &[&str]| {
        let folder = folder(files);
        Ignore::of(folder.path(), Some(&folder.path().join("D")))
            .unwrap_err()
            .to_string()
    };
    let outside =
        "the reading of patterns failed: forbidden path outside the build context: .dockerignore";
    assert_eq!(error(&[".dockerignore -> /etc/passwd"]), outside);
    assert_eq!(error(&[".dockerignore -> ../x"]), outside);
    let outside = outside.replace(".dockerignore", "D.dockerignore");
    assert_eq!(error(&["D.dockerignore -> /etc/passwd"]), outside);
    assert_eq!(error(&["D.dockerignore -> ../x"]), outside);
    assert_eq!(
        error(&[".dockerignore/"]),
        ".dockerignore is no kind of file that can be taken"
    );
    assert!(error(&["D.dockerignore/"]).ends_with("is no kind of file that can be taken"));
    let folder = folder(&["patterns", "a", ".dockerignore -> patterns"]);
    fs::write(folder.path().join("patterns"), "a").unwrap();
    let ignore = Ignore::of(folder.path(), None).unwrap();
    let context = Context::open(folder.path(), ignore).unwrap();
    assert!(context.resolve(&wanted(&["a"])).is_err());
    // A pipe would be waited for.
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("D.dockerignore");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(Ignore::of(folder.path(), Some(&folder.path().join("D"))).is_err());
}

#[test]
fn a_dockerfiles_own_ignore_file_is_in_the_folder_if_the_dockerfile_is() {
    let outer = folder(&[
        "D.dockerignore -> patterns",
        "patterns",
        "context/a",
        "context/b",
        "context/patterns",
        "context/other -> sub",
        "context/out -> ..",
        "context/sub/D.dockerignore -> ../patterns",
        "context/sub/E.dockerignore -> ../../patterns",
    ]);
    let path = |name: &str| outer.path().join(name);
    fs::write(path("patterns"), "a").unwrap();
    fs::write(path("context/patterns"), "b").unwrap();
    let ignored = |dockerfile: &str| {
        let ignore = Ignore::of(&path("context"), Some(&path(dockerfile)))?;
        let context = Context::open(&path("context"), ignore).unwrap();
        let is_ignored = |name: &&str| context.resolve(&wanted(&[name])).is_err();
        Ok::<_, ContextError>(
            ["a", "b"]
                .into_iter()
                .filter(is_ignored)
                .collect::<String>(),
        )
    };
    for (dockerfile, want) in [
        ("context/sub/D", "b"),
        ("context/sub/../other/D", "b"),
        ("context/other/F", ""),
        // It is not the folder's.
        ("D", "a"),
        ("context/../D", "a"),
        ("context/out/D", "a"),
    ] {
        assert_eq!(ignored(dockerfile).unwrap(), want, "{dockerfile}");
    }
    for dockerfile in [
        "context/sub/E",
        "context/other/E",
        "context/out/context/sub/E",
    ] {
        assert_eq!(
            ignored(dockerfile).unwrap_err().to_string(),
            "the reading of patterns failed: forbidden path outside the build context: sub/E.dockerignore",
            "{dockerfile}"
        );
    }
    assert!(ignored("nowhere/D").is_err());
}

#[test]
fn a_literal_source_is_a_path() {
    let folder = folder(&[
        "app/[id].tsx",
        "app/i.tsx",
        "[x]/*/f",
        "a?",
        "ab",
        "back\\*",
        "ignored[1]",
    ]);
    let context = open(&folder, "ignored*");
    let resolve = |path: &str| {
        context.resolve(&Wanted {
            instruction: "RUN",
            is_literal: true,
            ..wanted(&[path])
        })
    };
    for (path, want) in [
        ("/app/[id].tsx", "[id].tsx"),
        ("/app", "[id].tsx i.tsx"),
        ("/[x]/*", "f"),
        ("/a?", "a?"),
        ("/../a?", "a?"),
        ("/back\\*", "back\\*"),
    ] {
        assert_eq!(names(&resolve(path).unwrap()).join(" "), want, "{path}");
    }
    for path in ["/app/[i].tsx", "/*", "/a\\?", "/[", "/ignored[1]"] {
        let error = resolve(path).unwrap_err().to_string();
        let missing = "RUN failed: file not found in build context";
        assert!(error.starts_with(missing), "{path}: {error}");
    }
}

#[test]
fn sources_and_their_names() {
    let folder = folder(&[
        "a.go",
        "b.txt",
        "dir/a.go",
        "dir/sub/c.go",
        "two/a.go",
        "[x]",
        "link -> dir/a.go",
        "links -> dir",
        "dir/up -> ../b.txt",
        "far/deep -> ../links/sub",
    ]);
    let context = open(&folder, "");
    for (patterns, want) in [
        (&["a.go"][..], "a.go"),
        (&["/a.go", "./b.txt"], "a.go b.txt"),
        (&["b.txt", "a.go"], "b.txt a.go"),
        (&["dir/../a.go"], "a.go"),
        (&["dir"], "a.go sub sub/c.go up"),
        (&["dir/", "two"], "a.go sub sub/c.go up a.go"),
        (&["*.go", "*.txt"], "a.go b.txt"),
        (&["d*"], "a.go sub sub/c.go up"),
        (&["*/a.go"], "a.go a.go a.go"),
        (&["d*/s*/*.go"], "c.go"),
        (&["d*/sub/c.go"], "c.go"),
        (&["\\[x\\]*", "nothing*"], "[x]"),
        // A link is what it leads to, by its own name.
        (&["link"], "link"),
        (&["links"], "a.go sub sub/c.go up"),
        (&["links/sub"], "c.go"),
        (&["dir/up"], "up"),
        (&["l*/up"], "up"),
        (&["far/deep"], "c.go"),
        (&["far"], "deep"),
        // There is nothing above the context.
        (
            &["../a.go", "dir/../../../a.go", "../*.txt"],
            "a.go a.go b.txt",
        ),
        (&["../dir"], "a.go sub sub/c.go up"),
    ] {
        let selected = context.resolve(&wanted(patterns)).unwrap();
        assert_eq!(names(&selected).join(" "), want, "{patterns:?}");
    }
    let selected = context.resolve(&wanted(&["link", "links"])).unwrap();
    let paths: Vec<_> = selected
        .iter()
        .map(|one| (one.path.to_str().unwrap(), one.is_directory))
        .collect();
    assert_eq!(paths, [("dir/a.go", false), ("dir", true)]);
}

#[test]
fn sources_that_are_not_there() {
    let folder = folder(&[
        "a.go",
        "dir/b",
        "ignored/c",
        "out -> ../x",
        "abs -> /etc/passwd",
        "dir/out -> ../../x",
        "loop -> loop",
        "dangling -> nothing",
        "deep -> dir/out",
        "secret -> ignored/c",
    ]);
    let context = open(&folder, "ignored\ndir/b");
    let missing = |path: &str| {
        format!(
            "COPY failed: file not found in build context or excluded by .dockerignore: stat {path}: file does not exist"
        )
    };
    let outside =
        |path: &str| format!("COPY failed: forbidden path outside the build context: {path}");
    for (pattern, want) in [
        ("nothing", missing("nothing")),
        ("no\u{1b}thing", missing("no\\u{1b}thing")),
        ("a.go/x", missing("a.go/x")),
        ("dir/b", missing("dir/b")),
        ("ignored", missing("ignored")),
        ("ignored/c", missing("ignored/c")),
        ("secret", missing("secret")),
        ("dangling", missing("dangling")),
        (
            "nothing*",
            "COPY failed: no source files were specified".to_owned(),
        ),
        (
            "ignored/*",
            "COPY failed: no source files were specified".to_owned(),
        ),
        ("../x", missing("../x")),
        ("dir/../../x", missing("dir/../../x")),
        ("out", outside("out")),
        ("abs", outside("abs")),
        ("dir/out", outside("dir/out")),
        ("deep", outside("deep")),
        ("o*", outside("o*")),
        ("loop", "follow loop".to_owned()),
        ("[", "a pattern of .dockerignore or of a copy".to_owned()),
    ] {
        let error = context.resolve(&wanted(&[pattern])).unwrap_err();
        assert_eq!(error.to_string(), want, "{pattern}");
    }
    // Where they are not asked for, links are copied as they are.
    let names = names(&context.resolve(&wanted(&["."])).unwrap());
    assert_eq!(
        names.join(" "),
        "a.go abs dangling deep dir dir/out loop out secret"
    );
    assert!(Context::open(&folder.path().join("a.go"), Ignore::default()).is_err());
}

#[test]
fn a_context_without_files() {
    let context = Context::empty();
    let selected = context.resolve(&wanted(&["."])).unwrap();
    assert_eq!((selected.len(), names(&selected).len()), (1, 0));
    assert!(context.resolve(&wanted(&["x"])).is_err());
    assert!(context.resolve(&wanted(&["*"])).is_err());
    context.digest(&selected).unwrap();
    let mut tar = Vec::new();
    context.archive(&selected, &mut tar).unwrap();
    assert_eq!(tar.len(), 1024);
}

#[test]
fn some_are_excluded() {
    let folder = folder(TREE);
    let context = open(&folder, "");
    for (patterns, exclude, want) in [
        (&["dir"][..], &["*.go"][..], "b.txt sub sub/c.go sub/d.md"),
        (&["dir"], &["**/*.go"], "b.txt sub sub/d.md"),
        (&["dir"], &["sub"], "a.go b.txt"),
        (&["dir"], &["*", "!sub/c.go"], "sub sub/c.go"),
        (&["*"], &["*.go", "sub/*"], "b.txt b.txt sub e.md"),
    ] {
        let exclude: Vec<String> = exclude.iter().map(ToString::to_string).collect();
        let selected = context.resolve(&Wanted {
            exclude: &exclude,
            ..wanted(patterns)
        });
        assert_eq!(
            names(&selected.unwrap()).join(" "),
            want,
            "{patterns:?} {exclude:?}"
        );
    }
}

#[test]
fn parents_are_kept() {
    let folder = folder(TREE);
    let resolve = |ignore: &str, patterns: &[&str]| {
        open(&folder, ignore).resolve(&Wanted {
            parents: true,
            ..wanted(patterns)
        })
    };
    for (ignore, patterns, want) in [
        (
            "",
            &["a.go", "dir/sub/c.go"][..],
            "a.go dir dir/sub dir/sub/c.go",
        ),
        ("", &["./dir/./sub/c.go"], "sub sub/c.go"),
        ("", &["*/*.go"], "dir dir/a.go"),
        (
            "",
            &["**/*.md"],
            "dir dir/sub dir/sub/d.md other other/e.md",
        ),
        ("", &["dir/./**/c*"], "sub sub/c.go"),
        ("", &["d*/./*.txt"], "b.txt"),
        (
            "",
            &["dir"],
            "dir dir/a.go dir/b.txt dir/sub dir/sub/c.go dir/sub/d.md",
        ),
        ("", &["empty"], "empty"),
        ("**/*.go", &["dir/*"], "dir dir/b.txt dir/sub dir/sub/d.md"),
        ("", &["nothing*", "a.go"], "a.go"),
    ] {
        let selected = resolve(ignore, patterns).unwrap();
        assert_eq!(names(&selected).join(" "), want, "{ignore:?} {patterns:?}");
    }
    for pattern in ["nothing", "dir/./nothing", "no/./a.go", "../x/./y"] {
        let error = resolve("", &[pattern]).unwrap_err().to_string();
        assert!(error.contains("file not found in build context"), "{error}");
    }
}

#[test]
fn digests_are_of_what_is_copied() {
    let folder = folder(&["a", "b", "dir/c", "link -> a"]);
    let path = |name: &str| folder.path().join(name);
    let context = open(&folder, "");
    let digest = |patterns: &[&str]| {
        let selected = context.resolve(&wanted(patterns)).unwrap();
        context.digest(&selected).unwrap()
    };
    let all = digest(&["."]);
    assert_eq!(all, digest(&["."]));
    assert_eq!(all, open_digest(&folder));
    assert_ne!(digest(&["a"]), digest(&["b"]));
    assert_ne!(digest(&["a", "b"]), digest(&["b", "a"]));
    assert_ne!(digest(&["dir"]), digest(&["dir/c"]));
    // A new time is no new content.
    let file = fs::File::options().write(true).open(path("a")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(all, digest(&["."]));
    fs::hard_link(path("a"), path("z")).unwrap();
    fs::remove_file(path("a")).unwrap();
    fs::rename(path("z"), path("a")).unwrap();
    assert_eq!(all, digest(&["."]));
    let mut seen = vec![all];
    let mut changed = |what: &str| {
        let now = digest(&["."]);
        assert!(!seen.contains(&now), "{what}");
        seen.push(now);
    };
    fs::write(path("a"), "A").unwrap();
    changed("content");
    fs::set_permissions(path("b"), fs::Permissions::from_mode(0o600)).unwrap();
    changed("mode");
    fs::set_permissions(path("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    changed("mode of a directory");
    fs::rename(path("b"), path("B")).unwrap();
    changed("name");
    fs::remove_file(path("link")).unwrap();
    symlink("B", path("link")).unwrap();
    changed("target");
    fs::remove_file(path("link")).unwrap();
    fs::write(path("link"), "B").unwrap();
    changed("kind");
    fs::create_dir(path("more")).unwrap();
    changed("an empty directory");
}

fn open_digest(folder: &TempDir) -> Digest {
    let context = open(folder, "");
    context
        .digest(&context.resolve(&wanted(&["."])).unwrap())
        .unwrap()
}

#[test]
fn sources_have_a_text_in_the_history() {
    let folder = folder(&["a", "dir/c"]);
    let context = open(&folder, "");
    let digest = Digest::of(b"");
    for (patterns, want) in [
        (&["a"][..], "file"),
        (&["dir"], "dir"),
        (&["a", "dir"], "multi"),
        (&["*"], "multi"),
    ] {
        let selected = context.resolve(&wanted(patterns)).unwrap();
        assert_eq!(
            sources_text(&selected, &digest),
            format!("{want}:{}", digest.hex()),
            "{patterns:?}"
        );
    }
}

#[test]
fn an_archive_has_it_all() {
    let folder = folder(&["big", "dir/c", "dir/link -> ../no/such", "z"]);
    let path = |name: &str| folder.path().join(name);
    let big: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
    fs::write(path("big"), &big).unwrap();
    fs::hard_link(path("z"), path("same")).unwrap();
    fs::set_permissions(path("z"), fs::Permissions::from_mode(0o4751)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
    fs::File::open(path("z"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    // A hole is read as zeros.
    let sparse = fs::File::create(path("sparse")).unwrap();
    sparse.set_len(100_000).unwrap();
    let context = open(&folder, "");
    let selected = context.resolve(&wanted(&["."])).unwrap();
    let mut tar = Vec::new();
    context.archive(&selected, &mut tar).unwrap();
    let mut again = Vec::new();
    context.archive(&selected, &mut again).unwrap();
    assert!(tar == again, "the same twice");
    let mut reader = TarReader::new(&*tar);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        assert_eq!((entry.uid, entry.gid), (0, 0));
        let mut data = vec![0; usize::try_from(entry.size).unwrap()];
        let mut at = 0;
        while at < data.len() {
            at += reader.read(&mut data[at..]).unwrap();
        }
        let name = String::from_utf8(entry.path.clone()).unwrap();
        if name == "big" {
            assert!(data == big, "the content");
        }
        if name == "z" {
            assert_eq!(
                (entry.mode, entry.mtime, &*data),
                (0o4751, (1_000_000_000, 5), &b"z"[..])
            );
        }
        if name == "sparse" {
            assert!(data == vec![0; 100_000], "zeros");
        }
        found.push((name, entry.kind, String::from_utf8(entry.link).unwrap()));
    }
    let want = [
        ("./", EntryKind::Directory, ""),
        ("big", EntryKind::File, ""),
        ("dir/", EntryKind::Directory, ""),
        ("dir/c", EntryKind::File, ""),
        ("dir/link", EntryKind::Symlink, "../no/such"),
        ("pipe", EntryKind::Fifo, ""),
        ("same", EntryKind::File, ""),
        ("sparse", EntryKind::File, ""),
        ("z", EntryKind::File, ""),
    ];
    let want = want.map(|(name, kind, link)| (name.to_owned(), kind, link.to_owned()));
    assert_eq!(found, want);
    // A socket that is asked for is an error.
    let error = context.resolve(&wanted(&["socket"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "socket is no kind of file that can be taken"
    );
}

#[test]
fn a_file_that_changes_is_an_error() {
    let changed = |change: &dyn Fn(&Path)| {
        let folder = folder(&["a", "b"]);
        let context = open(&folder, "");
        let selected = context.resolve(&wanted(&["a"])).unwrap();
        change(&folder.path().join("a"));
        let archived = context
            .archive(&selected, &mut Vec::new())
            .unwrap_err()
            .to_string();
        assert_eq!(context.digest(&selected).unwrap_err().to_string(), archived);
        archived
    };
    let append = |path: &Path| {
        let mut file = fs::File::options().append(true).open(path).unwrap();
        file.write_all(b"more").unwrap();
    };
    let become_a_link = |path: &Path| {
        fs::remove_file(path).unwrap();
        symlink("b", path).unwrap();
    };
    let become_a_pipe = |path: &Path| {
        fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    let truncate = |path: &Path| fs::write(path, "").unwrap();
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    let all: [&dyn Fn(&Path); 5] = [&append, &become_a_link, &become_a_pipe, &truncate, &remove];
    for change in all {
        assert_eq!(changed(change), "a changed while it was read");
    }
}

/// While it is read: what `take` gets grows the file.
#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    struct Growing(PathBuf);
    impl Write for Growing {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut file = fs::File::options().append(true).open(&self.0)?;
            file.write_all(b"x")?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let folder = folder(&["a"]);
    let context = open(&folder, "");
    let selected = context.resolve(&wanted(&["a"])).unwrap();
    let mut to = Growing(folder.path().join("a"));
    let error = context.archive(&selected, &mut to).unwrap_err();
    assert_eq!(error.to_string(), "a changed while it was read");
}

/// Whatever is asked for, what is found is there, and beneath the folder.
#[test]
fn nothing_is_found_outside() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(outer.path().join("secret"), "s").unwrap();
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    const TARGETS: [&str; 8] = [
        "a",
        "../b",
        "../../c",
        "../secret",
        "/etc",
        "b/c",
        ".",
        "..",
    ];
    for _ in 0..150 {
        let depth = 1 + random(3);
        let path: PathBuf = (0..depth).map(|_| NAMES[random(4)]).collect();
        let path = root.join(path);
        let _ = fs::create_dir_all(path.parent().unwrap());
        // What is there already stays.
        let _ = match random(3) {
            0 => symlink(TARGETS[random(8)], &path),
            1 => fs::create_dir(&path),
            _ => fs::File::create_new(&path).map(drop),
        };
    }
    let context = Context::open(&root, Ignore::parse(b"d\n!d/a").unwrap()).unwrap();
    let real = root.canonicalize().unwrap();
    const PARTS: [&str; 10] = ["a", "b", "c", "d", "*", "?", "..", ".", "[a-c]", "**"];
    let mut found = 0;
    for round in 0..600 {
        let depth = 1 + random(4);
        let pattern: Vec<&str> = (0..depth).map(|_| PARTS[random(10)]).collect();
        let pattern = pattern.join("/");
        let selected = context.resolve(&Wanted {
            parents: round % 3 == 0,
            ..wanted(&[&pattern])
        });
        let Ok(selected) = selected else { continue };
        for one in &selected {
            let there = real.join(&one.path).canonicalize().unwrap();
            assert!(there.starts_with(&real), "{pattern}: {}", there.display());
            for entry in &one.entries {
                found += 1;
                let path = real.join(&entry.path);
                assert!(
                    path.symlink_metadata().is_ok(),
                    "{pattern}: {}",
                    path.display()
                );
                let above = path.parent().unwrap().canonicalize().unwrap();
                assert!(above.starts_with(&real), "{pattern}: {}", above.display());
                assert!(
                    entry
                        .name
                        .components()
                        .all(|part| matches!(part, std::path::Component::Normal(_)))
                );
            }
        }
        let digest = context.digest(&selected).unwrap();
        assert_eq!(digest, context.digest(&selected).unwrap());
    }
    assert!(found > 1000, "{found} entries");
}
