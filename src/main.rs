//! `bulkhead`: dispatch and exit codes. The hidden verbs are processes of the command's own.

mod cli;
mod doctor;
mod sandbox;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use cli::{ContainerVerb, ImageVerb, Verb};
use sandbox::clock::monotonic_ns;
use sandbox::supervisor::SUPERVISOR_VERB;
use sandbox::vm::VMM_VERB;

/// Exit code of what goes wrong before or around a container.
const CODE_RUN: u8 = 125;

fn main() -> ExitCode {
    let began = monotonic_ns();
    let args: Vec<String> = match std::env::args_os()
        .map(std::ffi::OsString::into_string)
        .collect()
    {
        Ok(args) => args,
        Err(arg) => {
            eprintln!("bulkhead: an argument is not UTF-8: {}", arg.display());
            return ExitCode::from(CODE_RUN);
        }
    };
    if let Some(code) = hidden(&args) {
        return code;
    }
    let matches = match cli::command().try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) => return usage(&error, &args),
    };
    let run = match matches.subcommand() {
        Some(("run", matches)) => Some(matches.clone()),
        Some(("container", group)) => group.subcommand_matches("run").cloned(),
        _ => None,
    };
    if let Some(matches) = run {
        return match cli::run::run(matches, began) {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                let code = error
                    .downcast_ref::<cli::run::WithCode>()
                    .map_or(CODE_RUN, |e| e.code);
                complain(&error);
                ExitCode::from(code)
            }
        };
    }
    match cli::verb(&matches)
        .map_err(anyhow::Error::from)
        .and_then(other)
    {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// The processes that the command starts from itself.
fn hidden(args: &[String]) -> Option<ExitCode> {
    let result = match args.get(1..)? {
        [verb, config] if verb == VMM_VERB => config
            .parse()
            .map_err(anyhow::Error::from)
            .and_then(sandbox::vmm_process::main),
        [verb, config] if verb == SUPERVISOR_VERB => sandbox::supervisor::main(config),
        _ => return None,
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    })
}

fn other(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Pull(args)
        | Verb::Image {
            verb: ImageVerb::Pull(args),
        } => cli::pull::run(args)?,
        Verb::Images(args)
        | Verb::Image {
            verb: ImageVerb::Ls(args),
        } => {
            cli::image_verbs::images(&args)?;
        }
        Verb::Load(args)
        | Verb::Image {
            verb: ImageVerb::Load(args),
        } => {
            cli::image_verbs::load(&args)?;
        }
        Verb::Tag(args)
        | Verb::Image {
            verb: ImageVerb::Tag(args),
        } => cli::image_verbs::tag(&args)?,
        Verb::Rmi(args)
        | Verb::Image {
            verb: ImageVerb::Rm(args),
        } => cli::image_verbs::rmi(&args)?,
        Verb::Inspect(args) => cli::inspect::run(&args, None)?,
        Verb::Image {
            verb: ImageVerb::Inspect(args),
        } => cli::inspect::run(&args, Some("image"))?,
        Verb::Container {
            verb: ContainerVerb::Inspect(args),
        } => {
            cli::inspect::run(&args, Some("container"))?;
        }
        Verb::Ps(args)
        | Verb::Container {
            verb: ContainerVerb::Ls(args),
        } => cli::containers::ps(&args)?,
        Verb::Rm(args)
        | Verb::Container {
            verb: ContainerVerb::Rm(args),
        } => cli::containers::rm(&args)?,
        Verb::Version(_) => cli::version::run()?,
        Verb::Doctor(_) => return Ok(doctor_report()),
    }
    Ok(ExitCode::SUCCESS)
}

fn doctor_report() -> ExitCode {
    let (findings, runs) = doctor::report();
    for finding in findings {
        let word = match finding.level {
            doctor::Level::Ok => "ok  ",
            doctor::Level::Warn => "warn",
            doctor::Level::Fail => "FAIL",
        };
        println!("{word}  {}", finding.text);
        if let Some(hint) = finding.hint {
            println!("      hint: {hint}");
        }
    }
    println!(
        "{}",
        if runs {
            "VMs can run here"
        } else {
            "VMs can't run here"
        }
    );
    if runs {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// `bulkhead: cause`, then a hint where there is one.
fn complain(error: &anyhow::Error) {
    let text = format!("{error:#}");
    // A closed stderr is no reason to fail differently.
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "bulkhead: {text}");
    if let Some(hint) = hint(error) {
        let _ = writeln!(stderr, "hint: {hint}");
    }
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
        if let Some(error) = cause.downcast_ref::<images::archive::ArchiveError>() {
            return error.hint();
        }
        cause
            .downcast_ref::<images::layers::LayerError>()
            .and_then(images::layers::LayerError::hint)
    })
}

/// What the parser refuses, in Docker's words and with its exit codes.
fn usage(error: &clap::Error, args: &[String]) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let verb = args
        .get(1)
        .filter(|arg| !arg.starts_with('-'))
        .map_or("", String::as_str);
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let message = match error.kind() {
        ErrorKind::UnknownArgument => unknown(&text(ContextKind::InvalidArg)),
        ErrorKind::InvalidSubcommand => {
            format!(
                "'{}' is not a bulkhead command",
                text(ContextKind::InvalidSubcommand)
            )
        }
        ErrorKind::MissingRequiredArgument => {
            format!("\"bulkhead {verb}\" requires at least 1 argument")
        }
        _ => {
            let all = error.to_string();
            let first = all.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    };
    let _ = writeln!(
        std::io::stderr(),
        "bulkhead: {message}\nSee 'bulkhead {verb} --help'."
    );
    ExitCode::from(match error.kind() {
        ErrorKind::InvalidSubcommand | ErrorKind::MissingRequiredArgument => 1,
        _ => CODE_RUN,
    })
}

/// pflag's words for an unknown flag.
fn unknown(arg: &str) -> String {
    match arg.strip_prefix("--") {
        Some(_) => format!("unknown flag: {}", arg.split('=').next().unwrap_or(arg)),
        None => {
            let letter = arg.chars().nth(1).unwrap_or('-');
            format!("unknown shorthand flag: '{letter}' in {arg}")
        }
    }
}
