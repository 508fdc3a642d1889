//! `bulkhead contrast`: an image in a microVM and as a plain container of the same limits, measured by
//! the same probe inside, side by side.
//!
//! Each side is this command again, under the hidden verb [`PROBE_VERB`], with the flags of `run`: so
//! what is measured is what a user gets. [`side`] runs and measures, [`rows`] compares (pure), the
//! rest renders (pure).

mod html;
mod rows;
mod side;
mod table;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use jail::table::Thread;
use protocol::probe::Probe;
use tempfile::NamedTempFile;

use super::complaint::CODE_OURS;
use super::run::{run_probe, with_code};
use super::{flags, output};
use rows::{Contrast, Host};
use side::Wanted;

/// The hidden verb of one side: what the probe does, and then the words of `run`.
pub const PROBE_VERB: &str = "__probe";

/// Run an image in a microVM and as a plain container, and show what each sees and holds
#[derive(Debug, Args)]
#[command(
    after_help = "The image's program does not run: a probe of this command's takes its place, with \
    its user, capabilities and filters. It tries the limits, so each side takes some seconds. The \
    command that is given runs beside the probe, for 10 s at most."
)]
pub struct ContrastArgs {
    /// Memory limit of both
    #[arg(short, long, value_name = "bytes", default_value = "64m")]
    memory: String,
    /// CPU limit of both
    #[arg(long, value_name = "decimal", default_value = "0.5")]
    cpus: String,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Also write it as a page with drawings
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// The image
    image: String,
    /// A command to run in both
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table
    Table,
    /// One JSON document
    Json,
}

/// The verb.
///
/// # Errors
/// When the VM can't be run and measured, or the page can't be written. That there is no plain
/// container to compare with is part of what is printed.
pub fn run(args: &ContrastArgs) -> Result<()> {
    let limits = ["--memory", &args.memory, "--cpus", &args.cpus];
    let wanted = |isolation| Wanted {
        isolation,
        limits: &limits,
        image: &args.image,
        command: &args.command,
    };
    let page = args.html.as_deref().map(create).transpose()?;
    output::note("contrast: the microVM …");
    let vm = side::measure(&wanted("vm"), true)?;
    output::note("contrast: the plain container …");
    let container = side::measure(&wanted("container"), false);
    let contrast = Contrast {
        image: args.image.clone(),
        command: args.command.clone(),
        memory: args.memory.clone(),
        cpus: args.cpus.clone(),
        host: Host::of_this(),
        vm,
        container: container.map_err(|error| format!("{error:#}")),
        vmm_syscalls: vmm_syscalls(),
    };
    if let Some((mut file, path)) = page {
        let about = || format!("write {}", path.display());
        file.write_all(html::page(&contrast).as_bytes())
            .with_context(about)?;
        file.persist(path).with_context(about)?;
    }
    match args.format {
        Format::Table => {
            for line in table::lines(&contrast) {
                output::line(&line)?;
            }
        }
        Format::Json => output::line(&serde_json::to_string_pretty(&rows::json(&contrast))?)?,
    }
    Ok(())
}

/// Makes a file in the page's folder before anything runs; an older page stays until there is another.
fn create(path: &Path) -> Result<(NamedTempFile, &Path)> {
    if let Ok(status) = path.symlink_metadata()
        && !status.is_file()
    {
        bail!("write {}: it is no regular file", path.display());
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .with_context(|| format!("create {}", path.display()))?;
    Ok((file, path))
}

/// How many of the host's system calls the filters of a VMM's threads let through, together.
fn vmm_syscalls() -> usize {
    let threads = [Thread::Vcpu, Thread::EventLoop, Thread::Disk];
    let calls = threads.iter().flat_map(|thread| thread.calls());
    calls.map(|call| call.number).collect::<BTreeSet<_>>().len()
}

/// The hidden verb: `__probe report|panic WORDS-OF-RUN`.
///
/// # Errors
/// As `run`.
pub fn probe(words: &[String], began: u64) -> Result<u8> {
    let Some((what, words)) = words.split_first() else {
        bail!("{PROBE_VERB}: no mode");
    };
    let probe = match what.as_str() {
        "report" => Probe::Report,
        "panic" => Probe::Panic,
        other => bail!("{PROBE_VERB}: no mode {other}"),
    };
    let args = std::iter::once("run".to_owned()).chain(words.iter().cloned());
    let matches = flags::run_command()
        .try_get_matches_from(args.map(OsString::from))
        .map_err(|error| with_code(CODE_OURS, error.to_string()))?;
    run_probe(matches, probe, began)
}
