//! `bulkhead stop`: asks processes to end, and ends those that don't.

use anyhow::Result;

use super::each::{done, each_found};
use super::values;
use crate::sandbox::wire::{StopRequest, ToSupervisor};
use crate::sandbox::{client, events};

/// Flags of `stop`.
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    #[command(flatten)]
    how: How,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// How a container is stopped.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Signal to send instead of the container's own
    #[arg(short, long)]
    signal: Option<String>,
    /// Seconds to SIGKILL instead of the container's own; -1 for ever
    #[arg(short, long, visible_alias = "time", allow_negative_numbers = true)]
    timeout: Option<i64>,
}

impl How {
    /// As the supervisor is asked.
    ///
    /// # Errors
    /// A signal that is none.
    pub fn request(&self, again: bool) -> Result<StopRequest> {
        Ok(StopRequest {
            signal: values::given(&self.signal)
                .map(values::signal)
                .transpose()?,
            timeout_s: self.timeout,
            again,
        })
    }
}

/// Stops containers. One that does not run is stopped.
///
/// # Errors
/// The last that could not be stopped.
pub fn run(args: &StopArgs) -> Result<()> {
    let request = args.how.request(false)?;
    each_found(&args.containers, "cannot stop", |folder, config| {
        if let Some(answer) = client::ask(folder, &ToSupervisor::Stop(request))? {
            done(answer)?;
            events::of_container(folder, config, "stop", &[]);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_signal_is_the_containers_own() {
        let signal = |text: &str| {
            let how = How {
                signal: Some(text.to_owned()),
                timeout: None,
            };
            how.request(false).map(|request| request.signal)
        };
        assert_eq!(signal("").unwrap(), None);
        assert_eq!(signal("HUP").unwrap(), Some(libc::SIGHUP));
        assert!(signal("x").is_err());
    }
}
