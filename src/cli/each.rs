//! The same thing done to several containers: side by side, told in the order they were named.
//!
//! Used by the verbs that take names. One that fails keeps none of the others from being done.

use anyhow::{Context, Result};

use super::output;
use crate::sandbox::containers;
use crate::sandbox::paths::Root;
use crate::sandbox::state::{ContainerConfig, Folder};
use crate::sandbox::wire::ToCommand;

/// As many at once as Docker has.
const AT_ONCE: usize = 50;

/// Does `act` to each and prints what it returns.
///
/// # Errors
/// The last one that failed; those before it are told on the way.
pub fn each(names: &[String], act: impl Fn(&Root, &str) -> Result<String> + Sync) -> Result<()> {
    let root = Root::of_user()?;
    let mut failed: Option<anyhow::Error> = None;
    // That nobody reads it keeps the next ones from nothing.
    let mut unread = None;
    for some in names.chunks(AT_ONCE) {
        std::thread::scope(|scope| -> Result<()> {
            let (root, act) = (&root, &act);
            let threads: Vec<_> = some
                .iter()
                .map(|name| {
                    let thread = std::thread::Builder::new();
                    thread.spawn_scoped(scope, move || act(root, name))
                })
                .collect();
            for (thread, name) in threads.into_iter().zip(some) {
                let done = match thread {
                    Ok(thread) => thread
                        .join()
                        .map_err(|_| anyhow::anyhow!("a thread of this command panicked"))?,
                    // The host has no further thread.
                    Err(_) => act(root, name),
                };
                match done {
                    Ok(text) => unread = output::line(&text).err().or(unread.take()),
                    Err(error) => {
                        if let Some(before) = failed.replace(error) {
                            output::note(&format!("bulkhead: {before:#}"));
                        }
                    }
                }
            }
            Ok(())
        })?;
    }
    failed.or(unread).map_or(Ok(()), Err)
}

/// As [`each`], for what is done to a container that is found; its name is printed as it was given.
///
/// # Errors
/// As [`each`]; `operation` is what the errors say could not be done.
pub fn each_found(
    names: &[String],
    operation: &str,
    act: impl Fn(&Folder, &ContainerConfig) -> Result<()> + Sync,
) -> Result<()> {
    each(names, |root, name| {
        let (folder, config) = containers::find(root, name)?;
        act(&folder, &config).with_context(|| format!("{operation} container: {name}"))?;
        Ok(name.to_owned())
    })
}

/// What a supervisor's answer is to a verb that only wants a thing done.
///
/// # Errors
/// Its refusal.
pub fn done(answer: ToCommand) -> Result<()> {
    match answer {
        ToCommand::Refused(sentence)
        | ToCommand::Failed {
            message: sentence, ..
        } => {
            anyhow::bail!(sentence)
        }
        ToCommand::Done
        | ToCommand::Started
        | ToCommand::TaskEnded(_)
        | ToCommand::Exited { .. } => Ok(()),
    }
}
