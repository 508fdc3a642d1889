//! What tests share: sandboxes with images that are loaded and unpacked once, and the engine to
//! compare with. Made when first asked for; gone when the last test is.

use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Result, anyhow};
use fixtures::Recipe;
use harness::tree::{self, Tree};
use harness::{Docker, Sandbox, images};

/// See the module's page.
#[derive(Default)]
pub(crate) struct World {
    busybox: Shared<Sandbox>,
    builds: Shared<Sandbox>,
    debian: Shared<Sandbox>,
    layers60: Shared<Sandbox>,
    docker: Shared<Mutex<Docker>>,
    busybox_files: Shared<Tree>,
    pub(crate) differences: crate::differential::Differences,
    /// Written by who changes what all of the host's users see.
    host: RwLock<()>,
}

impl World {
    /// Held while a test runs beside others.
    pub(crate) fn beside_others(&self) -> RwLockReadGuard<'_, ()> {
        self.host.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held by a test beside which no other runs.
    pub(crate) fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.host.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sandbox with busybox, its variants and the probe image. Tests use it side by side: none
    /// removes images or asks what there is in all.
    pub(crate) fn busybox(&self) -> Result<&Sandbox> {
        self.busybox.get(|| {
            let sandbox = Sandbox::with_busybox()?;
            sandbox.load(&images::variants()?)?;
            sandbox.warm("probe", &["/probe", "ids"])?;
            sandbox.warm("busybox", &["true"])?;
            Ok(sandbox)
        })
    }

    /// A sandbox of the test's own with the same images, unpacked.
    pub(crate) fn own(&self) -> Result<Sandbox> {
        self.busybox()?.copied()
    }

    /// A sandbox with the same images, for all builds that are compared: each has a name of its own,
    /// and finds in the cache what others made, as on the engine.
    pub(crate) fn builds(&self) -> Result<&Sandbox> {
        self.builds.get(|| self.own())
    }

    /// What is in busybox's image.
    pub(crate) fn busybox_files(&self) -> Result<&Tree> {
        self.busybox_files.get(|| {
            let archive = images::path(Recipe::Busybox, "busybox.tar")?;
            Ok(tree::of_archive(&archive)?.0)
        })
    }

    /// A sandbox with debian:12.
    pub(crate) fn debian(&self) -> Result<&Sandbox> {
        self.debian.get(|| {
            let sandbox = Sandbox::empty()?;
            sandbox.load(&images::debian()?)?;
            sandbox.warm("debian:12", &["true"])?;
            Ok(sandbox)
        })
    }

    /// A sandbox with the image of 60 layers.
    pub(crate) fn layers60(&self) -> Result<&Sandbox> {
        self.layers60.get(|| {
            let sandbox = Sandbox::empty()?;
            sandbox.load(&images::layers60()?)?;
            sandbox.warm(fixtures::layers60::IMAGE, &["true"])?;
            Ok(sandbox)
        })
    }

    /// The real engine, with busybox, its variants and the probe image. Whoever has it has it alone.
    pub(crate) fn docker(&self) -> Result<&Mutex<Docker>> {
        self.docker.get(|| {
            let docker = Docker::start()?;
            docker.load(&images::busybox()?)?;
            docker.load(&images::variants()?)?;
            Ok(Mutex::new(docker))
        })
    }
}

/// Made once; that it can't be made is the failure of all who ask.
struct Shared<T>(OnceLock<Result<T, String>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Shared<T> {
    fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        self.0
            .get_or_init(|| make().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("what the tests share can't be made: {error}"))
    }
}
