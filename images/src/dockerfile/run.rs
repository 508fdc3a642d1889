//! RUN: its command, what that sees, and what is mounted for it.
//!
//! Called by `steps`.

use std::collections::BTreeSet;

use super::error::Fault;
use super::instruction::RunLine;
use super::lines;
use super::mount::{Kind, MountLine, Wanted};
use super::plan::{
    Action, CacheSharing, CopyFrom, CreatedBy, Mount, MountKind, Network, Run, Script,
};
use super::stages::{Planner, Wrong};
use super::state::{State, joined};
use super::words::Form;
use crate::escape::printable;

/// Where the script of a here-document is while it runs. As in BuildKit.
const SCRIPTS: &str = "/dev/pipes";

impl<E: std::error::Error + 'static> Planner<'_, E> {
    pub(super) fn run(
        &mut self,
        index: usize,
        state: &State,
        line: usize,
        run: &RunLine,
    ) -> Result<(Action, CreatedBy), Wrong<E>> {
        let (command, script) = documents(run)?;
        // Also when a here-document has nothing in it: the shell gets an empty command then.
        let args = match command {
            Form::Exec(list) => list,
            Form::Shell(text) => state.in_shell(&text),
        };
        // The ARGs that are no variables of the environment, as classic builders sort them.
        let names = state
            .config
            .env
            .iter()
            .filter_map(|text| text.split_once('='));
        let in_config: BTreeSet<&str> = names.map(|(name, _)| name).collect();
        let build_args: Vec<String> = state
            .args
            .iter()
            .filter(|name| !in_config.contains(name.as_str()))
            .filter_map(|name| Some(format!("{name}={}", state.variables.get(name)?)))
            .collect();
        let mut env: Vec<String> = Vec::new();
        for text in &state.config.env {
            let name = text.split_once('=').map_or(text.as_str(), |(name, _)| name);
            let value = state.variables.get(name).map_or("", String::as_str);
            env.push(format!("{name}={value}"));
        }
        env.extend(build_args.iter().cloned());
        let created_by = match build_args.len() {
            0 => args.join(" "),
            count => format!("|{count} {} {}", build_args.join(" "), args.join(" ")),
        };
        let mut mounts = Vec::new();
        for mount in &run.mounts {
            mounts.push(self.mount(index, state, line, mount)?);
        }
        let bytes: usize = env.iter().chain(&args).map(|text| text.len() + 24).sum();
        let script_bytes = script
            .as_ref()
            .map_or(0, |script: &Script| script.content.len());
        let seen = (state.variables.len() + state.args.len()).saturating_mul(96);
        self.spend((bytes + seen + created_by.len() + script_bytes + 512) as u64)?;
        let run = Run {
            args,
            env,
            proxies: self.proxies(state),
            user: state.config.user.clone(),
            working_dir: state.working_dir(),
            mounts,
            network: match run.has_network {
                true => Network::Default,
                false => Network::None,
            },
            script,
        };
        Ok((Action::Run(Box::new(run)), CreatedBy::Text(created_by)))
    }

    fn mount(
        &mut self,
        index: usize,
        state: &State,
        line: usize,
        mount: &MountLine,
    ) -> Result<Mount, Wrong<E>> {
        let lexer = state.lexer(self.file.escape, &self.work);
        let wanted = mount.wanted(&mut |text| lexer.word(text))?;
        let target = |text: &str| {
            let target = joined(&state.working_dir(), text);
            match target.as_str() {
                "/" => Err(Fault::new(format!("invalid mount target \"{target}\""))),
                _ => Ok(target),
            }
        };
        let source = joined("/", wanted.source.as_deref().unwrap_or("/"));
        let wanted_target = wanted.target.as_deref().unwrap_or_default();
        if wanted.kind == Kind::Secret {
            return Ok(secret(&wanted, &target)?);
        }
        let target = Some(target(wanted_target)?);
        let kind = match wanted.kind {
            Kind::Tmpfs | Kind::Secret => MountKind::Tmpfs { size: wanted.size },
            Kind::Bind => MountKind::Bind {
                from: match &wanted.from {
                    Some(name) => self.copy_from(index, name, "mount from", line)?,
                    None => CopyFrom::Context,
                },
                source,
                writable: !wanted.read_only,
            },
            Kind::Cache if wanted.from.as_ref().is_some_and(|name| name != "scratch") => {
                return Err(Fault::new(
                    "from= of a cache mount is not supported: its folder begins empty; fill it in a step",
                )
                .into());
            }
            Kind::Cache if wanted.source.as_ref().is_some_and(|source| source != "/") => {
                return Err(Fault::new(
                    "source= of a cache mount is not supported: its folder begins empty",
                )
                .into());
            }
            Kind::Cache => MountKind::Cache {
                id: wanted.id.unwrap_or_else(|| clean(wanted_target)),
                sharing: wanted.sharing.unwrap_or(CacheSharing::Shared),
                mode: wanted.mode.unwrap_or(0o755),
                uid: wanted.uid.unwrap_or(0),
                gid: wanted.gid.unwrap_or(0),
                read_only: wanted.read_only,
            },
        };
        Ok(Mount { target, kind })
    }
}

/// The command of a RUN whose here-documents are in it, and the file that runs for one with `#!`.
fn documents(run: &RunLine) -> Result<(Form, Option<Script>), Fault> {
    let (Form::Shell(text), Some(first)) = (&run.command, run.documents.first()) else {
        return Ok((run.command.clone(), None));
    };
    if lines::heredoc(text).is_none() {
        // The shell has its own.
        let mut text = text.clone();
        for document in &run.documents {
            text = format!("{text}\n{}{}", document.content, document.name);
        }
        return Ok((Form::Shell(text), None));
    }
    let content = first.chomped();
    if !content.starts_with("#!") {
        return Ok((Form::Shell(content), None));
    }
    if first.name.contains('/') || matches!(first.name.as_str(), "." | "..") {
        let shown = printable(&first.name);
        return Err(Fault::new(format!("\"{shown}\" can't be a file's name")).word(&first.name));
    }
    let path = format!("{SCRIPTS}/{}", first.name);
    let script = Script {
        path: path.clone(),
        content,
    };
    Ok((Form::Shell(path), Some(script)))
}

fn secret(wanted: &Wanted, target: &dyn Fn(&str) -> Result<String, Fault>) -> Result<Mount, Fault> {
    let base = |path: &str| {
        path.rsplit('/')
            .find(|name| !name.is_empty())
            .unwrap_or_default()
            .to_owned()
    };
    let id = wanted.source.clone().or_else(|| wanted.id.clone());
    let id = id.unwrap_or_else(|| base(wanted.target.as_deref().unwrap_or_default()));
    let path = match (&wanted.target, &wanted.env) {
        (Some(path), _) => Some(target(path)?),
        (None, Some(_)) => None,
        (None, None) => Some(target(&format!("/run/secrets/{}", base(&id)))?),
    };
    Ok(Mount {
        target: path,
        kind: MountKind::Secret {
            env: wanted.env.as_ref().map(|name| match name.is_empty() {
                true => id.clone(),
                false => name.clone(),
            }),
            id,
            required: wanted.required,
            mode: wanted.mode.unwrap_or(0o400),
            uid: wanted.uid.unwrap_or(0),
            gid: wanted.gid.unwrap_or(0),
        },
    })
}

/// Go's path.Clean for the default name of a cache.
fn clean(path: &str) -> String {
    match path.starts_with('/') {
        true => joined("/", path),
        false => joined("/", path).trim_start_matches('/').to_owned(),
    }
}
