//! What one instruction does: variables replaced, the config changed, the action made.
//!
//! Called by `stages` for each instruction of a stage in turn. Meaning is BuildKit's dockerfile2llb,
//! the text of the history the classic builder's.

use std::sync::Arc;

use protocol::mode::Mode;
use protocol::pattern::Pattern;

use super::error::Fault;
use super::expand::Lexer;
use super::instruction::{Arg, CopyLine, Instruction, RunLine};
use super::lines;
use super::mount::{Kind, MountLine, Wanted};
use super::plan::{
    Action, CacheSharing, Copy, CopyFrom, CreatedBy, Destination, MakeDirectory, Mount, MountKind,
    Network, Run, Script, Source, Unpack,
};
use super::ports;
use super::signal::signal_number;
use super::stages::{Planner, State, Wrong, config_bytes};
use super::words::Form;
use crate::config::{Healthcheck, ImageConfig};
use crate::digest::Digest;
use crate::escape::printable;

/// What shell forms are given to when the image does not say.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Where the script of a here-document is while it runs. As in BuildKit.
const SCRIPTS: &str = "/dev/pipes";

impl State {
    /// The environment's and the ARGs' variables.
    fn lexer<'a>(&'a self, escape: char, work: &'a std::cell::Cell<u64>) -> Lexer<'a> {
        Lexer::new(escape, &self.variables, work)
    }

    fn config(&mut self) -> &mut ImageConfig {
        Arc::make_mut(&mut self.config)
    }

    fn shell(&self) -> Vec<String> {
        let own = self.config.shell.clone().filter(|shell| !shell.is_empty());
        own.unwrap_or_else(|| SHELL.map(str::to_owned).to_vec())
    }

    /// The command of a form; nothing at all is an empty list.
    fn command(&self, form: &Form) -> Vec<String> {
        match form {
            Form::Exec(list) => list.clone(),
            Form::Shell(text) if text.is_empty() => Vec::new(),
            Form::Shell(text) => [self.shell(), vec![text.clone()]].concat(),
        }
    }

    /// History of an instruction that changes the config.
    fn note(&self, text: &str) -> CreatedBy {
        CreatedBy::Text(format!("{} #(nop)  {text}", self.shell().join(" ")))
    }

    /// Absolute and clean.
    fn working_dir(&self) -> String {
        joined("/", &self.config.working_dir)
    }
}

/// A path from another one on, without dots and doubled slashes.
fn joined(from: &str, path: &str) -> String {
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

    fn word(&self, state: &State, text: &str) -> Result<String, Fault> {
        let lexer = state.lexer(self.file.escape, &self.work);
        lexer
            .word(text)
            .map_err(|error| Fault::new(error).word(text))
    }

    fn words(&self, state: &State, texts: &[String]) -> Result<Vec<String>, Fault> {
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
                for (name, value) in &pairs {
                    set_env(&mut state.config().env, name, value);
                    state.variables.insert(name.clone(), value.clone());
                }
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
        for word in &words {
            let ports = ports::exposed(word).map_err(|error| Fault::new(error).word(word))?;
            let config = state.config();
            config.exposed_ports.extend(ports);
            config.exposed_ports.sort();
            config.exposed_ports.dedup();
            config
                .check()
                .map_err(|error| Fault::new(error.to_string()).word(word))?;
        }
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
            if !state.args.contains(&name) {
                state.args.push(name);
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

    fn run(
        &mut self,
        index: usize,
        state: &State,
        line: usize,
        run: &RunLine,
    ) -> Result<(Action, CreatedBy), Wrong<E>> {
        let (command, script) = documents(run)?;
        let args = state.command(&command);
        // The ARGs that are no variables of the environment, as classic builders sort them.
        let in_config = |name: &String| {
            let mut names = state
                .config
                .env
                .iter()
                .filter_map(|text| text.split_once('='));
            names.any(|(other, _)| other == name)
        };
        let mut build_args: Vec<String> = state
            .args
            .iter()
            .filter(|name| !in_config(name))
            .filter_map(|name| Some(format!("{name}={}", state.variables.get(name)?)))
            .collect();
        build_args.sort();
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
        self.spend((bytes + created_by.len() + script_bytes + 512) as u64)?;
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
            Kind::Cache => MountKind::Cache {
                id: wanted.id.unwrap_or_else(|| clean(wanted_target)),
                sharing: wanted.sharing.unwrap_or(CacheSharing::Shared),
                from: match &wanted.from {
                    Some(name) if name != "scratch" => {
                        Some(self.copy_from(index, name, "mount from", line)?)
                    }
                    _ => None,
                },
                source,
                mode: wanted.mode.unwrap_or(0o755),
                uid: wanted.uid.unwrap_or(0),
                gid: wanted.gid.unwrap_or(0),
                read_only: wanted.read_only,
            },
        };
        Ok(Mount { target, kind })
    }

    fn copy(
        &mut self,
        index: usize,
        state: &State,
        line: usize,
        copy: &CopyLine,
        is_add: bool,
    ) -> Result<(Action, CreatedBy), Wrong<E>> {
        let name = if is_add { "ADD" } else { "COPY" };
        let from = match copy.from.as_deref() {
            None => CopyFrom::Context,
            Some(from) if from.contains('$') => {
                return Err(Fault::new("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround").word(from).into());
            }
            Some(from) => self.copy_from(index, from, "copy from", line)?,
        };
        let optional = |text: &Option<String>| -> Result<Option<String>, Fault> {
            let text = text
                .as_deref()
                .map(|text| self.word(state, text))
                .transpose()?;
            Ok(text.filter(|text| !text.is_empty()))
        };
        let owner = optional(&copy.chown)?;
        let chmod = optional(&copy.chmod)?;
        let mode = match &chmod {
            Some(text) => Some(Mode::parse(text).map_err(|error| {
                let fault = Fault::new(error.to_string());
                fault.word(copy.chmod.as_deref().unwrap_or_default())
            })?),
            None => None,
        };
        let paths = self.words(state, &copy.sources)?;
        for pattern in paths.iter().filter(|path| !is_url(path)) {
            Pattern::shallow(pattern)
                .map_err(|error| Fault::new(error.to_string()).word(pattern))?;
        }
        for pattern in &copy.exclude {
            let bare = pattern.strip_prefix('!').unwrap_or(pattern);
            Pattern::deep(bare).map_err(|error| Fault::new(error.to_string()).word(pattern))?;
        }
        let checksum = checksum(&optional(&copy.checksum)?, &paths)?;
        let mut sources = Vec::new();
        for path in &paths {
            sources.push(source(path, is_add).map_err(|fault| fault.word(path))?);
        }
        let lexer = state.lexer(self.file.escape, &self.work).of_document();
        let mut bytes = 512_u64;
        for document in &copy.documents {
            let content = match document.expands {
                true => lexer.word(&document.content).map_err(Fault::new)?,
                false => document.content.clone(),
            };
            bytes = bytes.saturating_add(content.len() as u64);
            sources.push(Source::Inline {
                name: document.name.clone(),
                content,
            });
        }
        let text = self.word(state, &copy.destination)?;
        let destination = destination(state, &text);
        if sources.len() > 1 && !destination.is_directory {
            return Err(Fault::new(format!(
                "When using {name} with more than one source file, the destination must be a directory and end with a /"
            ))
            .word(&copy.destination)
            .into());
        }
        self.spend(bytes)?;
        let words: Vec<String> = paths
            .into_iter()
            .chain(
                copy.documents
                    .iter()
                    .map(|document| format!("<<{}", document.name)),
            )
            .collect();
        let flags = [("chown", &owner), ("chmod", &chmod)];
        let flags = flags
            .iter()
            .filter_map(|(flag, text)| text.as_ref().map(|text| format!("--{flag}={text} ")));
        let flags: String = flags.collect();
        let slash = match destination.is_directory && destination.path != "/" {
            true => "/",
            false => "",
        };
        let created_by = CreatedBy::Sources(
            format!("{} #(nop) {name} {flags}", state.shell().join(" ")),
            format!(" in {}{slash} ", destination.path),
            words.join(" "),
        );
        let copy = Copy {
            sources,
            destination,
            from,
            owner,
            mode,
            unpack: match (is_add, copy.unpack) {
                (true, None) => Unpack::Paths,
                (true, Some(true)) => Unpack::Always,
                _ => Unpack::Never,
            },
            link: copy.link,
            parents: copy.parents,
            exclude: copy.exclude.clone(),
            checksum,
        };
        Ok((Action::Copy(Box::new(copy)), created_by))
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

fn is_url(path: &str) -> bool {
    path.starts_with("http://") || path.starts_with("https://")
}

fn is_git(path: &str) -> bool {
    let is_remote = ["git://", "ssh://", "git@"]
        .iter()
        .any(|start| path.starts_with(start));
    let bare = path.split(['#', '?']).next().unwrap_or_default();
    is_remote || (is_url(path) && bare.ends_with(".git"))
}

fn source(path: &str, is_add: bool) -> Result<Source, Fault> {
    if is_git(path) {
        return Err(Fault::new(match is_add {
            true => "git sources are not supported: clone it and ADD the folder, or RUN git clone",
            false => "source can't be a git ref for COPY",
        }));
    }
    if !is_url(path) {
        return Ok(Source::Path(path.to_owned()));
    }
    if !is_add {
        return Err(Fault::new("source can't be a URL for COPY"));
    }
    let bare = path.split(['#', '?']).next().unwrap_or_default();
    let below_host = bare.splitn(4, '/').nth(3).unwrap_or_default();
    let name = below_host.rsplit('/').find(|name| !name.is_empty());
    let name = name
        .filter(|name| !matches!(*name, "." | ".."))
        .map(str::to_owned);
    Ok(Source::Url {
        url: path.to_owned(),
        name,
    })
}

fn checksum(text: &Option<String>, paths: &[String]) -> Result<Option<Digest>, Fault> {
    let Some(text) = text else {
        return Ok(None);
    };
    let fault = |message: String| Err(Fault::new(message).word(text));
    match paths {
        [path] if is_url(path) => match Digest::parse(text) {
            Ok(digest) => Ok(Some(digest)),
            Err(error) => fault(format!("{error}")),
        },
        [_] => fault("checksum requires HTTP(S) or Git sources".to_owned()),
        _ => fault("checksum can't be specified for multiple sources".to_owned()),
    }
}

fn destination(state: &State, text: &str) -> Destination {
    let path = joined(&state.working_dir(), text);
    let last = text.rsplit('/').next().unwrap_or_default();
    Destination {
        is_directory: matches!(last, "" | "." | "..") || path == "/",
        path,
    }
}

/// Go's path.Clean for the default name of a cache.
fn clean(path: &str) -> String {
    match path.starts_with('/') {
        true => joined("/", path),
        false => joined("/", path).trim_start_matches('/').to_owned(),
    }
}

fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let begin = format!("{name}=");
    let entry = format!("{begin}{value}");
    match env.iter_mut().find(|text| text.starts_with(&begin)) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

fn spaced(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(" ")
}

/// As Go's `%q` of a list.
fn quoted_list(list: &[String]) -> String {
    let list: Vec<String> = list.iter().map(|text| quoted(text)).collect();
    format!("[{}]", list.join(" "))
}

/// As Go's `%q` of a string.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// As Go's `%q` of Docker's structure: lengths of time as text, a number as a character.
fn health_text(check: &Healthcheck) -> String {
    let times = [
        check.interval,
        check.timeout,
        check.start_period,
        check.start_interval,
    ];
    let times: Vec<String> = times
        .iter()
        .map(|nanos| quoted(&duration(*nanos)))
        .collect();
    let retries = match u32::try_from(check.retries).ok().and_then(char::from_u32) {
        Some(c) if c.is_ascii_control() => match c {
            '\t' => "'\\t'".to_owned(),
            '\n' => "'\\n'".to_owned(),
            '\r' => "'\\r'".to_owned(),
            '\x07' => "'\\a'".to_owned(),
            '\x08' => "'\\b'".to_owned(),
            '\x0b' => "'\\v'".to_owned(),
            '\x0c' => "'\\f'".to_owned(),
            c => format!("'\\x{:02x}'", u32::from(c)),
        },
        Some(c) => format!("'{c}'"),
        None => "'\u{fffd}'".to_owned(),
    };
    format!(
        "&{{{} {} {retries}}}",
        quoted_list(&check.test),
        times.join(" ")
    )
}

/// As Go writes a length of time: `1h2m3.5s`, `1.5ms`, `0s`.
fn duration(nanos: u64) -> String {
    let decimal = |whole: u64, unit: u64| {
        let fraction = format!("{:0width$}", whole % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{}{point}{fraction}", whole / unit)
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}
