//! Builds the guest kernel from an unpacked source, so that the same source, fragment and tools
//! give the same bytes wherever and whenever it is done. `kernel` calls it. It must not know of
//! the cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::fragment::Fragment;
use crate::packages::Package;
use crate::progress::Step;

/// What building needs, beyond the source.
pub(super) const PACKAGES: &[Package] = &[
    Package::file("bc", &["/usr/bin/bc"]),
    Package::file("binutils", &["/usr/bin/objcopy"]),
    Package::file("bison", &["/usr/bin/bison"]),
    Package::file("flex", &["/usr/bin/flex"]),
    Package::file("gcc", &["/usr/bin/gcc"]),
    Package::file("libc6-dev", &["/usr/include/stdlib.h"]),
    Package::file("libelf-dev", &["/usr/include/gelf.h"]),
    Package::file("make", &["/usr/bin/make"]),
    Package::file("patch", &["/usr/bin/patch"]),
    Package::file("perl", &["/usr/bin/corelist"]),
];

/// What every command's environment has besides PATH. Kbuild writes the first four into the
/// image. Part of the cache's hash, as [`RECIPE`] is.
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "bulkhead"),
    ("KBUILD_BUILD_HOST", "bulkhead"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("KCONFIG_NOTIMESTAMP", "1"),
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
];

/// What [`build`] does, for the cache's hash: to be changed with it.
pub(super) const RECIPE: &str =
    "ARCH=x86_64 tinyconfig, merge_config -m, olddefconfig, vmlinux, objcopy --strip-all";

/// A long step says at this interval that it goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// So much of a failed command's output is shown.
const LOG_TAIL_LINES: usize = 40;

/// A kernel as built, still in its build folder.
#[derive(Debug)]
pub(super) struct Built {
    /// The ELF image without symbols.
    pub(super) vmlinux: PathBuf,
    /// As `make kernelversion` says.
    pub(super) version: String,
    /// The first line that each tool says of its version.
    pub(super) compiler: String,
    pub(super) linker: String,
}

/// Builds in `folder`, which must be empty.
///
/// # Errors
///
/// A tool fails (the message has the end of its output), a patch does not apply, or the final
/// configuration lacks a line of the fragment (the message names each).
pub(super) fn build(
    folder: &Path,
    source: &Path,
    fragment: &Path,
    patches: &[PathBuf],
) -> Result<Built> {
    let log = folder.join("log");
    let tree = folder.join("linux");
    fs::create_dir(&tree).with_context(|| format!("create {}", tree.display()))?;
    let kbuild = Kbuild {
        tree: &tree,
        log: &log,
    };

    let step = Step::begin(format!("unpack {}", source.display()));
    kbuild.run(
        Command::new("tar")
            .arg("--extract")
            .arg("--strip-components=1")
            .arg("--file")
            .arg(source),
    )?;
    step.done();

    for patch in patches {
        let step = Step::begin(format!("apply {}", patch.display()));
        kbuild.run(
            Command::new("patch")
                .args(["-p1", "--forward", "--fuzz=0", "--input"])
                .arg(patch),
        )?;
        step.done();
    }

    let step = Step::begin("configure");
    let wishes =
        fs::read_to_string(fragment).with_context(|| format!("read {}", fragment.display()))?;
    let wishes = Fragment::parse(&wishes).with_context(|| fragment.display().to_string())?;
    kbuild.make(&["tinyconfig"])?;
    kbuild.run(
        Command::new("sh")
            .args(["scripts/kconfig/merge_config.sh", "-m", ".config"])
            .arg(fragment),
    )?;
    kbuild.make(&["olddefconfig"])?;
    let lost = wishes
        .lost_in(&fs::read_to_string(tree.join(".config")).context("read the configuration")?);
    if !lost.is_empty() {
        bail!(
            "lines of {} that did not survive:\n  {}",
            fragment.display(),
            lost.join("\n  ")
        );
    }
    step.done();

    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let step = Step::begin(format!("compile with {jobs} jobs"));
    kbuild.make(&[&format!("-j{jobs}"), "vmlinux"])?;
    step.done();

    let vmlinux = folder.join("vmlinux");
    // Keeps what is loaded, the PVH note among it, and drops symbols and relocations.
    kbuild.run(
        Command::new("objcopy")
            .arg("--strip-all")
            .arg(tree.join("vmlinux"))
            .arg(&vmlinux),
    )?;
    Ok(Built {
        vmlinux,
        version: kbuild.output(Command::new("make").args(["-s", "kernelversion"]))?,
        compiler: kbuild.output(Command::new("gcc").arg("--version"))?,
        linker: kbuild.output(Command::new("ld").arg("--version"))?,
    })
}

/// Runs commands in the source's root with the fixed environment.
struct Kbuild<'a> {
    tree: &'a Path,
    log: &'a Path,
}

impl Kbuild<'_> {
    fn make(&self, arguments: &[&str]) -> Result<()> {
        let map = format!("-ffile-prefix-map={}=.", self.tree.display());
        self.run(
            Command::new("make")
                .arg("ARCH=x86_64")
                .arg(format!("KCFLAGS={map}"))
                .arg(format!("KAFLAGS={map}"))
                .args(arguments),
        )
    }

    fn prepare<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .current_dir(self.tree)
            .env_clear()
            .env("PATH", path)
            .envs(ENVIRONMENT.iter().copied())
            .stdin(Stdio::null())
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log)
            .context("open the log")?;
        let command = self
            .prepare(command)
            .stdout(log.try_clone().context("open the log")?)
            .stderr(log);
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let begun = Instant::now();
        let mut signs = 0;
        let status = loop {
            if let Some(status) = child
                .try_wait()
                .with_context(|| format!("wait for {name}"))?
            {
                break status;
            }
            thread::sleep(POLL_INTERVAL);
            if begun.elapsed() > SIGN_OF_LIFE * (signs + 1) {
                signs += 1;
                eprintln!(
                    "   {name}: {} s, {} lines of output",
                    begun.elapsed().as_secs(),
                    self.log_lines().len()
                );
            }
        };
        if !status.success() {
            let lines = self.log_lines();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            bail!("{name} ended with {status}:\n{}", tail.join("\n"));
        }
        Ok(())
    }

    fn log_lines(&self) -> Vec<String> {
        let log = fs::read(self.log).unwrap_or_default();
        String::from_utf8_lossy(&log)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn output(&self, command: &mut Command) -> Result<String> {
        let output = self
            .prepare(command)
            .output()
            .with_context(|| format!("run {:?}", command.get_program()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match text.lines().next() {
            Some(line) if output.status.success() => Ok(line.trim().to_owned()),
            _ => bail!("{:?} said nothing", command.get_program()),
        }
    }
}
