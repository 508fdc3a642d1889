//! `bulkhead run`: flags and an image to a VM, and back to an exit code.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use images::{Image, Platform, Reference, Store};
use protocol::message::WindowSize;

use super::flags::Flags;
use super::plan::{Caller, Plan, plan};
use super::{names, pull, values};
use crate::doctor;
use crate::sandbox::attach::{self, Ended};
use crate::sandbox::clock::{monotonic_ns, now};
use crate::sandbox::disks;
use crate::sandbox::paths::{GuestFiles, Root};
use crate::sandbox::start::{AttachOptions, run_attached};
use crate::sandbox::state::{self, ContainerConfig, Phases};

/// Bytes of an environment, label or seccomp file.
const FILE_MAX: u64 = 1 << 20;

/// A refusal with an exit code of its own; any other error of `run` is 125.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct WithCode {
    /// For the shell.
    pub code: u8,
    message: String,
}

/// Runs the container and returns its exit code.
///
/// # Errors
/// Anything that kept the process from running; exit code 125 unless it is a [`WithCode`].
pub fn run(matches: ArgMatches, began: u64) -> Result<u8> {
    let flags = Flags::check(matches)?;
    if flags.is_on("tty") && flags.is_on("interactive") && !std::io::stdin().is_terminal() {
        return Err(WithCode {
            code: 1,
            message: "the input device is not a TTY".to_owned(),
        }
        .into());
    }
    for warning in flags.warnings() {
        eprintln!("WARNING: {warning}");
    }
    let name = flags
        .value("name")
        .map(|text| values::container_name(&text).map(str::to_owned))
        .transpose()?;
    let words = flags.words();
    let wanted = words.first().context("no image given")?;
    doctor::can_run()?;
    let guest = GuestFiles::find()?;
    let root = Root::of_user()?;
    let store = Store::open(&root.images())?;
    // Until the container is on record as a user of its layers, nobody may remove them.
    let lease = store.lease()?;
    let image = find_image(&flags, &store, wanted)?;
    let id = names::random_id()?;
    // Refused before anything is unpacked.
    let plan = make_plan(&flags, &image, &id)?;
    let cidfile = CidFile::create(flags.value("cidfile"))?;
    let mut progress = pull::ConvertBar::new(flags.is_on("quiet"));
    disks::prepare_layers(
        &guest,
        &store,
        &image.layers,
        &mut |index, count, done, all| {
            progress.show(index, count, done, all);
        },
    )?;
    drop(progress);
    let config = ContainerConfig {
        name: match name {
            Some(name) => name,
            None => names::random_name(&root)?,
        },
        id,
        created: now(),
        image: wanted.clone(),
        image_id: image.id.to_string(),
        labels: plan.labels,
        annotations: plan.annotations,
        launch: plan.launch,
    };
    let folder = state::create(&root, &config)?;
    drop(lease);
    if let Err(error) = cidfile.write(&config.id) {
        folder.remove()?;
        return Err(error);
    }
    let phases = Phases {
        command: began,
        disks: monotonic_ns(),
        ..Phases::default()
    };
    let options = AttachOptions {
        stdin: plan.attach.0 && config.launch.open_stdin,
        stdout: plan.attach.1,
        stderr: plan.attach.2,
        terminal: config.launch.run.process.terminal.is_some(),
        forward_signals: plan.forward_signals,
        detach_keys: plan.detach_keys,
    };
    match run_attached(&root, &folder, phases, options)? {
        Ended::Exited(code) => Ok(code),
        Ended::Failed(code, message) => Err(WithCode { code, message }.into()),
        Ended::Detached => Ok(0),
    }
}

/// The image by the pull policy.
fn find_image(flags: &Flags, store: &Store, wanted: &str) -> Result<Image> {
    let platform = match flags.value("platform") {
        Some(text) => Platform::parse(&text)?,
        None => Platform::host(),
    };
    let quiet = flags.is_on("quiet");
    let policy = flags.value("pull").unwrap_or_else(|| "missing".to_owned());
    let image = match policy.as_str() {
        "always" => pull::pull(store, &Reference::parse(wanted)?, &platform, quiet)?.image,
        "missing" | "never" | "" => match store.resolve(wanted) {
            Ok(image) => image,
            Err(error) if error.is_no_such_image() && policy != "never" => {
                let reference = Reference::parse(wanted)?;
                if !quiet {
                    eprintln!("Unable to find image '{}' locally", reference.familiar());
                }
                pull::pull(store, &reference, &platform, quiet)?.image
            }
            Err(error) => return Err(error.into()),
        },
        other => bail!(
            "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
        ),
    };
    if platform.fit(image.platform()).is_none() {
        bail!(
            "image {wanted} is for {}, and this host runs {platform}: a VM emulates no other CPU",
            image.platform()
        );
    }
    Ok(image)
}

fn make_plan(flags: &Flags, image: &Image, id: &str) -> Result<Plan> {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let caller = Caller {
        variable: &|name| std::env::var(name).ok(),
        read: &read_file,
        host_cpus: std::thread::available_parallelism().map_or(1, usize::from),
        resolv_conf: &resolv_conf,
        window: attach::window_size().unwrap_or(WindowSize {
            rows: 24,
            columns: 80,
        }),
    };
    let layers = image.layers.iter().map(images::Layer::key).collect();
    plan(flags, &image.config, id, layers, &caller)
}

fn read_file(path: &str) -> Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text))
        .with_context(|| format!("open {path}"))?;
    if text.len() as u64 > FILE_MAX {
        bail!("{path} is larger than {FILE_MAX} bytes");
    }
    Ok(text)
}

/// The file that takes the container's id; removed again when there is no container.
struct CidFile(Option<PathBuf>);

impl CidFile {
    fn create(path: Option<String>) -> Result<Self> {
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Ok(Self(None));
        };
        if Path::new(&path).exists() {
            bail!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            );
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)
            .with_context(|| format!("failed to create the container ID file {path}"))?;
        Ok(Self(Some(path.into())))
    }

    fn write(mut self, id: &str) -> Result<()> {
        let Some(path) = &self.0 else { return Ok(()) };
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(id.as_bytes()))
            .with_context(|| format!("write the container ID file {}", path.display()))?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
