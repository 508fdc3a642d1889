//! One stage: its layers so far, its builder VM when there is one, and the order of its steps.
//!
//! Called by [`super`]. A stage all of whose steps the cache knows has no VM, unless another one takes
//! files of it.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, bail};
use images::build::CachedStep;
use images::config::History;
use images::dockerfile::{
    Action, Base, CacheSharing, CopyFrom, MountKind, Plan, PlannedStage, Step,
};
use images::limits::LAYERS;
use images::timestamp::Timestamp;
use images::{Digest, Image, ImageConfig, Layer, LayerKey};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::super::clock::{now, rfc3339};
use super::super::disks;
use super::super::files::Share;
use super::builder::{Builder, LOOK};
use super::step::key;
use super::{BuildError, GivenUp, STAGES_MAX, Shared, StepId, Told, lock};

/// What a stage has come to.
#[derive(Debug)]
pub struct Stage<'a> {
    /// From the base up.
    pub layers: Vec<Layer>,
    /// The key of the last step of which the layers don't tell all; those of the ones before are in it.
    untold: Option<Digest>,
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
            untold: None,
            history: Vec::new(),
            builder: None,
            caches: Vec::new(),
        }
    }

    /// Begins where another one ended.
    fn begin_with(&mut self, base: &Self) {
        self.layers.clone_from(&base.layers);
        self.untold = base.untold;
        self.history.clone_from(&base.history);
    }

    /// Takes what a step made.
    fn take(&mut self, action: &Action, key: Digest, layer: Option<Layer>) {
        // It was run for something all the same, and what comes after may see that: a file in a cache
        // mount, what the web says by now. It counts above later layers, too, which may come out the same.
        if layer.is_none() || writes_to_caches(action) {
            self.untold = Some(key);
        }
        self.layers.extend(layer);
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

    /// The layers below the next step, for the key of a cache: as of layer disks, what each is said to
    /// unpack to and what it is packed as, since an image can name another's diff_ids over blobs of its own.
    /// For whoever takes files of this stage they are all that counts.
    pub fn chain(&self) -> Vec<u8> {
        let layers = self.layers.iter();
        let layers = layers.map(|layer| format!("{} {}", layer.diff_id, layer.blob));
        layers.collect::<Vec<_>>().join("\n").into_bytes()
    }

    /// What else is below it, for the same: steps of which the layers don't tell all.
    pub fn untold(&self) -> String {
        self.untold
            .as_ref()
            .map_or_else(String::new, ToString::to_string)
    }

    /// Ends its VM, which then has no cache mounts to lock any more.
    fn end_vm(&mut self) {
        self.builder = None;
        self.caches.clear();
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
        let stage = self.stages.get(index).context("there is no such stage")?;
        let mut stage = lock(stage);
        self.begin(&mut stage, planned)?;
        stage.builder = self.inherited(planned);
        (self.build.tell)(Told::Stage(index));
        for (number, step) in planned.steps.iter().enumerate() {
            let id = StepId {
                stage: index,
                step: number,
            };
            if self.machine.given_up.load(Ordering::Relaxed) {
                return Err(anyhow::Error::from(GivenUp).into());
            }
            self.run_step(&mut stage, planned, step, id)
                .map_err(|error| BuildError {
                    error,
                    step: Some(id),
                })?;
        }
        // A VM with cache mounts may write to them as long as it lives, and others wait for them.
        let is_wanted = plan.stages.iter().any(|other| other.needs.contains(&index));
        if !is_wanted || !stage.caches.is_empty() {
            stage.end_vm();
        }
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

    /// Gives a stage what it begins with.
    fn begin(&self, stage: &mut Stage<'a>, planned: &PlannedStage) -> Result<()> {
        match &planned.base {
            Base::Scratch => {}
            Base::Image(source) => {
                let image = self.build.images.get(&source.manifest);
                let image = image.context("the base image is gone")?;
                stage.layers.clone_from(&image.layers);
                stage.history = history_of(image);
            }
            Base::Stage(index) => {
                let base = self.stages.get(*index).context("there is no such stage")?;
                stage.begin_with(&lock(base));
            }
        }
        Ok(())
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
        let (environment, epoch) = (self.build.environment, self.build.epoch);
        let key = key(stage, step, &inputs, environment, epoch);
        let store = self.build.store;
        let known = match self.build.no_cache {
            true => None,
            false => store.cached_step(&key)?,
        };
        let made = match known {
            Some(known) => {
                // A VM that has come as far does not have this layer.
                stage.end_vm();
                tell(Told::Cached(id));
                known
            }
            None => {
                if stage.layers.len() >= LAYERS {
                    bail!("the image has {LAYERS} layers, the limit, before this step");
                }
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
        stage.take(&step.action, key, made.layer);
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
                CacheSharing::Shared => FlockArg::LockSharedNonblock,
                CacheSharing::Locked | CacheSharing::Private => FlockArg::LockExclusiveNonblock,
            };
            match Flock::lock(file, how) {
                // A prune may have removed it before it was locked.
                Ok(lock) if !is_at(&lock, &folder) => {}
                Ok(lock) => {
                    return Ok(CacheMount {
                        id: name,
                        _lock: lock,
                    });
                }
                Err((_, Errno::EWOULDBLOCK)) if sharing == CacheSharing::Private => number += 1,
                // Another build has it, for as long as it takes.
                Err((_, Errno::EWOULDBLOCK)) => self.look()?,
                Err((_, error)) => {
                    return Err(error).with_context(|| format!("lock cache mount {id:?}"));
                }
            }
        }
    }

    /// Waits a little.
    ///
    /// # Errors
    /// The build was given up.
    fn look(&self) -> Result<()> {
        thread::sleep(LOOK);
        match self.machine.given_up.load(Ordering::Relaxed) {
            true => Err(GivenUp.into()),
            false => Ok(()),
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
                if let Some(stage) = lent.get(&source.manifest) {
                    return Ok(Some(Arc::clone(stage)));
                }
                // No more VMs than of stages; one that ends is started again when it is wanted.
                if lent.len() >= STAGES_MAX {
                    for idle in lent.values().filter_map(|stage| stage.try_lock().ok()) {
                        let mut idle = idle;
                        idle.end_vm();
                    }
                }
                let image = self.build.images.get(&source.manifest);
                let mut stage = Stage::new();
                stage.layers = image.context("the image is gone")?.layers.clone();
                let stage = Arc::new(Mutex::new(stage));
                lent.insert(source.manifest, Arc::clone(&stage));
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

/// Whether an open folder is the one of that name.
fn is_at(open: &File, path: &Path) -> bool {
    let known = |metadata: std::io::Result<Metadata>| {
        metadata
            .ok()
            .map(|metadata| (metadata.dev(), metadata.ino()))
    };
    let named = known(path.symlink_metadata());
    named.is_some() && named == known(open.metadata())
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
                // The strictest counts: the VM has each once.
                let strictness = |sharing: CacheSharing| match sharing {
                    CacheSharing::Shared => 0,
                    CacheSharing::Private => 1,
                    CacheSharing::Locked => 2,
                };
                let wanted = caches.entry(id.as_str()).or_insert(*sharing);
                if strictness(*sharing) > strictness(*wanted) {
                    *wanted = *sharing;
                }
            }
        }
    }
    caches
}

/// Whether a step leaves files that are in no layer and that other steps find.
fn writes_to_caches(action: &Action) -> bool {
    let Action::Run(run) = action else {
        return false;
    };
    run.mounts
        .iter()
        .any(|mount| matches!(mount.kind, MountKind::Cache { read_only, .. } if !read_only))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use images::dockerfile::{BaseImage, PlanOptions, parse, plan};
    use images::{Compression, Platform};

    use super::super::step::Inputs;
    use super::*;

    /// The key of a Dockerfile's last step, where steps that say so make no layer and all others one and
    /// the same.
    fn last_key(dockerfile: &str) -> Digest {
        let options = PlanOptions {
            build_args: BTreeMap::new(),
            target: None,
            labels: BTreeMap::new(),
            platform: Platform::new("linux", "amd64", None),
        };
        let no_bases = &mut |_: &_| Err::<BaseImage, _>(std::fmt::Error);
        let plan = plan(&parse(dockerfile.as_bytes()).unwrap(), &options, no_bases).unwrap();
        let mut last = None;
        let mut stages: Vec<Stage<'_>> = Vec::new();
        for planned in &plan.stages {
            let mut stage = Stage::new();
            if let Base::Stage(base) = planned.base {
                stage.begin_with(&stages[base]);
            }
            for step in &planned.steps {
                if step.action == Action::None {
                    continue;
                }
                let key = key(&stage, step, &Inputs::default(), "", None);
                let layer = Layer {
                    blob: Digest::of(b"packed"),
                    diff_id: Digest::of(b"content"),
                    compression: Compression::None,
                    size: 1,
                };
                let makes_one = !step.text.contains("nothing");
                stage.take(&step.action, key, makes_one.then_some(layer));
                last = Some(key);
            }
            stages.push(stage);
        }
        last.unwrap()
    }

    #[test]
    fn a_step_is_another_above_another_that_did_more_than_its_layer_tells() {
        for below in [
            "FROM scratch\nRUN nothing %",
            "FROM scratch\nRUN nothing %\nRUN nothing",
            // Its layer may come out the same.
            "FROM scratch\nRUN nothing %\nRUN file",
            "FROM scratch\nRUN file\nRUN nothing %\nRUN file\nLABEL a=1",
            "FROM scratch AS a\nRUN nothing %\nFROM a",
            "FROM scratch AS a\nRUN nothing %\nFROM a AS b\nRUN file\nFROM b",
            "FROM scratch\nRUN --mount=type=cache,target=/c file %",
        ] {
            let key = |n: &str| last_key(&format!("{}\nRUN x", below.replace('%', n)));
            assert_eq!(key("1"), key("1"), "{below}");
            assert_ne!(key("1"), key("2"), "{below}");
        }
        assert_ne!(
            last_key("FROM scratch\nRUN nothing\nRUN x"),
            last_key("FROM scratch\nRUN x")
        );
    }

    #[test]
    fn a_step_is_the_same_above_another_whose_layer_came_out_the_same() {
        for below in [
            "FROM scratch\nRUN file %",
            "FROM scratch\nLABEL a=%\nRUN file",
            "FROM scratch AS a\nRUN file %\nFROM a",
            "FROM scratch\nRUN --mount=type=cache,target=/c,ro file %",
        ] {
            let key = |n: &str| last_key(&format!("{}\nRUN x", below.replace('%', n)));
            assert_eq!(key("1"), key("2"), "{below}");
        }
    }

    #[test]
    fn steps_above_other_bytes_of_the_same_name_are_others() {
        let chain = |blob: &[u8]| {
            let mut stage = Stage::new();
            stage.layers.push(Layer {
                blob: Digest::of(blob),
                diff_id: Digest::of(b"content"),
                compression: Compression::Gzip,
                size: 1,
            });
            stage.chain()
        };
        assert_eq!(chain(b"packed"), chain(b"packed"));
        assert_ne!(chain(b"packed"), chain(b"hostile"));
    }
}
