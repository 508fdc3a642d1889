//! The command: a file per verb; flags in, words and exit codes out.
//!
//! Called by `main`. It knows no KVM and no agent: that is `sandbox`'s.

mod attach;
mod build;
mod builder;
mod commit;
pub mod complaint;
mod completion;
pub mod contrast;
mod cp;
mod df;
mod diff;
pub mod doctor;
mod each;
mod events;
mod exec;
mod export;
mod filter;
mod flags;
mod given;
pub mod globals;
mod guide;
mod history;
mod images;
mod import;
mod info;
mod inspect;
mod kill;
mod load;
mod login;
mod logs;
mod merge;
mod mounts;
mod names;
mod network_files;
mod options;
mod output;
mod pause;
mod plain;
mod policy;
mod ports;
mod prune;
mod ps;
mod pull;
mod push;
mod rename;
mod restart;
mod rm;
mod rmi;
pub mod run;
mod save;
mod search;
mod share;
mod start;
mod stats;
mod stop;
mod surface;
mod tag;
mod template;
mod top;
mod update;
mod values;
mod variables;
mod verbs;
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
    #[command(flatten)]
    global: globals::GlobalArgs,
    #[command(subcommand)]
    verb: Verb,
}

/// Verbs other than `run` and `create`, which are built from a table.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Download an image from a registry
    Pull(pull::PullArgs),
    /// Upload an image to a registry
    Push(push::PushArgs),
    /// Log in to a registry
    Login(login::LoginArgs),
    /// Log out from a registry
    Logout(login::LogoutArgs),
    /// Refused: registries have no index to search
    Search(search::SearchArgs),
    /// List images
    Images(images::ImagesArgs),
    /// Load images from an archive of docker save or an OCI layout
    Load(load::LoadArgs),
    /// Write images as an archive
    Save(save::SaveArgs),
    /// Make an image of a file system in a tar
    Import(import::ImportArgs),
    /// Give an image another name
    Tag(tag::TagArgs),
    /// Remove images
    Rmi(rmi::RmiArgs),
    /// Show containers, images and volumes in detail
    Inspect(inspect::InspectArgs),
    /// List containers
    Ps(ps::PsArgs),
    /// Show the steps that made an image
    History(history::HistoryArgs),
    /// Show what happens to containers, images and volumes
    Events(events::EventsArgs),
    /// Show this host, this command, and what it has
    Info(info::InfoArgs),
    /// Look at and tidy everything at once
    #[command(subcommand, arg_required_else_help = true)]
    System(SystemVerb),
    #[command(flatten)]
    Files(FilesVerb),
    #[command(flatten)]
    Life(LifeVerb),
    /// Say whether this host can run VMs, and if not, why
    Doctor(NoArgs),
    /// Run an image in a microVM and as a plain container, and show what each sees and holds
    Contrast(contrast::ContrastArgs),
    /// Show versions of the command, the guest kernel and the agent
    Version(version::VersionArgs),
    /// Manage images
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageVerb),
    /// Print what makes a shell complete our words
    Completion(completion::CompletionArgs),
    /// Write man pages
    #[command(name = "__man", hide = true)]
    Man(completion::ManArgs),
    /// Print the table of the guide
    #[command(name = "__guide", hide = true)]
    Guide,
    /// Manage what builds keep
    #[command(subcommand, arg_required_else_help = true)]
    Builder(builder::BuilderVerb),
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
    /// Upload an image to a registry
    Push(push::PushArgs),
    /// List images
    #[command(alias = "list")]
    Ls(images::ImagesArgs),
    /// Load images from an archive
    Load(load::LoadArgs),
    /// Write images as an archive
    Save(save::SaveArgs),
    /// Make an image of a file system in a tar
    Import(import::ImportArgs),
    /// Give an image another name
    Tag(tag::TagArgs),
    /// Remove images
    #[command(alias = "remove")]
    Rm(rmi::RmiArgs),
    /// Show images in detail
    Inspect(inspect::InspectArgs),
    /// Show the steps that made an image
    History(history::HistoryArgs),
    /// Remove images that are not used
    Prune(prune::ImagePruneArgs),
}

/// `bulkhead system …`.
#[derive(Debug, Subcommand)]
enum SystemVerb {
    /// Show what takes space
    Df(df::DfArgs),
    /// Show what happens to containers, images and volumes
    Events(events::EventsArgs),
    /// Show this host, this command, and what it has
    Info(info::InfoArgs),
    /// Remove what is not used
    Prune(prune::SystemPruneArgs),
    /// Show what users may by the host's policy, and have the kernel keep what it can
    Policy(policy::verb::PolicyArgs),
    /// Share unpacked images of root's with every user of this host
    Share(share::ShareArgs),
    /// Share images no more
    Unshare(share::UnshareArgs),
}

/// `bulkhead container …`.
#[derive(Debug, Subcommand)]
enum ContainerVerb {
    /// List containers
    #[command(alias = "list", alias = "ps")]
    Ls(ps::PsArgs),
    /// Show containers in detail
    Inspect(inspect::InspectArgs),
    /// Remove stopped containers
    Prune(prune::ContainerPruneArgs),
    #[command(flatten)]
    Files(FilesVerb),
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
    /// List published ports of a container
    Port(ports::PortArgs),
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
            Self::Port(args) => ports::run(&args)?,
            Self::Rm(args) => rm::run(&args)?,
        }
        Ok(0)
    }
}

/// Verbs that look into a container: `bulkhead cp`, `bulkhead container cp`.
#[derive(Debug, Subcommand)]
enum FilesVerb {
    /// Copy files into or out of a container
    Cp(cp::CpArgs),
    /// Write a container's file system as a tar archive
    Export(export::ExportArgs),
    /// Show what a container changed of its image's files
    Diff(diff::DiffArgs),
    /// Make an image of a container's changes
    Commit(commit::CommitArgs),
    /// Show the processes of a running container
    Top(top::TopArgs),
    /// Show what running containers use
    Stats(stats::StatsArgs),
}

impl FilesVerb {
    fn run(self) -> Result<()> {
        match self {
            Self::Cp(args) => cp::run(&args),
            Self::Export(args) => export::run(&args),
            Self::Diff(args) => diff::run(&args),
            Self::Commit(args) => commit::run(&args),
            Self::Top(args) => top::run(&args),
            Self::Stats(args) => stats::run(&args),
        }
    }
}

/// The whole parser.
#[must_use]
pub fn command() -> clap::Command {
    flags::as_dockers(Cli::command())
        .subcommand(flags::run_command().display_order(0))
        .subcommand(flags::create_command().display_order(1))
        .subcommand(flags::update_command())
        .subcommand(flags::build_command().display_order(2))
        .mut_subcommand("image", |group| group.subcommand(flags::build_command()))
        .mut_subcommand("builder", |group| group.subcommand(flags::build_command()))
        .mut_subcommand("container", |group| {
            group
                .subcommand(flags::run_command())
                .subcommand(flags::create_command())
                .subcommand(flags::update_command())
                .mut_subcommand("rm", |rm| rm.alias("remove"))
        })
}

/// What is said before the verb.
///
/// # Errors
/// An engine is chosen.
pub fn before(matches: &ArgMatches, args: &[String]) -> Result<()> {
    globals::apply(&globals::GlobalArgs::from_arg_matches(matches)?, args)
}

/// `run`, `create` and `update`, if that is the verb: an exit code, 125 for what the first two
/// refuse.
#[must_use]
pub fn with_flags_of_run(matches: &ArgMatches, began: u64) -> Option<Result<u8>> {
    let (verb, matches) = match matches.subcommand()? {
        ("container", group) => group.subcommand()?,
        ("image" | "builder", group) if group.subcommand_name() == Some("build") => {
            group.subcommand()?
        }
        verb => verb,
    };
    match verb {
        "run" => Some(run::run(matches.clone(), began)),
        "create" => Some(run::create(matches.clone())),
        "build" => Some(build::run(matches.clone()).or_else(|error| {
            complaint::complain(&error);
            Ok(build::code(&error))
        })),
        "update" => Some(match update::run(matches.clone()) {
            Ok(()) => Ok(0),
            Err(error) => {
                complaint::complain(&error);
                Ok(complaint::CODE_FAILURE)
            }
        }),
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
        Verb::Push(args) | Verb::Image(ImageVerb::Push(args)) => push::run(&args)?,
        Verb::Login(args) => login::run(&args)?,
        Verb::Logout(args) => login::log_out(&args)?,
        Verb::Images(args) | Verb::Image(ImageVerb::Ls(args)) => images::run(&args)?,
        Verb::Load(args) | Verb::Image(ImageVerb::Load(args)) => load::run(&args)?,
        Verb::Save(args) | Verb::Image(ImageVerb::Save(args)) => save::run(&args)?,
        Verb::Import(args) | Verb::Image(ImageVerb::Import(args)) => import::run(&args)?,
        Verb::Search(args) => search::run(&args)?,
        Verb::Tag(args) | Verb::Image(ImageVerb::Tag(args)) => tag::run(&args)?,
        Verb::Rmi(args) | Verb::Image(ImageVerb::Rm(args)) => rmi::run(&args)?,
        Verb::Inspect(args) => inspect::run(&args, None)?,
        Verb::Image(ImageVerb::Inspect(args)) => inspect::run(&args, Some(ObjectKind::Image))?,
        Verb::Container(ContainerVerb::Inspect(args)) => {
            inspect::run(&args, Some(ObjectKind::Container))?;
        }
        Verb::Ps(args) | Verb::Container(ContainerVerb::Ls(args)) => ps::run(&args)?,
        Verb::Container(ContainerVerb::Prune(args)) => prune::containers(&args)?,
        Verb::Image(ImageVerb::Prune(args)) => prune::images(&args)?,
        Verb::System(SystemVerb::Prune(args)) => prune::system(&args)?,
        Verb::System(SystemVerb::Df(args)) => df::run(&args)?,
        Verb::System(SystemVerb::Policy(args)) => policy::verb::run(&args)?,
        Verb::System(SystemVerb::Share(args)) => share::share(&args)?,
        Verb::System(SystemVerb::Unshare(args)) => share::unshare(&args)?,
        Verb::History(args) | Verb::Image(ImageVerb::History(args)) => history::run(&args)?,
        Verb::Events(args) | Verb::System(SystemVerb::Events(args)) => events::run(&args)?,
        Verb::Info(args) | Verb::System(SystemVerb::Info(args)) => info::run(&args)?,
        Verb::Files(verb) | Verb::Container(ContainerVerb::Files(verb)) => verb.run()?,
        Verb::Life(verb) | Verb::Container(ContainerVerb::Life(verb)) => return verb.run(),
        Verb::Completion(args) => completion::run(&args)?,
        Verb::Man(args) => completion::man(&args)?,
        Verb::Guide => print!("{}", guide::table()),
        Verb::Builder(verb) => builder::run(&verb)?,
        Verb::Volume(verb) => volume::run(&verb)?,
        Verb::Version(args) => version::run(&args)?,
        Verb::Contrast(args) => contrast::run(&args)?,
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

    /// As Docker's commands do, also of aliases such as `alias e='bulkhead exec -it'`.
    #[test]
    fn flags_of_all_verbs_may_be_repeated_and_switches_have_values() {
        let parse = |words: &str| {
            let words = words.split(' ');
            command().try_get_matches_from(["bulkhead"].into_iter().chain(words))
        };
        for words in [
            "exec -it -i -t web sh",
            "rm -f -f x",
            "container rm --force=true x",
            "logs --tail 5 --tail 10 x",
            "stop -t 1 -t 2 x",
            "images -q --no-trunc=1",
            "ps --filter name=a --filter name=b",
        ] {
            parse(words).unwrap();
        }
        let all = |words: &str| {
            let matches = parse(words).unwrap();
            let Verb::Ps(args) = Cli::from_arg_matches(&matches).unwrap().verb else {
                panic!("{words} is ps");
            };
            args.all
        };
        assert!(all("ps -a") && all("ps --all") && all("ps --all=t"));
        assert!(!all("ps") && !all("ps --all=false") && !all("ps -a --all=0"));
        // Some are on by default.
        for words in ["push x", "commit x", "history x", "attach x"] {
            let matches = parse(words).unwrap();
            let (verb, matches) = matches.subcommand().unwrap();
            let flag = match verb {
                "push" => "disable_content_trust",
                "commit" => "pause",
                "history" => "human",
                _ => "sig_proxy",
            };
            assert_eq!(matches.get_one::<bool>(flag), Some(&true), "{verb}");
        }
        let error = parse("ps --all=maybe").unwrap_err().to_string();
        assert!(error.contains("neither true nor false"), "{error}");
    }

    fn verb(words: &[&str]) -> Verb {
        let words = std::iter::once(&"bulkhead").chain(words);
        let matches = command().try_get_matches_from(words).unwrap();
        Cli::from_arg_matches(&matches).unwrap().verb
    }

    #[test]
    fn a_value_is_what_stands_behind_its_flag_whatever_it_begins_with() {
        for (words, flag, want) in [
            (
                &["ps", "--format", "- {{.Names}}"][..],
                "format",
                "- {{.Names}}",
            ),
            (&["ps", "--format", "--", "-a"], "format", "--"),
            (
                &["login", "-u", "u", "-p", "-token", "h.io"],
                "password",
                "-token",
            ),
            (&["commit", "-m", "- fix", "web"], "message", "- fix"),
            (
                &["commit", "-a", "-x", "--pause=false", "web"],
                "author",
                "-x",
            ),
            (&["logs", "--tail", "-1", "web"], "tail", "-1"),
            (&["images", "-f", "--quiet"], "filter", "--quiet"),
        ] {
            let words = std::iter::once(&"bulkhead").chain(words);
            let matches = command().try_get_matches_from(words).unwrap();
            let (verb, matches) = matches.subcommand().unwrap();
            let value = matches.get_raw(flag).unwrap().next_back().unwrap();
            assert_eq!(value, want, "{verb}");
        }
        // Behind the flags, words are the process's.
        let words = [
            "exec", "-e", "-A=1", "-w", "-d", "web", "sh", "-x", "--", "-e",
        ];
        let Verb::Life(LifeVerb::Exec(args)) = verb(&words) else {
            panic!("it is exec");
        };
        assert_eq!(args.words, ["web", "sh", "-x", "--", "-e"]);
        let Verb::Life(LifeVerb::Rm(_)) = verb(&["rm", "-f", "--", "-web"]) else {
            panic!("it is rm");
        };
    }

    #[test]
    fn nothing_is_a_value_of_flags_that_name_files_and_platforms() {
        for words in [
            &["save", "-o", "", "--platform", "", "x"][..],
            &["export", "-o", "", "x"],
            &["load", "-i", "", "--platform", ""],
            &["stop", "-s", "", "x"],
        ] {
            verb(words);
        }
    }
}
