//! `bulkhead`: dispatch and exit codes. The hidden verbs are processes of the command's own.

mod cli;
mod doctor;
mod sandbox;

use std::process::ExitCode;

use cli::complaint::{CODE_FAILURE, CODE_OURS, complain, is_broken_pipe, usage};
use sandbox::clock::monotonic_ns;
use sandbox::files::FILES_VERB;
use sandbox::launcher::LAUNCHER_VERB;
use sandbox::plain;
use sandbox::supervisor::SUPERVISOR_VERB;
use sandbox::vm::VMM_VERB;
use sandbox::vmm_jail::TRY_VERB;

fn main() -> ExitCode {
    let began = monotonic_ns();
    sandbox::program::survive_long_files();
    let args: Result<Vec<String>, _> = std::env::args_os()
        .map(std::ffi::OsString::into_string)
        .collect();
    let args = match args {
        Ok(args) => cli::globals::help(args),
        Err(arg) => {
            complain(&anyhow::anyhow!(
                "an argument is not UTF-8: {}",
                arg.display()
            ));
            return ExitCode::from(CODE_OURS);
        }
    };
    if let [_, verb, rest @ ..] = args.as_slice()
        && verb == cli::contrast::PROBE_VERB
    {
        return end(cli::contrast::probe(rest, began), CODE_OURS);
    }
    if let Some(code) = hidden(&args) {
        return code;
    }
    if let Err(error) = sandbox::program::keep_descriptors() {
        complain(&anyhow::Error::from(error).context("keep what is open from other processes"));
        return ExitCode::from(CODE_OURS);
    }
    let matches = match cli::command().try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) => return usage(&error, &args),
    };
    if let Err(error) = cli::before(&matches, &args) {
        complain(&error);
        return ExitCode::from(CODE_OURS);
    }
    let (result, code) = match cli::with_flags_of_run(&matches, began) {
        Some(result) => (result, CODE_OURS),
        None => (cli::other(&matches), CODE_FAILURE),
    };
    end(result, code)
}

/// What a verb's end is to the shell; `code` for an error without one of its own.
fn end(result: anyhow::Result<u8>, code: u8) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            let own = error.downcast_ref::<cli::run::WithCode>();
            ExitCode::from(own.map_or(code, |own| own.code))
        }
    }
}

/// The processes that the command starts from itself.
fn hidden(args: &[String]) -> Option<ExitCode> {
    let result = match args.get(1..)? {
        [verb, config] if verb == plain::PREPARE_VERB => {
            return Some(end(plain::prepare_main(config), CODE_OURS));
        }
        [verb, config] if verb == plain::AGENT_VERB => {
            return Some(end(plain::agent_main(config), CODE_OURS));
        }
        [verb, config] if verb == VMM_VERB => config
            .parse()
            .map_err(anyhow::Error::from)
            .and_then(sandbox::vmm_process::main),
        [verb, config] if verb == FILES_VERB => config
            .parse()
            .map_err(anyhow::Error::from)
            .and_then(sandbox::files::main),
        [verb] if verb == LAUNCHER_VERB => sandbox::launcher::orders::main(),
        [verb] if verb == TRY_VERB => sandbox::vmm_jail::try_out(),
        [verb, config] if verb == SUPERVISOR_VERB => config
            .parse()
            .map_err(anyhow::Error::from)
            .and_then(sandbox::supervisor::main),
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
