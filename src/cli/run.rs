//! `bulkhead run`, `bulkhead create`: flags and an image to a container, to a VM, and back to an exit
//! code.

mod typing;

use std::env::VarError;
use std::fs::OpenOptions;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use images::platform::LAST_RESORT;
use images::registry::{Formats, Settings};
use images::{Image, Reference, Store};
use nix::unistd::{AccessFlags, access};
use protocol::message::WindowSize;
use protocol::probe::Probe;

use super::complaint::{CODE_FAILURE, complain};
use super::flags::Flags;
use super::merge::{self, Host};
use super::options::{Caller, ImageOptions, PullPolicy, RunOptions};
use super::policy::Policy;
use super::{given, names, output, plain, pull, share, values};
use crate::doctor;
use crate::sandbox::attach::{self, Ended};
use crate::sandbox::clock::{monotonic_ns, now};
use crate::sandbox::containers;
use crate::sandbox::disks;
use crate::sandbox::launch::{Isolation, Launch};
use crate::sandbox::logs::LogConfig;
use crate::sandbox::network;
use crate::sandbox::paths::{GuestFiles, Root};
use crate::sandbox::start::{AttachOptions, run_attached, run_detached};
use crate::sandbox::state::{ContainerConfig, Folder, Lock, Phases};
use crate::sandbox::volumes::{self, Volumes};

/// Bytes of an environment, label or seccomp file.
const FILE_MAX: u64 = 1 << 20;

/// Where the kernel lists the CPUs that are online.
const CPUS_ONLINE: &str = "/sys/devices/system/cpu/online";

/// Size of a terminal that nobody has: the VT100's.
pub const DEFAULT_WINDOW: WindowSize = WindowSize {
    rows: 24,
    columns: 80,
};

/// A refusal with an exit code of its own; any other error of `run` is 125.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct WithCode {
    /// For the shell.
    pub code: u8,
    message: String,
}

/// A container that was made, with its lock held.
struct Made {
    root: Root,
    folder: Folder,
    lock: Lock,
    config: ContainerConfig,
    options: RunOptions,
    /// When its layers were ready.
    disks: u64,
}

/// Runs the container and returns its exit code.
///
/// # Errors
/// Anything that kept the process from running; exit code 125 unless it is a [`WithCode`].
pub fn run(matches: ArgMatches, began: u64) -> Result<u8> {
    let flags = Flags::check(matches)?;
    let options = parse(&flags)?;
    run_parsed(&flags, options, began)
}

/// Runs a probe instead of the image's program.
///
/// # Errors
/// As [`run`].
pub fn run_probe(matches: ArgMatches, probe: Probe, began: u64) -> Result<u8> {
    let flags = Flags::check(matches)?;
    let mut options = parse(&flags)?;
    options.process.probe = Some(probe);
    run_parsed(&flags, options, began)
}

fn run_parsed(flags: &Flags, options: RunOptions, began: u64) -> Result<u8> {
    let container = &options.container;
    if container.detach && !flags.list("attach").is_empty() {
        return Err(failure(
            "conflicting options: cannot specify both --attach and --detach".to_owned(),
        ));
    }
    let types = container.streams.stdin && !container.detach;
    if types && options.process.tty && !std::io::stdin().is_terminal() {
        return Err(failure("the input device is not a TTY".to_owned()));
    }
    let made = make(flags, options, true)?;
    let phases = Phases {
        command: began,
        disks: made.disks,
        ..Phases::default()
    };
    let (container, launch) = (made.options.container, &made.config.launch);
    if container.detach {
        // Also of one that does not start: it is there. That nobody reads it keeps nothing from being done.
        let told = output::line(&made.config.id);
        return match run_detached(&made.root, &made.folder, made.lock, phases)? {
            None => told.map(|()| 0),
            Some((code, message)) => Err(WithCode { code, message }.into()),
        };
    }
    let attach_options = AttachOptions {
        stdin: container.streams.stdin && launch.open_stdin,
        stdout: container.streams.stdout,
        stderr: container.streams.stderr,
        terminal: made.options.process.tty,
        forward_signals: container.forward_signals,
        detach_keys: container.detach_keys,
    };
    if typing::is_all(&attach_options) {
        let told = output::line(&made.config.id);
        typing::run(&made.root, &made.folder, made.lock, phases, &attach_options)?;
        return told.map(|()| 0);
    }
    exit_code(run_attached(
        &made.root,
        &made.folder,
        made.lock,
        phases,
        attach_options,
    )?)
}

/// What an attachment's end is to the shell.
///
/// # Errors
/// A process that never ran, with Docker's code.
pub fn exit_code(ended: Ended) -> Result<u8> {
    match ended {
        Ended::Exited { code, trouble } => {
            if let Some(trouble) = trouble {
                output::note(&format!("bulkhead: {trouble}"));
            }
            Ok(code)
        }
        Ended::Failed(code, message) => Err(WithCode { code, message }.into()),
        Ended::Refused(message) | Ended::Broken(message) => Err(failure(message)),
        Ended::Detached => Ok(0),
    }
}

/// That the keys to detach were typed: a failure of what only attaches, unlike of what starts, as in
/// Docker.
pub fn detached() -> anyhow::Error {
    failure("read escape sequence".to_owned())
}

/// What Docker's command itself refuses: exit code 1.
pub fn failure(message: String) -> anyhow::Error {
    with_code(1, message)
}

/// A refusal with this exit code.
pub fn with_code(code: u8, message: String) -> anyhow::Error {
    WithCode { code, message }.into()
}

/// Makes a container and prints its id.
///
/// # Errors
/// What kept it from being made; exit code 1 when it is not a flag's value.
pub fn create(matches: ArgMatches) -> Result<u8> {
    let flags = Flags::check(matches)?;
    let options = parse(&flags)?;
    let made = match make(&flags, options, false) {
        Ok(made) => made,
        Err(error) => {
            complain(&error);
            return Ok(CODE_FAILURE);
        }
    };
    output::line(&made.config.id)?;
    Ok(0)
}

/// Whether nobody could read the log: the output goes to this command, and all else with the
/// container (docs/adr/0007).
fn keeps_no_log(flags: &Flags, options: &RunOptions) -> bool {
    let asked = ["log-driver", "log-opt"].map(|name| !flags.list(name).is_empty());
    options.container.auto_remove && !options.container.detach && asked == [false, false]
}

/// Whether this host runs containers of this kind with these flags.
fn can_run(flags: &Flags, options: &RunOptions) -> Result<()> {
    match options.container.isolation {
        Isolation::Vm => Ok(doctor::can_run()?),
        Isolation::Container => plain::check(flags, options),
    }
}

/// Makes a container; one that is not `begun` at once waits to be started.
fn make(flags: &Flags, options: RunOptions, begun: bool) -> Result<Made> {
    let without_effect = flags.warnings().into_iter().map(str::to_owned);
    for warning in without_effect.chain(options.warnings()) {
        output::note(&format!("WARNING: {warning}"));
    }
    let cidfile = CidFile::check(options.container.cidfile.as_deref())?;
    can_run(flags, &options)?;
    let guest = GuestFiles::find()?;
    let root = Root::of_user()?;
    let policy = Policy::of_user()?;
    policy.check_disk(&root)?;
    let store = Store::open(&root.images())?;
    // Until the container is on record as a user of its layers, nobody may remove them.
    let lease = store.lease()?;
    let image = find_image(&options.image, &store, LastResort::Taken)?;
    let id = names::random_id()?;
    // Refused before anything is unpacked.
    let mut launch = launch(&options, &image, &id)?;
    if begun && keeps_no_log(flags, &options) {
        launch.log = LogConfig::none();
    }
    let quiet = options.image.quiet;
    let volumes_of_image = match launch.isolation {
        Isolation::Vm => {
            share::tell_untrusted(&store, &image.layers)?;
            let progress = pull::ConvertBar::new(quiet);
            let show = |index, count, done, all| progress.show(index, count, done, all);
            disks::prepare_layers(&root, &guest, &store, &image.layers, &show)?;
            &image.config.volumes[..]
        }
        Isolation::Container => {
            plain::prepare(&root, &guest, &image, &launch, quiet)?;
            // What the image says are volumes is changed in its own files.
            &[][..]
        }
    };
    let volumes = Volumes::lock(&root)?;
    let goes_with = launch.auto_remove.then_some(id.as_str());
    let mounts = &options.storage.mounts;
    let mounts = mounts.resolve(&root, &volumes, volumes_of_image, goes_with)?;
    let mut config = ContainerConfig {
        name: match &options.container.name {
            Some(name) => name.clone(),
            None => names::random_name(&root)?,
        },
        id,
        created: now(),
        image: options.image.name.clone(),
        image_id: image.id.to_string(),
        labels: merge::labels(&options, &image.config),
        annotations: options.container.annotations.clone(),
        env: merge::variables(&options, &image.config),
        exposed_ports: merge::exposed_ports(&options, &image.config),
        given: given::given(flags, &options, &image.config)?,
        launch,
    };
    config.launch.set_mounts(mounts);
    let allowed = policy.check_container(&config);
    let created = allowed.and_then(|()| containers::create(&root, &config, begun));
    let created = created.inspect_err(|_| {
        // What can't be removed goes with the next prune.
        let _ = volumes.remove_anonymous_of(&config.launch.mounts);
    });
    drop(volumes);
    let (folder, lock) = created?;
    drop(lease);
    let room = match begun {
        true => policy.check_room(&root, &config, Some(&lock)),
        false => Ok(()),
    };
    if let Err(error) = room.and_then(|()| cidfile.write(&config.id)) {
        drop(lock);
        containers::remove(&folder, &config, false)?;
        volumes::remove_anonymous(&root, &config.launch.mounts)?;
        return Err(error);
    }
    Ok(Made {
        root,
        folder,
        lock,
        config,
        options,
        disks: monotonic_ns(),
    })
}

fn parse(flags: &Flags) -> Result<RunOptions> {
    with_caller(|caller| {
        let settings = settings();
        let proxies = settings.proxies.iter();
        let proxies: Vec<_> = proxies
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let caller = Caller {
            variables: &proxies,
            detach_keys: &settings.detach_keys,
            ..*caller
        };
        RunOptions::parse(flags, &caller)
    })
}

/// Does `act` with what this command sees of its surroundings.
///
/// # Errors
/// Those of `act`.
pub fn with_caller<T>(act: impl FnOnce(&Caller) -> Result<T>) -> Result<T> {
    let cpu_count = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus_online = match std::fs::read_to_string(CPUS_ONLINE) {
        Ok(text) => text.trim().to_owned(),
        Err(_) => format!("0-{}", cpu_count.saturating_sub(1)),
    };
    act(&Caller {
        variable: &variable,
        read: &read_file,
        variables: &[],
        detach_keys: "",
        cpu_count,
        cpus_online: &cpus_online,
    })
}

/// What Docker's config.json says of containers. As in Docker, a file that can't be read is told, and the
/// container does without.
pub fn settings() -> Settings {
    images::registry::settings().unwrap_or_else(|error| {
        let error = anyhow::Error::from(error);
        output::note(&format!(
            "WARNING: what Docker's config.json says is left out: {error:#}"
        ));
        Settings::default()
    })
}

/// How a list is shown: as `--format` says; without it, unless ids alone are asked for, as Docker's
/// config.json says.
pub fn format_of(
    flag: Option<&str>,
    quiet: bool,
    configured: impl FnOnce(Formats) -> String,
) -> Option<String> {
    match flag.filter(|format| !format.is_empty()) {
        Some(format) => Some(format.to_owned()),
        None if quiet => None,
        None => Some(configured(settings().formats)).filter(|format| !format.is_empty()),
    }
}

/// What `--detach-keys` says; without it Docker's config.json.
///
/// # Errors
/// Keys that are none.
pub fn detach_keys(flag: Option<&str>) -> Result<Vec<u8>> {
    match flag {
        None | Some("") => values::detach_keys(&settings().detach_keys),
        Some(text) => values::detach_keys(text),
    }
}

/// A variable of the command's own, for `-e NAME`. Frames and specs are text, so that no other
/// value could be handed on; leaving it out would be a silent loss.
pub fn variable(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            bail!("the value of {name} in the environment is not UTF-8")
        }
    }
}

/// What a VM of these options would be told.
///
/// # Errors
/// As [`merge::launch`].
pub fn launch(options: &RunOptions, image: &Image, id: &str) -> Result<Launch> {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let host = Host {
        resolv_conf: &resolv_conf,
        address: network::host_address(),
        has_v6: network::has_v6(),
        window: attach::window_size().unwrap_or(DEFAULT_WINDOW),
    };
    let layers = image.layers.iter().map(images::Layer::key).collect();
    merge::launch(options, &image.config, id, layers, &host)
}

/// What becomes of an image that is here and is what serves only where there is nothing else: 386 for amd64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastResort {
    /// It is taken.
    Taken,
    /// The registry is asked for a better one first: what is here may have come for another stage.
    Pulled,
}

/// The image by the pull policy.
///
/// # Errors
/// There is none, or it can't be pulled.
pub fn find_image(options: &ImageOptions, store: &Store, resort: LastResort) -> Result<Image> {
    choose_image(options, store, resort, |reference| {
        Ok(pull::pull(store, reference, &options.platform, options.quiet)?.image)
    })
}

fn choose_image(
    options: &ImageOptions,
    store: &Store,
    resort: LastResort,
    pull: impl FnOnce(&Reference) -> Result<Image>,
) -> Result<Image> {
    let ImageOptions { name, platform, .. } = options;
    let missing = |reference: &Reference| {
        if !options.quiet {
            let familiar = reference.familiar();
            output::note(&format!("Unable to find image '{familiar}' locally"));
        }
    };
    let image = match (options.pull, store.resolve(name)) {
        (PullPolicy::Always, _) => pull(&Reference::parse(name)?)?,
        (PullPolicy::Missing, Ok(image)) => match better(options, store, &image, resort) {
            Some(reference) => {
                missing(&reference);
                let here = image.platform();
                pull(&reference).with_context(|| {
                    format!("image {name} is here for {here}, and can't be pulled for {platform}")
                })?
            }
            None => image,
        },
        (PullPolicy::Never, Ok(image)) => image,
        (PullPolicy::Missing, Err(error)) if error.is_no_such_image() => {
            let reference = Reference::parse(name)?;
            missing(&reference);
            pull(&reference)?
        }
        (_, Err(error)) => return Err(error.into()),
    };
    if platform.fit(image.platform()).is_none() {
        bail!(
            "image {name} is for {}, not for {platform}",
            image.platform()
        );
    }
    let host = images::Platform::host();
    if host.fit(image.platform()).is_none() {
        bail!(
            "image {name} is for {}, and this host runs {host}: a VM emulates no other CPU",
            image.platform()
        );
    }
    Ok(image)
}

/// What to pull in place of an image that is here for another platform. Nothing where what is wanted could
/// not run on this host, or the image was named by its id, which no registry knows.
fn better(
    options: &ImageOptions,
    store: &Store,
    image: &Image,
    resort: LastResort,
) -> Option<Reference> {
    let fits = match options.platform.fit(image.platform()) {
        None => false,
        Some(LAST_RESORT) => resort == LastResort::Taken,
        Some(_) => true,
    };
    if fits || images::Platform::host().fit(&options.platform).is_none() {
        return None;
    }
    let reference = Reference::parse(&options.name).ok()?;
    let is_name = matches!(store.find(&reference), Ok(Some(_)));
    is_name.then_some(reference)
}

pub fn read_file(path: &str) -> Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text))
        .map_err(|error| anyhow::anyhow!("open {path}: {}", plain(&error)))?;
    if text.len() as u64 > FILE_MAX {
        bail!("{path} is larger than {FILE_MAX} bytes");
    }
    Ok(text)
}

/// An error of the system in the words of its manual, without Rust's number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// The file that takes the container's id. It is made when there is a container, so that a command
/// that ends before, however it ends, leaves none.
pub struct CidFile(Option<PathBuf>);

impl CidFile {
    /// Refuses a file that can't be made before anything is done.
    ///
    /// # Errors
    /// It can't.
    pub fn check(path: Option<&str>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        if Path::new(path).exists() {
            bail!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            );
        }
        let folder = match Path::new(path).parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(|error| Self::refusal(path, &error.into()))?;
        Ok(Self(Some(path.into())))
    }

    fn refusal(path: &str, error: &std::io::Error) -> anyhow::Error {
        let cause = plain(error);
        anyhow::anyhow!("failed to create the container ID file: open {path}: {cause}")
    }

    /// Writes it.
    ///
    /// # Errors
    /// It can't be, or is there by now.
    pub fn write(self, id: &str) -> Result<()> {
        let Some(path) = &self.0 else { return Ok(()) };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .map_err(|error| Self::refusal(&path.to_string_lossy(), &error))?;
        file.write_all(id.as_bytes())
            .inspect_err(|_| drop(std::fs::remove_file(path)))
            .with_context(|| format!("write the container ID file {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use images::{ImageConfig, Platform};

    use super::*;

    /// An image for this platform, without layers.
    fn image_for(store: &Store, platform: &str, name: &str) -> Image {
        let architecture = platform.strip_prefix("linux/").unwrap();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let config = ImageConfig::parse(config.to_string().as_bytes()).unwrap();
        let lease = store.lease().unwrap();
        let name = Reference::parse(name).unwrap();
        store.compose(&lease, &[], config, &[name]).unwrap()
    }

    /// Looks for an image where one for `here` is in the store, and a registry has those for `there`: the
    /// platform of what is found, and whether something was pulled.
    fn find(
        here: &str,
        there: &[&str],
        options: &ImageOptions,
        resort: LastResort,
    ) -> Result<(String, bool), String> {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let id = image_for(&store, here, "h.io/x:1").id.to_string();
        let options = ImageOptions {
            name: options.name.replace("ID", &id),
            ..options.clone()
        };
        let mut pulled = false;
        let found = choose_image(&options, &store, resort, |reference| {
            pulled = true;
            let wanted = options.platform.to_string();
            match there.contains(&wanted.as_str()) {
                true => Ok(image_for(&store, &wanted, &reference.to_string())),
                false => bail!("the registry is not there"),
            }
        });
        match found {
            Ok(image) => Ok((image.platform().to_string(), pulled)),
            Err(error) => Err(format!("{error:#}").replace(&id, "ID")),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn an_image_that_is_here_for_another_platform_is_pulled() {
        let (amd64, i386) = ("linux/amd64", "linux/386");
        let wanted = |platform: &str, pull| ImageOptions {
            name: "h.io/x:1".to_owned(),
            pull,
            platform: Platform::parse(platform).unwrap(),
            quiet: true,
        };
        let missing = |platform| wanted(platform, PullPolicy::Missing);
        let found = |platform: &str, pulled| Ok((platform.to_owned(), pulled));
        let both = [amd64, i386];
        for resort in [LastResort::Taken, LastResort::Pulled] {
            let find = |here, options: &ImageOptions| find(here, &both, options, resort);
            assert_eq!(find(amd64, &missing(amd64)), found(amd64, false));
            assert_eq!(find(i386, &missing(i386)), found(i386, false));
            assert_eq!(find(amd64, &missing(i386)), found(i386, true));
            let always = wanted(amd64, PullPolicy::Always);
            assert_eq!(find(amd64, &always), found(amd64, true));
        }
        // 386 runs on amd64, but a build that has both takes none for the other.
        let find_386 = |resort| find(i386, &both, &missing(amd64), resort);
        assert_eq!(find_386(LastResort::Taken), found(i386, false));
        assert_eq!(find_386(LastResort::Pulled), found(amd64, true));

        let refused = |text: &str| Err(text.to_owned());
        let alone = |here, options, resort| find(here, &[], &options, resort);
        assert_eq!(
            alone(amd64, missing(i386), LastResort::Taken),
            refused(
                "image h.io/x:1 is here for linux/amd64, and can't be pulled for linux/386: \
                 the registry is not there"
            )
        );
        assert_eq!(
            alone(i386, missing(amd64), LastResort::Pulled),
            refused(
                "image h.io/x:1 is here for linux/386, and can't be pulled for linux/amd64: \
                 the registry is not there"
            )
        );
        let never = wanted(i386, PullPolicy::Never);
        let by_id = ImageOptions {
            name: "ID".to_owned(),
            ..missing(i386)
        };
        for (options, text) in [
            (
                never,
                "image h.io/x:1 is for linux/amd64, not for linux/386",
            ),
            (by_id, "image ID is for linux/amd64, not for linux/386"),
            // Which could not run.
            (
                missing("linux/arm64"),
                "image h.io/x:1 is for linux/amd64, not for linux/arm64",
            ),
        ] {
            let found = find(amd64, &both, &options, LastResort::Pulled);
            assert_eq!(found, refused(text));
        }
    }

    #[test]
    fn a_cidfile_is_made_only_when_there_is_an_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id");
        let path = path.to_str().unwrap();
        let file = CidFile::check(Some(path)).unwrap();
        assert!(!Path::new(path).exists());
        file.write("abc").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "abc");
        let error = CidFile::check(Some(path)).err().unwrap().to_string();
        assert!(error.starts_with("container ID file found"), "{error}");
    }

    #[test]
    fn a_cidfile_that_can_not_be_made_is_refused_at_once() {
        let error = CidFile::check(Some("/no/such/folder/id")).err().unwrap();
        assert_eq!(
            error.to_string(),
            "failed to create the container ID file: open /no/such/folder/id: \
             no such file or directory"
        );
        CidFile::check(Some("no-file-of-the-current-folder")).unwrap();
    }

    #[test]
    fn a_cidfile_that_another_command_made_meanwhile_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id");
        let file = CidFile::check(path.to_str()).unwrap();
        std::fs::write(&path, "other").unwrap();
        file.write("abc").unwrap_err();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "other");
    }
}
