//! What is done to one hostile image, and what must come of each verb.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Invocation, Output, Sandbox, images};
use hostile_images::image::digest;
use hostile_images::{Case, Expected, Verbs};
use tarball::TarReader;

use super::{Bench, tag};

/// How long a verb may take at most. The time that counts is that of an emulated host.
const PATIENCE: Duration = Duration::from_secs(300);

/// Memory that a command may need which starts no VM, in KiB: 4 MiB of JSON and what becomes of it.
const COMMAND_KIB_MAX: u64 = 96 << 10;

/// Memory that a container's supervisor may need, in KiB.
const SUPERVISOR_KIB_MAX: u64 = 48 << 10;

/// Words by which the test's own binary runs a program and writes down what memory it took.
pub(crate) const MEASURE: &str = "__measure";

/// The container.
const NAME: &str = "hostile";

/// What is made of it.
const COMMITTED: &str = "hostile-committed:latest";
const BUILT: &str = "hostile-built:latest";

/// The layer of busybox:latest.
pub(super) fn base_layer() -> Result<Vec<u8>> {
    let file = File::open(images::busybox()?).context("open an image")?;
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries().context("read an image")? {
        let mut entry = entry.context("read an image")?;
        if entry.path()?.ends_with("layer.tar") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(bytes);
        }
    }
    bail!("an image without a layer")
}

/// Takes away what a case that went wrong has left.
pub(super) fn clear(vm: &Sandbox) -> Result<()> {
    let all = vm
        .bulkhead(["ps", "-a", "--format", "{{.Names}}"])
        .output()?;
    for name in all.stdout.lines().filter(|name| *name != "neighbour") {
        vm.bulkhead(["rm", "-f", "-v", name]).output()?;
    }
    vm.bulkhead(["builder", "prune", "-af"]).output()?;
    let images = vm
        .bulkhead(["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .output()?;
    for image in images
        .stdout
        .lines()
        .filter(|image| image.contains("hostile"))
    {
        vm.bulkhead(["rmi", "-f", image]).output()?;
    }
    for entry in fs::read_dir(vm.work())? {
        remove(&entry?.path())?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).context("remove a folder")
    } else {
        fs::remove_file(path).context("remove a file")
    }
}

/// The command's own binary as a child of this one's, which says what memory it took.
pub(crate) fn measure(arguments: &[String]) -> Result<i32> {
    let [report, program, words @ ..] = arguments else {
        bail!("{MEASURE} FILE PROGRAM …");
    };
    let status = std::process::Command::new(program).args(words).status()?;
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    fs::write(report, usage.max_rss().to_string())?;
    status.code().context("a signal ended it")
}

/// Runs a verb that starts no VM: its memory has a limit, and so has what it says to a terminal.
fn verb<I: IntoIterator<Item: AsRef<OsStr>>>(vm: &Sandbox, words: I) -> Result<Output> {
    let report = vm.folder().join("memory");
    let measured = Invocation::new(std::env::current_exe()?)
        .arg(MEASURE)
        .arg(&report)
        .arg(vm.program())
        .args(words);
    let out = vm.equipped(measured).timeout(PATIENCE).output()?;
    let kib: u64 = fs::read_to_string(&report)?.parse()?;
    ensure!(kib <= COMMAND_KIB_MAX, "{kib} KiB of memory for {out}");
    plain(out)
}

/// Runs a verb that starts VMs.
fn with_vm<I: IntoIterator<Item: AsRef<OsStr>>>(vm: &Sandbox, words: I) -> Result<Output> {
    plain(vm.bulkhead(words).timeout(PATIENCE).output()?)
}

/// Checks that what is said does nothing to a terminal, and is no panic.
fn plain(out: Output) -> Result<Output> {
    let moves = |letter: char| {
        let hidden = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        hidden || letter.is_control() && !matches!(letter, '\n' | '\t' | '\r')
    };
    ensure!(
        !out.stderr.contains(moves),
        "{:?} on standard error of {}",
        out.stderr,
        out.line
    );
    ensure!(!out.stderr.contains("panicked"), "{out}");
    Ok(out)
}

/// Checks that a verb is refused in these words.
fn refused(out: Output, code: i32, words: &str) -> Result<()> {
    let out = out.code(code)?;
    ensure!(out.stderr.contains(words), "{words:?} is not said by {out}");
    let begin = out
        .stderr
        .lines()
        .filter(|line| line.starts_with("bulkhead: "))
        .count();
    ensure!(begin == 1, "not one sentence of {out}");
    Ok(())
}

pub(super) fn run(bench: &Bench, case: &Case, all_verbs: bool) -> Result<()> {
    let vm = bench.vm;
    let name = format!("hostile:{}", tag(case));
    let archive = vm.folder().join("archive.tar");
    let bytes = case.archive(bench.base, &name);
    fs::write(&archive, bytes).context("write an archive")?;
    let pulled = case.image(bench.base).map(|image| {
        let manifest = (image.media_type, &image.manifest[..]);
        bench
            .registry
            .put(tag(case), &digest(&image.manifest), manifest, &image.blobs)
    });
    // An archive names its image itself.
    let name = if pulled.is_some() {
        name
    } else {
        "hostile:latest".to_owned()
    };
    let done = match &case.expected {
        Expected::Reading { load, pull } => {
            not_read(vm, &archive, pulled.as_deref(), load, pull, all_verbs)
        }
        expected => read(vm, &archive, pulled.as_deref(), &name).and_then(|()| {
            let done = match expected {
                Expected::Unpacking(words) => not_unpacked(vm, &name, words, all_verbs),
                Expected::Starting(words) => not_started(vm, &name, words),
                Expected::Runs { script, prints } => {
                    runs(vm, case, &name, (script, prints), all_verbs)
                }
                Expected::Reading { .. } => Ok(()),
            };
            // One that went wrong is still there.
            vm.bulkhead(["rm", "-f", "-v", NAME]).output()?;
            for name in pulled.iter().chain([&name]) {
                verb(vm, ["rmi", "-f", name])?.code(0)?;
            }
            done
        }),
    };
    fs::remove_file(&archive).context("remove an archive")?;
    // What was half downloaded is kept for a week, to go on with.
    let partial = vm.root().join("images/ingest");
    if partial.exists() {
        fs::remove_dir_all(&partial).context("remove partial downloads")?;
    }
    done
}

/// Neither `load` nor `pull` takes it, nor what pulls by itself.
fn not_read(
    vm: &Sandbox,
    archive: &Path,
    pulled: Option<&str>,
    load: &str,
    pull: &str,
    all_verbs: bool,
) -> Result<()> {
    let out = verb(vm, [OsStr::new("load"), "-i".as_ref(), archive.as_os_str()])?;
    refused(out, 1, load).context("load")?;
    let Some(pulled) = pulled else {
        return Ok(());
    };
    refused(verb(vm, ["pull", "-q", pulled])?, 1, pull).context("pull")?;
    if all_verbs {
        refused(with_vm(vm, ["run", "--rm", pulled, "true"])?, 125, pull).context("run")?;
        let out = with_vm(vm, ["create", "--name", NAME, pulled, "true"])?;
        ensure!(out.code != 0, "{out}");
        refused(build(vm, pulled, "RUN true")?, 1, pull).context("build")?;
        // So there is nothing to look into.
        for words in [&["export", NAME][..], &["commit", NAME, COMMITTED]] {
            refused(verb(vm, words)?, 1, "No such container")?;
        }
    }
    Ok(())
}

/// Both `pull` and `load` take it, and it is the same.
fn read(vm: &Sandbox, archive: &Path, pulled: Option<&str>, name: &str) -> Result<()> {
    if let Some(pulled) = pulled {
        verb(vm, ["pull", "-q", pulled])?.code(0).context("pull")?;
    }
    let out = verb(vm, [OsStr::new("load"), "-i".as_ref(), archive.as_os_str()])?;
    out.code(0).context("load")?;
    let id = |name: &str| verb(vm, ["inspect", "-f", "{{.Id}}", name])?.only_stdout();
    if let Some(pulled) = pulled {
        let (of_pull, of_load) = (id(pulled)?, id(name)?);
        ensure!(of_pull == of_load, "{of_pull} was pulled, {of_load} loaded");
    }
    Ok(())
}

fn not_unpacked(vm: &Sandbox, name: &str, words: &str, all_verbs: bool) -> Result<()> {
    let out = with_vm(vm, ["run", "--rm", name, "true"])?;
    ensure!(
        out.stderr.contains("layer sha256:"),
        "the layer is not named by {out}"
    );
    refused(out, 125, words).context("run")?;
    if all_verbs {
        refused(build(vm, name, "RUN true")?, 1, words).context("build")?;
        refused(verb(vm, ["export", NAME])?, 1, "No such container")?;
    }
    Ok(())
}

fn not_started(vm: &Sandbox, name: &str, words: &str) -> Result<()> {
    let out = with_vm(vm, ["run", "--rm", name])?;
    ensure!(out.code != 0, "it runs: {out}");
    ensure!(out.stderr.contains(words), "{words:?} is not said by {out}");
    Ok(())
}

fn runs(
    vm: &Sandbox,
    case: &Case,
    name: &str,
    witness: (&str, &str),
    all_verbs: bool,
) -> Result<()> {
    let (script, prints) = witness;
    let words = [
        "run",
        "-d",
        "--name",
        NAME,
        "--entrypoint",
        "/bin/sh",
        name,
        "-c",
    ];
    let sleep = "while :; do /bin/sleep 1; done";
    with_vm(vm, words.iter().chain([&sleep]))?
        .code(0)
        .context("run")?;
    let out = vm
        .bulkhead(["exec", NAME, "/bin/sh", "-c", script])
        .timeout(PATIENCE)
        .output()?;
    ensure!(out.stdout == prints, "{prints:?} is not printed by {out}");
    if all_verbs && case.verbs == Verbs::All {
        out_of(vm).context("cp out")?;
        into(vm, case).context("cp in")?;
        export(vm).context("export")?;
        verb(vm, ["commit", NAME, COMMITTED])?
            .code(0)
            .context("commit")?;
        verb(vm, ["rmi", "-f", COMMITTED])?.code(0)?;
    }
    supervisors(vm)?;
    verb(vm, ["rm", "-f", "-v", NAME])?.code(0).context("rm")?;
    if all_verbs {
        let out = build(
            vm,
            name,
            &format!(
                "COPY file {}\nRUN [\"/bin/sh\", \"-c\", \"echo built\"]",
                case.into
            ),
        )?;
        // What can't be copied there is told; a build that passes has an image.
        if out.code == 0 {
            verb(vm, ["rmi", "-f", BUILT])?.code(0)?;
        } else {
            refused(out, 1, "").context("build")?;
        }
    }
    Ok(())
}

/// All of it, as files of the host: none is a device, none has rights that the user did not ask for.
fn out_of(vm: &Sandbox) -> Result<()> {
    let out = vm.work().join("out");
    verb(
        vm,
        [
            "cp".as_ref(),
            "-q".as_ref(),
            OsStr::new("hostile:/"),
            out.as_os_str(),
        ],
    )?
    .code(0)?;
    let mut pending = vec![out.clone()];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata()?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        }
        ensure!(
            kind.is_dir() || kind.is_file() || kind.is_symlink(),
            "{} is {kind:?}",
            path.display()
        );
        let mode = metadata.permissions().mode();
        ensure!(
            kind.is_symlink() || mode & 0o6000 == 0,
            "{} has {mode:o}",
            path.display()
        );
    }
    remove(&out)
}

/// A file through whatever the image has put in its way: there, or refused in a sentence.
fn into(vm: &Sandbox, case: &Case) -> Result<()> {
    let file = vm.work().join("file");
    fs::write(&file, "from the host\n")?;
    let target = format!("{NAME}:{}", case.into);
    let out = verb(
        vm,
        [
            "cp".as_ref(),
            "-q".as_ref(),
            file.as_os_str(),
            OsStr::new(&target),
        ],
    )?;
    remove(&file)?;
    ensure!(
        out.code == 0 || out.code == 1 && !out.stderr.is_empty(),
        "{out}"
    );
    Ok(())
}

/// An archive whose names stay within it, as our own reader and GNU tar have it.
fn export(vm: &Sandbox) -> Result<()> {
    let path = vm.work().join("export.tar");
    verb(
        vm,
        [
            "export".as_ref(),
            "-o".as_ref(),
            path.as_os_str(),
            OsStr::new(NAME),
        ],
    )?
    .code(0)?;
    let mut reader = TarReader::new(std::io::BufReader::new(File::open(&path)?));
    let mut count = 0;
    while let Some(entry) = reader.next_entry()? {
        count += 1;
        let out = entry.path.starts_with(b"/")
            || entry
                .path
                .split(|byte| *byte == b'/')
                .any(|part| part == b"..");
        ensure!(!out, "{} is exported", entry.path.escape_ascii());
    }
    let list = Invocation::new("/bin/tar")
        .args(["--quoting-style=escape", "-tf"])
        .arg(&path)
        .output()?;
    let listed = list.code(0)?.stdout.lines().count();
    ensure!(listed == count, "{count} entries, GNU tar lists {listed}");
    remove(&path)
}

/// Builds upon an image.
fn build(vm: &Sandbox, name: &str, steps: &str) -> Result<Output> {
    let context: PathBuf = vm.work().join("context");
    fs::create_dir(&context)?;
    fs::write(context.join("file"), "from the context\n")?;
    fs::write(
        context.join("Dockerfile"),
        format!("FROM {name}\n{steps}\n"),
    )?;
    let out = with_vm(
        vm,
        [
            "build".as_ref(),
            "-q".as_ref(),
            "--no-cache".as_ref(),
            "-t".as_ref(),
            OsStr::new(BUILT),
            context.as_os_str(),
        ],
    );
    remove(&context)?;
    verb(vm, ["builder", "prune", "-af"])?.code(0)?;
    out
}

/// Checks the most memory that supervisors ever had.
fn supervisors(vm: &Sandbox) -> Result<()> {
    let processes = vm.processes()?;
    let supervisors = processes
        .iter()
        .filter(|process| process.has_verb("__supervisor"));
    let mut count = 0;
    for process in supervisors {
        let status = fs::read_to_string(format!("/proc/{}/status", process.id))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: u64 = line
            .and_then(|line| line.split_whitespace().next())
            .context("its memory")?
            .parse()?;
        ensure!(
            kib <= SUPERVISOR_KIB_MAX,
            "{kib} KiB of memory for {process:?}"
        );
        count += 1;
    }
    ensure!(count >= 2, "{processes:?}");
    Ok(())
}
