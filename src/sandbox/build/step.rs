//! One step: what its key in the cache is made of, and what is done in the VM when the cache does not
//! know it.
//!
//! Called by [`super::stage`].

use std::io::{Read, Write};

use anyhow::{Context, Result, bail};
use images::Digest;
use images::context::{ContextError, Selected, Wanted, clean, sources_text};
use images::dockerfile::{
    Action, Copy, CopyFrom, Mount, MountKind, Network, Run, Source, Step, Unpack,
};
use images::registry::Download;
use protocol::spec::{MountSpec, Owned, RunSpec, SECRET_BYTES, StepMount, StepSource};
use protocol::task::{Gather, Outcome, Place, PlaceTarget, Task};
use tarball::{Entry, EntryKind, TarWriter};

use super::super::clock::http_date;
use super::builder::{Builder, Refused};
use super::stage::Stage;
use super::{Shared, StepId, Told, lock};

/// Changes when steps of the same key would not be the same any more.
const FORMAT: &str = "bulkhead build 4";

/// Permissions of a file that `ADD` took from the web, as Docker has it.
const DOWNLOAD_MODE: u16 = 0o600;

/// Bytes of a step's arguments and variables: with its secrets they are one message.
const WORDS_BYTES: usize = 256 << 10;

/// What is said of several files for a place that is no directory.
const SEVERAL: &str = "when copying more than one source file, the destination must be a directory that is there, or end with a /";

/// A `RUN` whose process ended with another code than 0.
#[derive(Debug, thiserror::Error)]
#[error("process {text:?} did not complete successfully: exit code: {code}")]
pub struct StepFailed {
    /// What it ran.
    pub text: String,
    /// For the shell.
    pub code: u8,
}

/// What a step takes from outside of its stage.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Of the build context, for each source or mount that is there.
    selected: Vec<Vec<Selected>>,
    /// Of the web, for each address.
    downloads: Vec<Download>,
    /// What all of it is, for the key.
    digests: Vec<String>,
    /// What stands for the files of the build context in the history.
    pub(super) text: Option<String>,
}

impl<'a> Shared<'a> {
    /// Looks up what a step takes from outside.
    pub(super) fn inputs(&self, step: &Step) -> Result<Inputs> {
        let mut inputs = Inputs::default();
        match &step.action {
            Action::None | Action::MakeDirectory(_) => {}
            Action::Copy(copy) => self.inputs_of_copy(step, copy, &mut inputs)?,
            Action::Run(run) => {
                for mount in &run.mounts {
                    if let MountKind::Bind { from, source, .. } = &mount.kind {
                        let wanted = Wanted {
                            instruction: "RUN",
                            patterns: &[source],
                            is_literal: true,
                            parents: false,
                            exclude: &[],
                        };
                        self.input(from, &wanted, &mut inputs)?;
                        inputs.text = None;
                    }
                }
            }
        }
        Ok(inputs)
    }

    fn inputs_of_copy(&self, step: &Step, copy: &Copy, inputs: &mut Inputs) -> Result<()> {
        let instruction = step.text.split(' ').next().unwrap_or("COPY");
        let runs = runs(copy);
        let paths = runs.concat();
        let wanted = |patterns| Wanted {
            instruction,
            patterns,
            is_literal: false,
            parents: copy.parents,
            exclude: &copy.exclude,
        };
        if !paths.is_empty() {
            self.input(&copy.from, &wanted(&paths), inputs)?;
        }
        if runs.len() > 1 {
            // What is between them comes between them.
            let each = runs
                .iter()
                .map(|paths| match self.build.context.resolve(&wanted(paths)) {
                    Err(ContextError::NoSources(_)) => Ok(Vec::new()),
                    selected => selected,
                });
            inputs.selected = each.collect::<Result<_, _>>()?;
        }
        for source in &copy.sources {
            if let Source::Url { url, .. } = source {
                let download = (self.build.fetch)(url)?;
                if let Some(wanted) = &copy.checksum
                    && *wanted != download.digest
                {
                    bail!("digest mismatch {}: {wanted}", download.digest);
                }
                inputs.digests.push(download.digest.to_string());
                inputs.downloads.push(download);
            }
        }
        Ok(())
    }

    fn input(&self, from: &CopyFrom, wanted: &Wanted<'_>, inputs: &mut Inputs) -> Result<()> {
        match from {
            CopyFrom::Context => {
                let context = self.build.context;
                let selected = context.resolve(wanted)?;
                let digest = context.digest(&selected)?;
                inputs.digests.push(digest.to_string());
                inputs.text = Some(sources_text(&selected, &digest));
                inputs.selected.push(selected);
            }
            CopyFrom::Stage(_) | CopyFrom::Image(_) => {
                let source = self.source(from)?.context("there is no such source")?;
                let chain = lock(&source).chain();
                inputs.digests.push(Digest::of(&chain).to_string());
            }
        }
        Ok(())
    }

    /// Does in the stage's VM what the step says.
    pub(super) fn act(
        &self,
        stage: &mut Stage<'a>,
        step: &Step,
        id: StepId,
        inputs: &Inputs,
    ) -> Result<()> {
        match &step.action {
            Action::None => Ok(()),
            Action::MakeDirectory(make) => {
                let builder = stage.builder.as_mut().context("the builder is gone")?;
                builder.ask(Task::MakeDirectory {
                    path: make.path.clone(),
                    owner: Some(owner(&make.owner)).filter(|owner| !owner.is_empty()),
                })?;
                Ok(())
            }
            Action::Copy(copy) => self.copy(stage, copy, id, inputs),
            Action::Run(run) => self.run(stage, run, id, inputs),
        }
    }

    fn copy(&self, stage: &mut Stage<'a>, copy: &Copy, id: StepId, inputs: &Inputs) -> Result<()> {
        let builder = stage.builder.as_mut().context("the builder is gone")?;
        let mut selected = inputs.selected.iter().flatten();
        let has_directory = selected.any(|selected| selected.is_directory);
        let path = &copy.destination.path;
        let mut is_directory = copy.destination.is_directory || copy.parents || has_directory;
        let mut is_first = true;
        // Several files go into a directory. One that is there by what came before is meant as well, as
        // in BuildKit; where there is none, the last of them would be the only one that is left.
        let mut place = |builder: &mut Builder, unpack: bool| -> Result<Place> {
            if !is_directory && !is_first {
                is_directory = is_directory_there(builder, path)?;
                if !is_directory {
                    bail!(SEVERAL);
                }
            }
            is_first = false;
            Ok(Place {
                target: PlaceTarget::Root {
                    path: path.clone(),
                    is_directory,
                },
                owner: copy.owner.as_deref().map(owner),
                mode: copy.mode.clone(),
                unpack,
                replace_links: copy.link,
            })
        };
        let mut downloads = inputs.downloads.iter();
        let mut selected = inputs.selected.iter();
        let mut runs = runs(copy).into_iter();
        let mut is_in_run = false;
        // In the order in which they are written, as what is the same of two is the latter's.
        for source in &copy.sources {
            match source {
                Source::Path(_) if is_in_run => {}
                Source::Path(_) => {
                    is_in_run = true;
                    let paths = runs.next().unwrap_or_default();
                    if let Some(source) = self.source(&copy.from)? {
                        let gather = gather(copy, &paths)?;
                        let mut source = lock(&source);
                        let lender = self.lender(&mut source, id.stage)?;
                        let place = place(builder, false)?;
                        builder.copy_from(lender, gather, place)?;
                        continue;
                    }
                    let selected = selected.next().map_or(&[][..], Vec::as_slice);
                    // What is in a directory is never unpacked, so that each source goes by itself.
                    let parts: Vec<&[Selected]> = match copy.unpack {
                        Unpack::Never => vec![selected],
                        _ => selected.chunks(1).collect(),
                    };
                    for part in parts {
                        let is_file = !part.iter().any(|selected| selected.is_directory);
                        let place = place(builder, is_file && copy.unpack != Unpack::Never)?;
                        builder
                            .place(place, &mut |to| Ok(self.build.context.archive(part, to)?))?;
                    }
                }
                Source::Url { name, .. } => {
                    is_in_run = false;
                    let download = downloads.next().context("the download is gone")?;
                    let place = place(builder, copy.unpack == Unpack::Always)?;
                    let modified = download.modified.as_deref().and_then(http_date);
                    builder.place(place, &mut |to| {
                        let (modified, size) = (modified.unwrap_or(0), download.size);
                        one_file(name, DOWNLOAD_MODE, modified, size, &mut &download.file, to)
                    })?;
                }
                Source::Inline { .. } => {}
            }
        }
        for source in &copy.sources {
            match source {
                Source::Path(_) | Source::Url { .. } => {}
                Source::Inline { name, content } => {
                    let size = content.len() as u64;
                    let place = place(builder, false)?;
                    builder.place(place, &mut |to| {
                        one_file(name, 0o644, 0, size, &mut content.as_bytes(), to)
                    })?;
                }
            }
        }
        Ok(())
    }

    fn run(&self, stage: &mut Stage<'a>, run: &Run, id: StepId, inputs: &Inputs) -> Result<()> {
        let mut spec = self.machine.launch.run.clone();
        spec.process.args.clone_from(&run.args);
        spec.process.env = [run.env.as_slice(), &run.proxies].concat();
        spec.process.user.clone_from(&run.user);
        spec.process.cwd.clone_from(&run.working_dir);
        spec.network_none = run.network == Network::None && self.machine.launch.network.is_some();
        let mut selected = inputs.selected.iter();
        for mount in &run.mounts {
            self.mount(stage, mount, &mut selected, &mut spec, id)?;
        }
        if let Some(script) = &run.script {
            spec.step_mounts.push(StepMount {
                target: script.path.clone(),
                source: StepSource::Secret {
                    content: script.content.clone().into_bytes(),
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                },
                read_only: true,
            });
        }
        check_secrets(&spec)?;
        let builder = stage.builder.as_mut().context("the builder is gone")?;
        let output = |bytes: &[u8]| (self.build.tell)(Told::Output(id, bytes));
        let text = match run.args.as_slice() {
            // As it is in the Dockerfile.
            [shell, _, command] if shell.ends_with("sh") => format!("{shell} -c {command}"),
            args => args.join(" "),
        };
        let status = match builder.run(spec, &output) {
            Err(error) if error.is::<Refused>() => {
                return Err(error.context(format!("run {text:?}")));
            }
            status => status?,
        };
        match status.docker_code() {
            0 => Ok(()),
            code => Err(StepFailed { text, code }.into()),
        }
    }

    /// Makes ready what a mount shows, and says so in `spec`.
    fn mount<'i>(
        &self,
        stage: &mut Stage<'a>,
        mount: &Mount,
        selected: &mut impl Iterator<Item = &'i Vec<Selected>>,
        spec: &mut RunSpec,
        id: StepId,
    ) -> Result<()> {
        let target = mount.target.clone().unwrap_or_default();
        match &mount.kind {
            MountKind::Bind {
                from,
                source,
                writable,
            } => {
                let source = self.aside(stage, from, source, selected, id)?;
                spec.step_mounts.push(StepMount {
                    target,
                    source,
                    read_only: !writable,
                });
            }
            MountKind::Cache {
                id,
                mode,
                uid,
                gid,
                read_only,
                ..
            } => {
                let is_it = |cache: &&super::stage::CacheMount| {
                    cache.id == *id || cache.id.starts_with(&format!("{id}\0"))
                };
                let share = stage.caches.iter().position(|cache| is_it(&cache));
                spec.mounts.push(MountSpec {
                    share: u32::try_from(share.context("the cache mount is gone")?)?,
                    target,
                    read_only: *read_only,
                    copy_up: protocol::spec::CopyUp::No,
                    owned: Some(Owned {
                        uid: *uid,
                        gid: *gid,
                        mode: *mode,
                    }),
                });
            }
            MountKind::Tmpfs { size } => {
                // As BuildKit: programs run from it, which they don't from `run --tmpfs`.
                let size = size.map_or_else(String::new, |size| format!(",size={size}"));
                spec.tmpfs.insert(target, format!("exec,dev{size}"));
            }
            MountKind::Secret {
                id,
                env,
                required,
                mode,
                uid,
                gid,
            } => {
                let Some(content) = self.build.secrets.get(id) else {
                    if *required {
                        bail!("secret {id}: not found");
                    }
                    return Ok(());
                };
                if let Some(env) = env {
                    let Ok(text) = std::str::from_utf8(content) else {
                        bail!("secret {id} is to be the variable {env} and is not UTF-8");
                    };
                    spec.process.env.push(format!("{env}={text}"));
                }
                if mount.target.is_some() {
                    spec.step_mounts.push(StepMount {
                        target,
                        source: StepSource::Secret {
                            content: content.clone(),
                            mode: *mode,
                            uid: *uid,
                            gid: *gid,
                        },
                        read_only: false,
                    });
                }
            }
        }
        Ok(())
    }

    /// Puts what a bind mount shows aside in the stage's VM.
    fn aside<'i>(
        &self,
        stage: &mut Stage<'a>,
        from: &CopyFrom,
        source: &str,
        selected: &mut impl Iterator<Item = &'i Vec<Selected>>,
        id: StepId,
    ) -> Result<StepSource> {
        let builder = stage.builder.as_mut().context("the builder is gone")?;
        let number = builder.scratch();
        let place = Place {
            target: PlaceTarget::Scratch(number),
            owner: None,
            mode: None,
            unpack: false,
            replace_links: false,
        };
        let is_directory = match self.source(from)? {
            None => {
                let selected = selected.next().map_or(&[][..], Vec::as_slice);
                builder.place(place, &mut |to| {
                    Ok(self.build.context.archive(selected, to)?)
                })?;
                selected
                    .first()
                    .is_none_or(|selected| selected.is_directory)
            }
            Some(other) => {
                let mut other = lock(&other);
                let lender = self.lender(&mut other, id.stage)?;
                let stat = Task::Stat {
                    path: source.to_owned(),
                    follow: true,
                };
                let Outcome::Stat(stat) = lender.ask(stat)? else {
                    bail!("{source}: not found");
                };
                let gather = Gather {
                    sources: vec![literal(source)],
                    excludes: Vec::new(),
                    parents: false,
                };
                builder.copy_from(lender, gather, place)?;
                stat.is_dir()
            }
        };
        let name = source.rsplit('/').next().unwrap_or_default();
        Ok(StepSource::Scratch {
            number,
            path: if is_directory {
                String::new()
            } else {
                name.to_owned()
            },
        })
    }
}

/// The key of a step in the cache: what is below it, what it does, and what it takes.
pub(super) fn key(
    stage: &Stage<'_>,
    step: &Step,
    inputs: &Inputs,
    environment: &str,
    epoch: Option<i64>,
) -> Digest {
    let mut text = FORMAT.as_bytes().to_vec();
    let mut add = |part: &[u8]| {
        text.push(0);
        text.extend_from_slice(part);
    };
    add(&stage.chain());
    // Also where there is none, so that what follows is at its place.
    add(stage.untold().as_bytes());
    add(&step.action.cache_input());
    for digest in &inputs.digests {
        add(digest.as_bytes());
    }
    if matches!(step.action, Action::Run(_)) {
        add(environment.as_bytes());
    }
    if let Some(epoch) = epoch {
        add(epoch.to_string().as_bytes());
    }
    Digest::of(&text)
}

/// Whether a path in the stage's root leads to a directory.
fn is_directory_there(builder: &mut Builder, path: &str) -> Result<bool> {
    let stat = builder.ask(Task::Stat {
        path: path.to_owned(),
        follow: true,
    })?;
    Ok(matches!(stat, Outcome::Stat(stat) if stat.is_dir()))
}

/// Whom files are given to: a number without a group is the group's, too.
fn owner(text: &str) -> String {
    match text.parse::<u32>() {
        Ok(number) => format!("{number}:{number}"),
        Err(_) => text.to_owned(),
    }
}

/// The sources of a copy that are paths, in runs: between two of them there is an address. Files in the
/// Dockerfile come last, wherever they are.
fn runs(copy: &Copy) -> Vec<Vec<&str>> {
    let sources = copy.sources.iter();
    let sources = sources.filter(|source| !matches!(source, Source::Inline { .. }));
    let paths: Vec<Option<&str>> = sources
        .map(|source| match source {
            Source::Path(path) => Some(path.as_str()),
            _ => None,
        })
        .collect();
    let runs = paths.split(Option::is_none);
    let runs = runs.filter(|run| !run.is_empty());
    runs.map(|run| run.iter().copied().flatten().collect())
        .collect()
}

/// What a copy takes of a stage or an image. What the agent does not know is refused.
fn gather(copy: &Copy, paths: &[&str]) -> Result<Gather> {
    if copy.parents && paths.iter().any(|path| path.contains("**")) {
        bail!("--parents with ** takes files of the build context only: name the folders");
    }
    let mut excludes = Vec::new();
    for pattern in &copy.exclude {
        if pattern.trim().starts_with('!') {
            bail!("--exclude={pattern} takes back files of the build context only");
        }
        let pattern = clean(&format!("/{}", pattern.trim()));
        excludes.push(pattern.trim_start_matches('/').to_owned());
    }
    excludes.retain(|pattern| !pattern.is_empty());
    Ok(Gather {
        sources: paths.iter().map(ToString::to_string).collect(),
        excludes,
        parents: copy.parents,
    })
}

/// A path as a pattern that matches nothing else: the agent knows only these.
fn literal(path: &str) -> String {
    let mut pattern = String::new();
    for character in path.chars() {
        if matches!(character, '*' | '?' | '[' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// Checks that what a step is told in one message fits it.
fn check_secrets(spec: &RunSpec) -> Result<()> {
    let files = spec.step_mounts.iter().map(|mount| match &mount.source {
        StepSource::Secret { content, .. } => content.len(),
        StepSource::Scratch { .. } => 0,
    });
    let variables = spec.process.env.iter().map(String::len);
    let arguments = spec.process.args.iter().map(String::len);
    let files: usize = files.sum();
    if files > SECRET_BYTES {
        bail!(
            "the secrets and scripts of this step have {files} bytes, the limit is {SECRET_BYTES}"
        );
    }
    let words: usize = variables.chain(arguments).sum();
    if words > WORDS_BYTES {
        bail!("command and variables of this step have {words} bytes, the limit is {WORDS_BYTES}");
    }
    Ok(())
}

/// An archive of one file.
fn one_file(
    name: &str,
    mode: u16,
    modified: i64,
    size: u64,
    content: &mut dyn Read,
    to: &mut dyn Write,
) -> Result<()> {
    let mut tar = TarWriter::new(to);
    tar.entry(&Entry {
        path: name.as_bytes().to_vec(),
        link: Vec::new(),
        kind: EntryKind::File,
        mode,
        uid: 0,
        gid: 0,
        mtime: (modified, 0),
        device: (0, 0),
        size,
        pieces: Vec::new(),
        xattrs: Vec::new(),
    })?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let len = content.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        tar.data(buffer.get(..len).unwrap_or_default())?;
    }
    tar.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tarball::TarReader;

    #[test]
    fn a_literal_path_matches_itself_alone() {
        for path in ["/a/b", "/a*", "/[x]", "/a\\b?"] {
            let pattern = protocol::pattern::Pattern::shallow(&literal(path)).unwrap();
            assert!(pattern.matches(path.as_bytes()), "{path}");
            assert!(!pattern.matches(format!("{path}x").as_bytes()), "{path}");
        }
    }

    #[test]
    fn a_number_is_user_and_group() {
        let owners = ["7", "7:8", "app", "7:app", ""].map(owner);
        assert_eq!(owners, ["7:7", "7:8", "app", "7:app", ""]);
    }

    #[test]
    fn an_archive_of_one_file_holds_it() {
        let mut bytes = Vec::new();
        one_file("x", 0o600, 7, 5, &mut &b"hello"[..], &mut bytes).unwrap();
        let mut tar = TarReader::new(bytes.as_slice());
        let entry = tar.next_entry().unwrap().unwrap();
        assert_eq!(
            (&*entry.path, entry.mode, entry.mtime),
            (&b"x"[..], 0o600, (7, 0))
        );
        let mut content = [0; 8];
        assert_eq!(tar.read(&mut content).unwrap(), 5);
        // A file that turns out shorter is no file.
        assert!(one_file("x", 0o600, 7, 6, &mut &b"hello"[..], &mut Vec::new()).is_err());
    }

    #[test]
    fn paths_are_divided_where_an_address_is() {
        let path = |text: &str| Source::Path(text.to_owned());
        let url = || Source::Url {
            url: "http://h/u".to_owned(),
            name: "u".to_owned(),
        };
        let inline = || Source::Inline {
            name: "i".to_owned(),
            content: String::new(),
        };
        for (sources, want) in [
            (vec![path("a"), path("b")], vec![vec!["a", "b"]]),
            (
                vec![path("a"), url(), path("b"), path("c")],
                vec![vec!["a"], vec!["b", "c"]],
            ),
            (
                vec![url(), path("a"), url(), url(), path("b"), url()],
                vec![vec!["a"], vec!["b"]],
            ),
            (
                vec![inline(), path("a"), inline(), path("b")],
                vec![vec!["a", "b"]],
            ),
            (
                vec![path("a"), inline(), url(), inline(), path("b")],
                vec![vec!["a"], vec!["b"]],
            ),
            (vec![url(), inline()], vec![]),
        ] {
            let copy = Copy {
                sources,
                destination: images::dockerfile::Destination {
                    path: "/d".to_owned(),
                    is_directory: true,
                },
                from: CopyFrom::Context,
                owner: None,
                mode: None,
                unpack: Unpack::Never,
                link: false,
                parents: false,
                exclude: Vec::new(),
                checksum: None,
            };
            assert_eq!(runs(&copy), want, "{:?}", copy.sources);
        }
    }
}
