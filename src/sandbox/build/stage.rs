//! One stage: its layers so far, its builder VM when there is one, and the order of its steps.
//!
//! Called by [`super`]. A stage all of whose steps the cache knows has no VM, unless another one takes
//! files of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use images::build::CachedStep;
use images::config::History;
use images::dockerfile::{
    Action, Base, CacheSharing, CopyFrom, MountKind, Plan, PlannedStage, Step,
};
use images::timestamp::Timestamp;
use images::{Digest, Image, ImageConfig, Layer, LayerKey};
use nix::fcntl::{Flock, FlockArg};

use super::super::clock::{now, rfc3339};
use super::super::disks;
use super::super::files::Share;
use super::builder::Builder;
use super::{BuildError, Shared, StepId, Told, lock};

/// What a stage has come to.
#[derive(Debug)]
pub struct Stage<'a> {
    /// From the base up.
    pub layers: Vec<Layer>,
    history: Vec<History>,
    /// Its VM. Its files are those of [`Self::layers`].
    pub builder: Option<Builder<'a>>,
    /// Cache mounts of its steps, in the order of the VM's shares.
    pub caches: Vec<CacheMount>,
}

/// A folder that builds share.
#[derive(Debug)]
pub struct CacheMount {
    /// Its name.
    pub id: String,
    /// Held as long as the VM lives.
    _lock: Flock<File>,
}

impl<'a> Stage<'a> {
    /// One that has not begun.
    pub fn new() -> Self {
        Self {
            layers: Vec::new(),
            history: Vec::new(),
            builder: None,
            caches: Vec::new(),
        }
    }

    /// The config behind its last step.
    ///
    /// # Errors
    /// When the plan has no such stage.
    pub fn config(&self, plan: &Plan, index: usize) -> Result<ImageConfig> {
        let planned = plan
            .stages
            .get(index)
            .context("the plan has no such stage")?;
        let last = planned
            .steps
            .last()
            .map_or(&planned.config, |step| &step.config);
        Ok(ImageConfig {
            history: self.history.clone(),
            created: self.created().or_else(|| last.created.clone()),
            ..ImageConfig::clone(last)
        })
    }

    /// When the last step was made.
    fn created(&self) -> Option<Timestamp> {
        self.history.last().and_then(|step| step.created.clone())
    }

    /// What is below the next step, for the key of a cache.
    pub fn chain(&self) -> Vec<u8> {
        let ids = self.layers.iter().map(|layer| layer.diff_id.to_string());
        ids.collect::<Vec<_>>().join("\n").into_bytes()
    }

    fn keys(&self) -> Vec<LayerKey> {
        self.layers.iter().map(Layer::key).collect()
    }
}

impl<'a> Shared<'a> {
    /// Runs the steps of a stage.
    ///
    /// # Errors
    /// The first that a step made.
    pub(super) fn run_stage(&self, index: usize) -> Result<(), BuildError> {
        let plan = self.build.plan;
        let planned = plan
            .stages
            .get(index)
            .context("the plan has no such stage")?;
        let (layers, history) = self.base(planned)?;
        let stage = self.stages.get(index).context("there is no such stage")?;
        let mut stage = lock(stage);
        stage.layers = layers;
        stage.history = history;
        stage.builder = self.inherited(planned);
        (self.build.tell)(Told::Stage(index));
        for (number, step) in planned.steps.iter().enumerate() {
            let id = StepId {
                stage: index,
                step: number,
            };
            if self
                .machine
                .given_up
                .load(std::sync::atomic::Ordering::Relaxed)
            {
                return Err(anyhow::Error::from(super::GivenUp).into());
            }
            self.run_step(&mut stage, planned, step, id)
                .map_err(|error| BuildError {
                    error,
                    step: Some(id),
                })?;
        }
        let is_wanted = plan.stages.iter().any(|other| other.needs.contains(&index));
        if !is_wanted {
            stage.builder = None;
        }
        stage.caches.clear();
        Ok(())
    }

    /// The VM of the stage that this one begins with, if nobody else wants anything of it. The shares of
    /// a VM are those that it has begun with, so that it does not do for other cache mounts.
    fn inherited(&self, planned: &PlannedStage) -> Option<Builder<'a>> {
        let Base::Stage(base) = planned.base else {
            return None;
        };
        let stages = &self.build.plan.stages;
        let wanted = stages.iter().filter(|stage| stage.needs.contains(&base));
        let has_caches = !cache_mounts(planned).is_empty();
        if wanted.count() != 1 || has_caches || base == self.build.plan.target {
            return None;
        }
        lock(self.stages.get(base)?).builder.take()
    }

    /// Layers and history that a stage begins with.
    fn base(&self, planned: &PlannedStage) -> Result<(Vec<Layer>, Vec<History>)> {
        Ok(match &planned.base {
            Base::Scratch => (Vec::new(), Vec::new()),
            Base::Image(source) => {
                let image = self.build.images.get(&source.id);
                let image = image.context("the base image is gone")?;
                (image.layers.clone(), history_of(image))
            }
            Base::Stage(index) => {
                let stage = self.stages.get(*index).context("there is no such stage")?;
                let stage = lock(stage);
                (stage.layers.clone(), stage.history.clone())
            }
        })
    }

    fn run_step(
        &self,
        stage: &mut Stage<'a>,
        planned: &PlannedStage,
        step: &Step,
        id: StepId,
    ) -> Result<()> {
        let tell = self.build.tell;
        tell(Told::Begun(id));
        let mut history = step.history(None);
        // What changes no files is as old as the files, so that a build that makes nothing new makes
        // the same image.
        history.created = stage.created();
        if step.action == Action::None {
            stage.history.push(history);
            tell(Told::Done(id));
            return Ok(());
        }
        let inputs = self.inputs(step)?;
        history = step.history(inputs.text.as_deref());
        let key = self.key(stage, step, &inputs)?;
        let store = self.build.store;
        let known = match self.build.no_cache {
            true => None,
            false => store.cached_step(&key)?,
        };
        let made = match known {
            Some(known) => {
                // A VM that has come as far does not have this layer.
                stage.builder = None;
                tell(Told::Cached(id));
                known
            }
            None => {
                self.ensure_builder(stage, planned, id.stage)?;
                self.act(stage, step, id, &inputs)?;
                let builder = stage.builder.as_mut().context("the builder is gone")?;
                let layer = builder.take_layer(store, self.build.lease, self.build.epoch)?;
                let made = CachedStep {
                    layer,
                    text: step.text.clone(),
                    created: self.now(),
                };
                store.cache_step(&key, &made)?;
                made
            }
        };
        history.created = Timestamp::parse(&made.created);
        history.empty_layer = made.layer.is_none();
        stage.layers.extend(made.layer);
        stage.history.push(history);
        tell(Told::Done(id));
        Ok(())
    }

    /// When what is made now was made.
    fn now(&self) -> String {
        match self.build.epoch {
            Some(epoch) => rfc3339(epoch),
            None => now(),
        }
    }

    /// Starts the stage's VM if it has none.
    fn ensure_builder(
        &self,
        stage: &mut Stage<'a>,
        planned: &PlannedStage,
        index: usize,
    ) -> Result<()> {
        if stage.builder.is_some() {
            return Ok(());
        }
        self.prepare(&stage.layers, index)?;
        stage.caches = self.lock_caches(planned)?;
        let shares = stage.caches.iter().map(|cache| Share {
            source: self.mounts.join(folder_name(&cache.id)),
            read_only: false,
        });
        let keys = stage.keys();
        stage.builder = Some(Builder::start(
            &self.machine,
            &keys,
            shares.collect(),
            true,
        )?);
        Ok(())
    }

    /// Makes the disks of layers.
    fn prepare(&self, layers: &[Layer], index: usize) -> Result<()> {
        let build = self.build;
        let tell = |number, count, done, all| {
            (build.tell)(Told::Unpacking(index, number, count, done, all));
        };
        disks::prepare_layers(build.root, build.guest, build.store, layers, &tell)
    }

    /// The folders of all cache mounts of a stage, which its VM has from the start.
    fn lock_caches(&self, planned: &PlannedStage) -> Result<Vec<CacheMount>> {
        let mut caches: Vec<CacheMount> = Vec::new();
        for (id, sharing) in cache_mounts(planned) {
            caches.push(self.lock_cache(id, sharing)?);
        }
        Ok(caches)
    }

    fn lock_cache(&self, id: &str, sharing: CacheSharing) -> Result<CacheMount> {
        use std::os::unix::fs::DirBuilderExt;
        let mut number = 0_u32;
        loop {
            // A private one of several at once has a number of its own.
            let name = match number {
                0 => id.to_owned(),
                number => format!("{id}\0{number}"),
            };
            let folder = self.mounts.join(folder_name(&name));
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .with_context(|| format!("make the folder of cache mount {id:?}"))?;
            let file = File::open(&folder).with_context(|| format!("open cache mount {id:?}"))?;
            let how = match sharing {
                CacheSharing::Shared => FlockArg::LockShared,
                CacheSharing::Locked => FlockArg::LockExclusive,
                CacheSharing::Private => FlockArg::LockExclusiveNonblock,
            };
            match Flock::lock(file, how) {
                Ok(lock) => {
                    return Ok(CacheMount {
                        id: name,
                        _lock: lock,
                    });
                }
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => number += 1,
                Err((_, error)) => {
                    return Err(error).with_context(|| format!("lock cache mount {id:?}"));
                }
            }
        }
    }

    /// A stage or an image that files are taken of.
    pub(super) fn source(&self, from: &CopyFrom) -> Result<Option<Arc<Mutex<Stage<'a>>>>> {
        match from {
            CopyFrom::Context => Ok(None),
            CopyFrom::Stage(index) => {
                let stage = self.stages.get(*index).context("there is no such stage")?;
                Ok(Some(Arc::clone(stage)))
            }
            CopyFrom::Image(source) => {
                let mut lent = lock(&self.lent);
                if let Some(stage) = lent.get(&source.id) {
                    return Ok(Some(Arc::clone(stage)));
                }
                let image = self.build.images.get(&source.id);
                let mut stage = Stage::new();
                stage.layers = image.context("the image is gone")?.layers.clone();
                let stage = Arc::new(Mutex::new(stage));
                lent.insert(source.id, Arc::clone(&stage));
                Ok(Some(stage))
            }
        }
    }

    /// The VM of a stage or image that files are taken of, started if it has none.
    pub(super) fn lender<'s>(
        &self,
        stage: &'s mut Stage<'a>,
        index: usize,
    ) -> Result<&'s mut Builder<'a>> {
        if stage.builder.is_none() {
            self.prepare(&stage.layers, index)?;
            let keys = stage.keys();
            stage.builder = Some(Builder::start(&self.machine, &keys, Vec::new(), false)?);
        }
        stage.builder.as_mut().context("the builder is gone")
    }
}

/// Names of the cache mounts of a stage, in one order for all, so that two builds don't wait for each
/// other.
fn cache_mounts(planned: &PlannedStage) -> BTreeMap<&str, CacheSharing> {
    let mut caches = BTreeMap::new();
    for step in &planned.steps {
        let Action::Run(run) = &step.action else {
            continue;
        };
        for mount in &run.mounts {
            if let MountKind::Cache { id, sharing, .. } = &mount.kind {
                caches.entry(id.as_str()).or_insert(*sharing);
            }
        }
    }
    caches
}

/// An image's history, with a record for each layer: some tools write none.
fn history_of(image: &Image) -> Vec<History> {
    let mut history = image.config.history.clone();
    let known = history.iter().filter(|step| !step.empty_layer).count();
    let missing = image.layers.len().saturating_sub(known);
    history.extend((0..missing).map(|_| History {
        created: image.config.created.clone(),
        author: String::new(),
        created_by: String::new(),
        comment: String::new(),
        empty_layer: false,
    }));
    if let Some(last) = history.last_mut()
        && last.created.is_none()
    {
        last.created.clone_from(&image.config.created);
    }
    history
}

/// The name of a cache mount's folder: whatever a Dockerfile calls it.
fn folder_name(id: &str) -> String {
    Digest::of(id.as_bytes()).hex()
}
