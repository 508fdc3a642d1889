//! The command from outside, where no VM is needed: flags and what refuses them, exit codes, help,
//! images in the store, doctor. Runs anywhere, with or without KVM; a file a topic.

mod archives;
mod build;
mod flags;
mod help;
mod host;
mod hostile;
mod images;
mod lists;
mod objects;
mod registry;

use std::ffi::OsStr;
use std::path::PathBuf;

use harness::{Invocation, Output};

/// A user without images and containers, who goes with all files. The command is run from where it
/// was built: a copy of one's own could not be started while another thread starts a process.
struct User(tempfile::TempDir);

impl User {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("bulkhead-cli-")
            .tempdir()
            .expect("create a user's folder");
        for name in ["home", "root", "work"] {
            std::fs::create_dir(folder.path().join(name)).expect("create a user's folder");
        }
        Self(folder)
    }

    /// The folder that commands start in.
    fn work(&self) -> PathBuf {
        self.0.path().join("work")
    }

    /// The state root.
    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    /// The command with these arguments, to be run.
    fn bulkhead<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Invocation {
        Invocation::new(env!("CARGO_BIN_EXE_bulkhead"))
            .args(args)
            .env("HOME", self.0.path().join("home"))
            .env("BULKHEAD_ROOT", self.root())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir(self.work())
    }

    /// Runs the command to its end.
    fn run(&self, args: &[&str]) -> Output {
        self.bulkhead(args)
            .output()
            .unwrap_or_else(|error| panic!("{args:?}: {error:#}"))
    }

    /// Runs the command, which must succeed and say nothing on standard error.
    #[track_caller]
    fn stdout(&self, args: &[&str]) -> String {
        match self.run(args).only_stdout() {
            Ok(text) => text,
            Err(error) => panic!("{args:?}: {error:#}"),
        }
    }
}

/// What the command must say on standard error, and nothing else but a hint or a pointer to help.
#[track_caller]
fn assert_refused(out: &Output, code: i32, sentence: &str) {
    assert_eq!(out.code, code, "{out}");
    assert_eq!(out.stdout, "", "{out}");
    let mut lines = out.stderr.lines();
    let wanted = format!("bulkhead: {sentence}");
    assert_eq!(lines.next(), Some(wanted.as_str()), "{out}");
    for line in lines {
        let points = line.starts_with("hint: ") || line.starts_with("See '");
        assert!(points, "{out}");
    }
}
