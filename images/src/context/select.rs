//! Patterns of a copy to the files that they mean.
//!
//! Where a pattern has no wildcards it is a path, and its links are followed; with wildcards each of
//! its names is held against a directory's. A directory means what is in it. What is ignored is not
//! there, but for a directory with something in it that is not.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use protocol::pattern::Pattern;

use super::ContextError;
use super::ignore::{Ignore, Matched, is_ignored_with_parents};
use super::tree::{Found, Kind, Place, Tree, shown, split};
use crate::limits::{CONTEXT_DEPTH, CONTEXT_ENTRIES};

/// What a copy takes.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// `COPY` or `ADD`, for errors.
    pub instruction: &'a str,
    /// Patterns of Go's `filepath.Match`, relative to the folder, also with a slash at their beginning; with
    /// `parents` those of .dockerignore.
    pub patterns: &'a [&'a str],
    /// Whether the patterns are paths as they stand, with no wildcards and no escapes; not with `parents`.
    pub is_literal: bool,
    /// `--parents`: entries keep their folders, from `/./` on.
    pub parents: bool,
    /// `--exclude`: patterns as in .dockerignore, of paths within a source, or of a file's name.
    pub exclude: &'a [String],
}

/// What was found, one for each match of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Where it is in the folder, links followed; empty is the folder.
    pub path: PathBuf,
    /// Whether it is a directory, of which the content is copied.
    pub is_directory: bool,
    /// What the archive has of it, directories before what is in them.
    pub entries: Vec<ContextEntry>,
    /// The directory itself, which the archive has as its root.
    pub(super) root: Option<Found>,
}

/// A file, directory, link or pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextEntry {
    /// Its name in the archive: relative, without dots.
    pub name: PathBuf,
    /// Where it is in the folder.
    pub path: PathBuf,
    pub(super) found: Found,
}

/// See [`super::Context::resolve`].
pub(super) fn select(
    tree: Option<&Tree>,
    ignore: &Ignore,
    wanted: &Wanted<'_>,
) -> Result<Vec<Selected>, ContextError> {
    let exclude = Ignore::of_patterns(wanted.exclude.iter().map(String::as_str))?;
    let mut selector = Selector {
        tree,
        ignore,
        exclude,
        instruction: wanted.instruction,
        count: 0,
    };
    let mut all = Vec::new();
    for pattern in wanted.patterns {
        match wanted.parents {
            true => all.extend(selector.with_parents(pattern)?),
            false => all.extend(selector.pattern(pattern, wanted.is_literal)?),
        }
    }
    match all.is_empty() {
        true => Err(ContextError::NoSources(wanted.instruction.to_owned())),
        false => Ok(all),
    }
}

struct Selector<'a> {
    tree: Option<&'a Tree>,
    ignore: &'a Ignore,
    exclude: Ignore,
    instruction: &'a str,
    /// Entries so far.
    count: usize,
}

/// A pattern of `--parents`.
struct Include {
    whole: Pattern,
    /// Those of its names before one with `**`.
    names: Vec<Pattern>,
    /// Whether there is one.
    is_deep: bool,
}

impl Include {
    fn parse(text: &str) -> Result<Self, ContextError> {
        let names = text.split('/').take_while(|name| !name.contains("**"));
        Ok(Self {
            whole: Pattern::deep(text)?,
            names: names.map(Pattern::shallow).collect::<Result<_, _>>()?,
            is_deep: text.contains("**"),
        })
    }

    /// Whether there may be a match in a directory of this name and depth, counted from 1, in one that may
    /// have a match itself.
    fn leads_on(&self, depth: usize, name: &[u8]) -> bool {
        let pattern = depth.checked_sub(1).and_then(|index| self.names.get(index));
        pattern.map_or(self.is_deep, |pattern| pattern.matches(name))
    }
}

/// Where a walk is.
struct Level {
    path: Vec<u8>,
    name: Vec<u8>,
    ignored: Matched,
    excluded: Matched,
    /// A pattern that has to match matched this directory.
    is_included: bool,
    names: std::vec::IntoIter<OsString>,
    /// The directory's own entry, until something is found in it.
    own: Option<ContextEntry>,
}

impl Selector<'_> {
    fn not_found(&self, path: &str) -> ContextError {
        ContextError::NotFound {
            instruction: self.instruction.to_owned(),
            path: shown(path),
        }
    }

    /// Follows a path. A link that is ignored was never sent to who builds.
    fn follow(&self, path: &[u8], source: &str) -> Result<Option<(Vec<u8>, Found)>, ContextError> {
        let Some(tree) = self.tree else {
            return Ok(None);
        };
        let is_gone = |link: &[u8]| is_ignored_with_parents(self.ignore, link).0;
        match tree.follow(path, &is_gone)? {
            Place::Path(path, found) => Ok(Some((path, found))),
            Place::Nothing => Ok(None),
            Place::Outside => Err(ContextError::Outside {
                instruction: self.instruction.to_owned(),
                path: shown(source),
            }),
        }
    }

    /// What a pattern means. As in BuildKit it is one from the context's top, above which there is nothing.
    fn pattern(&mut self, text: &str, is_literal: bool) -> Result<Vec<Selected>, ContextError> {
        let pattern = from_top(text);
        if is_literal || !Pattern::has_wildcards(&pattern) {
            return match self.source(pattern.as_bytes(), text)? {
                Some(selected) => Ok(vec![selected]),
                None => Err(self.not_found(text)),
            };
        }
        let mut all = Vec::new();
        for path in self.matches(&pattern)? {
            match self.source(&path, text)? {
                Some(selected) => all.push(selected),
                // It matches, and leads to what is not there.
                None if self.is_link(&path, text)? => return Err(self.not_found(text)),
                None => {}
            }
        }
        Ok(all)
    }

    /// Whether what has this name is a link, and not ignored.
    fn is_link(&self, path: &[u8], source: &str) -> Result<bool, ContextError> {
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => path.split_at(at),
            None => (&b""[..], path),
        };
        let Some((folder, _)) = self.follow(above, source)? else {
            return Ok(false);
        };
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let path = below(&folder, name);
        let found = self
            .tree
            .map(|tree| tree.find(&path))
            .transpose()?
            .flatten();
        let is_link = found.is_some_and(|found| matches!(found.kind, Kind::Link(_)));
        Ok(is_link && !is_ignored_with_parents(self.ignore, &path).0)
    }

    /// One source: nothing where it is not there, or ignored.
    fn source(&mut self, path: &[u8], source: &str) -> Result<Option<Selected>, ContextError> {
        if self.tree.is_none() && split(path).next().is_none() {
            return Ok(Some(Selected {
                path: PathBuf::new(),
                is_directory: true,
                entries: Vec::new(),
                root: None,
            }));
        }
        let name = split(path).last();
        let Some((path, found)) = self.follow(path, source)? else {
            return Ok(None);
        };
        let (is_ignored, ignored) = is_ignored_with_parents(self.ignore, &path);
        let is_directory = found.kind == Kind::Directory;
        let mut selected = Selected {
            path: PathBuf::from(OsString::from_vec(path.clone())),
            is_directory,
            entries: Vec::new(),
            root: is_directory.then(|| found.clone()),
        };
        if is_directory {
            if is_ignored && !self.ignore.may_take_back(&path) {
                return Ok(None);
            }
            selected.entries = self.walk(&path, ignored, None)?;
            // An ignored directory is there for what was taken back in it.
            let is_there = !is_ignored || !selected.entries.is_empty();
            return Ok(is_there.then_some(selected));
        }
        if is_ignored {
            return Ok(None);
        }
        if let Kind::Other(_) = found.kind {
            return Err(ContextError::Kind(shown(&selected.path)));
        }
        // The name is the one of the source, not of what a link led to.
        let name = name.unwrap_or_default();
        if !self.exclude.is_ignored(&name, &Matched::new()).0 {
            self.count_one()?;
            selected.entries.push(ContextEntry {
                name: PathBuf::from(OsString::from_vec(name)),
                path: selected.path.clone(),
                found,
            });
        }
        Ok(Some(selected))
    }

    /// Paths that a pattern with wildcards matches, in the order of names.
    fn matches(&self, pattern: &str) -> Result<Vec<Vec<u8>>, ContextError> {
        let Some(tree) = self.tree else {
            return Ok(Vec::new());
        };
        let mut paths = vec![Vec::new()];
        for name in pattern.split('/').filter(|name| !matches!(*name, "" | ".")) {
            let mut next = Vec::new();
            let is_plain = !Pattern::has_wildcards(name) && !name.contains('\\');
            let matcher = Pattern::shallow(name)?;
            for path in &paths {
                let join = |name: &[u8]| match path.is_empty() {
                    true => name.to_vec(),
                    false => [path, &b"/"[..], name].concat(),
                };
                if is_plain {
                    next.push(join(name.as_bytes()));
                    continue;
                }
                // Links to directories lead on.
                let Some((folder, found)) = self.follow(path, pattern)? else {
                    continue;
                };
                if found.kind != Kind::Directory {
                    continue;
                }
                let names = tree.names(&folder)?;
                let names = names.iter().filter(|name| matcher.matches(name.as_bytes()));
                next.extend(names.map(|name| join(name.as_bytes())));
                self.check_count(next.len())?;
            }
            paths = next;
        }
        Ok(paths)
    }

    /// `--parents`.
    fn with_parents(&mut self, source: &str) -> Result<Vec<Selected>, ContextError> {
        let (base, pattern) = source.split_once("/./").unwrap_or(("", source));
        let base = from_top(base);
        let bases = match Pattern::has_wildcards(&base) {
            true => self.matches(&base)?,
            false => vec![base.as_bytes().to_vec()],
        };
        let pattern = from_top(pattern);
        let include = Include::parse(&pattern)?;
        let is_path = !Pattern::has_wildcards(&base) && !Pattern::has_wildcards(&pattern);
        let mut all = Vec::new();
        for base in bases {
            let Some((path, found)) = self.follow(&base, source)? else {
                continue;
            };
            if found.kind != Kind::Directory {
                continue;
            }
            let (is_ignored, ignored) = is_ignored_with_parents(self.ignore, &path);
            if is_ignored && !self.ignore.may_take_back(&path) {
                continue;
            }
            let include = (!pattern.is_empty()).then_some(&include);
            let entries = self.walk(&path, ignored, include)?;
            if !entries.is_empty() {
                all.push(Selected {
                    path: PathBuf::from(OsString::from_vec(path)),
                    is_directory: true,
                    entries,
                    root: None,
                });
            }
        }
        match all.is_empty() && is_path {
            true => Err(self.not_found(source)),
            false => Ok(all),
        }
    }

    /// All that is in a directory and not ignored; with a pattern only what that matches, or what is in a
    /// directory that it matches, and the directories above that.
    fn walk(
        &mut self,
        top: &[u8],
        ignored: Matched,
        include: Option<&Include>,
    ) -> Result<Vec<ContextEntry>, ContextError> {
        let Some(tree) = self.tree else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        let mut levels = vec![Level {
            path: top.to_vec(),
            name: Vec::new(),
            ignored,
            excluded: Matched::new(),
            is_included: include.is_none(),
            names: tree.names(top)?.into_iter(),
            own: None,
        }];
        loop {
            let depth = levels.len();
            let Some(level) = levels.last_mut() else {
                break;
            };
            let Some(file) = level.names.next() else {
                levels.pop();
                continue;
            };
            let path = below(&level.path, file.as_bytes());
            let name = below(&level.name, file.as_bytes());
            let (is_ignored, ignored) = self.ignore.is_ignored(&path, &level.ignored);
            let (is_excluded, excluded) = self.exclude.is_ignored(&name, &level.excluded);
            let is_included =
                level.is_included || include.is_some_and(|include| include.whole.matches(&name));
            let is_left_out = is_ignored || is_excluded || !is_included;
            // A directory that is left out may have something in it that is not.
            let leads_on = |include: &Include| include.leads_on(depth, file.as_bytes());
            let may_have_more = (!is_ignored || self.ignore.may_take_back(&path))
                && (!is_excluded || self.exclude.may_take_back(&name))
                && (is_included || include.is_some_and(leads_on));
            if is_left_out && !may_have_more {
                continue;
            }
            let Some(found) = tree.find(&path)? else {
                return Err(ContextError::Changed(shown(std::ffi::OsStr::from_bytes(
                    &path,
                ))));
            };
            let is_directory = found.kind == Kind::Directory;
            if is_left_out && !is_directory {
                continue;
            }
            let is_socket = match found.kind {
                Kind::Other(true) => true,
                Kind::Other(false) => {
                    return Err(ContextError::Kind(shown(std::ffi::OsStr::from_bytes(
                        &path,
                    ))));
                }
                _ => false,
            };
            // As Docker does: they are left out.
            if is_socket {
                continue;
            }
            let entry = ContextEntry {
                name: PathBuf::from(OsString::from_vec(name.clone())),
                path: PathBuf::from(OsString::from_vec(path.clone())),
                found,
            };
            let mut own = Some(entry);
            if !is_left_out {
                for above in &mut levels {
                    entries.extend(above.own.take());
                }
                entries.extend(own.take());
            }
            self.check_count(self.count.saturating_add(entries.len()))?;
            if is_directory {
                if depth == CONTEXT_DEPTH {
                    return Err(ContextError::Limit {
                        what: "directories in each other",
                        limit: CONTEXT_DEPTH as u64,
                    });
                }
                levels.push(Level {
                    names: tree.names(&path)?.into_iter(),
                    path,
                    name,
                    ignored,
                    excluded,
                    is_included,
                    own,
                });
            }
        }
        self.count = self.count.saturating_add(entries.len());
        Ok(entries)
    }

    fn count_one(&mut self) -> Result<(), ContextError> {
        self.count = self.count.saturating_add(1);
        self.check_count(self.count)
    }

    fn check_count(&self, count: usize) -> Result<(), ContextError> {
        match count > CONTEXT_ENTRIES {
            true => Err(ContextError::Limit {
                what: "files in what is copied",
                limit: CONTEXT_ENTRIES as u64,
            }),
            false => Ok(()),
        }
    }
}

/// A path as one from the context's top: `..` stays there.
fn from_top(path: &str) -> String {
    let path = super::ignore::clean(&format!("/{path}"));
    path.trim_start_matches('/').to_owned()
}

fn below(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder.is_empty() {
        true => name.to_vec(),
        false => [folder, b"/", name].concat(),
    }
}
