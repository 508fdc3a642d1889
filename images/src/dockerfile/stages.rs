//! Which stages a build needs, what they are based on, and in which order they come.
//!
//! The way from a file to a plan: stages are planned from the target down to what it needs, each
//! once, `steps` does what is in them, and at the end they get their places.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::arguments::predefined;
use super::error::{DockerfileError, Fault, PlanError, Warning};
use super::expand::Variables;
use super::instruction::{self, File, Instruction, Stage};
use super::lines::{self, Line};
use super::mount::MountLine;
use super::plan::{
    Action, Base, BaseImage, BaseRequest, CopyFrom, ImageSource, MountKind, Plan, PlanOptions,
    PlannedStage, Step,
};
use super::state::{PATH, State, config_bytes, empty, variables_bytes};
use crate::config::ImageConfig;
use crate::escape::{printable, quoted};
use crate::limits::{EXPANSION_WORK, HISTORY, INSTRUCTIONS, PLAN_BYTES};
use crate::platform::Platform;
use crate::reference::Reference;

/// Stages that are planned for what base images' ONBUILD says, for that of others, and so on.
const TRIGGER_DEPTH: usize = 16;

/// The caller's answer to who wants an image.
type Bases<'a, E> = &'a mut dyn FnMut(&BaseRequest) -> Result<BaseImage, E>;

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
    /// See [`TRIGGER_DEPTH`].
    depth: usize,
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
    let mut planner = Planner::new(file, options, target, bases);
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

impl<'a, E: std::error::Error + 'static> Planner<'a, E> {
    pub(super) fn new(
        file: &'a File,
        options: &'a PlanOptions,
        target: usize,
        bases: Bases<'a, E>,
    ) -> Self {
        let last = file.stages.last().and_then(|stage| stage.name.as_deref());
        Self {
            file,
            options,
            bases,
            globals: predefined(options, last),
            work: Cell::new(EXPANSION_WORK),
            bytes: 0,
            consumed: BTreeSet::new(),
            images: BTreeMap::new(),
            from: Vec::new(),
            planned: BTreeMap::new(),
            target,
            depth: 0,
        }
    }
}

impl<E: std::error::Error + 'static> Planner<'_, E> {
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

    /// Plans a stage and what it needs, unless it is already. What its triggers need is found on the way.
    fn stage(&mut self, index: usize) -> Result<(), PlanError<E>> {
        if self.depth == TRIGGER_DEPTH {
            let message =
                format!("triggers of base images lead to others more than {TRIGGER_DEPTH} deep");
            return Err(DockerfileError::of_file(&message).into());
        }
        self.depth += 1;
        let mut open = vec![(index, self.needs(index).into_iter())];
        while let Some((top, needs)) = open.last_mut() {
            let top = *top;
            match needs.find(|needed| !self.planned.contains_key(needed)) {
                Some(needed) => open.push((needed, self.needs(needed).into_iter())),
                None => {
                    if !self.planned.contains_key(&top) {
                        self.one_stage(top)?;
                    }
                    open.pop();
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Stages before this one that its own instructions name, whatever is wrong with the others.
    fn needs(&self, index: usize) -> BTreeSet<usize> {
        let mut needs = BTreeSet::new();
        if let Some((base, _)) = self.from.get(index) {
            needs.extend(self.named_before(index, base));
        }
        let instructions = self.file.stages.get(index).map(|stage| &stage.instructions);
        for (_, instruction) in instructions.into_iter().flatten() {
            let names: Vec<&str> = match instruction {
                Instruction::Copy(copy) => copy.from.as_deref().into_iter().collect(),
                Instruction::Run(run) => run.mounts.iter().filter_map(MountLine::from).collect(),
                _ => Vec::new(),
            };
            for name in names {
                let number = || name.parse().ok().filter(|number| *number < index);
                needs.extend(
                    self.named_before(index, &name.to_lowercase())
                        .or_else(number),
                );
            }
        }
        needs
    }

    /// The last stage before this one that has a name.
    fn named_before(&self, index: usize, name: &str) -> Option<usize> {
        let before = self.file.stages.get(..index).unwrap_or_default();
        before
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(name))
    }

    /// Plans a stage.
    fn one_stage(&mut self, index: usize) -> Result<(), PlanError<E>> {
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
            base,
            platform: state.platform.clone(),
            config: Arc::clone(&state.config),
            steps: Vec::new(),
            needs: Vec::new(),
        };
        self.spend(config_bytes(&state.config))?;
        self.spend(variables_bytes(&state.variables))?;
        if triggers.len().saturating_add(stage.instructions.len()) > INSTRUCTIONS {
            let message = format!("a stage has more than {INSTRUCTIONS} instructions");
            return Err(Fault::new(message).at(&stage.line, &file.source).into());
        }
        for trigger in &triggers {
            // Wrong as it may be, it is shown as what the FROM brings.
            let (line, instruction) = read_trigger(trigger, stage)
                .map_err(|fault| fault.at(&stage.line, &file.source))?;
            planned
                .steps
                .push(self.step(index, &mut state, &line, &instruction)?);
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
        if let Some(from) = self.named_before(index, base) {
            self.stage(from)?;
            if let Some(planned) = self.planned.get(&from) {
                let mut state = State {
                    has_cmd: false,
                    ..planned.state.clone()
                };
                state.take_environment();
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
        let config = ImageConfig {
            created: None,
            ..config
        };
        Ok((base, State::of(config, platform)))
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
                self.spend(config_bytes(&found.config))?;
                self.images.insert(key, found.clone());
                found
            }
        };
        let source = ImageSource {
            reference,
            manifest: found.manifest,
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
        let found = self
            .named_before(index, &lower)
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

    /// Gives stages their places.
    fn finish(self, warnings: Vec<Warning>) -> Plan {
        let places: BTreeMap<usize, usize> = self.planned.keys().copied().zip(0..).collect();
        let place = |index: &mut usize| *index = places.get(index).copied().unwrap_or(0);
        let mut stages = Vec::new();
        for mut planned in self.planned.into_values().map(|planned| planned.stage) {
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
            }
            planned.needs = needs.into_iter().collect();
            stages.push(planned);
        }
        let mut target = self.target;
        place(&mut target);
        Plan {
            stages,
            target,
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
                    _ => None,
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
