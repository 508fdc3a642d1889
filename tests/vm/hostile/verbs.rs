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
use hostile_images::limits::COMMAND_MIB_MAX;
use hostile_images::{Case, Expected, NotStarted, Seen, Verbs};
use tarball::TarReader;

use super::{Bench, cost, tag};

/// How long a verb may take at most. The time that counts is that of an emulated host.
const PATIENCE: Duration = Duration::from_secs(300);

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

/// Runs the command; also the memory that it took, in KiB.
pub(crate) fn measured<I: IntoIterator<Item: AsRef<OsStr>>>(
    vm: &Sandbox,
    words: I,
) -> Result<(Output, u64)> {
    let report = vm.folder().join("memory");
    let measured = Invocation::new(std::env::current_exe()?)
        .arg(MEASURE)
        .arg(&report)
        .arg(vm.program())
        .args(words);
    let out = vm.equipped(measured).timeout(PATIENCE).output()?;
    let kib = fs::read_to_string(&report)?.parse()?;
    Ok((out, kib))
}

/// Runs a verb that starts no VM: its memory has a limit, and so has what it says to a terminal.
fn verb<I: IntoIterator<Item: AsRef<OsStr>>>(vm: &Sandbox, words: I) -> Result<Output> {
    let (out, kib) = measured(vm, words)?;
    ensure!(
        kib <= COMMAND_MIB_MAX << 10,
        "{kib} KiB of memory for {out}"
    );
    plain(out)
}

/// Runs a verb that starts VMs: it, its supervisors and the VMMs have limits of their own.
fn with_vm<I: IntoIterator<Item: AsRef<OsStr>>>(vm: &Sandbox, words: I) -> Result<Output> {
    let running = vm.bulkhead(words).timeout(PATIENCE);
    plain(cost::watched(vm, || running.output())?)
}

/// Whether a verb starts a VM: to look into a container that does not run takes one.
#[derive(Clone, Copy)]
enum Starts {
    Nothing,
    Vm,
}

impl Starts {
    fn run(self, vm: &Sandbox, words: &[&OsStr]) -> Result<Output> {
        match self {
            Self::Nothing => verb(vm, words),
            Self::Vm => with_vm(vm, words),
        }
    }
}

/// Whether a letter does something to a terminal.
fn moves(letter: char) -> bool {
    let hidden = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    hidden || letter.is_control() && !matches!(letter, '\n' | '\t' | '\r')
}

/// Checks that what a terminal shows of an image does nothing to it.
fn at_a_terminal(vm: &Sandbox, name: &str) -> Result<()> {
    for words in [
        &["images"][..],
        &["history", "--no-trunc", name],
        &["image", "inspect", name],
    ] {
        let (code, text) = vm.terminal(words)?.wait()?;
        ensure!(
            code == 0 && !text.is_empty() && !text.contains(moves),
            "{words:?} ends with {code}, and the terminal has {text:?}"
        );
    }
    Ok(())
}

/// Checks that what is said does nothing to a terminal, and is no panic.
fn plain(out: Output) -> Result<Output> {
    ensure!(
        !out.stderr.contains(moves),
        "{:?} on standard error of {}",
        out.stderr,
        out.line
    );
    ensure!(!out.stderr.contains("panicked"), "{out}");
    Ok(out)
}

/// Checks that a verb is refused in one sentence.
fn told(out: Output, code: i32) -> Result<Output> {
    let out = out.code(code)?;
    let begin = out
        .stderr
        .lines()
        .filter(|line| line.starts_with("bulkhead: "))
        .count();
    ensure!(begin == 1, "not one sentence of {out}");
    Ok(out)
}

/// Checks that a verb is refused in one sentence, with these words.
fn refused(out: Output, code: i32, words: &str) -> Result<()> {
    let out = told(out, code)?;
    let mut sentences = out
        .stderr
        .lines()
        .filter(|line| line.starts_with("bulkhead: "));
    ensure!(
        sentences.any(|sentence| sentence.contains(words)),
        "{words:?} is not said by {out}"
    );
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
            let words = (*load, *pull);
            let done = not_read(bench, &archive, pulled.as_deref(), words, all_verbs);
            // A layer that came whole before another was refused is kept until somebody tidies up.
            verb(vm, ["image", "prune", "-f"])?.code(0)?;
            done
        }
        expected => read(vm, &archive, pulled.as_deref(), &name).and_then(|()| {
            bench.space.is_within_limits(vm)?;
            if all_verbs {
                at_a_terminal(vm, &name)?;
            }
            let done = match expected {
                Expected::Unpacking(words) => not_unpacked(bench, &name, words, all_verbs),
                Expected::Starting(end) => not_started(bench, &name, end, all_verbs),
                Expected::Runs { script, prints } => {
                    runs(bench, case, &name, (script, prints), all_verbs)
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
    bench: &Bench,
    archive: &Path,
    pulled: Option<&str>,
    (load, pull): (&str, &str),
    all_verbs: bool,
) -> Result<()> {
    let vm = bench.vm;
    let out = verb(vm, [OsStr::new("load"), "-i".as_ref(), archive.as_os_str()])?;
    refused(out, 1, load).context("load")?;
    let Some(pulled) = pulled else {
        return Ok(());
    };
    refused(verb(vm, ["pull", "-q", pulled])?, 1, pull).context("pull")?;
    refused(verb(vm, ["run", "--rm", pulled, "true"])?, 125, pull).context("run")?;
    if all_verbs {
        let out = verb(vm, ["create", "--name", NAME, pulled, "true"])?;
        refused(out, 1, pull).context("create")?;
        refused(build(bench, pulled, "RUN true")?, 1, pull).context("build")?;
        nothing_to_look_into(vm)?;
    }
    Ok(())
}

/// There is no container.
fn nothing_to_look_into(vm: &Sandbox) -> Result<()> {
    let inside = format!("{NAME}:/");
    for words in [
        &["export", NAME][..],
        &["commit", NAME, COMMITTED],
        &["cp", &inside, "out"],
    ] {
        refused(verb(vm, words)?, 1, "No such container").context(words.join(" "))?;
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

fn not_unpacked(bench: &Bench, name: &str, words: &str, all_verbs: bool) -> Result<()> {
    let vm = bench.vm;
    let out = with_vm(vm, ["run", "--rm", name, "true"])?;
    ensure!(
        out.stderr.contains("layer sha256:"),
        "the layer is not named by {out}"
    );
    refused(out, 125, words).context("run")?;
    if all_verbs {
        let out = with_vm(vm, ["create", "--name", NAME, name, "true"])?;
        refused(out, 1, words).context("create")?;
        refused(build(bench, name, "RUN true")?, 1, words).context("build")?;
        nothing_to_look_into(vm)?;
    }
    Ok(())
}

/// It is read and unpacked; a container of it may be made and looked into, and does not start.
fn not_started(bench: &Bench, name: &str, end: &NotStarted, all_verbs: bool) -> Result<()> {
    let vm = bench.vm;
    let out = with_vm(vm, ["run", "--rm", name])?;
    ends(out, end.code, end).context("run")?;
    if !all_verbs {
        return Ok(());
    }
    let out = with_vm(vm, ["create", "--name", NAME, name])?;
    if end.seen == Seen::Creating {
        refused(out, 1, end.words).context("create")?;
        nothing_to_look_into(vm)?;
    } else {
        out.code(0).context("create")?;
        look_into(bench).context("of one that was made")?;
        let code = match end.seen {
            Seen::Running => end.code,
            Seen::Creating | Seen::Starting => 1,
        };
        ends(with_vm(vm, ["start", "-a", NAME])?, code, end).context("start")?;
        look_into(bench).context("of one that did not start")?;
        verb(vm, ["rm", "-v", NAME])?.code(0).context("rm")?;
    }
    built_or_told(vm, build(bench, name, "RUN true")?)
}

/// How an image ends that can't start.
fn ends(out: Output, code: i32, end: &NotStarted) -> Result<()> {
    if end.seen != Seen::Running {
        return refused(out, code, end.words);
    }
    let out = out.code(code)?;
    ensure!(
        out.stderr.trim_end() == end.words && out.stdout.is_empty(),
        "{:?} is not all of {out}",
        end.words
    );
    Ok(())
}

/// Copies all of a container out that does not run, exports and commits it.
fn look_into(bench: &Bench) -> Result<()> {
    out_of(bench.vm, Starts::Vm).context("cp out")?;
    export(bench.vm, Starts::Vm).context("export")?;
    commit(bench, Starts::Vm, None)
}

/// As an image, which is removed again; or it is refused in these words.
fn commit(bench: &Bench, starts: Starts, not_committed: Option<&str>) -> Result<()> {
    let vm = bench.vm;
    let words = ["commit", NAME, COMMITTED].map(OsStr::new);
    let out = starts.run(vm, &words)?;
    if let Some(words) = not_committed {
        return refused(out, 1, words).context("commit");
    }
    out.code(0).context("commit")?;
    bench.space.is_within_limits(vm)?;
    verb(vm, ["rmi", "-f", COMMITTED])?.code(0)?;
    Ok(())
}

/// What can't be built is told; a build that passes has an image.
fn built_or_told(vm: &Sandbox, out: Output) -> Result<()> {
    if out.code == 0 {
        verb(vm, ["rmi", "-f", BUILT])?.code(0)?;
        return Ok(());
    }
    told(out, 1).context("build").map(drop)
}

fn runs(
    bench: &Bench,
    case: &Case,
    name: &str,
    witness: (&str, &str),
    all_verbs: bool,
) -> Result<()> {
    let vm = bench.vm;
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
        out_of(vm, Starts::Nothing).context("cp out")?;
        into(vm, case).context("cp in")?;
        export(vm, Starts::Nothing).context("export")?;
        commit(bench, Starts::Nothing, case.not_committed)?;
    }
    let supervisors = cost::of_processes(vm)?;
    ensure!(supervisors >= 2, "{supervisors} supervisors are seen");
    bench.space.is_within_limits(vm)?;
    verb(vm, ["rm", "-f", "-v", NAME])?.code(0).context("rm")?;
    if all_verbs {
        let out = build(
            bench,
            name,
            &format!(
                "COPY file {}\nRUN [\"/bin/sh\", \"-c\", \"echo built\"]",
                case.into
            ),
        )?;
        built_or_told(vm, out)?;
    }
    Ok(())
}

/// All of it, as files of the host: none is a device, none has rights that the user did not ask for.
fn out_of(vm: &Sandbox, starts: Starts) -> Result<()> {
    let out = vm.work().join("out");
    let words = ["cp", "-q", "hostile:/"].map(OsStr::new);
    let words = [&words[..], &[out.as_os_str()]].concat();
    starts.run(vm, &words)?.code(0)?;
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
    if out.code != 0 {
        return told(out, 1).map(drop);
    }
    let script = format!(
        "if [ -d {0} ]; then /bin/cat {0}/file; else /bin/cat {0}; fi",
        case.into
    );
    let there = vm
        .bulkhead(["exec", NAME, "/bin/sh", "-c", &script])
        .timeout(PATIENCE)
        .output()?;
    ensure!(
        there.stdout == "from the host\n",
        "after {out} there is {there}"
    );
    Ok(())
}

/// An archive whose names stay within it, as our own reader and GNU tar have it.
fn export(vm: &Sandbox, starts: Starts) -> Result<()> {
    let path = vm.work().join("export.tar");
    let words = [
        "export".as_ref(),
        "-o".as_ref(),
        path.as_os_str(),
        NAME.as_ref(),
    ];
    starts.run(vm, &words)?.code(0)?;
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
fn build(bench: &Bench, name: &str, steps: &str) -> Result<Output> {
    let vm = bench.vm;
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
    bench.space.is_within_limits(vm)?;
    verb(vm, ["builder", "prune", "-af"])?.code(0)?;
    out
}
