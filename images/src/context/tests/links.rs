//! Links that are ignored, and links to what is not there.

use super::*;

fn missing(path: &str) -> String {
    format!(
        "COPY failed: file not found in build context or excluded by .dockerignore: stat {path}: file does not exist"
    )
}

#[test]
fn an_ignored_link_is_not_there() {
    let folder = folder(&[
        "a.go",
        "b.conf",
        "dir/a.go",
        "secret.conf -> a.go",
        "links -> dir",
        "out -> ../x",
        "via -> secret.conf",
    ]);
    let context = open(&folder, "secret.conf\nlinks\nout");
    for path in ["secret.conf", "links", "links/a.go", "out", "via"] {
        let error = context.resolve(&wanted(&[path])).unwrap_err();
        assert_eq!(error.to_string(), missing(path));
    }
    for (pattern, want) in [("*.conf", "b.conf"), ("*/a.go", "a.go"), ("a*", "a.go")] {
        let selected = context.resolve(&wanted(&[pattern])).unwrap();
        assert_eq!(names(&selected).join(" "), want, "{pattern}");
    }
    let error = context.resolve(&wanted(&["l*/a.go"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "COPY failed: no source files were specified"
    );
    let all = names(&context.resolve(&wanted(&["."])).unwrap());
    assert_eq!(all.join(" "), "a.go b.conf dir dir/a.go via");
    // Without patterns they lead on.
    let context = open(&folder, "");
    for (pattern, want) in [
        ("secret.conf", "secret.conf"),
        ("links/a.go", "a.go"),
        ("*.conf", "b.conf secret.conf"),
    ] {
        let selected = context.resolve(&wanted(&[pattern])).unwrap();
        assert_eq!(names(&selected).join(" "), want, "{pattern}");
    }
}

#[test]
fn a_link_to_nothing_is_an_error_where_a_pattern_matches_it() {
    let folder = folder(&[
        "a.md",
        "b.conf",
        "dangling.conf -> nothing",
        "dir/dangling -> nothing",
        "hidden/c",
        "ignored.md -> nothing",
        "to-hidden.txt -> hidden/c",
    ]);
    let context = open(&folder, "hidden\nignored.md");
    for pattern in ["*.conf", "d*/dangling", "dir/*", "*.txt"] {
        let error = context.resolve(&wanted(&[pattern])).unwrap_err();
        assert_eq!(error.to_string(), missing(pattern));
    }
    for (pattern, want) in [
        ("*.md", "a.md"),
        ("b*", "b.conf"),
        // In a directory it is copied as it is.
        ("dir", "dangling"),
        ("di*", "dangling"),
        (
            ".",
            "a.md b.conf dangling.conf dir dir/dangling to-hidden.txt",
        ),
    ] {
        let selected = context.resolve(&wanted(&[pattern])).unwrap();
        assert_eq!(names(&selected).join(" "), want, "{pattern}");
    }
}
