//! What went wrong, in words and as an exit code.
//!
//! `main` calls it. An error is `bulkhead: cause` and a `hint:` line where there is something to do;
//! what the parser refuses is said as Docker's parser says it.

use std::io::{ErrorKind as IoErrorKind, Write};
use std::process::ExitCode;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::policy::NotAllowed;
use super::{command, output, verbs};
use crate::doctor;
use crate::sandbox::plain::NoRuntime;

/// Exit code of what goes wrong before or around a container, and of unknown flags.
pub const CODE_OURS: u8 = 125;

/// Exit code of other verbs, and of what is no command at all.
pub const CODE_FAILURE: u8 = 1;

/// Prints an error.
pub fn complain(error: &anyhow::Error) {
    output::note(&format!("bulkhead: {error:#}"));
    if let Some(hint) = hint(error) {
        output::note(&format!("hint: {hint}"));
    }
}

/// Whether the reader of our output went away, as `| head` does: that is no failure.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == IoErrorKind::BrokenPipe)
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(reason) = cause.downcast_ref::<doctor::Reason>() {
            return Some(reason.hint.clone());
        }
        if let Some(error) = cause.downcast_ref::<images::store::StoreError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<images::registry::RegistryError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<images::registry::CredentialsError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<images::archive::ArchiveError>() {
            return error.hint();
        }
        if cause.is::<NoRuntime>() {
            return Some(NoRuntime::hint());
        }
        if let Some(error) = cause.downcast_ref::<NotAllowed>() {
            return Some(error.hint());
        }
        cause
            .downcast_ref::<images::layers::LayerError>()
            .and_then(images::layers::LayerError::hint)
    })
}

/// Prints help, or what the parser refuses, with Docker's exit codes.
#[must_use]
pub fn usage(error: &clap::Error, args: &[String]) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let printed = error.print().and_then(|()| std::io::stdout().flush());
        return after_help(printed);
    }
    let (verb, path) = verb(args);
    let (message, code) = refusal(error, &verb, &path);
    output::note(&format!("bulkhead: {message}\nSee '{path} --help'."));
    ExitCode::from(code)
}

/// Whether help was given. A reader that goes away is no failure.
fn after_help(printed: std::io::Result<()>) -> ExitCode {
    match printed {
        Err(error) if error.kind() != IoErrorKind::BrokenPipe => {
            complain(&error.into());
            ExitCode::from(CODE_FAILURE)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The verb that the words name, and how it is called: `bulkhead image ls`.
fn verb(args: &[String]) -> (Command, String) {
    let mut found = command();
    let mut path = "bulkhead".to_owned();
    for word in args.iter().skip(1) {
        let Some(next) = found.find_subcommand(word).cloned() else {
            break;
        };
        path = format!("{path} {}", next.get_name());
        found = next;
    }
    (found, path)
}

fn refusal(error: &clap::Error, verb: &Command, path: &str) -> (String, u8) {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let arg = text(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument if arg.starts_with("--") => {
            let name = arg.split('=').next().unwrap_or(&arg);
            (format!("unknown flag: {name}"), CODE_OURS)
        }
        ErrorKind::UnknownArgument if arg.starts_with('-') => {
            let letter = arg.chars().nth(1).unwrap_or('-');
            (
                format!("unknown shorthand flag: '{letter}' in {arg}"),
                CODE_OURS,
            )
        }
        ErrorKind::UnknownArgument
        | ErrorKind::MissingRequiredArgument
        | ErrorKind::TooFewValues => (format!("'{path}' {}", words_wanted(verb)), CODE_FAILURE),
        ErrorKind::InvalidSubcommand | ErrorKind::MissingSubcommand => {
            let name = text(ContextKind::InvalidSubcommand);
            let message = match verbs::refusal(&name).filter(|_| path == "bulkhead") {
                Some(why) => format!("{name} is not supported: {why}"),
                None => format!("unknown command: {path} {name}"),
            };
            (message, CODE_FAILURE)
        }
        ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_empty() => {
            // `--name <string>` is what was meant.
            let flag = arg.split_whitespace().next().unwrap_or(&arg);
            (format!("flag needs an argument: {flag}"), CODE_OURS)
        }
        _ => {
            let all = error.to_string();
            let first = all.lines().next().unwrap_or_default();
            let first = first.strip_prefix("error: ").unwrap_or(first);
            (first.to_owned(), CODE_OURS)
        }
    }
}

/// How many words a verb takes, as Docker says it.
fn words_wanted(verb: &Command) -> String {
    let (mut least, mut most) = (0, Some(0));
    for word in verb.get_positionals() {
        let many = word
            .get_num_args()
            .is_some_and(|range| range.max_values() > 1);
        let many = many || matches!(word.get_action(), clap::ArgAction::Append);
        let fewest = word.get_num_args().map_or(1, |range| range.min_values());
        least += usize::from(word.is_required_set()) * fewest.max(1);
        most = most.filter(|_| !many).map(|most| most + 1);
    }
    let arguments = |count: usize| match count {
        1 => "1 argument".to_owned(),
        _ => format!("{count} arguments"),
    };
    match (least, most) {
        (_, Some(0)) => "accepts no arguments".to_owned(),
        (_, None) => format!("requires at least {}", arguments(least)),
        (0, Some(most)) => format!("requires at most {}", arguments(most)),
        (least, Some(_)) => format!("requires {}", arguments(least)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &[&str]) -> (String, u8) {
        let args: Vec<String> = std::iter::once("bulkhead")
            .chain(words.iter().copied())
            .map(str::to_owned)
            .collect();
        let error = command().try_get_matches_from(&args).unwrap_err();
        let (verb, path) = verb(&args);
        refusal(&error, &verb, &path)
    }

    #[test]
    fn help_that_can_not_be_written_is_a_failure() {
        let code = |kind: IoErrorKind| after_help(Err(kind.into()));
        assert_eq!(after_help(Ok(())), ExitCode::SUCCESS);
        assert_eq!(code(IoErrorKind::BrokenPipe), ExitCode::SUCCESS);
        assert_eq!(code(IoErrorKind::StorageFull), ExitCode::from(CODE_FAILURE));
    }

    #[test]
    fn the_parser_refuses_in_dockers_words() {
        for (words, want, code) in [
            (&["run", "--foo", "x"][..], "unknown flag: --foo", 125),
            (&["run", "--foo=1", "x"], "unknown flag: --foo", 125),
            (
                &["run", "-Z", "x"],
                "unknown shorthand flag: 'Z' in -Z",
                125,
            ),
            (
                &["run", "-itZ", "x"],
                "unknown shorthand flag: 'Z' in -Z",
                125,
            ),
            (&["run", "--name"], "flag needs an argument: --name", 125),
            (&["run", "-m"], "flag needs an argument: --memory", 125),
            (&["images", "--foo"], "unknown flag: --foo", 125),
            (&["ps", "-Z"], "unknown shorthand flag: 'Z' in -Z", 125),
            (&["--foo"], "unknown flag: --foo", 125),
            (&["run"], "'bulkhead run' requires at least 1 argument", 1),
            (
                &["container", "run"],
                "'bulkhead container run' requires at least 1 argument",
                1,
            ),
            (
                &["exec", "a"],
                "'bulkhead exec' requires at least 2 arguments",
                1,
            ),
            (&["rm"], "'bulkhead rm' requires at least 1 argument", 1),
            (
                &["inspect"],
                "'bulkhead inspect' requires at least 1 argument",
                1,
            ),
            (&["pull"], "'bulkhead pull' requires 1 argument", 1),
            (
                &["pull", "a", "b"],
                "'bulkhead pull' requires 1 argument",
                1,
            ),
            (&["tag", "a"], "'bulkhead tag' requires 2 arguments", 1),
            (
                &["images", "a", "b"],
                "'bulkhead images' requires at most 1 argument",
                1,
            ),
            (
                &["image", "list", "a", "b"],
                "'bulkhead image ls' requires at most 1 argument",
                1,
            ),
            (&["ps", "x"], "'bulkhead ps' accepts no arguments", 1),
            (
                &["version", "x"],
                "'bulkhead version' accepts no arguments",
                1,
            ),
            (&["foo"], "unknown command: bulkhead foo", 1),
            (
                &["swarm", "init"],
                "swarm is not supported: there is no swarm: each host is its own",
                1,
            ),
            (&["image", "foo"], "unknown command: bulkhead image foo", 1),
        ] {
            assert_eq!(refused(words), (want.to_owned(), code), "{words:?}");
        }
    }
}
