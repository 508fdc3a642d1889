//! Patterns of any text, held against any name. They are taken or refused as they are with Go, take no
//! more than their length times the name's, and those of .dockerignore that are taken are held
//! against a folder.
//!
//! ```text
//! input = name NUL patterns, one a line
//! ```
#![no_main]

use std::sync::LazyLock;

use bulkhead_fuzz::words::assert_printable;
use images::context::{Context, Ignore, Wanted};
use libfuzzer_sys::fuzz_target;
use protocol::mode::Mode;
use protocol::pattern::Pattern;

/// A folder with some files.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    for path in ["a/b/c", "a/b.d", "e"] {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        std::fs::write(path, "x").expect("a file");
    }
    std::os::unix::fs::symlink("../..", folder.path().join("a/out")).expect("a link");
    folder
});

fuzz_target!(|bytes: &[u8]| {
    let (name, text) = match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&b"a/b"[..], bytes),
    };
    if let Ok(text) = std::str::from_utf8(text) {
        let first = text.lines().next().unwrap_or_default();
        match (Pattern::shallow(first), Pattern::deep(first)) {
            (Ok(shallow), Ok(deep)) => {
                // Where there are no two stars they are the same.
                if !first.contains("**") {
                    assert_eq!(shallow.matches(name), deep.matches(name));
                }
                if !Pattern::has_wildcards(first) && !first.contains('\\') {
                    assert_eq!(shallow.matches(name), first.as_bytes() == name);
                }
            }
            (Err(one), Err(other)) => {
                assert_eq!(one, other);
                assert_printable(&one);
            }
            (one, other) => panic!("{one:?} {other:?}"),
        }
        match Mode::parse(first) {
            Ok(mode) => assert_eq!(mode.apply(0o644, true) & !0o7777, 0),
            Err(error) => assert_printable(&error),
        }
    }
    let ignore = match Ignore::parse(text) {
        Ok(ignore) => ignore,
        Err(error) => return assert_printable(&error),
    };
    let context = Context::open(FOLDER.path(), ignore).expect("the folder");
    let name = String::from_utf8_lossy(name).replace('\0', "");
    for (parents, is_literal) in [(false, false), (false, true), (true, false)] {
        let wanted = Wanted {
            instruction: "COPY",
            patterns: &[&name],
            is_literal,
            parents,
            exclude: &[],
        };
        match context.resolve(&wanted) {
            Ok(selected) => {
                for entry in selected.iter().flat_map(|one| &one.entries) {
                    let path = FOLDER.path().join(&entry.path);
                    assert!(path.symlink_metadata().is_ok(), "{}", path.display());
                }
            }
            Err(error) => assert_printable(&error),
        }
    }
});
