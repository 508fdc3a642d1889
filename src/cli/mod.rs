//! The command: a file per verb; flags in, words and exit codes out.
//!
//! Called by `main`. It knows no KVM and no agent: that is `sandbox`'s.

pub mod complaint;
pub mod doctor;
mod flags;
mod images;
mod inspect;
mod load;
mod merge;
mod mounts;
mod names;
mod network_files;
mod options;
mod output;
mod ps;
mod pull;
mod rm;
mod rmi;
pub mod run;
mod surface;
mod tag;
mod template;
mod values;
mod variables;
mod version;

use std::process::ExitCode;

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

/// Verbs other than `run`, which is built from a table.
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
    /// Show images and containers in detail
    Inspect(inspect::InspectArgs),
    /// List containers
    Ps(ps::PsArgs),
    /// Remove containers
    Rm(rm::RmArgs),
    /// Say whether this host can run VMs, and if not, why
    Doctor(NoArgs),
    /// Show versions of the command, the guest kernel and the agent
    Version(version::VersionArgs),
    /// Manage images
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageVerb),
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
    /// Remove containers
    #[command(alias = "remove")]
    Rm(rm::RmArgs),
    /// Show containers in detail
    Inspect(inspect::InspectArgs),
}

/// The whole parser.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
        .subcommand(flags::command().display_order(0))
        .mut_subcommand("container", |group| group.subcommand(flags::command()))
}

/// The words of `run`, if that is the verb.
#[must_use]
pub fn run_matches(matches: &ArgMatches) -> Option<ArgMatches> {
    match matches.subcommand()? {
        ("run", matches) => Some(matches.clone()),
        ("container", group) => group.subcommand_matches("run").cloned(),
        _ => None,
    }
}

/// Any verb other than `run`.
///
/// # Errors
/// What the verb says.
pub fn other(matches: &ArgMatches) -> Result<ExitCode> {
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
        Verb::Rm(args) | Verb::Container(ContainerVerb::Rm(args)) => rm::run(&args)?,
        Verb::Version(args) => version::run(&args)?,
        Verb::Doctor(NoArgs {}) => return doctor::run(),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_parser_is_sound() {
        command().debug_assert();
    }
}
