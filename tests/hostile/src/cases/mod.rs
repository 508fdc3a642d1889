//! The table of cases, a file a family, and the short forms in which they are written.

mod archives;
mod attributes;
mod compression;
mod config;
mod digests;
mod headers;
mod links;
mod manifests;
mod order;
mod paths;
mod sparse;
mod special;

use serde_json::Value;

use crate::image::{Base, Draft, Image, Layer};
use crate::tarball::Tar;

/// Makes a part of a case from what all are based on.
pub type Make<T> = Box<dyn Fn(&Base) -> T + Send + Sync>;

/// What a case consists of. It is made when it is asked for: some are large.
pub enum Content {
    /// An image, in an archive or a registry.
    Image(Make<Draft>),
    /// An image whose documents are no draft's.
    Documents(Make<Image>),
    /// An archive, which no registry can have.
    Archive(Make<Vec<u8>>),
}

/// What must come of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It runs, and a script in it prints this.
    Runs {
        /// For `sh -c`.
        script: String,
        /// All of standard output.
        prints: String,
    },
    /// The layer is refused when it is unpacked: before the first run, or a build's first step.
    Unpacking(&'static str),
    /// It is read and unpacked, and no process can be what it asks for.
    Starting(NotStarted),
    /// The documents or blobs are refused.
    Reading {
        /// By `load`, in words that name what is wrong.
        load: &'static str,
        /// And by `pull`.
        pull: &'static str,
    },
}

/// How an image ends that can't start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotStarted {
    /// Where that is seen.
    pub seen: Seen,
    /// Exit code of `run`.
    pub code: i32,
    /// Words of the one sentence that is said.
    pub words: &'static str,
}

/// Where it is seen that an image can't start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// There is no container of it.
    Creating,
    /// There is one, which does not start.
    Starting,
    /// What it names starts, says that it is no program, and ends.
    Running,
}

/// What is done to an image that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbs {
    /// All of it.
    All,
    /// It is not copied out as a whole, nor exported or committed: it is too large for tests.
    Large,
}

/// One hostile image.
pub struct Case {
    /// 1 to 25, see [`crate::CLASSES`].
    pub class: u8,
    /// Unique, and fit for a tag.
    pub name: &'static str,
    /// What it tries, in a sentence.
    pub tries: &'static str,
    /// The bytes.
    pub content: Content,
    /// What must come of it.
    pub expected: Expected,
    /// What is done to it.
    pub verbs: Verbs,
    /// Where a file is copied to, by `cp` and `COPY`: through what the image has put there.
    pub into: &'static str,
    /// Words of why a container of it can't be committed, if it can't.
    pub not_committed: Option<&'static str>,
}

impl Case {
    fn new(
        class: u8,
        name: &'static str,
        tries: &'static str,
        content: Content,
        expected: Expected,
    ) -> Self {
        Self {
            class,
            name,
            tries,
            content,
            expected,
            verbs: Verbs::All,
            into: "/copied",
            not_committed: None,
        }
    }

    /// Of whose container `commit` refuses to make an image.
    #[must_use]
    fn not_committed(mut self, words: &'static str) -> Self {
        self.not_committed = Some(words);
        self
    }

    /// Whose files are copied to here.
    #[must_use]
    fn into(mut self, path: &'static str) -> Self {
        self.into = path;
        self
    }

    #[must_use]
    fn large(mut self) -> Self {
        self.verbs = Verbs::Large;
        self
    }

    /// The image; `None` of an archive.
    #[must_use]
    pub fn image(&self, base: &Base) -> Option<Image> {
        match &self.content {
            Content::Image(draft) => Some(draft(base).image()),
            Content::Documents(image) => Some(image(base)),
            Content::Archive(_) => None,
        }
    }

    /// The layers above the base, of an image whose documents are as they should be.
    #[must_use]
    pub fn layers(&self, base: &Base) -> Vec<Layer> {
        match &self.content {
            Content::Image(draft) => draft(base).layers,
            _ => Vec::new(),
        }
    }

    /// As an archive that gives it this name.
    #[must_use]
    pub fn archive(&self, base: &Base, name: &str) -> Vec<u8> {
        match &self.content {
            Content::Image(draft) => draft(base).image().archive(name),
            Content::Documents(image) => image(base).archive(name),
            Content::Archive(bytes) => bytes(base),
        }
    }
}

/// All of them, by class.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all: Vec<Case> = [
        paths::cases(),
        links::cases(),
        special::cases(),
        attributes::cases(),
        order::cases(),
        headers::cases(),
        sparse::cases(),
        compression::cases(),
        digests::cases(),
        manifests::cases(),
        config::cases(),
        archives::cases(),
    ]
    .into_iter()
    .flatten()
    .collect();
    all.sort_by_key(|case| case.class);
    all
}

fn draft(make: impl Fn(&Base) -> Draft + Send + Sync + 'static) -> Content {
    Content::Image(Box::new(make))
}

fn prints(script: &str, prints: &str) -> Expected {
    Expected::Runs {
        script: script.to_owned(),
        prints: prints.to_owned(),
    }
}

/// What a container prints that has nothing special to see.
fn alive() -> Expected {
    prints("echo alive", "alive\n")
}

/// An image with this layer above the base.
fn layer(
    class: u8,
    name: &'static str,
    tries: &'static str,
    tar: impl Fn(Tar) -> Tar + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    let content = draft(move |base| Draft::on(base).tar(tar(Tar::new())));
    Case::new(class, name, tries, content, expected)
}

/// A layer of these bytes, without an end of its own.
fn bytes(
    class: u8,
    name: &'static str,
    tries: &'static str,
    make: impl Fn() -> Vec<u8> + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    let content = draft(move |base| Draft::on(base).layer(Layer::plain(make())));
    Case::new(class, name, tries, content, expected)
}

/// An image with this layer, which is refused when it is unpacked.
fn refused(
    class: u8,
    name: &'static str,
    tries: &'static str,
    tar: impl Fn(Tar) -> Tar + Send + Sync + 'static,
    words: &'static str,
) -> Case {
    layer(class, name, tries, tar, Expected::Unpacking(words))
}

/// An image that consists of the base and of these members of `config`.
fn config(
    class: u8,
    name: &'static str,
    tries: &'static str,
    members: impl Fn() -> Value + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    let content = draft(move |base| Draft::on(base).with(members()));
    Case::new(class, name, tries, content, expected)
}

/// An image of other documents.
fn documents(
    class: u8,
    name: &'static str,
    tries: &'static str,
    image: impl Fn(&Base) -> Image + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    Case::new(
        class,
        name,
        tries,
        Content::Documents(Box::new(image)),
        expected,
    )
}

/// Refused in the same words by both.
fn reading(words: &'static str) -> Expected {
    Expected::Reading {
        load: words,
        pull: words,
    }
}

/// No container can be made of it.
fn not_made(words: &'static str) -> Expected {
    Expected::Starting(NotStarted {
        seen: Seen::Creating,
        code: 125,
        words,
    })
}

/// A container of it does not start: 127 says that there is no such program, 126 that it can't be executed,
/// 125 all else.
fn not_started(code: i32, words: &'static str) -> Expected {
    Expected::Starting(NotStarted {
        seen: Seen::Starting,
        code,
        words,
    })
}

/// What it would start is the agent that starts it.
fn agent_as_program() -> Expected {
    Expected::Starting(NotStarted {
        seen: Seen::Running,
        code: 126,
        words: "this is the agent of a microVM, no program of a container",
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::CLASSES;

    #[test]
    fn names_are_unique_and_fit_for_tags() {
        let mut names = BTreeSet::new();
        for case in cases() {
            assert!(names.insert(case.name), "{} is there twice", case.name);
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(case.name.bytes().all(plain), "{}", case.name);
            assert!(
                case.name.len() <= 60 && !case.tries.is_empty(),
                "{}",
                case.name
            );
        }
    }

    /// Any text has no words in it.
    #[test]
    fn what_must_come_of_a_case_can_fail() {
        for case in cases() {
            let said: &[&str] = match &case.expected {
                Expected::Runs { script, prints } => &[script, prints],
                Expected::Unpacking(words) => &[words],
                Expected::Starting(end) => &[end.words],
                Expected::Reading { load, pull } => &[load, pull],
            };
            // Some letters or digits are in any sentence, as those of a digest.
            let are_words = |words: &&str| words.trim().len() >= 7;
            let fit = match case.expected {
                Expected::Runs { .. } => said.iter().all(|words| !words.is_empty()),
                _ => said.iter().all(are_words),
            };
            assert!(fit, "{}: {said:?}", case.name);
        }
    }

    #[test]
    fn there_are_enough_of_each_class() {
        let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
        for case in cases() {
            *counts.entry(case.class).or_default() += 1;
        }
        let all: usize = counts.values().sum();
        assert!(all >= 180, "{all} fixtures");
        for class in CLASSES {
            let count = counts.get(&class.number).copied().unwrap_or_default();
            // A class is of images, or it is said where it is held.
            assert_eq!(count == 0, class.elsewhere.is_some(), "e{}", class.number);
        }
        assert!(counts.keys().all(|number| (1..=25).contains(number)));
    }

    #[test]
    fn each_case_can_be_made() {
        let base = Base {
            tar: Tar::new().dir("bin").end(),
        };
        for case in cases() {
            let archive = case.archive(&base, "hostile:latest");
            assert!(!archive.is_empty(), "{}", case.name);
        }
    }
}
