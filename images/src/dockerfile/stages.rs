//! Which stages a build needs, what they are based on, and in which order they come.
//!
//! The way from a file to a plan: stages are planned from the target down to what it needs, each
//! once, `steps` does what is in them, and at the end they get their places and numbers.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::{DockerfileError, Fault, PlanError, Warning};
use super::expand::{Lexer, Variables};
use super::instruction::{self, File, Instruction, Stage};
use super::lines::{self, Line};
use super::plan::{
    Action, Base, BaseImage, BaseRequest, CopyFrom, ImageSource, MountKind, Plan, PlanOptions,
    PlannedStage, Step,
};
use crate::config::ImageConfig;
use crate::escape::{printable, quoted};
use crate::limits::{EXPANSION_WORK, HISTORY, INSTRUCTIONS, PLAN_BYTES};
use crate::platform::Platform;
use crate::reference::Reference;

/// What Docker's images without a PATH have.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Build arguments that no ARG has to declare.
const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// The caller's answer to who wants an image.
type Bases<'a, E> = &'a mut dyn FnMut(&BaseRequest) -> Result<BaseImage, E>;

/// Where a stage is when the next instruction comes.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) config: Arc<ImageConfig>,
    /// Variables of the environment and ARGs, by what they are now.
    pub(super) variables: Variables,
    /// ARGs in the order of their declaration.
    pub(super) args: Vec<String>,
    /// This stage has had a CMD.
    pub(super) has_cmd: bool,
    pub(super) platform: Platform,
}

/// A stage that is planned, and how it ended.
struct Planned {
    stage: PlannedStage,
    state: State,
}

pub(super) struct Planner<'a, E> {
    pub(super) file: &'a File,
    pub(super) options: &'a PlanOptions,
    bases: Bases<'a, E>,
    /// What FROM and ARG without a value see.
    pub(super) globals: Variables,
    pub(super) work: Cell<u64>,
    /// Bytes that the plan has so far, see [`PLAN_BYTES`].
    bytes: u64,
    /// Build arguments that some ARG took.
    pub(super) consumed: BTreeSet<String>,
    images: BTreeMap<(String, String), BaseImage>,
    /// FROM with variables replaced: base and platform.
    from: Vec<(String, Option<Platform>)>,
    planned: BTreeMap<usize, Planned>,
    target: usize,
}

/// What went wrong, before or after it has a place.
pub(super) enum Wrong<E: std::error::Error + 'static> {
    Fault(Fault),
    Plan(PlanError<E>),
}

impl<E: std::error::Error + 'static> Wrong<E> {
    fn word(self, word: &str) -> Self {
        match self {
            Self::Fault(fault) => Self::Fault(fault.word(word)),
            Self::Plan(error) => Self::Plan(error),
        }
    }

    fn at(self, line: &Line, source: &[String]) -> PlanError<E> {
        match self {
            Self::Fault(fault) => fault.at(line, source).into(),
            Self::Plan(error) => error,
        }
    }
}

impl<E: std::error::Error + 'static> From<Fault> for Wrong<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<E: std::error::Error + 'static> From<String> for Wrong<E> {
    fn from(message: String) -> Self {
        Self::Fault(Fault::new(message))
    }
}

impl<E: std::error::Error + 'static> From<PlanError<E>> for Wrong<E> {
    fn from(error: PlanError<E>) -> Self {
        Self::Plan(error)
    }
}

impl<E: std::error::Error + 'static> From<DockerfileError> for Wrong<E> {
    fn from(error: DockerfileError) -> Self {
        Self::Plan(error.into())
    }
}

/// See [`super::plan()`].
pub(super) fn plan<E: std::error::Error + 'static>(
    file: &File,
    warnings: &[Warning],
    options: &PlanOptions,
    bases: Bases<'_, E>,
) -> Result<Plan, PlanError<E>> {
    let target = target(file, options.target.as_deref())?;
    let mut planner = Planner {
        file,
        options,
        bases,
        globals: predefined(options),
        work: Cell::new(EXPANSION_WORK),
        bytes: 0,
        consumed: BTreeSet::new(),
        images: BTreeMap::new(),
        from: Vec::new(),
        planned: BTreeMap::new(),
        target,
    };
    planner.global_args()?;
    planner.expand_from()?;
    planner.stage(target)?;
    planner.check_history()?;
    let mut warnings = warnings.to_vec();
    warnings.extend(planner.unconsumed());
    Ok(planner.finish(warnings))
}

fn target(file: &File, name: Option<&str>) -> Result<usize, DockerfileError> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(file.stages.len().saturating_sub(1));
    };
    let lower = name.to_lowercase();
    let by_name = file
        .stages
        .iter()
        .rposition(|stage| stage.name.as_deref() == Some(&lower));
    let by_number = || {
        name.parse()
            .ok()
            .filter(|number| *number < file.stages.len())
    };
    by_name.or_else(by_number).ok_or_else(|| {
        let shown = quoted(name);
        let names: Vec<&str> = file
            .stages
            .iter()
            .filter_map(|stage| stage.name.as_deref())
            .collect();
        Fault::new(format!("target stage {shown} could not be found"))
            .meant(name, &names)
            .of_file()
    })
}

/// The arguments that are there without an ARG before the first FROM.
fn predefined(options: &PlanOptions) -> Variables {
    let (build, target) = (Platform::host(), &options.platform);
    let stage = options.target.as_deref().filter(|name| !name.is_empty());
    let all = [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os().to_owned()),
        ("BUILDARCH", build.architecture().to_owned()),
        (
            "BUILDVARIANT",
            build.variant().unwrap_or_default().to_owned(),
        ),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os().to_owned()),
        ("TARGETARCH", target.architecture().to_owned()),
        (
            "TARGETVARIANT",
            target.variant().unwrap_or_default().to_owned(),
        ),
        ("TARGETSTAGE", stage.unwrap_or("default").to_owned()),
    ];
    let given = |name: &str| options.build_args.get(name).cloned().flatten();
    all.into_iter()
        .map(|(name, value)| (name.to_owned(), given(name).unwrap_or(value)))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

fn is_predefined(name: &str) -> bool {
    let platform = name
        .strip_prefix("BUILD")
        .or_else(|| name.strip_prefix("TARGET"));
    PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
        || platform
            .is_some_and(|rest| ["PLATFORM", "OS", "ARCH", "VARIANT", "STAGE"].contains(&rest))
}

impl<E: std::error::Error + 'static> Planner<'_, E> {
    /// A word of an instruction before the first FROM, or of FROM.
    fn global(&self, text: &str) -> Result<String, String> {
        Lexer::new(self.file.escape, &self.globals, &self.work).word(text)
    }

    fn global_args(&mut self) -> Result<(), PlanError<E>> {
        let file = self.file;
        for (line, args) in &file.global_args {
            for (name, default) in args {
                let given = self.given(name);
                let value = match (given, default) {
                    (Some(given), _) => Some(given),
                    (None, Some(text)) => Some(
                        self.global(text)
                            .map_err(|error| Fault::new(error).word(text).at(line, &file.source))?,
                    ),
                    (None, None) => None,
                };
                if let Some(value) = value {
                    self.globals.insert(name.clone(), value);
                }
            }
        }
        Ok(())
    }

    /// A build argument's value; it counts as consumed.
    pub(super) fn given(&mut self, name: &str) -> Option<String> {
        let given = self.options.build_args.get(name)?;
        self.consumed.insert(name.to_owned());
        given.clone()
    }

    fn expand_from(&mut self) -> Result<(), PlanError<E>> {
        let file = self.file;
        for stage in &file.stages {
            let from = self.expanded(stage);
            self.from
                .push(from.map_err(|fault| fault.at(&stage.line, &file.source))?);
        }
        Ok(())
    }

    /// Base and platform of a FROM.
    fn expanded(&self, stage: &Stage) -> Result<(String, Option<Platform>), Fault> {
        let base = self
            .global(&stage.base)
            .map_err(|error| Fault::new(error).word(&stage.base))?;
        if base.is_empty() {
            let shown = printable(&stage.base);
            let fault = Fault::new(format!("base name ({shown}) should not be blank"));
            return Err(fault.word(&stage.base));
        }
        let Some(text) = &stage.platform else {
            return Ok((base, None));
        };
        let platform = self
            .global(text)
            .map_err(|error| Fault::new(error).word(text))?;
        let shown = printable(text);
        if platform.is_empty() {
            let fault = Fault::new(format!("empty platform value from expression {shown}"));
            return Err(fault.word(text));
        }
        match Platform::parse(&platform) {
            Ok(platform) => Ok((base, Some(platform))),
            Err(error) => {
                let fault = Fault::new(format!("failed to parse platform {shown}: {error}"));
                Err(fault.word(text))
            }
        }
    }

    /// Plans a stage and what it needs, unless it is already.
    fn stage(&mut self, index: usize) -> Result<(), PlanError<E>> {
        if self.planned.contains_key(&index) {
            return Ok(());
        }
        let file = self.file;
        let Some((stage, (base, platform))) =
            file.stages.get(index).zip(self.from.get(index).cloned())
        else {
            return Ok(());
        };
        let (base, mut state) = self.base(index, stage, &base, platform)?;
        let triggers = std::mem::take(&mut Arc::make_mut(&mut state.config).on_build);
        if !state.variables.contains_key("PATH") {
            Arc::make_mut(&mut state.config).env.push(PATH.to_owned());
            if let Some((name, value)) = PATH.split_once('=') {
                state.variables.insert(name.to_owned(), value.to_owned());
            }
        }
        let mut planned = PlannedStage {
            index,
            name: stage.name.clone(),
            text: stage.line.text.trim().to_owned(),
            line: stage.line.span.0,
            number: 0,
            base,
            platform: state.platform.clone(),
            config: Arc::clone(&state.config),
            steps: Vec::new(),
            needs: Vec::new(),
        };
        self.spend(config_bytes(&state.config))?;
        if triggers.len().saturating_add(stage.instructions.len()) > INSTRUCTIONS {
            let message = format!("a stage has more than {INSTRUCTIONS} instructions");
            return Err(Fault::new(message).at(&stage.line, &file.source).into());
        }
        for trigger in &triggers {
            // Wrong as it may be, it is shown as what the FROM brings.
            let (line, instruction) = read_trigger(trigger, stage)
                .map_err(|fault| fault.at(&stage.line, &file.source))?;
            let mut step = self.step(index, &mut state, &line, &instruction)?;
            step.number = None;
            planned.steps.push(step);
        }
        for (line, instruction) in &stage.instructions {
            planned
                .steps
                .push(self.step(index, &mut state, line, instruction)?);
        }
        if index == self.target {
            for (name, value) in &self.options.labels {
                let last = stage
                    .instructions
                    .last()
                    .map_or(&stage.line, |(line, _)| line);
                let line = last.instead(format!("LABEL {name}={value}"), Vec::new());
                let label = Instruction::OwnLabel(name.clone(), value.clone());
                planned
                    .steps
                    .push(self.step(index, &mut state, &line, &label)?);
            }
        }
        self.planned.insert(
            index,
            Planned {
                stage: planned,
                state,
            },
        );
        Ok(())
    }

    fn step(
        &mut self,
        index: usize,
        state: &mut State,
        line: &Line,
        instruction: &Instruction,
    ) -> Result<Step, PlanError<E>> {
        let source = &self.file.source;
        let (action, created_by) = self
            .act(index, state, line.span.0, instruction)
            .map_err(|wrong| wrong.at(line, source))?;
        Ok(Step {
            lines: line.span,
            text: line.text.trim().to_owned(),
            number: Some(0),
            action,
            config: Arc::clone(&state.config),
            created_by,
        })
    }

    fn base(
        &mut self,
        index: usize,
        stage: &Stage,
        base: &str,
        platform: Option<Platform>,
    ) -> Result<(Base, State), PlanError<E>> {
        let before = self.file.stages.get(..index).unwrap_or_default();
        if let Some(from) = before
            .iter()
            .rposition(|other| other.name.as_deref() == Some(base))
        {
            self.stage(from)?;
            if let Some(planned) = self.planned.get(&from) {
                let state = State {
                    has_cmd: false,
                    ..planned.state.clone()
                };
                return Ok((Base::Stage(from), state));
            }
        }
        let platform = platform.unwrap_or_else(|| self.options.platform.clone());
        let (base, config) = match base {
            "scratch" => (Base::Scratch, empty(platform.clone())),
            name => {
                let source = &self.file.source;
                let (image, config) = self
                    .image(name, &platform, stage.line.span.0)
                    .map_err(|wrong| wrong.word(&stage.base).at(&stage.line, source))?;
                (Base::Image(image), config)
            }
        };
        let variables = config.env.iter().filter_map(|text| text.split_once('='));
        let state = State {
            variables: variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            args: Vec::new(),
            has_cmd: false,
            platform,
            config: Arc::new(ImageConfig {
                created: None,
                ..config
            }),
        };
        Ok((base, state))
    }

    /// An image, asked for once.
    fn image(
        &mut self,
        name: &str,
        platform: &Platform,
        line: usize,
    ) -> Result<(ImageSource, ImageConfig), Wrong<E>> {
        let reference = Reference::parse(name).map_err(|error| {
            Fault::new(format!(
                "failed to parse stage name {}: {error}",
                quoted(name)
            ))
        })?;
        let key = (reference.to_string(), platform.to_string());
        let found = match self.images.get(&key) {
            Some(found) => found.clone(),
            None => {
                let request = BaseRequest {
                    reference: reference.clone(),
                    platform: platform.clone(),
                };
                let found = (self.bases)(&request).map_err(|source| PlanError::Image {
                    reference: reference.familiar(),
                    line,
                    source,
                })?;
                self.images.insert(key, found.clone());
                found
            }
        };
        let source = ImageSource {
            reference,
            id: found.id,
        };
        Ok((source, found.config))
    }

    /// What `--from` or `from=` names; `doing` is for errors, as in `copy from`.
    pub(super) fn copy_from(
        &mut self,
        index: usize,
        name: &str,
        doing: &str,
        line: usize,
    ) -> Result<CopyFrom, Wrong<E>> {
        let lower = name.to_lowercase();
        let is_it = |stage: &Stage| stage.name.as_deref() == Some(&*lower);
        let stages = &self.file.stages;
        let before = stages.get(..index).unwrap_or_default();
        let found = before
            .iter()
            .rposition(is_it)
            .or_else(|| stages.iter().position(is_it));
        let found = match (found, name.parse::<i64>()) {
            (Some(found), _) => found,
            (None, Ok(number)) => usize::try_from(number)
                .ok()
                .filter(|number| *number < stages.len())
                .ok_or_else(|| Fault::new(format!("invalid stage index {number}")).word(name))?,
            (None, Err(_)) if lower == "scratch" => {
                let message = format!("cannot {doing} \"scratch\": there is nothing in it");
                return Err(Fault::new(message).word(name).into());
            }
            (None, Err(_)) => {
                let platform = &self.options.platform;
                let image = self
                    .image(name, platform, line)
                    .map_err(|wrong| wrong.word(name))?;
                return Ok(CopyFrom::Image(image.0));
            }
        };
        let shown = printable(name);
        if found == index {
            let message = format!("circular dependency detected on stage: {shown}");
            return Err(Fault::new(message).word(name).into());
        }
        if found > index {
            let own = stages.get(index).and_then(|stage| stage.name.clone());
            let own = own.unwrap_or_else(|| format!("stage-{index}"));
            return Err(Fault::new(format!(
                "cannot {doing} stage \"{shown}\", it needs to be defined before current stage \"{own}\""
            ))
            .word(name)
            .into());
        }
        self.stage(found)?;
        Ok(CopyFrom::Stage(found))
    }

    /// Counts bytes of the plan.
    pub(super) fn spend(&mut self, bytes: u64) -> Result<(), DockerfileError> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.bytes > PLAN_BYTES {
            true => Err(DockerfileError::of_file(&format!(
                "the steps take more than {PLAN_BYTES} bytes: their environments are too large"
            ))),
            false => Ok(()),
        }
    }

    /// An image with more history could not be read again.
    fn check_history(&self) -> Result<(), DockerfileError> {
        let mut count = 0_usize;
        let mut at = self.planned.get(&self.target);
        while let Some(planned) = at {
            count = count.saturating_add(planned.stage.steps.len());
            at = match &planned.stage.base {
                Base::Stage(index) => self.planned.get(index),
                _ => {
                    count = count.saturating_add(planned.stage.config.history.len());
                    None
                }
            };
        }
        match count > HISTORY {
            true => Err(DockerfileError::of_file(&format!(
                "the image has {count} history records, above the limit of {HISTORY}"
            ))),
            false => Ok(()),
        }
    }

    fn unconsumed(&self) -> Option<Warning> {
        let names = self.options.build_args.keys();
        let left: Vec<String> = names
            .filter(|name| !self.consumed.contains(*name) && !is_predefined(name))
            .map(|name| printable(name))
            .collect();
        (!left.is_empty()).then(|| Warning {
            line: 0,
            text: format!(
                "One or more build-args [{}] were not consumed",
                left.join(" ")
            ),
        })
    }

    /// Proxies among the build arguments that are no ARG of the stage, in both of their cases.
    pub(super) fn proxies(&self, state: &State) -> Vec<String> {
        let mut proxies = Vec::new();
        for name in PROXIES {
            let lower = name.to_ascii_lowercase();
            let given = |name: &str| self.options.build_args.get(name).cloned().flatten();
            let Some(value) = given(&lower).or_else(|| given(name)) else {
                continue;
            };
            for name in [name, &lower] {
                if !state.variables.contains_key(name) {
                    proxies.push(format!("{name}={value}"));
                }
            }
        }
        proxies
    }

    /// Gives stages their places, and steps their numbers.
    fn finish(self, warnings: Vec<Warning>) -> Plan {
        let places: BTreeMap<usize, usize> = self.planned.keys().copied().zip(0..).collect();
        let place = |index: &mut usize| *index = places.get(index).copied().unwrap_or(0);
        let mut number = 0;
        let mut next = || {
            number += 1;
            number
        };
        let global_args = self
            .file
            .global_args
            .iter()
            .map(|(line, _)| (next(), line.text.trim().to_owned()))
            .collect();
        let mut stages = Vec::new();
        for mut planned in self.planned.into_values().map(|planned| planned.stage) {
            planned.number = next();
            let mut needs = BTreeSet::new();
            if let Base::Stage(index) = &mut planned.base {
                place(index);
                needs.insert(*index);
            }
            for step in &mut planned.steps {
                for from in copies(&mut step.action) {
                    if let CopyFrom::Stage(index) = from {
                        place(index);
                        needs.insert(*index);
                    }
                }
                if let Some(number) = &mut step.number {
                    *number = next();
                }
            }
            planned.needs = needs.into_iter().collect();
            stages.push(planned);
        }
        let mut target = self.target;
        place(&mut target);
        Plan {
            stages,
            target,
            global_args,
            step_count: number,
            warnings,
        }
    }
}

/// Where an action takes files from.
fn copies(action: &mut Action) -> Vec<&mut CopyFrom> {
    match action {
        Action::None | Action::MakeDirectory(_) => Vec::new(),
        Action::Copy(copy) => vec![&mut copy.from],
        Action::Run(run) => {
            let mounts = run.mounts.iter_mut();
            mounts
                .filter_map(|mount| match &mut mount.kind {
                    MountKind::Bind { from, .. } => Some(from),
                    MountKind::Cache { from, .. } => from.as_mut(),
                    MountKind::Tmpfs { .. } | MountKind::Secret { .. } => None,
                })
                .collect()
        }
    }
}

/// What a base image's ONBUILD says.
fn read_trigger(trigger: &str, stage: &Stage) -> Result<(Line, Instruction), Fault> {
    let wrong = |message: &str| {
        let shown = printable(trigger);
        Fault::new(format!("the base image's ONBUILD {shown}: {message}")).word(&stage.base)
    };
    let read = lines::read(trigger.as_bytes()).map_err(|error| wrong(error.message()))?;
    let [line] = read.lines.as_slice() else {
        return Err(wrong("onbuild trigger should be a single expression"));
    };
    let line = stage.line.instead(line.text.clone(), line.heredocs.clone());
    let instruction = instruction::instruction(&line, read.directives.escape)
        .map_err(|fault| wrong(fault.message()))?;
    match instruction {
        Instruction::OnBuild(_) | Instruction::Maintainer(_) => {
            Err(wrong("it isn't allowed as an ONBUILD trigger"))
        }
        instruction => Ok((line, instruction)),
    }
}

/// The config of what is built on nothing.
fn empty(platform: Platform) -> ImageConfig {
    ImageConfig {
        platform,
        created: None,
        author: String::new(),
        comment: String::new(),
        docker_version: String::new(),
        user: String::new(),
        env: vec![PATH.to_owned()],
        entrypoint: None,
        cmd: None,
        working_dir: "/".to_owned(),
        volumes: Vec::new(),
        exposed_ports: Vec::new(),
        labels: BTreeMap::new(),
        stop_signal: String::new(),
        healthcheck: None,
        shell: None,
        on_build: Vec::new(),
        diff_ids: Vec::new(),
        history: Vec::new(),
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
