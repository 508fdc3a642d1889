//! `bulkhead attach`: joins the streams of a running container.

use std::io::IsTerminal;

use anyhow::{Result, bail};

use super::run::{detach_keys, detached, exit_code, failure};
use crate::sandbox::attach::Ended;
use crate::sandbox::paths::Root;
use crate::sandbox::start::{AttachOptions, attach_to};
use crate::sandbox::state::Status;
use crate::sandbox::wire::ENDED;
use crate::sandbox::{client, containers};

/// Flags of `attach`.
#[derive(Debug, clap::Args)]
pub struct AttachArgs {
    /// Do not join its input
    #[arg(long)]
    no_stdin: bool,
    /// Forward signals to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    sig_proxy: bool,
    /// Keys that detach from a terminal
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Stays attached to the container's end; its exit code.
///
/// # Errors
/// When it does not run.
pub fn run(args: &AttachArgs) -> Result<u8> {
    let root = Root::of_user()?;
    let (folder, config) = containers::find(&root, &args.container)?;
    match folder.true_state()?.status {
        Status::Running => {}
        Status::Paused => {
            bail!("You cannot attach to a paused container, unpause it first")
        }
        Status::Restarting => {
            bail!("You cannot attach to a restarting container, wait until it is running")
        }
        Status::Created | Status::Exited => {
            bail!("You cannot attach to a stopped container, start it first")
        }
    }
    let Some(link) = client::connect(&folder)? else {
        bail!("You cannot attach to a stopped container, start it first");
    };
    let terminal = config.launch.run.process.terminal.is_some();
    let stdin = !args.no_stdin && config.launch.open_stdin;
    if stdin && terminal && !std::io::stdin().is_terminal() {
        return Err(failure("the input device is not a TTY".to_owned()));
    }
    let options = AttachOptions {
        stdin,
        stdout: true,
        stderr: true,
        terminal,
        forward_signals: args.sig_proxy && !terminal,
        detach_keys: detach_keys(args.detach_keys.as_deref())?,
    };
    match attach_to(&folder, link, options)? {
        Ended::Detached => Err(detached()),
        // It was at its end.
        Ended::Refused(why) if why == ENDED => {
            bail!("You cannot attach to a stopped container, start it first")
        }
        ended => exit_code(ended),
    }
}
