//! What a build shows while it runs, on standard error: lines at a pipe, a line per running step at a
//! terminal.
//!
//! What steps print is a stranger's: control characters do nothing.

use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use images::dockerfile::{Action, Plan, PlannedStage};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::{harmless, note};
use crate::sandbox::build::{StepId, Told};

/// Bytes of a line that a step prints without an end, before it is shown all the same.
const LINE_MAX: usize = 16 << 10;

/// Last lines of a step that failed, as they are told at a terminal.
const TAIL_LINES: usize = 20;

/// Characters of an instruction that are shown.
const TEXT_MAX: usize = 200;

/// Time between two turns of the wheel at a terminal.
const TICK: Duration = Duration::from_millis(120);

/// Says how progress is shown when no flag does.
pub const PROGRESS_VARIABLE: &str = "BUILDKIT_PROGRESS";

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Lines.
    Plain,
    /// Lines that change in place.
    Terminal,
    /// Not at all.
    Quiet,
}

impl Mode {
    /// What `--progress` says; without it `BUILDKIT_PROGRESS`.
    ///
    /// # Errors
    /// A word that is none.
    pub fn parse(word: Option<&str>, quiet: bool) -> Result<Self> {
        let variable = std::env::var(PROGRESS_VARIABLE).unwrap_or_default();
        let word = match word {
            None | Some("") => variable.as_str(),
            Some(word) => word,
        };
        match word {
            _ if quiet => Ok(Self::Quiet),
            "" | "auto" if std::io::stderr().is_terminal() => Ok(Self::Terminal),
            "" | "auto" | "plain" => Ok(Self::Plain),
            "tty" => Ok(Self::Terminal),
            "quiet" => Ok(Self::Quiet),
            "rawjson" => bail!("--progress=rawjson is not supported: use plain"),
            word => bail!("invalid progress mode {word}: it is auto, plain, tty or quiet"),
        }
    }
}

/// The display of a build.
pub struct Progress<'a> {
    mode: Mode,
    plan: &'a Plan,
    bars: MultiProgress,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    next: usize,
    running: BTreeMap<StepId, Running>,
}

/// A step that is running.
struct Running {
    /// In front of its lines.
    number: usize,
    began: Instant,
    is_cached: bool,
    /// A line that has no end yet.
    rest: Vec<u8>,
    tail: VecDeque<String>,
    bar: Option<ProgressBar>,
}

impl<'a> Progress<'a> {
    /// A display that shows nothing yet.
    #[must_use]
    pub fn new(mode: Mode, plan: &'a Plan) -> Self {
        Self {
            mode,
            plan,
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            lines: Mutex::default(),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what happens.
    pub fn show(&self, told: Told<'_>) {
        if self.mode == Mode::Quiet {
            return;
        }
        match told {
            Told::Stage(index) => self.stage(index),
            Told::Unpacking(stage, layer, count, done, all) => {
                self.unpacking(stage, layer, count, done, all);
            }
            Told::Begun(id) => self.begun(id),
            Told::Cached(id) => {
                if let Some(running) = self.lines().running.get_mut(&id) {
                    running.is_cached = true;
                }
            }
            Told::Output(id, bytes) => self.output(id, bytes),
            Told::Done(id) => self.done(id),
        }
    }

    /// Shows a sentence of its own.
    pub fn say(&self, text: &str) {
        match self.mode {
            Mode::Quiet => {}
            Mode::Plain => {
                let mut lines = self.lines();
                lines.next += 1;
                note(&format!("#{} {text}", lines.next));
            }
            Mode::Terminal => self.above(&format!(" => {text}")),
        }
    }

    /// A line above those that change.
    fn above(&self, text: &str) {
        self.bars.suspend(|| note(text));
    }

    fn stage(&self, index: usize) {
        if let Some(stage) = self.plan.stages.get(index) {
            let label = label(self.plan, index, 1);
            self.say(&format!("{label} {}", one_line(&stage.text)));
        }
    }

    fn unpacking(&self, stage: usize, layer: usize, count: usize, done: u64, all: u64) {
        if done >= all && self.mode == Mode::Terminal {
            let label = label(self.plan, stage, 1);
            self.above(&format!(
                " => {label} layer {} of {count} unpacked",
                layer + 1
            ));
        }
    }

    fn begun(&self, id: StepId) {
        let Some(position) = position(self.plan, id) else {
            return;
        };
        let title = self.title(id, position);
        let mut lines = self.lines();
        lines.next += 1;
        let number = lines.next;
        let bar = match self.mode {
            Mode::Terminal => {
                let bar = self.bars.add(ProgressBar::new_spinner());
                if let Ok(style) =
                    ProgressStyle::with_template(" => {prefix} {elapsed}  {wide_msg}")
                {
                    bar.set_style(style);
                }
                bar.set_prefix(title);
                turn(&bar);
                Some(bar)
            }
            _ => {
                note(&format!("#{number} {title}"));
                None
            }
        };
        lines.running.insert(
            id,
            Running {
                number,
                began: Instant::now(),
                is_cached: false,
                rest: Vec::new(),
                tail: VecDeque::new(),
                bar,
            },
        );
    }

    fn title(&self, id: StepId, position: usize) -> String {
        let stage = self.plan.stages.get(id.stage);
        let text = stage.and_then(|stage| stage.steps.get(id.step));
        let text = text.map_or("", |step| &step.text);
        let label = label(self.plan, id.stage, position);
        harmless(&format!("{label} {}", one_line(text)))
    }

    fn output(&self, id: StepId, bytes: &[u8]) {
        let mut lines = self.lines();
        let Some(running) = lines.running.get_mut(&id) else {
            return;
        };
        running.rest.extend_from_slice(bytes);
        while let Some(end) = running.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = running.rest.drain(..=end).collect();
            self.line(running, &line);
        }
        if running.rest.len() > LINE_MAX {
            let line = std::mem::take(&mut running.rest);
            self.line(running, &line);
        }
    }

    /// A line that a step printed. What a carriage return would overwrite is not shown.
    fn line(&self, running: &mut Running, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\n', '\r']);
        let text = harmless(text.rsplit('\r').next().unwrap_or_default());
        match &running.bar {
            Some(bar) => {
                bar.set_message(text.clone());
                running.tail.push_back(text);
                if running.tail.len() > TAIL_LINES {
                    running.tail.pop_front();
                }
            }
            None => {
                let seconds = running.began.elapsed().as_secs_f64();
                note(&format!("#{} {seconds:.3} {text}", running.number));
            }
        }
    }

    fn done(&self, id: StepId) {
        let running = self.lines().running.remove(&id);
        let Some(mut running) = running else {
            return;
        };
        let rest = std::mem::take(&mut running.rest);
        if !rest.is_empty() {
            self.line(&mut running, &rest);
        }
        let seconds = running.began.elapsed().as_secs_f64();
        let end = match running.is_cached {
            true => "CACHED".to_owned(),
            false => format!("DONE {seconds:.1}s"),
        };
        match running.bar {
            Some(bar) => {
                let title = bar.prefix();
                bar.finish_and_clear();
                let cached = if running.is_cached { "CACHED " } else { "" };
                self.above(&format!(" => {cached}{title} {seconds:.1}s"));
            }
            None => note(&format!("#{} {end}", running.number)),
        }
    }

    /// The build failed, in this step if it is known.
    pub fn failed(&self, id: Option<StepId>) {
        let mut lines = self.lines();
        for (other, running) in std::mem::take(&mut lines.running) {
            let is_it = id == Some(other);
            match &running.bar {
                Some(bar) => {
                    let title = bar.prefix();
                    bar.finish_and_clear();
                    if is_it {
                        note(&format!("------\n > {title}:"));
                        for line in &running.tail {
                            note(line);
                        }
                        note(&String::from_utf8_lossy(&running.rest));
                        note("------");
                    }
                }
                None if self.mode == Mode::Plain => {
                    if !running.rest.is_empty() {
                        let text = harmless(&String::from_utf8_lossy(&running.rest));
                        let seconds = running.began.elapsed().as_secs_f64();
                        note(&format!("#{} {seconds:.3} {text}", running.number));
                    }
                    let end = if is_it { "ERROR" } else { "CANCELED" };
                    note(&format!("#{} {end}", running.number));
                }
                None => {}
            }
        }
    }
}

/// Turns the wheel of a step until it ends, in a thread of its own; where there is none to be had, the
/// line changes with what the step prints alone.
fn turn(bar: &ProgressBar) {
    let bar = bar.clone();
    // Not the library's: it panics without a thread.
    let thread = thread::Builder::new().name("progress".to_owned());
    let _ = thread.spawn(move || {
        while !bar.is_finished() {
            bar.tick();
            thread::sleep(TICK);
        }
    });
}

/// What stands in front of a step: `[2/4]`, `[builder 2/4]`.
fn label(plan: &Plan, index: usize, position: usize) -> String {
    let Some(stage) = plan.stages.get(index) else {
        return String::new();
    };
    let count = 1 + stage
        .steps
        .iter()
        .filter(|step| step.action != Action::None)
        .count();
    match name(plan, stage) {
        Some(name) => format!("[{name} {position}/{count}]"),
        None => format!("[{position}/{count}]"),
    }
}

fn name(plan: &Plan, stage: &PlannedStage) -> Option<String> {
    match &stage.name {
        Some(name) => Some(name.clone()),
        None if plan.stages.len() > 1 => Some(format!("stage-{}", stage.index)),
        None => None,
    }
}

/// The place of a step among those that change files, the base being the first.
fn position(plan: &Plan, id: StepId) -> Option<usize> {
    let stage = plan.stages.get(id.stage)?;
    let step = stage.steps.get(id.step)?;
    if step.action == Action::None {
        return None;
    }
    let before = stage.steps.iter().take(id.step);
    let before = before.filter(|step| step.action != Action::None).count();
    Some(before + 2)
}

/// An instruction in one line of a bearable length.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}
