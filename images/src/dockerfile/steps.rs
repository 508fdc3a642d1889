//! What one instruction does: variables replaced, the config changed, the action made.
//!
//! Called by `stages` for each instruction of a stage in turn. Meaning is BuildKit's dockerfile2llb,
//! the text of the history the classic builder's.

use std::collections::{BTreeMap, BTreeSet};

use super::error::Fault;
use super::history::{health_text, quoted_list, spaced};
use super::instruction::{Arg, Instruction};
use super::plan::{Action, CreatedBy, MakeDirectory};
use super::ports;
use super::signal::signal_number;
use super::stages::{Planner, Wrong};
use super::state::{State, config_bytes, joined};
use crate::escape::printable;
use crate::limits::CONFIG_ENTRIES;

/// What a port of EXPOSE costs, in the units of replacing variables.
const PORT_WORK: u64 = 64;

impl<E: std::error::Error + 'static> Planner<'_, E> {
    /// Does an instruction: changes the state, and says what is to be done and how it is noted.
    pub(super) fn act(
        &mut self,
        index: usize,
        state: &mut State,
        line: usize,
        instruction: &Instruction,
    ) -> Result<(Action, CreatedBy), Wrong<E>> {
        let made = match instruction {
            Instruction::Add(copy) => self.copy(index, state, line, copy, true)?,
            Instruction::Copy(copy) => self.copy(index, state, line, copy, false)?,
            Instruction::Run(run) => self.run(index, state, line, run)?,
            Instruction::Workdir(path) => self.workdir(state, path)?,
            Instruction::Arg(args) => (Action::None, self.arg(state, args)?),
            other => (Action::None, self.change(state, other)?),
        };
        if !matches!(
            instruction,
            Instruction::Add(_) | Instruction::Copy(_) | Instruction::Run(_)
        ) {
            state
                .config
                .check()
                .map_err(|error| Fault::new(error.to_string()))?;
            self.spend(config_bytes(&state.config))?;
        }
        Ok(made)
    }

    pub(super) fn word(&self, state: &State, text: &str) -> Result<String, Fault> {
        let lexer = state.lexer(self.file.escape, &self.work);
        lexer
            .word(text)
            .map_err(|error| Fault::new(error).word(text))
    }

    pub(super) fn words(&self, state: &State, texts: &[String]) -> Result<Vec<String>, Fault> {
        texts.iter().map(|text| self.word(state, text)).collect()
    }

    fn pairs(
        &self,
        state: &State,
        pairs: &[(String, String)],
        upper: &str,
    ) -> Result<Vec<(String, String)>, Fault> {
        let pair = |(name, value): &(String, String)| {
            let pair = (self.word(state, name)?, self.word(state, value)?);
            match pair.0.is_empty() {
                true => Err(Fault::new(format!("{upper} names can not be blank")).word(name)),
                false => Ok(pair),
            }
        };
        pairs.iter().map(pair).collect()
    }

    /// An instruction that changes the config and nothing else.
    fn change(&mut self, state: &mut State, instruction: &Instruction) -> Result<CreatedBy, Fault> {
        let text = match instruction {
            Instruction::Cmd(form) => {
                let command = state.command(form);
                state.has_cmd = true;
                let text = format!("CMD {}", quoted_list(&command));
                state.config().cmd = Some(command);
                text
            }
            Instruction::Entrypoint(form) => {
                let command = state.command(form);
                let text = format!("ENTRYPOINT {}", quoted_list(&command));
                let has_cmd = state.has_cmd;
                let config = state.config();
                config.entrypoint = Some(command).filter(|command| !command.is_empty());
                if !has_cmd {
                    config.cmd = None;
                }
                text
            }
            Instruction::Env(pairs) => {
                let pairs = self.pairs(state, pairs, "ENV")?;
                set_env(&mut state.config().env, &pairs);
                state.variables.extend(pairs.iter().cloned());
                format!("ENV {}", spaced(&pairs))
            }
            Instruction::Label(pairs) => {
                let pairs = self.pairs(state, pairs, "LABEL")?;
                let text = format!("LABEL {}", spaced(&pairs));
                state.config().labels.extend(pairs);
                text
            }
            Instruction::OwnLabel(name, value) => {
                state.config().labels.insert(name.clone(), value.clone());
                format!("LABEL {name}={value}")
            }
            Instruction::Expose(texts) => self.expose(state, texts)?,
            Instruction::Healthcheck(check) => {
                state.config().healthcheck = Some(check.clone());
                format!("HEALTHCHECK {}", health_text(check))
            }
            Instruction::Maintainer(text) => {
                state.config().author.clone_from(text);
                format!("MAINTAINER {text}")
            }
            Instruction::OnBuild(trigger) => {
                state.config().on_build.push(trigger.clone());
                format!("ONBUILD {trigger}")
            }
            Instruction::Shell(list) => {
                state.config().shell = Some(list.clone());
                format!("SHELL [{}]", list.join(" "))
            }
            Instruction::StopSignal(text) => {
                let signal = self.word(state, text)?;
                if signal_number(&signal).is_none() {
                    let shown = printable(&signal);
                    return Err(Fault::new(format!("invalid signal: {shown}")).word(text));
                }
                let text = format!("STOPSIGNAL {signal}");
                state.config().stop_signal = signal;
                text
            }
            Instruction::User(text) => {
                let user = self.word(state, text)?;
                let text = format!("USER {user}");
                state.config().user = user;
                text
            }
            Instruction::Volume(texts) => {
                let paths = self.words(state, texts)?;
                if paths.iter().any(|path| path.trim().is_empty()) {
                    return Err(Fault::new("VOLUME specified can not be an empty string"));
                }
                let text = format!("VOLUME [{}]", paths.join(" "));
                let config = state.config();
                config.volumes.extend(paths);
                config.volumes.sort();
                config.volumes.dedup();
                text
            }
            // They are no such instructions.
            Instruction::Add(_)
            | Instruction::Arg(_)
            | Instruction::Copy(_)
            | Instruction::Run(_)
            | Instruction::Workdir(_) => String::new(),
        };
        Ok(state.note(&text))
    }

    fn expose(&mut self, state: &mut State, texts: &[String]) -> Result<String, Fault> {
        let mut words = Vec::new();
        for text in texts {
            let lexer = state.lexer(self.file.escape, &self.work);
            words.extend(
                lexer
                    .words(text)
                    .map_err(|error| Fault::new(error).word(text))?,
            );
        }
        let config = state.config();
        let mut all: BTreeSet<String> = config.exposed_ports.drain(..).collect();
        for word in &words {
            let ports = ports::exposed(word).map_err(|error| Fault::new(error).word(word))?;
            self.pay(PORT_WORK.saturating_mul(ports.len() as u64))?;
            all.extend(ports);
        }
        config.exposed_ports = all.into_iter().collect();
        Ok(format!("EXPOSE {}", words.join(" ")))
    }

    fn arg(&mut self, state: &mut State, args: &[Arg]) -> Result<CreatedBy, Fault> {
        let mut shown = Vec::new();
        for (name, default) in args {
            let name = self.word(state, name)?;
            let given = self.given(&name);
            let default = match (&given, default) {
                (None, Some(text)) => Some(self.word(state, text)?),
                // What is not used may have any error in it.
                (Some(_), Some(text)) => Some(text.clone()),
                (_, None) => None,
            };
            shown.push(match &default {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            let inherited = || self.globals.get(&name).cloned();
            let value = given.or(default).or_else(inherited);
            if let Some(value) = value {
                state.variables.insert(name.clone(), value);
            }
            state.args.insert(name);
            if state.args.len() > CONFIG_ENTRIES {
                return Err(Fault::new(format!(
                    "a stage has more than {CONFIG_ENTRIES} arguments"
                )));
            }
        }
        Ok(state.note(&format!("ARG {}", shown.join(" "))))
    }

    fn workdir(&mut self, state: &mut State, text: &str) -> Result<(Action, CreatedBy), Fault> {
        let path = self.word(state, text)?;
        let path = joined(&state.working_dir(), &path);
        state.config().working_dir.clone_from(&path);
        let shell = state.shell().join(" ");
        let created_by = CreatedBy::Text(format!("{shell} #(nop) WORKDIR {path}"));
        let owner = state.config.user.clone();
        let action = match path.as_str() {
            "/" => Action::None,
            _ => Action::MakeDirectory(MakeDirectory { path, owner }),
        };
        Ok((action, created_by))
    }
}

/// Sets variables, each in the place that it has.
fn set_env(env: &mut Vec<String>, pairs: &[(String, String)]) {
    let name = |text: &String| text.split_once('=').map(|(name, _)| name.to_owned());
    let names = env.iter().enumerate().rev();
    let mut places: BTreeMap<String, usize> = names
        .filter_map(|(place, text)| Some((name(text)?, place)))
        .collect();
    for (name, value) in pairs {
        let entry = format!("{name}={value}");
        match places.get(name).and_then(|place| env.get_mut(*place)) {
            Some(old) => *old = entry,
            None => {
                places.insert(name.clone(), env.len());
                env.push(entry);
            }
        }
    }
}
