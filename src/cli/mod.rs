//! The command: a file per verb; flags in, words and exit codes out.
//!
//! Called by `main`. It knows no KVM and no agent: that is `sandbox`'s.

mod attach;
pub mod complaint;
pub mod doctor;
mod each;
mod exec;
mod flags;
mod images;
mod inspect;
mod kill;
mod load;
mod logs;
mod merge;
mod mounts;
mod names;
mod network_files;
mod options;
mod output;
mod pause;
mod ps;
mod pull;
mod rename;
mod restart;
mod rm;
mod rmi;
pub mod run;
mod start;
mod stop;
mod surface;
mod tag;
mod template;
mod values;
mod variables;
mod version;
mod volume;
mod wait;

use anyhow::Result;
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Subcommand};

use inspect::ObjectKind;

/// Run OCI images with docker run flags, each in its own KVM microVM
#[derive(Debug, clap::Parser)]
#[command(
    name = "bulkhead",
    version,
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Cli {
    /// Print the command's version
    #[arg(short, long, action = ArgAction::Version)]
    version: (),
    #[command(subcommand)]
    verb: Verb,
}

/// Verbs other than `run` and `create`, which are built from a table.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Download an image from a registry
    Pull(pull::PullArgs),
    /// List images
    Images(images::ImagesArgs),
    /// Load images from an archive of docker save or an OCI layout
    Load(load::LoadArgs),
    /// Give an image another name
    Tag(tag::TagArgs),
    /// Remove images
    Rmi(rmi::RmiArgs),
    /// Show containers, images and volumes in detail
    Inspect(inspect::InspectArgs),
    /// List containers
    Ps(ps::PsArgs),
    #[command(flatten)]
    Life(LifeVerb),
    /// Say whether this host can run VMs, and if not, why
    Doctor(NoArgs),
    /// Show versions of the command, the guest kernel and the agent
    Version(version::VersionArgs),
    /// Manage images
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageVerb),
    /// Manage volumes
    #[command(subcommand, arg_required_else_help = true)]
    Volume(volume::VolumeVerb),
    /// Manage containers
    #[command(subcommand, arg_required_else_help = true)]
    Container(ContainerVerb),
}

/// No flags.
#[derive(Debug, Args)]
struct NoArgs {}

/// `bulkhead image …`.
#[derive(Debug, Subcommand)]
enum ImageVerb {
    /// Download an image from a registry
    Pull(pull::PullArgs),
    /// List images
    #[command(alias = "list")]
    Ls(images::ImagesArgs),
    /// Load images from an archive
    Load(load::LoadArgs),
    /// Give an image another name
    Tag(tag::TagArgs),
    /// Remove images
    #[command(alias = "remove")]
    Rm(rmi::RmiArgs),
    /// Show images in detail
    Inspect(inspect::InspectArgs),
}

/// `bulkhead container …`.
#[derive(Debug, Subcommand)]
enum ContainerVerb {
    /// List containers
    #[command(alias = "list", alias = "ps")]
    Ls(ps::PsArgs),
    /// Show containers in detail
    Inspect(inspect::InspectArgs),
    #[command(flatten)]
    Life(LifeVerb),
}

/// Verbs of one container's life: `bulkhead stop`, `bulkhead container stop`.
#[derive(Debug, Subcommand)]
enum LifeVerb {
    /// Start containers that do not run
    Start(start::StartArgs),
    /// Stop running containers
    Stop(stop::StopArgs),
    /// Send a signal to running containers
    Kill(kill::KillArgs),
    /// Stop containers and start them again
    Restart(restart::RestartArgs),
    /// Freeze running containers
    Pause(pause::PauseArgs),
    /// Let frozen containers go on
    Unpause(pause::PauseArgs),
    /// Wait for containers to end and print their exit codes
    Wait(wait::WaitArgs),
    /// Join the streams of a running container
    Attach(attach::AttachArgs),
    /// Run another process in a running container
    Exec(exec::ExecArgs),
    /// Show what a container wrote
    Logs(logs::LogsArgs),
    /// Give a container another name
    Rename(rename::RenameArgs),
    /// Remove containers
    Rm(rm::RmArgs),
}

impl LifeVerb {
    fn run(self) -> Result<u8> {
        match self {
            Self::Start(args) => return start::run(args),
            Self::Stop(args) => stop::run(&args)?,
            Self::Kill(args) => kill::run(&args)?,
            Self::Restart(args) => restart::run(&args)?,
            Self::Pause(args) => pause::run(&args, true)?,
            Self::Unpause(args) => pause::run(&args, false)?,
            Self::Wait(args) => wait::run(&args)?,
            Self::Attach(args) => return attach::run(&args),
            Self::Exec(args) => return exec::run(args),
            Self::Logs(args) => logs::run(&args)?,
            Self::Rename(args) => rename::run(&args)?,
            Self::Rm(args) => rm::run(&args)?,
        }
        Ok(0)
    }
}

/// The whole parser.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
        .subcommand(flags::run_command().display_order(0))
        .subcommand(flags::create_command().display_order(1))
        .mut_subcommand("container", |group| {
            group
                .subcommand(flags::run_command())
                .subcommand(flags::create_command())
                .mut_subcommand("rm", |rm| rm.alias("remove"))
        })
}

/// `run` and `create`, if that is the verb: an exit code, 125 for what they refuse.
#[must_use]
pub fn with_flags_of_run(matches: &ArgMatches, began: u64) -> Option<Result<u8>> {
    let (verb, matches) = match matches.subcommand()? {
        ("container", group) => group.subcommand()?,
        verb => verb,
    };
    match verb {
        "run" => Some(run::run(matches.clone(), began)),
        "create" => Some(run::create(matches.clone())),
        _ => None,
    }
}

/// Any verb other than those: an exit code.
///
/// # Errors
/// What the verb says.
pub fn other(matches: &ArgMatches) -> Result<u8> {
    match Cli::from_arg_matches(matches)?.verb {
        Verb::Pull(args) | Verb::Image(ImageVerb::Pull(args)) => pull::run(args)?,
        Verb::Images(args) | Verb::Image(ImageVerb::Ls(args)) => images::run(&args)?,
        Verb::Load(args) | Verb::Image(ImageVerb::Load(args)) => load::run(&args)?,
        Verb::Tag(args) | Verb::Image(ImageVerb::Tag(args)) => tag::run(&args)?,
        Verb::Rmi(args) | Verb::Image(ImageVerb::Rm(args)) => rmi::run(&args)?,
        Verb::Inspect(args) => inspect::run(&args, None)?,
        Verb::Image(ImageVerb::Inspect(args)) => inspect::run(&args, Some(ObjectKind::Image))?,
        Verb::Container(ContainerVerb::Inspect(args)) => {
            inspect::run(&args, Some(ObjectKind::Container))?;
        }
        Verb::Ps(args) | Verb::Container(ContainerVerb::Ls(args)) => ps::run(&args)?,
        Verb::Life(verb) | Verb::Container(ContainerVerb::Life(verb)) => return verb.run(),
        Verb::Volume(verb) => volume::run(&verb)?,
        Verb::Version(args) => version::run(&args)?,
        Verb::Doctor(NoArgs {}) => return doctor::run(),
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_parser_is_sound() {
        command().debug_assert();
    }
}
