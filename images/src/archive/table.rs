//! The names of an archive, and what each leads to. Names are keys here and nothing else.
//!
//! Used by `archive`. Links are followed from name to name inside the table; one that leads out of the
//! archive leads nowhere. Of members with the same name the last counts, as when a tar is unpacked.

use std::collections::HashMap;

use thiserror::Error;

use super::stream::{Member, MemberKind};
use crate::escape::quoted;
use crate::limits::LINK_HOPS;

/// A name that can't be followed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TableError {
    /// More links in a row than [`LINK_HOPS`], perhaps in a circle.
    #[error("{} leads over more than {LINK_HOPS} links", quoted(.0))]
    TooManyLinks(String),
}

#[derive(Debug)]
enum Entry<T> {
    Content(T),
    Link(String),
}

/// See the module's doc; `T` stands for a member's content.
#[derive(Debug)]
pub struct Table<T> {
    entries: HashMap<String, Entry<T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
        }
    }
}

impl<T> Table<T> {
    /// Adds a file.
    pub fn insert_content(&mut self, name: &str, content: T) {
        self.entries
            .insert(normal(&[name]), Entry::Content(content));
    }

    /// Adds a link; one whose name or target is no text is left out.
    pub fn insert_link(&mut self, member: &Member) {
        let (Some(name), Some(target)) = (member.name(), member.link()) else {
            return;
        };
        let target = match member.kind {
            MemberKind::Symlink if !target.starts_with('/') => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                normal(&[directory, target])
            }
            _ => normal(&[target]),
        };
        self.entries.insert(normal(&[name]), Entry::Link(target));
    }

    /// What `name` leads to, over links where need be.
    pub fn get(&self, name: &str) -> Result<Option<&T>, TableError> {
        let mut key = normal(&[name]);
        for _ in 0..=LINK_HOPS {
            match self.entries.get(&key) {
                Some(Entry::Content(content)) => return Ok(Some(content)),
                Some(Entry::Link(target)) => key.clone_from(target),
                None => return Ok(None),
            }
        }
        Err(TableError::TooManyLinks(name.to_owned()))
    }

    /// Names, links included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The one form of a name: no empty components, no dots; `..` above the top stays at the top.
fn normal(parts: &[&str]) -> String {
    let mut components: Vec<&str> = Vec::new();
    for component in parts.iter().flat_map(|part| part.split('/')) {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            other => components.push(other),
        }
    }
    components.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: MemberKind, name: &str, target: &str) -> Member {
        Member {
            kind,
            name: name.into(),
            link: target.into(),
        }
    }

    #[test]
    fn names_have_one_form() {
        let mut table = Table::default();
        table.insert_content("./a//b/../c", 1);
        table.insert_content("../../etc/passwd", 2);
        table.insert_content("/abs", 3);
        assert_eq!(table.get("a/c"), Ok(Some(&1)));
        assert_eq!(table.get("etc/passwd"), Ok(Some(&2)));
        assert_eq!(table.get("./abs"), Ok(Some(&3)));
        assert_eq!(table.get("b"), Ok(None));
        table.insert_content("abs", 4);
        assert_eq!((table.get("abs"), table.len()), (Ok(Some(&4)), 3));
    }

    #[test]
    fn links_stay_inside() {
        let mut table = Table::default();
        table.insert_content("layer/layer.tar", 1);
        table.insert_link(&link(
            MemberKind::Symlink,
            "dup/layer.tar",
            "../layer/layer.tar",
        ));
        table.insert_link(&link(MemberKind::Hardlink, "hard", "dup/layer.tar"));
        table.insert_link(&link(MemberKind::Symlink, "root", "/layer/layer.tar"));
        table.insert_link(&link(MemberKind::Symlink, "out", "../../../../etc/passwd"));
        for name in ["dup/layer.tar", "hard", "root"] {
            assert_eq!(table.get(name), Ok(Some(&1)), "{name}");
        }
        assert_eq!(table.get("out"), Ok(None));
    }

    #[test]
    fn circles_end() {
        let mut table: Table<()> = Table::default();
        table.insert_link(&link(MemberKind::Symlink, "a", "b"));
        table.insert_link(&link(MemberKind::Symlink, "b", "a"));
        table.insert_link(&link(MemberKind::Symlink, "self", "self"));
        for name in ["a", "self"] {
            assert_eq!(
                table.get(name),
                Err(TableError::TooManyLinks(name.to_owned()))
            );
        }
    }
}
