//! Where a stage is between two instructions: its config, its variables, and how large they are.
//!
//! Made and handed on by `stages`, changed by `steps`.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::expand::{Lexer, Variables};
use super::plan::CreatedBy;
use super::words::Form;
use crate::config::ImageConfig;
use crate::platform::Platform;

/// What shell forms are given to when the image does not say.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// What Docker's images without a PATH have.
pub(super) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a stage is when the next instruction comes.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) config: Arc<ImageConfig>,
    /// Variables of the environment and ARGs, by what they are now.
    pub(super) variables: Variables,
    /// Names of the ARGs so far.
    pub(super) args: BTreeSet<String>,
    /// This stage has had a CMD.
    pub(super) has_cmd: bool,
    pub(super) platform: Platform,
}

impl State {
    /// Where a stage is at first.
    pub(super) fn of(config: ImageConfig, platform: Platform) -> Self {
        let mut state = Self {
            variables: Variables::new(),
            args: BTreeSet::new(),
            has_cmd: false,
            platform,
            config: Arc::new(config),
        };
        state.take_environment();
        state
    }

    /// At the beginning of a stage the environment counts, whatever an ARG before it made of it.
    pub(super) fn take_environment(&mut self) {
        let variables = self
            .config
            .env
            .iter()
            .filter_map(|text| text.split_once('='));
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.variables.extend(variables);
    }

    /// The environment's and the ARGs' variables.
    pub(super) fn lexer<'a>(&'a self, escape: char, work: &'a Cell<u64>) -> Lexer<'a> {
        Lexer::new(escape, &self.variables, work)
    }

    pub(super) fn config(&mut self) -> &mut ImageConfig {
        Arc::make_mut(&mut self.config)
    }

    pub(super) fn shell(&self) -> Vec<String> {
        let own = self.config.shell.clone().filter(|shell| !shell.is_empty());
        own.unwrap_or_else(|| SHELL.map(str::to_owned).to_vec())
    }

    /// The command of a form; nothing at all is an empty list.
    pub(super) fn command(&self, form: &Form) -> Vec<String> {
        match form {
            Form::Exec(list) => list.clone(),
            Form::Shell(text) if text.is_empty() => Vec::new(),
            Form::Shell(text) => self.in_shell(text),
        }
    }

    /// A text, be it empty, as a command of the shell.
    pub(super) fn in_shell(&self, text: &str) -> Vec<String> {
        let mut command = self.shell();
        command.push(text.to_owned());
        command
    }

    /// History of an instruction that changes the config.
    pub(super) fn note(&self, text: &str) -> CreatedBy {
        CreatedBy::Text(format!("{} #(nop)  {text}", self.shell().join(" ")))
    }

    /// Absolute and clean.
    pub(super) fn working_dir(&self) -> String {
        joined("/", &self.config.working_dir)
    }
}

/// A path from another one on, without dots and doubled slashes.
pub(super) fn joined(from: &str, path: &str) -> String {
    let full = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{from}/{path}"),
    };
    let mut names: Vec<&str> = Vec::new();
    for name in full.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// The config of what is built on nothing.
pub(super) fn empty(platform: Platform) -> ImageConfig {
    ImageConfig {
        env: vec![PATH.to_owned()],
        working_dir: "/".to_owned(),
        ..ImageConfig::empty(platform)
    }
}

/// About how many bytes a config has.
pub(super) fn config_bytes(config: &ImageConfig) -> u64 {
    let list = |list: &[String]| -> usize { list.iter().map(|text| text.len() + 24).sum() };
    let option = |option: &Option<Vec<String>>| option.as_deref().map_or(0, list);
    let labels = config
        .labels
        .iter()
        .map(|(name, value)| name.len() + value.len() + 48);
    let history = config
        .history
        .iter()
        .map(|step| step.author.len() + step.created_by.len() + step.comment.len() + 120);
    let bytes = list(&config.env)
        + option(&config.entrypoint)
        + option(&config.cmd)
        + option(&config.shell)
        + list(&config.volumes)
        + list(&config.exposed_ports)
        + list(&config.on_build)
        + labels.sum::<usize>()
        + history.sum::<usize>()
        + config
            .healthcheck
            .as_ref()
            .map_or(0, |check| list(&check.test))
        + config.author.len()
        + config.user.len()
        + config.working_dir.len()
        + 512;
    bytes as u64
}

/// About how many bytes variables have.
pub(super) fn variables_bytes(variables: &Variables) -> u64 {
    let bytes = variables
        .iter()
        .map(|(name, value)| name.len() + value.len() + 48);
    bytes.sum::<usize>() as u64
}
