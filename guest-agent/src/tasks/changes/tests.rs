//! Upper layers against what was before, with plain folders for both.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, XattrFlags, open};

use super::*;

struct Trees {
    folder: tempfile::TempDir,
}

impl Trees {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["upper", "before"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn upper(&self, path: &str) -> PathBuf {
        self.folder.path().join("upper").join(path)
    }

    fn before(&self, path: &str) -> PathBuf {
        self.folder.path().join("before").join(path)
    }

    /// The same file, or directory, in both.
    fn both(&self, path: &str) {
        for there in [self.upper(path), self.before(path)] {
            if path.ends_with('/') {
                fs::create_dir_all(there).unwrap();
            } else {
                write(&there, "same");
            }
        }
    }

    fn list(&self) -> Vec<String> {
        let root = |name| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            open(self.folder.path().join(name), flags, Mode::empty()).unwrap()
        };
        let mut bytes = Vec::new();
        list(root("upper").as_fd(), root("before").as_fd(), &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }
}

fn write(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
}

#[test]
fn additions_changes_and_what_stayed() {
    let trees = Trees::new();
    assert_eq!(trees.list(), Vec::<String>::new());
    for path in ["a/", "a/b/", "a/b/same", "kept/", "kept/same", "mode/"] {
        trees.both(path);
    }
    fs::set_permissions(trees.upper("mode"), fs::Permissions::from_mode(0o711)).unwrap();
    trees.both("a/b/content");
    write(&trees.upper("a/b/content"), "else");
    fs::create_dir_all(trees.upper("new/below")).unwrap();
    write(&trees.upper("new/below/file"), "x");
    assert_eq!(
        trees.list(),
        [
            // "else" is as long as "same", and as old.
            "C/mode",
            "A/new",
            "A/new/below",
            "A/new/below/file",
        ]
    );
    write(&trees.upper("a/b/content"), "longer");
    write(&trees.upper("a/b/new"), "x");
    assert_eq!(
        trees.list(),
        [
            "C/a",
            "C/a/b",
            "C/a/b/content",
            "A/a/b/new",
            "C/mode",
            "A/new",
            "A/new/below",
            "A/new/below/file",
        ]
    );
}

#[test]
fn other_kinds_in_the_place_of_one() {
    let trees = Trees::new();
    fs::create_dir_all(trees.before("was-dir/below")).unwrap();
    write(&trees.upper("was-dir"), "x");
    write(&trees.before("was-file"), "x");
    fs::create_dir(trees.upper("was-file")).unwrap();
    write(&trees.upper("was-file/x"), "x");
    assert_eq!(trees.list(), ["C/was-dir", "C/was-file", "A/was-file/x"]);
}

#[test]
fn what_is_gone_is_told_once() {
    let trees = Trees::new();
    trees.both("d/");
    fs::create_dir_all(trees.before("d/gone/below")).unwrap();
    let gone = |name: &str| {
        let kind = FileType::CharacterDevice;
        rustix::fs::mknodat(CWD, trees.upper(name), kind, Mode::from_raw_mode(0), 0)
    };
    gone("d/gone").expect("this test needs root, who may make a whiteout");
    // Of what was never there.
    gone("d/never").unwrap();
    assert_eq!(trees.list(), ["C/d", "D/d/gone"]);

    trees.both("opaque/");
    for name in ["opaque/first", "opaque/second"] {
        write(&trees.before(name), "same");
    }
    write(&trees.upper("opaque/second"), "same");
    write(&trees.upper("opaque/third"), "x");
    let name = "trusted.overlay.opaque";
    rustix::fs::setxattr(trees.upper("opaque"), name, b"y", XattrFlags::empty())
        .expect("this test needs a file system with trusted attributes");
    assert_eq!(
        trees.list(),
        [
            "C/d",
            "D/d/gone",
            "C/opaque",
            "D/opaque/first",
            "A/opaque/third"
        ]
    );
}
