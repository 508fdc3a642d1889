//! `bulkhead exec`: another process in a running container.

use std::io::IsTerminal;

use anyhow::{Result, bail};
use protocol::message::WindowSize;
use protocol::spec::{ProcessSpec, Seccomp, Stdio};

use super::options::check_workdir;
use super::run::{DEFAULT_WINDOW, detach_keys, detached, exit_code, failure, read_file, variable};
use super::values::{self, given, lines};
use crate::sandbox::attach::{self, Ended, SupervisorDied};
use crate::sandbox::paths::Root;
use crate::sandbox::start::{AttachOptions, exec_attached};
use crate::sandbox::state::{ContainerConfig, Status};
use crate::sandbox::wire::{StreamSet, ToCommand, ToSupervisor};
use crate::sandbox::{client, containers};

/// Flags of `exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Run in the background
    #[arg(short, long)]
    detach: bool,
    /// Keys that detach from a terminal
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "list")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "list")]
    env_file: Vec<String>,
    /// Keep stdin open
    #[arg(short, long)]
    interactive: bool,
    /// Give it every capability, inside the VM
    #[arg(long)]
    privileged: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    tty: bool,
    /// User name or id, and group
    #[arg(short, long, value_name = "string", allow_hyphen_values = true)]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "string")]
    workdir: Option<String>,
    /// Container, command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "CONTAINER COMMAND [ARG...]")]
    pub(super) words: Vec<String>,
}

/// Code of a process that the container can't start, unless its program is missing.
const CODE_CANNOT_START: u8 = 126;

/// Runs it; its exit code.
///
/// # Errors
/// The container does not run, or the process can't be started.
pub fn run(args: ExecArgs) -> Result<u8> {
    let Some((name, command)) = args.words.split_first() else {
        bail!("no container given");
    };
    if args.interactive && args.tty && !args.detach && !std::io::stdin().is_terminal() {
        return Err(failure("the input device is not a TTY".to_owned()));
    }
    let root = Root::of_user()?;
    let (folder, config) = containers::find(&root, name)?;
    if folder.true_state()?.status == Status::Paused {
        bail!("Container {name} is paused, unpause the container before exec");
    }
    if let Some(path) = given(&args.workdir)
        && let Err(error) = check_workdir(path)
    {
        return exit_code(Ended::Failed(CODE_CANNOT_START, format!("{error:#}")));
    }
    let spec = process(&args, command, &config)?;
    let Some(mut link) = client::connect(&folder)? else {
        bail!("container {} is not running", config.id);
    };
    if args.detach {
        let request = ToSupervisor::Exec {
            spec: Box::new(spec),
            streams: StreamSet::default(),
        };
        link.send(&request, &[])?;
        return match link.wait()? {
            Some(ToCommand::Failed { message, .. } | ToCommand::Refused(message)) => bail!(message),
            Some(_) => Ok(0),
            // It was at its end.
            None => bail!("container {} is not running", config.id),
        };
    }
    let options = AttachOptions {
        stdin: args.interactive,
        stdout: true,
        stderr: true,
        terminal: args.tty,
        // As in Docker, where a Ctrl-C ends the command and not the process.
        forward_signals: false,
        detach_keys: detach_keys(args.detach_keys.as_deref())?,
    };
    match exec_attached(&folder, link, spec, options) {
        Ok(Ended::Failed(code, message)) => exit_code(cannot_start(code, message)),
        Ok(Ended::Detached) => Err(detached()),
        Ok(ended) => exit_code(ended),
        // It was at its end.
        Err(error) if error.is::<SupervisorDied>() && !folder.true_state()?.status.is_alive() => {
            bail!("container {} is not running", config.id)
        }
        Err(error) => Err(error),
    }
}

/// An unknown user or working directory is 126 here, as in Docker.
fn cannot_start(code: u8, message: String) -> Ended {
    match code {
        127 => Ended::Failed(code, message),
        _ => Ended::Failed(CODE_CANNOT_START, message),
    }
}

/// The container's own process with what the flags change.
fn process(args: &ExecArgs, command: &[String], config: &ContainerConfig) -> Result<ProcessSpec> {
    let main = &config.launch.run.process;
    let mut env = Vec::new();
    for path in &args.env_file {
        env.extend(lines::file(path, &read_file(path)?, &variable)?);
    }
    for text in &args.env {
        env.push(lines::variable(text, &variable)?);
    }
    let privileged = args.privileged || config.launch.run.privileged;
    let is_term = |text: &String| text.starts_with("TERM=");
    // That of the main process's terminal, which nobody named, is not this one's.
    let of_terminal = main.terminal.is_some() && !config.env.iter().any(is_term);
    let main_env = main.env.iter();
    let main_env: Vec<String> = main_env
        .filter(|text| !(of_terminal && is_term(text)))
        .cloned()
        .collect();
    Ok(ProcessSpec {
        args: command.to_vec(),
        env: environment(&main_env, &env, args.tty),
        user: given(&args.user).unwrap_or(&main.user).to_owned(),
        group_add: main.group_add.clone(),
        cwd: given(&args.workdir).unwrap_or(&main.cwd).to_owned(),
        terminal: args.tty.then(window),
        // Ports are the supervisor's to give.
        stdio: Stdio {
            stdin: None,
            stdout: None,
            stderr: None,
        },
        rlimits: main.rlimits.clone(),
        capabilities: match privileged {
            true => values::capabilities(&[], &[], true)?,
            false => main.capabilities.clone(),
        },
        no_new_privileges: main.no_new_privileges,
        // A privileged container has no filter, unless it was given one.
        seccomp: match args.privileged {
            true => Seccomp::Unconfined,
            false => main.seccomp.clone(),
        },
        oom_score_adj: main.oom_score_adj,
        probe: None,
    })
}

fn window() -> WindowSize {
    attach::window_size().unwrap_or(DEFAULT_WINDOW)
}

/// The container's variables, and the user's, which win.
fn environment(container: &[String], user: &[String], tty: bool) -> Vec<String> {
    let name = |text: &str| {
        text.split_once('=')
            .map_or(text, |(name, _)| name)
            .to_owned()
    };
    let mut all = container.to_vec();
    if tty && !all.iter().any(|text| name(text) == "TERM") {
        all.push("TERM=xterm".to_owned());
    }
    for text in user {
        all.retain(|other| name(other) != name(text));
        if text.contains('=') {
            all.push(text.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;
    use crate::sandbox::containers::tests::config;

    #[test]
    fn the_users_variables_win_over_the_containers() {
        let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let got = environment(&list(&["A=1", "B=2"]), &list(&["B=3", "C=", "A"]), true);
        assert_eq!(got, list(&["TERM=xterm", "B=3", "C="]));
        let got = environment(&list(&["TERM=vt100"]), &[], true);
        assert_eq!(got, list(&["TERM=vt100"]));
    }

    /// What `exec` starts with these flags beside the main process.
    fn started(flags: &[&str], config: &ContainerConfig) -> ProcessSpec {
        let command = ExecArgs::augment_args(clap::Command::new("exec"));
        let words = std::iter::once(&"exec").chain(flags).chain(&["x", "sh"]);
        let matches = command.try_get_matches_from(words).unwrap();
        let args = ExecArgs::from_arg_matches(&matches).unwrap();
        process(&args, &args.words[1..], config).unwrap()
    }

    #[test]
    fn the_terminal_of_the_main_process_is_not_told_to_another() {
        let mut config = config('a', "x", false);
        let main = &mut config.launch.run.process;
        main.terminal = Some(DEFAULT_WINDOW);
        main.env = vec!["A=1".to_owned(), "TERM=xterm".to_owned()];
        assert_eq!(started(&[], &config).env, ["A=1"]);
        assert_eq!(started(&["-t"], &config).env, ["A=1", "TERM=xterm"]);
        // It was named.
        config.env = vec!["TERM=xterm".to_owned()];
        assert_eq!(started(&[], &config).env, ["A=1", "TERM=xterm"]);
    }

    #[test]
    fn a_filter_of_a_privileged_container_holds_for_what_is_run_in_it() {
        let mut config = config('a', "x", false);
        config.launch.run.privileged = true;
        for given in [Seccomp::Default, Seccomp::Unconfined] {
            config.launch.run.process.seccomp = given.clone();
            assert_eq!(started(&[], &config).seccomp, given);
            let own = started(&["--privileged"], &config).seccomp;
            assert_eq!(own, Seccomp::Unconfined);
        }
    }
}
