//! Docker's options before the verb, and `help VERB`.
//!
//! Called by `main`. There is no engine to choose, and nothing to debug that would be said more loudly.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sandbox::program;

/// Where logins and settings are; what `--config` stands for.
const CONFIG_VARIABLE: &str = "DOCKER_CONFIG";

/// Options before the verb.
#[derive(Debug, clap::Args)]
pub struct GlobalArgs {
    /// Folder of config.json, as DOCKER_CONFIG
    #[arg(long, value_name = "string")]
    config: Option<String>,
    /// Without effect
    #[arg(short = 'D', long)]
    debug: bool,
    /// Without effect
    #[arg(short, long, value_name = "string")]
    log_level: Option<String>,
    /// Refused: there is no engine to choose
    #[arg(short = 'H', long, value_name = "string", hide = true)]
    host: Option<String>,
    /// Refused, too
    #[arg(short, long, value_name = "string", hide = true)]
    context: Option<String>,
    /// Refused, too
    #[arg(long, hide = true)]
    tls: bool,
    /// Refused, too
    #[arg(long, value_name = "string", hide = true)]
    tlscacert: Option<String>,
    /// Refused, too
    #[arg(long, value_name = "string", hide = true)]
    tlscert: Option<String>,
    /// Refused, too
    #[arg(long, value_name = "string", hide = true)]
    tlskey: Option<String>,
    /// Refused, too
    #[arg(long, hide = true)]
    tlsverify: bool,
}

/// Does what is asked for before the verb: with another folder of config.json the command begins again.
///
/// # Errors
/// An engine is chosen.
pub fn apply(global: &GlobalArgs, args: &[String]) -> Result<()> {
    let engine = [
        ("--host", global.host.is_some()),
        // What Docker has where nothing is chosen.
        (
            "--context",
            global
                .context
                .as_deref()
                .is_some_and(|name| name != "default"),
        ),
        ("--tls", global.tls),
        ("--tlscacert", global.tlscacert.is_some()),
        ("--tlscert", global.tlscert.is_some()),
        ("--tlskey", global.tlskey.is_some()),
        ("--tlsverify", global.tlsverify),
    ];
    if let Some((name, _)) = engine.iter().find(|(_, is_given)| *is_given) {
        bail!(
            "{name} is not supported: there is no engine to choose, this command is all there is"
        );
    }
    let Some(folder) = &global.config else {
        return Ok(());
    };
    if std::env::var_os(CONFIG_VARIABLE).is_some_and(|set| set == folder.as_str()) {
        return Ok(());
    }
    let mut command = Command::new(program::own()?);
    command.args(args.get(1..).unwrap_or_default());
    if let Some(name) = args.first() {
        command.arg0(name);
    }
    Err(command.env(CONFIG_VARIABLE, folder).exec()).context("begin again with --config")
}

/// `help VERB` as `VERB --help`.
#[must_use]
pub fn help(mut args: Vec<String>) -> Vec<String> {
    if args.get(1).is_some_and(|word| word == "help") {
        args.remove(1);
        args.push("--help".to_owned());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        global: GlobalArgs,
    }

    fn apply_words(words: &[&str]) -> Result<()> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        apply(&Words::parse_from(&words).global, &words)
    }

    #[test]
    fn an_engine_is_none_to_choose() {
        for words in [
            &["x", "-H", "tcp://host"][..],
            &["x", "--context", "other"],
            &["x", "--tlsverify"],
        ] {
            let error = apply_words(words).unwrap_err().to_string();
            assert!(error.contains("there is no engine to choose"), "{error}");
        }
        for words in [&["x", "-D", "-l", "debug"][..], &["x", "-c", "default"]] {
            apply_words(words).unwrap();
        }
    }

    #[test]
    fn help_is_of_a_verb() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(help(words("x help image ls")), words("x image ls --help"));
        assert_eq!(help(words("x help")), words("x --help"));
        assert_eq!(help(words("x run help")), words("x run help"));
    }
}
