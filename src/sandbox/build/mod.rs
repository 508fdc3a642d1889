//! Building an image: the stages of a plan, each in a builder VM of its own, as many at once as the host
//! has CPUs for, four at most.
//!
//! Called by `cli/build` with a plan that is checked and final. The host sees archives go by and never
//! looks into one: what a step copies out of another stage passes through as it is, and a layer is
//! hashed and stored. What it packs itself is the user's own build context.
//!
//! ```text
//! plan ─► stages whose needs are met ─► steps: key known? take its layer
//!                                              else: files in, process, layer out ─► store, cache
//! ```

mod builder;
mod stage;
mod step;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};
use images::context::Context as BuildContext;
use images::dockerfile::Plan;
use images::registry::Download;
use images::store::Lease;
use images::{Digest, Image, ImageConfig, Layer, Store};

use super::launch::Launch;
use super::paths::{GuestFiles, Root};
use super::room::Claim;
use builder::Machine;
use stage::Stage;

pub use builder::GivenUp;
pub use step::StepFailed;

/// Stages at once: each is a VM.
const STAGES_MAX: usize = 4;

/// Fetches a file of the web for `ADD`.
pub type Fetch<'a> = &'a (dyn Fn(&str) -> Result<Download> + Sync);

/// Looks for room for one more builder VM, and has it counted where VMs are.
pub type Admit<'a> = &'a (dyn Fn() -> Result<Option<Claim>> + Sync);

/// What to build.
pub struct Build<'a> {
    /// The state root.
    pub root: &'a Root,
    /// Kernel and agent.
    pub guest: &'a GuestFiles,
    /// Where layers come from and go to.
    pub store: &'a Store,
    /// Held since before the base images were found.
    pub lease: &'a Lease,
    /// The stages and their steps.
    pub plan: &'a Plan,
    /// Every image that the plan names, by the digest of its manifest.
    pub images: &'a HashMap<Digest, Image>,
    /// The user's files.
    pub context: &'a BuildContext,
    /// The size of a builder VM, and what every process in it has.
    pub launch: &'a Launch,
    /// `--secret`.
    pub secrets: &'a BTreeMap<String, Vec<u8>>,
    /// What else a process sees of the flags: what it has in /etc/hosts, whether it has a network.
    pub environment: &'a str,
    /// Whether steps are run that the cache knows.
    pub no_cache: bool,
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: Option<i64>,
    /// Asked before each VM.
    pub admit: Admit<'a>,
    /// For `ADD` of an address.
    pub fetch: Fetch<'a>,
    /// Takes what happens, from several threads.
    pub tell: &'a (dyn Fn(Told<'_>) + Sync),
}

/// A step: the number of its stage in the plan, and its own in the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId {
    /// Of [`Plan::stages`].
    pub stage: usize,
    /// Of its steps.
    pub step: usize,
}

/// What happens in a build.
#[derive(Debug)]
pub enum Told<'a> {
    /// A stage's base is there.
    Stage(usize),
    /// A layer of a stage's base is unpacked: its number, how many there are, and bytes.
    Unpacking(usize, usize, usize, u64, u64),
    /// A step begins.
    Begun(StepId),
    /// Its result was known.
    Cached(StepId),
    /// Its process printed something.
    Output(StepId, &'a [u8]),
    /// It is done.
    Done(StepId),
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// From the base up.
    pub layers: Vec<Layer>,
    /// Its config, with the history of every step; the list of layers is not filled in.
    pub config: ImageConfig,
}

/// Why nothing was built.
#[derive(Debug)]
pub struct BuildError {
    /// The first thing that went wrong: [`StepFailed`], what the agent refused, or what the host says.
    pub error: anyhow::Error,
    /// In which step.
    pub step: Option<StepId>,
}

impl From<anyhow::Error> for BuildError {
    fn from(error: anyhow::Error) -> Self {
        Self { error, step: None }
    }
}

/// How far a stage is.
enum Progress {
    Waiting,
    Underway,
    Done,
}

/// What the threads of a build share.
struct Shared<'a> {
    build: &'a Build<'a>,
    machine: Machine<'a>,
    stages: Vec<Arc<Mutex<Stage<'a>>>>,
    /// Images that are only copied from, by the digest of their manifest.
    lent: Mutex<HashMap<Digest, Arc<Mutex<Stage<'a>>>>>,
    progress: Mutex<Vec<Progress>>,
    changed: Condvar,
    mounts: PathBuf,
}

/// Runs the plan; the image that it makes is the caller's to compose.
///
/// # Errors
/// The first that a step made.
pub fn build(build: &Build<'_>) -> Result<Built, BuildError> {
    let given_up = AtomicBool::new(false);
    let shared = Shared {
        build,
        machine: Machine {
            root: build.root,
            guest: build.guest,
            launch: build.launch,
            admit: build.admit,
            given_up: &given_up,
        },
        stages: build
            .plan
            .stages
            .iter()
            .map(|_| Arc::new(Mutex::new(Stage::new())))
            .collect(),
        lent: Mutex::new(HashMap::new()),
        progress: Mutex::new(
            build
                .plan
                .stages
                .iter()
                .map(|_| Progress::Waiting)
                .collect(),
        ),
        changed: Condvar::new(),
        mounts: build.root.build_mounts(),
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(STAGES_MAX).min(build.plan.stages.len());
    let failure = thread::scope(|scope| {
        let work = || {
            // A thread that panics gives the build up as well.
            let alarm = Alarm(&shared);
            let worked = shared.work();
            if worked.is_ok() {
                std::mem::forget(alarm);
            }
            worked
        };
        // Fewer at once where the host has no further thread.
        let others: Vec<_> = (1..threads)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut results = vec![work()];
        for other in others {
            results.push(
                other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
        }
        let failures = results.into_iter().filter_map(Result::err);
        failures.reduce(|first, other| match first.error.is::<GivenUp>() {
            true => other,
            false => first,
        })
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    let Some(target) = shared.stages.get(build.plan.target) else {
        return Err(anyhow!("the plan has no target").into());
    };
    let target = lock(target);
    Ok(Built {
        layers: target.layers.clone(),
        config: target.config(build.plan, build.plan.target)?,
    })
}

/// Gives the build up when it is dropped, and wakes whoever waits for a stage.
struct Alarm<'s, 'a>(&'s Shared<'a>);

impl Drop for Alarm<'_, '_> {
    fn drop(&mut self) {
        // Under the lock, so that nobody looks before and waits after.
        let _progress = lock(&self.0.progress);
        self.0.machine.given_up.store(true, Ordering::Relaxed);
        self.0.changed.notify_all();
    }
}

impl<'a> Shared<'a> {
    /// Takes stages until there are none left.
    fn work(&self) -> Result<(), BuildError> {
        while let Some(index) = self.next() {
            self.run_stage(index)?;
            for idle in self.note_done(index) {
                lock(idle).builder = None;
            }
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Notes that a stage is done; those whose files nobody will take any more.
    fn note_done(&self, index: usize) -> Vec<&Mutex<Stage<'a>>> {
        let mut progress = lock(&self.progress);
        if let Some(stage) = progress.get_mut(index) {
            *stage = Progress::Done;
        }
        let stages = &self.build.plan.stages;
        let needs = stages.get(index).map_or(&[][..], |stage| &stage.needs);
        let is_idle = |need: &&usize| {
            let mut wanters = (0..)
                .zip(stages)
                .filter(|(_, other)| other.needs.contains(need));
            wanters.all(|(other, _)| matches!(progress.get(other), Some(Progress::Done)))
        };
        let idle = needs.iter().filter(is_idle);
        idle.filter_map(|need| Some(&**self.stages.get(*need)?))
            .collect()
    }

    /// The next stage whose needs are met, waiting for it; `None` when all are done or the build is given
    /// up. Not before: a VM dies with the thread that started it (`PR_SET_PDEATHSIG`), and may be another
    /// stage's to take files of.
    fn next(&self) -> Option<usize> {
        let mut progress = lock(&self.progress);
        loop {
            let is_done = |stage: &usize| matches!(progress.get(*stage), Some(Progress::Done));
            let is_over = progress.iter().all(|stage| matches!(stage, Progress::Done));
            if is_over || self.machine.given_up.load(Ordering::Relaxed) {
                return None;
            }
            let ready = (0..).zip(&self.build.plan.stages).find(|(index, stage)| {
                matches!(progress.get(*index), Some(Progress::Waiting))
                    && stage.needs.iter().all(is_done)
            });
            if let Some((index, _)) = ready {
                if let Some(stage) = progress.get_mut(index) {
                    *stage = Progress::Underway;
                }
                return Some(index);
            }
            progress = self
                .changed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What a lock guards is whole even when a thread died with it: a build that panics is over.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
