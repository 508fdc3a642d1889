//! `bulkhead build`: a Dockerfile to an image, each step in a microVM.

mod input;
mod progress;
pub mod surface;

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ArgMatches;
use images::dockerfile::{self, BaseImage, BaseRequest, Plan, PlanError, PlanOptions};
use images::registry::{self, Download};
use images::timestamp::Timestamp;
use images::{Digest, Image, ImageConfig, Platform, Reference, Store};
use protocol::spec::SECRET_BYTES;

use super::flags::{self, Flags};
use super::merge::{self, Host};
use super::options::{PullPolicy, RunOptions};
use super::policy::{NotAllowed, Policy};
use super::run::{self, DEFAULT_WINDOW, LastResort, WithCode};
use super::{names, output, pull, share};
use crate::doctor;
use crate::sandbox::build::{Build, BuildError, Built, StepFailed, StepId, build};
use crate::sandbox::clock::{now, rfc3339};
use crate::sandbox::launch::Launch;
use crate::sandbox::paths::{GuestFiles, Root};
use crate::sandbox::{containers, events, network};
use input::Input;
pub use progress::PROGRESS_VARIABLE;
use progress::{Mode, Progress};

/// Flags that mean the same to a step as to a container.
const OF_RUN: [&str; 8] = [
    "add-host",
    "cpu-period",
    "cpu-quota",
    "cpu-shares",
    "cpuset-cpus",
    "memory",
    "memory-swap",
    "shm-size",
];

/// Host name of every step, which is BuildKit's.
const HOSTNAME: &str = "buildkitsandbox";

/// Makes layers, configs and histories reproducible: what they say of times is this at most.
pub const EPOCH_VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// Variables of the user's that a build gets as arguments without being asked, where Docker's config.json
/// names no proxies.
const PROXIES: [&str; 10] = [
    "ALL_PROXY",
    "all_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// What the flags say.
struct Options {
    names: Vec<Reference>,
    file: Option<String>,
    plan: PlanOptions,
    pull: PullPolicy,
    no_cache: bool,
    secrets: BTreeMap<String, Vec<u8>>,
    mode: Mode,
    quiet: bool,
    iidfile: Option<String>,
    epoch: Option<i64>,
    /// The same for every step.
    step: RunOptions,
    /// What of that a process sees.
    environment: String,
}

/// Builds and returns the exit code.
///
/// # Errors
/// What kept the image from being built; exit code 1 unless it is a step's own.
pub fn run(matches: ArgMatches) -> Result<u8> {
    let flags = Flags::check_build(matches)?;
    let options = options(&flags)?;
    let root = Root::of_user()?;
    let policy = Policy::of_user()?;
    policy.check_disk(&root)?;
    let words = flags.words_of_build();
    let word = match words.as_slice() {
        [word] => word,
        _ => bail!("'bulkhead build' requires 1 argument"),
    };
    // One of an earlier build would be taken for this one's.
    if let Some(path) = &options.iidfile {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {path}"));
            }
            _ => {}
        }
    }
    let input = input::find(&root, word, options.file.as_deref())?;
    let dockerfile = dockerfile::parse(&input.dockerfile).map_err(|error| told(&error, &input))?;
    doctor::can_run()?;
    let store = Store::open(&root.images())?;
    let lease = store.lease()?;
    let mut images = HashMap::new();
    let mut find = |request: &BaseRequest| base(request, &options, &store, &mut images);
    let plan = match dockerfile::plan(&dockerfile, &options.plan, &mut find) {
        Ok(plan) => plan,
        Err(PlanError::Dockerfile(error)) => return Err(told(&error, &input)),
        Err(PlanError::Image {
            reference, source, ..
        }) => {
            return Err(source.0.context(format!("resolve the image {reference}")));
        }
    };
    if !options.quiet {
        for warning in &plan.warnings {
            let place = match warning.line {
                0 => String::new(),
                line => format!(" ({} line {line})", input.name),
            };
            output::note(&format!("WARNING: {}{place}", warning.text));
        }
    }
    for image in images.values() {
        share::tell_untrusted(&store, &image.layers)?;
    }
    let launch = launch(&options.step)?;
    let progress = Progress::new(options.mode, &plan);
    let built = build(&Build {
        root: &root,
        guest: &GuestFiles::find()?,
        store: &store,
        lease: &lease,
        plan: &plan,
        images: &images,
        context: &input.context,
        launch: &launch,
        secrets: &options.secrets,
        environment: &options.environment,
        no_cache: options.no_cache,
        epoch: options.epoch,
        admit: &|| policy.admit_builder(&root, &launch),
        fetch: &|url| fetch(&store, url),
        tell: &|told| progress.show(told),
    });
    let built = match built {
        Ok(built) => built,
        Err(error) => {
            drop(lease);
            limit_cache(&store, &root);
            return Err(failed(error, &plan, &progress, &input));
        }
    };
    let image = compose(&store, &lease, built, &options)?;
    drop(lease);
    limit_cache(&store, &root);
    let id = image.id.to_string();
    progress.say(&format!("writing image {id}"));
    for name in &options.names {
        progress.say(&format!("naming to {}", name.familiar()));
        events::of_image(root.path(), "tag", &id, &name.familiar());
    }
    if let Some(path) = &options.iidfile {
        std::fs::write(path, &id).with_context(|| format!("write {path}"))?;
    }
    if options.quiet {
        output::line(&id)?;
    }
    Ok(0)
}

/// The image of what was built.
fn compose(
    store: &Store,
    lease: &images::store::Lease,
    built: Built,
    options: &Options,
) -> Result<Image> {
    // An image of nothing that has a date has been made now.
    let created = built.config.created.clone();
    let created = created.or_else(|| {
        Timestamp::parse(&match options.epoch {
            Some(epoch) => rfc3339(epoch),
            None => now(),
        })
    });
    let config = ImageConfig {
        created,
        // They are about the base image.
        docker_version: String::new(),
        comment: String::new(),
        ..built.config
    };
    Ok(store.compose(lease, &built.layers, config, &options.names)?)
}

/// An error of a Dockerfile, its lines shown before.
fn told(error: &dockerfile::DockerfileError, input: &Input) -> anyhow::Error {
    let snippet = error.snippet(&input.name);
    if !snippet.is_empty() {
        output::note(snippet.trim_end());
    }
    anyhow!("{error}")
}

/// What the user is told of a build that failed, and the exit code.
fn failed(
    BuildError { error, step }: BuildError,
    plan: &Plan,
    progress: &Progress<'_>,
    input: &Input,
) -> anyhow::Error {
    progress.failed(step);
    if let Some(id) = step {
        show_lines(id, plan, input);
    }
    let code = error
        .downcast_ref::<StepFailed>()
        .map_or(1, |step| step.code);
    let hint = error.downcast_ref::<NotAllowed>().map(NotAllowed::hint);
    let hint = hint.map_or_else(String::new, |hint| format!("\nhint: {hint}"));
    run::with_code(code, format!("failed to build: {error:#}{hint}"))
}

/// The instruction that failed.
fn show_lines(id: StepId, plan: &Plan, input: &Input) {
    let step = plan
        .stages
        .get(id.stage)
        .and_then(|stage| stage.steps.get(id.step));
    let Some((first, last)) = step.map(|step| step.lines) else {
        return;
    };
    let text = String::from_utf8_lossy(&input.dockerfile);
    let from = first.saturating_sub(2).max(1);
    let lines = (1..).zip(text.lines()).skip(from - 1);
    let lines = lines.take_while(|(number, _)| *number <= last.saturating_add(2));
    output::note(&format!("{}:{first}\n--------------------", input.name));
    for (number, line) in lines {
        let mark = if (first..=last).contains(&number) {
            ">>>"
        } else {
            "   "
        };
        output::note(format!("{number:4} | {mark} {line}").trim_end());
    }
    output::note("--------------------");
}

fn options(flags: &Flags) -> Result<Options> {
    let quiet = flags.is_on("quiet");
    let platform = match flags.list("platform").as_slice() {
        [] => pull::default_platform(run::variable(pull::PLATFORM_VARIABLE)?)?,
        [text] => Platform::parse(text)?,
        _ => bail!("--platform is given more than once: one image is built for one platform"),
    };
    if Platform::host().fit(&platform).is_none() {
        bail!("cannot build for {platform}: a VM emulates no other CPU than this host's");
    }
    let mut build_args = BTreeMap::new();
    for (name, value) in run::settings().proxies {
        build_args.insert(name, Some(value));
    }
    // Both names of a proxy have one value, so that none is mixed of file and environment.
    let is_from_file = !build_args.is_empty();
    for name in PROXIES.into_iter().filter(|_| !is_from_file) {
        if let Some(value) = run::variable(name)? {
            build_args.insert(name.to_owned(), Some(value));
        }
    }
    for arg in flags.list("build-arg") {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (arg.clone(), run::variable(&arg)?),
        };
        build_args.insert(name, value);
    }
    let labels = flags.list("label");
    let labels = labels.iter().map(|label| match label.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (label.clone(), String::new()),
    });
    let mut names = Vec::new();
    for name in flags.list("tag") {
        let reference = Reference::parse(&name)
            .with_context(|| format!("invalid argument {name:?} for \"-t, --tag\" flag"))?;
        if reference.digest().is_some() {
            bail!(
                "invalid argument {name:?} for \"-t, --tag\" flag: refusing to create a tag with a digest reference"
            );
        }
        names.push(reference);
    }
    Ok(Options {
        names,
        file: flags.text("file"),
        plan: PlanOptions {
            build_args,
            target: flags.text("target"),
            labels: labels.collect(),
            platform,
        },
        pull: match flags.is_on("pull") {
            true => PullPolicy::Always,
            false => PullPolicy::Missing,
        },
        no_cache: flags.is_on("no-cache"),
        secrets: secrets(&flags.list("secret"))?,
        mode: Mode::parse(flags.value("progress").as_deref(), quiet)?,
        quiet,
        iidfile: flags.text("iidfile"),
        epoch: epoch()?,
        step: step_options(flags)?,
        environment: environment(flags),
    })
}

/// What a step that runs something has besides its files and its instruction.
fn environment(flags: &Flags) -> String {
    format!(
        "{:?} {:?} {:?} {:?}",
        flags.list("add-host"),
        flags.text("network").filter(|mode| mode == "none"),
        flags.list("ulimit"),
        flags.text("shm-size")
    )
}

/// Keeps what builds have made within limits. What can't be forgotten or removed now is at the next build's end.
fn limit_cache(store: &Store, root: &Root) {
    if let Ok(true) = store.limit_steps() {
        let _ = store.collect(&|| containers::uses(root));
    }
}

fn epoch() -> Result<Option<i64>> {
    let Some(text) = run::variable(EPOCH_VARIABLE)?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let epoch = text.parse().ok().filter(|epoch| *epoch >= 0);
    epoch
        .map(Some)
        .with_context(|| format!("{EPOCH_VARIABLE}={text} is no number of seconds since 1970"))
}

/// `type=` of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SecretKind {
    File,
    Variable,
}

/// `--secret id=name[,src=file][,env=variable]`; a file of the name is the last resort.
fn secrets(given: &[String]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut secrets = BTreeMap::new();
    for text in given {
        let (mut id, mut path, mut variable, mut kind) = (None, None, None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("src" | "source", value)) => path = Some(value.to_owned()),
                Some(("env", value)) => variable = Some(value.to_owned()),
                Some(("type", "file")) => kind = Some(SecretKind::File),
                Some(("type", "env")) => kind = Some(SecretKind::Variable),
                _ => bail!("invalid secret {text:?}: unexpected {part:?}"),
            }
        }
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            bail!("invalid secret {text:?}: it has no id");
        };
        let from_variable = match kind {
            // As buildx: the source of such a secret is a variable's name.
            Some(SecretKind::Variable) => variable.or(path.clone()).or(Some(id.clone())),
            Some(SecretKind::File) => None,
            None if variable.is_some() => variable,
            None if path.is_some() => None,
            None => Some(id.clone()).filter(|name| std::env::var_os(name).is_some()),
        };
        let content = match from_variable {
            Some(name) => match std::env::var_os(&name) {
                Some(value) => std::os::unix::ffi::OsStringExt::into_vec(value),
                None => bail!("secret {id}: there is no variable {name}"),
            },
            None => secret_file(&id, path.as_deref().unwrap_or(&id))?,
        };
        secrets.insert(id, content);
    }
    Ok(secrets)
}

fn secret_file(id: &str, path: &str) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_BYTES as u64 + 1).read_to_end(&mut content))
        .with_context(|| format!("secret {id}: read {path}"))?;
    if content.len() > SECRET_BYTES {
        bail!("secret {id}: {path} is larger than {SECRET_BYTES} bytes");
    }
    Ok(content)
}

/// What every step has, by the rules of `run`.
fn step_options(flags: &Flags) -> Result<RunOptions> {
    let mut words = vec!["run".to_owned()];
    for name in OF_RUN {
        for value in flags.list(name) {
            words.push(format!("--{name}={value}"));
        }
    }
    for limit in flags.list("ulimit") {
        words.push(format!("--ulimit={limit}"));
    }
    match flags.text("network").as_deref() {
        None | Some("default" | "bridge") => {}
        Some("none") => words.push("--network=none".to_owned()),
        Some("host") => {
            bail!(
                "--network=host is not supported: a step has a VM of its own, whose network is not the host's; use default"
            )
        }
        Some(other) => bail!("--network={other} is not supported: use default or none"),
    }
    // The same for every build, as what a step makes of it may be in a layer.
    words.push(format!("--hostname={HOSTNAME}"));
    words.push("scratch".to_owned());
    let matches = flags::run_command()
        .try_get_matches_from(words)
        .map_err(|error| anyhow!("{}", error.to_string().trim()))?;
    let flags = Flags::check(matches)?;
    run::with_caller(|caller| RunOptions::parse(&flags, caller))
}

fn launch(options: &RunOptions) -> Result<Launch> {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let host = Host {
        resolv_conf: &resolv_conf,
        address: network::host_address(),
        has_v6: network::has_v6(),
        window: DEFAULT_WINDOW,
    };
    // Each step has its own in place of it.
    let nothing = br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let config = ImageConfig::parse(nothing)?;
    merge::launch(options, &config, &names::random_id()?, Vec::new(), &host)
}

/// Why a base image can't be had.
#[derive(Debug)]
struct NoBase(anyhow::Error);

impl std::fmt::Display for NoBase {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:#}", self.0)
    }
}

impl std::error::Error for NoBase {}

/// Finds an image that the Dockerfile names, or pulls it.
fn base(
    request: &BaseRequest,
    options: &Options,
    store: &Store,
    images: &mut HashMap<Digest, Image>,
) -> Result<BaseImage, NoBase> {
    let wanted = super::options::ImageOptions {
        name: request.reference.familiar(),
        pull: options.pull,
        platform: request.platform.clone(),
        quiet: options.quiet,
    };
    let image = run::find_image(&wanted, store, LastResort::Pulled).map_err(NoBase)?;
    let base = BaseImage {
        config: image.config.clone(),
        manifest: image.manifest_digest,
    };
    images.insert(image.manifest_digest, image);
    Ok(base)
}

/// A file of the web, by the rules of a pull.
fn fetch(store: &Store, url: &str) -> Result<Download> {
    registry::download(store, url, &pull::options()).with_context(|| format!("ADD failed: {url}"))
}

/// The exit code that a failed build has.
#[must_use]
pub fn code(error: &anyhow::Error) -> u8 {
    error
        .downcast_ref::<WithCode>()
        .map_or(1, |with_code| with_code.code)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn environment_of(given: &[&str]) -> String {
        let words = [&["build"][..], given, &["."]].concat();
        let matches = flags::build_command().try_get_matches_from(words).unwrap();
        environment(&Flags::check_build(matches).unwrap())
    }

    #[test]
    fn what_a_step_sees_makes_it_another() {
        assert_eq!(environment_of(&["--network=default"]), environment_of(&[]));
        let given: [&[&str]; 9] = [
            &[],
            &["--add-host=a:1.2.3.4"],
            &["--network=none"],
            &["--ulimit=nofile=10"],
            &["--ulimit=nofile=20"],
            &["--ulimit=nofile=10", "--ulimit=nproc=20"],
            &["--shm-size=1m"],
            &["--shm-size=2m"],
            &["--ulimit=nofile=10", "--shm-size=1m"],
        ];
        let environments: BTreeSet<String> = given.iter().copied().map(environment_of).collect();
        assert_eq!(environments.len(), given.len());
    }
}
