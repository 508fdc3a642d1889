//! A user of the command with a state root, a home and a copy of the command of their own, so
//! that tests can't disturb each other and whatever a test leaves is known to be its.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::invocation::{Invocation, Output, words};
use crate::process::{self, Process};
use crate::{Snapshot, Terminal, images};

/// The variable that names the command to test.
pub const COMMAND_VARIABLE: &str = "BULKHEAD";

/// What the command needs beside itself, where it has been built.
const GUEST_FILES: [&str; 4] = ["guest-agent", "initramfs.cpio", "kernel.json", "vmlinux"];

/// Loading an image and unpacking its layers takes a VM a layer.
const LOAD_PATIENCE: Duration = Duration::from_secs(600);

/// PATH behind the sandbox's own folder.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// See the module's page. Dropped, it ends what still runs and goes with all files.
pub struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    /// One without images.
    ///
    /// # Errors
    ///
    /// The command to test is not told, or the folder can't be made.
    pub fn empty() -> Result<Self> {
        let command = env::var_os(COMMAND_VARIABLE).with_context(|| {
            format!("{COMMAND_VARIABLE} is not set; `cargo xtask test` sets it to the command")
        })?;
        Self::of_program(Path::new(&command))
    }

    /// One with busybox:latest.
    ///
    /// # Errors
    ///
    /// It can't be made, or loading fails.
    pub fn with_busybox() -> Result<Self> {
        let sandbox = Self::empty()?;
        sandbox.load(&images::busybox()?)?;
        Ok(sandbox)
    }

    /// One for any program.
    ///
    /// # Errors
    ///
    /// The folder can't be made.
    pub fn of_program(program: &Path) -> Result<Self> {
        let program = fs::canonicalize(program)
            .with_context(|| format!("find the command {}", program.display()))?;
        let sandbox = Self::create(&program)?;
        // In an emulated host the original is read through the emulator, byte by byte, at each
        // start; a copy is in the page cache.
        let artifacts = program.parent().unwrap_or(Path::new("/"));
        for name in GUEST_FILES {
            let original = artifacts.join(name);
            if original.exists() {
                let copy = sandbox.guest().join(name);
                copy_with_time(&original, &copy)
                    .with_context(|| format!("copy {}", original.display()))?;
            }
        }
        Ok(sandbox)
    }

    fn create(program: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("bulkhead-test-")
            .tempdir()
            .context("create a sandbox")?;
        for name in ["bin", "guest", "home", "root", "work"] {
            fs::create_dir(folder.path().join(name)).context("create a sandbox")?;
        }
        let sandbox = Self { folder };
        copy_with_time(program, &sandbox.program()).context("copy the command")?;
        Ok(sandbox)
    }

    /// A copy: the same images, none of the containers.
    ///
    /// # Errors
    ///
    /// Copying fails.
    pub fn copied(&self) -> Result<Self> {
        let copy = Self::create(&self.program())?;
        for entry in fs::read_dir(self.guest()).context("read the guest's files")? {
            let entry = entry.context("read the guest's files")?;
            fs::hard_link(entry.path(), copy.guest().join(entry.file_name()))
                .context("link the guest's files")?;
        }
        for entry in fs::read_dir(self.root()).context("read the state root")? {
            let path = entry.context("read the state root")?.path();
            let of_containers = ["configs", "containers"].map(OsStr::new).map(Some);
            if of_containers.contains(&path.file_name()) {
                continue;
            }
            Invocation::new("/bin/cp")
                .args(["-a", "--sparse=always"])
                .args([&path, &copy.root()])
                .output()?
                .code(0)?;
        }
        Ok(copy)
    }

    /// Everything of it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The state root.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder().join("root")
    }

    /// The guest kernel and what belongs to it.
    #[must_use]
    pub fn guest(&self) -> PathBuf {
        self.folder().join("guest")
    }

    /// The user's home.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.folder().join("home")
    }

    /// An empty folder for the test's own files, and the one that commands start in.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.folder().join("work")
    }

    /// The copy of the command.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.folder().join("bin/bulkhead")
    }

    fn variables(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        let mut path = self.folder().join("bin").into_os_string();
        path.push(":");
        path.push(SYSTEM_PATH);
        vec![
            ("PATH", path),
            ("HOME", self.home().into()),
            ("BULKHEAD_ROOT", self.root().into()),
            ("BULKHEAD_GUEST", self.guest().into()),
            ("BULKHEAD_TEMPLATES", templates().into()),
            ("RUST_BACKTRACE", "1".into()),
        ]
    }

    /// A program with the command on PATH and its environment, to be run in [`Self::work`].
    #[must_use]
    pub fn equipped(&self, invocation: Invocation) -> Invocation {
        self.variables()
            .into_iter()
            .fold(invocation, |invocation, (name, value)| {
                invocation.env(name, value)
            })
            .current_dir(self.work())
    }

    /// The command with these arguments, to be run.
    #[must_use]
    pub fn bulkhead<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Invocation {
        self.equipped(Invocation::new(self.program()).args(arguments))
    }

    /// A shell script in which the command is on PATH, to be run.
    #[must_use]
    pub fn shell(&self, script: &str) -> Invocation {
        self.equipped(Invocation::new("/bin/sh").args(["-c", script]))
    }

    /// `bulkhead run --rm` with these arguments, run to its end.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Result<Output> {
        self.bulkhead(["run", "--rm"]).args(arguments).output()
    }

    /// `bulkhead` with these arguments at a terminal.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn terminal<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Result<Terminal> {
        let mut line = vec![self.program().into_os_string()];
        line.extend(words(arguments));
        Terminal::start(&line, &self.variables(), &self.work())
    }

    /// Loads an archive.
    ///
    /// # Errors
    ///
    /// The command fails.
    pub fn load(&self, archive: &Path) -> Result<Output> {
        self.bulkhead(["load", "-i"])
            .arg(archive)
            .timeout(LOAD_PATIENCE)
            .output()?
            .code(0)
    }

    /// Runs an image once with a long patience, so that its layers are unpacked.
    ///
    /// # Errors
    ///
    /// The command fails.
    pub fn warm(&self, image: &str, command: &[&str]) -> Result<Output> {
        self.bulkhead(["run", "--rm", image])
            .args(command)
            .timeout(LOAD_PATIENCE)
            .output()?
            .code(0)
    }

    /// What there is now, for [`Snapshot::no_leftovers`].
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::of(self)
    }

    /// Processes of the command, its own and hidden ones.
    ///
    /// # Errors
    ///
    /// `/proc` can't be read.
    pub fn processes(&self) -> Result<Vec<Process>> {
        process::executing(&self.program())
    }

    /// Waits until no process of the command is left: with `--rm` a VM is still on its way out when
    /// the command has returned.
    ///
    /// # Errors
    ///
    /// One stays.
    pub fn wait_for_no_process(&self) -> Result<()> {
        process::wait_until(&self.program(), "the end of all processes", |processes| {
            processes.is_empty().then_some(())
        })
    }

    /// Waits for a process with this hidden verb.
    ///
    /// # Errors
    ///
    /// It never comes.
    pub fn wait_for_process(&self, verb: &str) -> Result<Process> {
        process::wait_until(&self.program(), verb, |processes| {
            processes
                .iter()
                .find(|process| process.has_verb(verb))
                .cloned()
        })
    }
}

/// Copies a file and its time, so that it is the same to whoever keeps something made of it.
fn copy_with_time(original: &Path, copy: &Path) -> std::io::Result<()> {
    fs::copy(original, copy)?;
    let time = fs::metadata(original)?.modified()?;
    File::options().append(true).open(copy)?.set_modified(time)
}

/// Templates are the same for all sandboxes with the same guest, and take a boot to make.
fn templates() -> PathBuf {
    env::temp_dir().join("bulkhead-test-templates")
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A supervisor that sees its VMM die writes to the folder: until there is none.
        while let Ok(processes) = self.processes() {
            if processes.is_empty() {
                break;
            }
            for process in processes {
                let _ = process.kill();
            }
            std::thread::sleep(crate::POLL_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_on_path_in_scripts_and_sees_its_own_folders() {
        let sandbox = Sandbox::of_program(Path::new("/bin/echo")).expect("sandbox");
        let script = "bulkhead said; echo $HOME $BULKHEAD_ROOT; pwd";
        let output = sandbox.shell(script).output().expect("run");
        let (home, root, work) = (sandbox.home(), sandbox.root(), sandbox.work());
        assert_eq!(
            output.only_stdout().expect("output"),
            format!(
                "said\n{} {}\n{}\n",
                home.display(),
                root.display(),
                work.display()
            )
        );
        assert_eq!(sandbox.run(["x"]).expect("run").stdout, "run --rm x\n");
    }

    #[test]
    fn a_copy_has_all_but_the_containers() {
        let sandbox = Sandbox::of_program(Path::new("/bin/true")).expect("sandbox");
        for name in ["images", "configs", "containers"] {
            fs::create_dir(sandbox.root().join(name)).expect("mkdir");
            fs::write(sandbox.root().join(name).join("file"), name).expect("write");
        }
        let copy = sandbox.copied().expect("copy");
        assert_ne!(copy.root(), sandbox.root());
        assert!(copy.root().join("images/file").exists());
        assert!(!copy.root().join("containers").exists());
        assert!(!copy.root().join("configs").exists());
    }

    #[test]
    fn what_still_runs_ends_with_the_sandbox() {
        let sandbox = Sandbox::of_program(Path::new("/bin/sleep")).expect("sandbox");
        // Not waited for by anyone but init.
        sandbox
            .shell("bulkhead 1000 >/dev/null 2>&1 &")
            .output()
            .expect("run");
        let process = sandbox.wait_for_process("1000").expect("process");
        drop(sandbox);
        let state = fs::read_to_string(format!("/proc/{}/stat", process.id));
        assert!(state.is_err() || state.is_ok_and(|state| state.contains(") Z ")));
    }
}
