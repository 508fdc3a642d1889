//! Instructions as types: what each one says, with its variables not yet replaced.
//!
//! Made by `parse` of every line of a file and of every trigger of a base image; `steps` replaces
//! variables and finds out what they mean. The words of errors are BuildKit's.

use super::error::{DockerfileError, Fault, Warning};
use super::flags::Flags;
use super::health;
use super::lines::{self, Line, Lines};
use super::mount::{self, MountLine};
use super::words::{self, Command, Form};
use crate::config::Healthcheck;
use crate::escape::printable;
use crate::limits::STAGES;

/// Names of all instructions, for `did you mean`.
const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A file's instructions, divided by stages.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) global_args: Vec<(Line, Vec<Arg>)>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) escape: char,
    pub(crate) source: Vec<String>,
}

/// `FROM` and what follows it.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) line: Line,
    /// In lower case.
    pub(crate) name: Option<String>,
    pub(crate) base: String,
    pub(crate) platform: Option<String>,
    pub(crate) instructions: Vec<(Line, Instruction)>,
}

/// `NAME` or `NAME=value` of an ARG.
pub(crate) type Arg = (String, Option<String>);

/// An instruction but for FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Instruction {
    Add(CopyLine),
    Arg(Vec<Arg>),
    Cmd(Form),
    Copy(CopyLine),
    Entrypoint(Form),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    Healthcheck(Healthcheck),
    Label(Vec<(String, String)>),
    /// One of the command line, in which nothing is replaced.
    OwnLabel(String, String),
    Maintainer(String),
    OnBuild(String),
    Run(RunLine),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// COPY and ADD.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CopyLine {
    pub(crate) sources: Vec<String>,
    pub(crate) documents: Vec<Document>,
    pub(crate) destination: String,
    pub(crate) from: Option<String>,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<String>,
    pub(crate) checksum: Option<String>,
    pub(crate) link: bool,
    pub(crate) parents: bool,
    pub(crate) exclude: Vec<String>,
    pub(crate) unpack: Option<bool>,
}

/// A here-document as a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) name: String,
    pub(crate) content: String,
    pub(crate) expands: bool,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunLine {
    pub(crate) command: Form,
    /// In the order of the line.
    pub(crate) documents: Vec<lines::Heredoc>,
    pub(crate) mounts: Vec<MountLine>,
    pub(crate) has_network: bool,
}

/// Reads all of a file's lines.
pub(crate) fn file(read: Lines, warnings: &mut Vec<Warning>) -> Result<File, DockerfileError> {
    let escape = read.directives.escape;
    let mut file = File {
        global_args: Vec::new(),
        stages: Vec::new(),
        escape,
        source: read.source,
    };
    for line in read.lines {
        match line_of_file(&line, escape, &mut file, warnings) {
            Ok(None) => {}
            Ok(Some(Instruction::Arg(args))) if file.stages.is_empty() => {
                file.global_args.push((line, args));
            }
            Ok(Some(instruction)) => match file.stages.last_mut() {
                Some(stage) => stage.instructions.push((line, instruction)),
                None => {
                    let name = words::command(&line.text, escape).name;
                    let fault = Fault::new("no build stage in current context").word(name);
                    return Err(fault.syntax_at(&line, &file.source));
                }
            },
            Err(fault) => return Err(fault.syntax_at(&line, &file.source)),
        }
    }
    match file.stages.is_empty() {
        true => Err(DockerfileError::of_file(
            "dockerfile contains no stages to build",
        )),
        false => Ok(file),
    }
}

/// Reads a line: FROM opens a stage, anything else is handed back.
fn line_of_file(
    line: &Line,
    escape: char,
    file: &mut File,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Instruction>, Fault> {
    let command = words::command(&line.text, escape);
    let mut warn = |text: String| {
        let line = line.span.0;
        warnings.push(Warning { line, text });
    };
    match command.name.to_ascii_lowercase().as_str() {
        "from" => {
            if file.stages.len() == STAGES {
                return Err(Fault::new(format!("there are more than {STAGES} stages")));
            }
            let stage = from(line, &command, &mut warn)?;
            let name = stage.name.as_deref();
            if let Some(name) = name
                && file
                    .stages
                    .iter()
                    .any(|other| other.name.as_deref() == Some(name))
            {
                warn(format!(
                    "duplicate stage name \"{name}\", stage names should be unique"
                ));
            }
            if let Some(name @ ("scratch" | "context")) = name {
                warn(format!(
                    "stage name should not use reserved name \"{name}\""
                ));
            }
            file.stages.push(stage);
            return Ok(None);
        }
        "maintainer" => warn(
            "MAINTAINER is deprecated, use LABEL org.opencontainers.image.authors instead"
                .to_owned(),
        ),
        name @ ("env" | "label") => {
            let first = command.args.split_whitespace().next();
            if first.is_some_and(|first| !first.contains('=')) {
                let name = name.to_ascii_uppercase();
                warn(format!(
                    "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
                ));
            }
        }
        _ => {}
    }
    instruction(line, escape).map(Some)
}

fn from(line: &Line, command: &Command<'_>, warn: &mut dyn FnMut(String)) -> Result<Stage, Fault> {
    let args = words::plain_words(command.args);
    let (base, name) = match args.as_slice() {
        [base] => (base, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => {
            let lower = name.to_lowercase();
            let is_name = lower.starts_with(|c: char| c.is_ascii_lowercase())
                && lower.chars().all(|c| {
                    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.')
                });
            if !is_name {
                let shown = printable(name);
                return Err(Fault::new(format!(
                    "invalid name for build stage: \"{shown}\", name can't start with a number or contain symbols"
                ))
                .word(name));
            }
            if lower != *name {
                warn(format!("stage name '{name}' should be lowercase"));
            }
            let cases = [command.name, word].map(|word| {
                let is_lower = *word == word.to_ascii_lowercase();
                (is_lower, is_lower || *word == word.to_ascii_uppercase())
            });
            if let [(from_lower, true), (as_lower, as_one)] = cases
                && (from_lower != as_lower || !as_one)
            {
                warn(format!(
                    "'{word}' and '{}' keywords' casing do not match",
                    command.name
                ));
            }
            (base, Some(lower))
        }
        _ => return Err(Fault::new("FROM requires either one or three arguments")),
    };
    let mut flags = Flags::parse(&command.flags, &["platform"], &[], &[])?;
    Ok(Stage {
        line: line.clone(),
        name,
        base: base.clone(),
        platform: flags.text("platform"),
        instructions: Vec::new(),
    })
}

/// Reads an instruction that is no FROM.
pub(crate) fn instruction(line: &Line, escape: char) -> Result<Instruction, Fault> {
    let command = words::command(&line.text, escape);
    let upper = command.name.to_ascii_uppercase();
    let one = || match command.args {
        "" => Err(Fault::new(format!("{upper} requires exactly one argument"))),
        text => Ok(text.to_owned()),
    };
    let some = |list: Vec<String>| match list.is_empty() {
        true => Err(Fault::new(format!(
            "{upper} requires at least one argument"
        ))),
        false => Ok(list),
    };
    if !matches!(
        upper.as_str(),
        "RUN" | "COPY" | "ADD" | "HEALTHCHECK" | "FROM" | "ONBUILD"
    ) {
        Flags::parse(&command.flags, &[], &[], &[])?;
    }
    Ok(match upper.as_str() {
        "ADD" => Instruction::Add(copy(&upper, &command, line)?),
        "COPY" => Instruction::Copy(copy(&upper, &command, line)?),
        "RUN" => Instruction::Run(run(&command, line)?),
        "ARG" => {
            let words = some(words::words(command.args, escape))?;
            Instruction::Arg(
                words
                    .iter()
                    .map(|word| arg(word))
                    .collect::<Result<_, _>>()?,
            )
        }
        "CMD" => Instruction::Cmd(words::form(command.args)?),
        "ENTRYPOINT" => Instruction::Entrypoint(words::form(command.args)?),
        "ENV" => Instruction::Env(pairs(&upper, command.args, escape)?),
        "LABEL" => Instruction::Label(pairs(&upper, command.args, escape)?),
        "EXPOSE" => {
            let mut ports = some(words::plain_words(command.args))?;
            ports.sort();
            Instruction::Expose(ports)
        }
        "HEALTHCHECK" => Instruction::Healthcheck(health::parse(&command)?),
        "MAINTAINER" => Instruction::Maintainer(one()?),
        "ONBUILD" => on_build(&command, line, escape)?,
        "SHELL" => match words::form(command.args)? {
            Form::Exec(list) => Instruction::Shell(some(list)?),
            Form::Shell(text) if text.is_empty() => Instruction::Shell(some(Vec::new())?),
            Form::Shell(_) => {
                let fault = Fault::new("SHELL requires the arguments to be in JSON form");
                return Err(fault.word(command.args));
            }
        },
        "STOPSIGNAL" => Instruction::StopSignal(one()?),
        "USER" => Instruction::User(one()?),
        "WORKDIR" => Instruction::Workdir(one()?),
        "VOLUME" => {
            let list = match words::form(command.args)? {
                Form::Exec(list) => list,
                Form::Shell(text) => words::plain_words(&text),
            };
            let list: Vec<String> = some(list)?
                .iter()
                .map(|path| path.trim().to_owned())
                .collect();
            if list.iter().any(String::is_empty) {
                return Err(Fault::new("VOLUME specified can not be an empty string"));
            }
            Instruction::Volume(list)
        }
        _ => {
            let name = printable(command.name);
            let fault = Fault::new(format!("unknown instruction: {name}"));
            return Err(fault.word(command.name).meant(command.name, &NAMES));
        }
    })
}

fn arg(word: &str) -> Result<Arg, Fault> {
    match word.split_once('=') {
        Some(("", _)) => Err(Fault::new("ARG names can not be blank").word(word)),
        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
        None => Ok((word.to_owned(), None)),
    }
}

/// `NAME=VALUE …`, or the old `NAME VALUE` with one value that may have blanks.
fn pairs(upper: &str, text: &str, escape: char) -> Result<Vec<(String, String)>, Fault> {
    let words = words::words(text, escape);
    let Some(first) = words.first() else {
        return Err(Fault::new(format!(
            "{upper} requires at least one argument"
        )));
    };
    if !first.contains('=') {
        let (name, value) = text
            .split_once([' ', '\t', '\r', '\x0b', '\x0c'])
            .ok_or_else(|| Fault::new(format!("{upper} must have two arguments")).word(text))?;
        return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some(("", _)) => Err(Fault::new(format!("{upper} names can not be blank")).word(word)),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => {
            let shown = printable(word);
            let fault = Fault::new(format!(
                "Syntax error - can't find = in \"{shown}\". Must be of the form: name=value"
            ));
            Err(fault.word(word))
        }
    };
    words.iter().map(pair).collect()
}

fn on_build(command: &Command<'_>, line: &Line, escape: char) -> Result<Instruction, Fault> {
    let Some(flag) = command.flags.first() else {
        let trigger = words::command(command.args, escape)
            .name
            .to_ascii_uppercase();
        match trigger.as_str() {
            "" => return Err(Fault::new("ONBUILD requires at least one argument")),
            "ONBUILD" => {
                return Err(Fault::new(
                    "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
                ));
            }
            "FROM" | "MAINTAINER" => {
                return Err(Fault::new(format!(
                    "{trigger} isn't allowed as an ONBUILD trigger"
                )));
            }
            _ => {}
        }
        let trigger = line.instead(command.args.to_owned(), line.heredocs.clone());
        // What can't be read when it is due is refused at once.
        instruction(&trigger, escape)?;
        let mut text = command.args.to_owned();
        for document in &line.heredocs {
            text = format!("{text}\n{}{}", document.content, document.name);
        }
        return Ok(Instruction::OnBuild(text));
    };
    let shown = printable(flag);
    Err(Fault::new(format!("unknown flag: {shown}")).word(flag))
}

fn run(command: &Command<'_>, line: &Line) -> Result<RunLine, Fault> {
    let mut flags = Flags::parse(
        &command.flags,
        &["network", "security"],
        &[],
        &["mount", "device"],
    )?;
    if !flags.list("device").is_empty() {
        return Err(Fault::new(
            "--device is not supported: a build step's VM has no devices of the host",
        )
        .word("--device"));
    }
    let has_network = match flags.text("network").as_deref() {
        None | Some("default") => true,
        Some("none") => false,
        Some("host") => {
            return Err(Fault::new(
                "--network=host is not supported: a build step runs in a VM with a network of its own",
            )
            .word("--network=host"));
        }
        Some(other) => {
            let shown = printable(other);
            return Err(Fault::new(format!("invalid network mode \"{shown}\"")).word(other));
        }
    };
    match flags.text("security").as_deref() {
        None | Some("sandbox") => {}
        Some("insecure") => {
            return Err(Fault::new(
                "--security=insecure is not supported: a build step runs as a container without more rights",
            )
            .word("--security=insecure"));
        }
        Some(other) => {
            let shown = printable(other);
            return Err(Fault::new(format!("security \"{shown}\" is not valid")).word(other));
        }
    }
    let mounts = flags.list("mount");
    let mounts = mounts.iter().map(|text| mount::parse(text));
    let mounts = mounts.collect::<Result<_, _>>()?;
    let form = words::form(command.args)?;
    let is_empty = match &form {
        Form::Exec(list) => list.is_empty(),
        Form::Shell(text) => text.is_empty(),
    };
    if is_empty {
        return Err(Fault::new("RUN requires at least one argument"));
    }
    Ok(RunLine {
        command: form,
        documents: line.heredocs.clone(),
        mounts,
        has_network,
    })
}

fn copy(upper: &str, command: &Command<'_>, line: &Line) -> Result<CopyLine, Fault> {
    let mut list = match words::form(command.args)? {
        Form::Exec(list) => list,
        Form::Shell(text) => words::plain_words(&text),
    };
    let destination = list.pop().filter(|_| !list.is_empty()).ok_or_else(|| {
        Fault::new(format!(
            "{upper} requires at least two arguments, but only one was provided. Destination could not be determined"
        ))
    })?;
    let mut flags = match upper {
        "ADD" => Flags::parse(
            &command.flags,
            &["chown", "chmod", "checksum"],
            &["link", "keep-git-dir", "unpack"],
            &["exclude"],
        )?,
        _ => Flags::parse(
            &command.flags,
            &["chown", "chmod", "from"],
            &["link", "parents"],
            &["exclude"],
        )?,
    };
    if flags.switch("keep-git-dir") == Some(true) {
        let fault = Fault::new("--keep-git-dir is not supported: there are no git sources");
        return Err(fault.word("--keep-git-dir"));
    }
    if lines::heredoc(&destination).is_some() {
        let fault = Fault::new(format!("{upper} cannot accept a heredoc as a destination"));
        return Err(fault.word(&destination));
    }
    let mut copy = CopyLine {
        destination,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        checksum: flags.text("checksum"),
        link: flags.switch("link") == Some(true),
        parents: flags.switch("parents") == Some(true),
        exclude: flags.list("exclude"),
        unpack: flags.switch("unpack"),
        ..CopyLine::default()
    };
    for source in list {
        let Some(heredoc) = lines::heredoc(&source) else {
            copy.sources.push(source);
            continue;
        };
        let found = line
            .heredocs
            .iter()
            .find(|other| other.name == heredoc.name);
        if heredoc.name.contains('/') || matches!(heredoc.name.as_str(), "." | "..") {
            let shown = printable(&heredoc.name);
            return Err(Fault::new(format!("\"{shown}\" can't be a file's name")).word(&source));
        }
        copy.documents.push(Document {
            content: found.map_or_else(String::new, lines::Heredoc::chomped),
            expands: heredoc.expands,
            name: heredoc.name,
        });
    }
    Ok(copy)
}
