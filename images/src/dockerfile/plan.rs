//! What a build does, step by step: the types that `bulkhead build` works from.
//!
//! Made by `stages` and `steps`. Everything in it is checked and final: paths are absolute and clean,
//! variables replaced, names resolved.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::mode::Mode;
use serde::Serialize;

use crate::config::{History, ImageConfig};
use crate::digest::Digest;
use crate::dockerfile::Warning;
use crate::platform::Platform;
use crate::reference::Reference;

/// What the user asks of a build.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// `--build-arg`, and the proxies of Docker's config.json. `None` where the user's environment has no
    /// such variable: then it is as if the flag were not there.
    pub build_args: BTreeMap<String, Option<String>>,
    /// `--target`, a stage's name or number.
    pub target: Option<String>,
    /// `--label`, each a step of its own at the end.
    pub labels: BTreeMap<String, String>,
    /// `--platform`: what base images are for.
    pub platform: Platform,
}

/// An image that the build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRequest {
    /// Which one.
    pub reference: Reference,
    /// For what.
    pub platform: Platform,
}

/// What the caller found of an image.
#[derive(Debug, Clone)]
pub struct BaseImage {
    /// Its config.
    pub config: ImageConfig,
    /// Digest of its manifest. No id: two images can have one, with layers of their own.
    pub manifest: Digest,
}

/// An image and which one it turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// As the Dockerfile names it.
    pub reference: Reference,
    /// Digest of its manifest.
    pub manifest: Digest,
}

/// A build.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The stages that the target needs, each behind those that it needs itself.
    pub stages: Vec<PlannedStage>,
    /// Which of [`Self::stages`] is the image.
    pub target: usize,
    /// What is worth a word, those of [`Dockerfile::warnings`](super::Dockerfile::warnings) first.
    pub warnings: Vec<Warning>,
}

/// A stage of a build.
#[derive(Debug, Clone)]
pub struct PlannedStage {
    /// Its place in the Dockerfile, counted from 0.
    pub index: usize,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its `FROM` as it is written.
    pub text: String,
    /// The line of that, counted from 1.
    pub line: usize,
    /// What its files are at first.
    pub base: Base,
    /// What it is built for.
    pub platform: Platform,
    /// Its config before the first step; history and layers are the base image's.
    pub config: Arc<ImageConfig>,
    /// Instructions, those that the base image brings first.
    pub steps: Vec<Step>,
    /// Stages in [`Plan::stages`] that it needs, in ascending order.
    pub needs: Vec<usize>,
}

/// What a stage's files are at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An image's.
    Image(ImageSource),
    /// Another stage's, in [`Plan::stages`].
    Stage(usize),
}

/// One instruction.
#[derive(Debug, Clone)]
pub struct Step {
    /// First and last line, counted from 1; of a step that the base image brings, the stage's `FROM`, and
    /// of a label from the command line, the last line.
    pub lines: (usize, usize),
    /// The instruction as it is written, continued lines joined. Not fit for a terminal as it is.
    pub text: String,
    /// What is to be done.
    pub action: Action,
    /// The config behind it. Layers and history are those of the stage's base image: who runs the steps
    /// adds to them.
    pub config: Arc<ImageConfig>,
    pub(crate) created_by: CreatedBy,
}

/// The text of a step's history.
#[derive(Debug, Clone)]
pub(crate) enum CreatedBy {
    /// All of it.
    Text(String),
    /// Before and behind what stands for the sources of a copy, and their words.
    Sources(String, String, String),
}

impl Step {
    /// The step's record in the image's history, as the classic builder writes it. `sources` stands for
    /// what a copy's sources had in them: `file:`, `dir:` or `multi:` and hex digits; without it they are
    /// as the Dockerfile has them. When it was created, and whether its layer is empty though the step
    /// makes one, is the caller's to say.
    #[must_use]
    pub fn history(&self, sources: Option<&str>) -> History {
        let created_by = match &self.created_by {
            CreatedBy::Text(text) => text.clone(),
            CreatedBy::Sources(before, behind, words) => {
                format!("{before}{}{behind}", sources.unwrap_or(words))
            }
        };
        History {
            created: None,
            author: self.config.author.clone(),
            created_by,
            comment: String::new(),
            empty_layer: matches!(self.action, Action::None),
        }
    }
}

/// What a step does to the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing: the config alone is another.
    None,
    /// Makes a working directory.
    MakeDirectory(MakeDirectory),
    /// Runs a command.
    Run(Box<Run>),
    /// Copies files.
    Copy(Box<Copy>),
}

impl Action {
    /// What a cache's key is made of: the same bytes for the same work, in whatever Dockerfile. Not in it,
    /// and to be added, is what an action takes from elsewhere: of stages, images and the build context. No secret and no proxy is in it.
    #[must_use]
    pub fn cache_input(&self) -> Vec<u8> {
        // A map keeps its keys in order; nothing in an action can fail to be written.
        serde_json::to_value(self)
            .map_or_else(|_| Vec::new(), |value| value.to_string().into_bytes())
    }
}

/// `WORKDIR`: makes the directory, and those above it, where they are not there, mode 0755.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MakeDirectory {
    /// Absolute and clean.
    pub path: String,
    /// The stage's user as in the config, `user[:group]`, who owns what is made; empty means root.
    pub owner: String,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// The command and its arguments, never empty.
    pub args: Vec<String>,
    /// `KEY=value` each: the config's and the ARGs in scope.
    pub env: Vec<String>,
    /// More of these: proxies that were given as build arguments. Neither history nor cache know them.
    #[serde(skip)]
    pub proxies: Vec<String>,
    /// `user[:group]`, empty means root.
    pub user: String,
    /// Absolute and clean.
    pub working_dir: String,
    /// What is mounted for this command, in this order.
    pub mounts: Vec<Mount>,
    /// What network it has.
    pub network: Network,
    /// A file that is there while the command runs, for a here-document that begins with `#!`.
    pub script: Option<Script>,
}

/// `--network` of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The build's.
    Default,
    /// None but loopback.
    None,
}

/// An executable file, mode 0755, read only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Script {
    /// Where it is, absolute and clean: in a folder that exists only while the command runs.
    pub path: String,
    /// What is in it.
    pub content: String,
}

/// `--mount` of a RUN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Absolute, clean and not `/`. None of a secret that is only an environment variable.
    pub target: Option<String>,
    /// What is there.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// Files of the build context, a stage or an image. What is written to it is thrown away.
    Bind {
        /// Of what.
        from: CopyFrom,
        /// A path in that, absolute and clean.
        source: String,
        /// Whether the command may write.
        writable: bool,
    },
    /// A folder that builds share and that is in no layer.
    Cache {
        /// Its name.
        id: String,
        /// What happens when another build uses it.
        sharing: CacheSharing,
        /// Permissions of the folder when it is new.
        mode: u16,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Whether the command may only read.
        read_only: bool,
    },
    /// Memory.
    Tmpfs {
        /// Bytes at most.
        size: Option<u64>,
    },
    /// A secret of the user's, by its name: what is in it is no part of a plan.
    Secret {
        /// Its name.
        id: String,
        /// The environment variable that has it.
        env: Option<String>,
        /// Whether it is an error when the user gave none.
        required: bool,
        /// Permissions of the file.
        mode: u16,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheSharing {
    /// Several at once.
    Shared,
    /// A new one where it is in use.
    Private,
    /// The second one waits.
    Locked,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// What is copied, never empty.
    pub sources: Vec<Source>,
    /// Where to.
    pub destination: Destination,
    /// What the paths among the sources are in.
    pub from: CopyFrom,
    /// `--chown`: `user[:group]`; without it root, whoever owns the sources.
    pub owner: Option<String>,
    /// `--chmod`, for what is copied and not for folders that are made on the way.
    pub mode: Option<Mode>,
    /// Whether sources that are tar archives, compressed or not, are unpacked: of ADD those among the
    /// paths, or all or none with `--unpack`.
    pub unpack: Unpack,
    /// `--link`: links in the destination's path are not followed but replaced.
    pub link: bool,
    /// `--parents`: sources keep their folders, from `/./` on or all of them.
    pub parents: bool,
    /// `--exclude`, patterns as in .dockerignore.
    pub exclude: Vec<String>,
    /// `--checksum` of the one source, an URL.
    pub checksum: Option<Digest>,
}

/// Which sources are unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unpack {
    /// None.
    Never,
    /// Files by path, not by URL.
    Paths,
    /// Both.
    Always,
}

/// Where a copy goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// Absolute and clean, without a slash at its end.
    pub path: String,
    /// Whether it ended in a slash or dot, so that it is a directory whatever the sources are.
    pub is_directory: bool,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A pattern, as the Dockerfile has it: relative to the root of [`Copy::from`], also with a slash at
    /// its beginning.
    Path(String),
    /// A file of the web.
    Url {
        /// Its address, `http` or `https`.
        url: String,
        /// The file's name where the destination is a directory.
        name: String,
    },
    /// A here-document.
    Inline {
        /// The file's name.
        name: String,
        /// What is in it.
        content: String,
    },
}

/// What paths are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFrom {
    /// The user's folder.
    Context,
    /// A stage, in [`Plan::stages`].
    Stage(usize),
    /// An image.
    Image(ImageSource),
}

impl Serialize for CopyFrom {
    /// The kind alone: a stage's number or an image's name say nothing of what is in it.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Context => "context",
            Self::Stage(_) => "stage",
            Self::Image(_) => "image",
        })
    }
}
