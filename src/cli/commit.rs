//! `bulkhead commit`: a container's changes as a layer on top of its image.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use images::config::{Healthcheck, History};
use images::timestamp::Timestamp;
use images::{Digest, Image, ImageConfig, Reference, Store};
use protocol::task::Task;

use super::merge::DEFAULT_PATH;
use super::policy::Policy;
use super::{output, values};
use crate::sandbox::access::{Access, Limited, with_files};
use crate::sandbox::clock::now;
use crate::sandbox::given::Given;
use crate::sandbox::inspect::signal_name;
use crate::sandbox::paths::Root;
use crate::sandbox::state::{ContainerConfig, Folder, Lock, Status};
use crate::sandbox::{containers, events};

/// Flags of `commit`.
#[derive(Debug, clap::Args)]
pub struct CommitArgs {
    /// Author of the image, such as 'A. Person <a@example.org>'
    #[arg(short, long, value_name = "string", default_value = "")]
    author: String,
    /// Apply a Dockerfile's instruction to the image: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK,
    /// LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "list", allow_hyphen_values = true)]
    change: Vec<String>,
    /// What the image's history says of it
    #[arg(short, long, value_name = "string", default_value = "")]
    message: String,
    /// Freeze the container meanwhile
    #[arg(
        short,
        long,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set,
        value_name = "bool"
    )]
    pause: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Makes the image and prints its id.
///
/// # Errors
/// A name or a change that is none; the image of the container is gone; a disk that is full.
pub fn run(args: &CommitArgs) -> Result<()> {
    let names = match args.name.as_deref() {
        None | Some("") => Vec::new(),
        Some(name) => vec![Reference::parse(name)?],
    };
    let root = Root::of_user()?;
    Policy::of_user()?.check_disk(&root)?;
    let store = Store::open(&root.images())?;
    let (folder, config) = containers::find(&root, &args.container)?;
    // Others may have its id by layers of their own.
    let id = Digest::parse(&config.image_id)?;
    let base = store.find_made_of(&id, &config.launch.layers)?;
    let own = of_container(&config, &base.config);
    let changed = images::dockerfile::change(own, &args.change)?;
    let step = History {
        created: Timestamp::parse(&now()),
        author: args.author.clone(),
        created_by: config.launch.run.process.args.join(" "),
        comment: args.message.clone(),
        empty_layer: false,
    };
    let changed = ImageConfig {
        author: args.author.clone(),
        comment: args.message.clone(),
        ..changed
    };
    let admit = |lock: &Lock| Policy::admit_files(&root, &config, lock);
    let image = with_files(&root, &folder, &config, &admit, |access| {
        // Should this command be killed, it goes on when the connection is gone.
        let paused = args.pause && access.is_running() && pause(access, &folder)?;
        let image = layer(access, &store, &base, changed, step, &names);
        if paused {
            access
                .hold_still(false)
                .context("let the container go on")?;
        }
        image
    })?
    .to_string();
    let details = [
        ("comment", args.message.clone()),
        ("imageID", image.clone()),
    ];
    events::of_container(&folder, &config, "commit", &details);
    output::line(&image)
}

/// Freezes a container unless it is so already, which then is not ours to thaw.
fn pause(access: &mut Access, folder: &Folder) -> Result<bool> {
    if folder.true_state()?.status == Status::Paused {
        return Ok(false);
    }
    access.hold_still(true).context("pause the container")?;
    Ok(true)
}

fn layer(
    access: &mut Access,
    store: &Store,
    base: &Image,
    config: ImageConfig,
    step: History,
    names: &[Reference],
) -> Result<Digest> {
    let mut stream = access.begin_reading(Task::Layer { latest: None })?;
    let mut whole = Whole {
        stream: &mut stream,
        access,
    };
    let image = images::commit(store, base, &mut whole, config, step, names)?;
    Ok(image.id)
}

/// A layer's bytes, which end well only when the agent says that it sent all of them.
struct Whole<'a> {
    stream: &'a mut Limited<UnixStream>,
    access: &'a mut Access,
}

impl std::io::Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.stream.read(buffer)?;
        if len == 0 && !buffer.is_empty() {
            self.access
                .end()
                .map_err(|error| std::io::Error::other(format!("{error:#}")))?;
        }
        Ok(len)
    }
}

/// The image's config with what the container has instead.
fn of_container(config: &ContainerConfig, image: &ImageConfig) -> ImageConfig {
    let launch = &config.launch;
    let process = &launch.run.process;
    let hostname = format!("HOSTNAME={}", launch.run.hostname);
    let has_path = image.env.iter().any(|text| text.starts_with("PATH="));
    let env = process.env.iter().filter(|text| {
        // What every container gets is no part of its image.
        **text != hostname
            && (has_path || *text != DEFAULT_PATH)
            && !(process.terminal.is_some() && *text == "TERM=xterm")
    });
    let given = &config.given;
    let (entrypoint, cmd) = match (&given.entrypoint, &given.cmd) {
        // Made by an older version.
        (None, None) => (None, Some(process.args.clone())),
        (entrypoint, cmd) => (entrypoint.clone(), cmd.clone()),
    };
    ImageConfig {
        user: process.user.clone(),
        env: env.cloned().collect(),
        entrypoint,
        cmd,
        working_dir: match process.cwd.as_str() {
            // As it is without one.
            "/" if image.working_dir.is_empty() => String::new(),
            path => path.to_owned(),
        },
        labels: config.labels.clone(),
        exposed_ports: config.exposed_ports.iter().cloned().collect(),
        stop_signal: match (launch.stop_signal, values::signal(&image.stop_signal)) {
            (signal, Ok(of_image)) if signal == of_image => image.stop_signal.clone(),
            (libc::SIGTERM, Err(_)) => image.stop_signal.clone(),
            (signal, _) => signal_name(signal),
        },
        healthcheck: match (&launch.health, &image.healthcheck) {
            (Some(check), _) => Some(Healthcheck {
                test: check.test.clone(),
                interval: check.interval_ns,
                timeout: check.timeout_ns,
                start_period: check.start_period_ns,
                start_interval: check.start_interval_ns,
                retries: check.retries.into(),
            }),
            // It was turned off.
            (None, Some(_)) => Some(Healthcheck {
                test: vec!["NONE".to_owned()],
                ..Healthcheck::default()
            }),
            (None, None) => None,
        },
        volumes: volumes(given, image),
        // Those were for images built on the container's.
        on_build: Vec::new(),
        ..image.clone()
    }
}

/// Folders that the image or the container has as volumes; of a container made by an older version, nothing
/// is known.
fn volumes(given: &Given, image: &ImageConfig) -> Vec<String> {
    let all: BTreeSet<&String> = image.volumes.iter().chain(&given.volumes).collect();
    all.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use images::Platform;

    use super::*;
    use crate::sandbox::containers::tests::config;

    #[test]
    fn an_image_has_the_volumes_of_its_container() {
        let mut config = config('a', "x", false);
        let mut image = ImageConfig::empty(Platform::host());
        image.volumes = vec!["/data".to_owned()];
        assert_eq!(of_container(&config, &image).volumes, ["/data"]);
        config.given.volumes = vec!["/data".to_owned(), "/more".to_owned()];
        assert_eq!(of_container(&config, &image).volumes, ["/data", "/more"]);
    }
}
