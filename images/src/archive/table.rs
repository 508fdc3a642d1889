//! The names of an archive, and what each leads to. Names are keys here and nothing else.
//!
//! Used by `archive`. Links are followed from name to name inside the table; one that leads out of the
//! archive leads nowhere. Of members with the same name the last counts, as when a tar is unpacked.

use std::collections::HashMap;

use thiserror::Error;

use super::stream::{Member, MemberKind};
use crate::escape::quoted;
use crate::limits::{ARCHIVE_TABLE_BYTES, LINK_HOPS};

/// A name that can't be followed, or names that can't be kept.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TableError {
    /// More links in a row than [`LINK_HOPS`], perhaps in a circle.
    #[error("{} leads over more than {LINK_HOPS} links", quoted(.0))]
    TooManyLinks(String),
    /// More than [`ARCHIVE_TABLE_BYTES`].
    #[error("names and link targets in it have more than {ARCHIVE_TABLE_BYTES} bytes together")]
    TooMuch,
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
    /// Bytes of names and targets that came, those that others took the place of included.
    bytes: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            bytes: 0,
        }
    }
}

impl<T> Table<T> {
    /// Adds a file.
    pub fn insert_content(&mut self, name: &str, content: T) -> Result<(), TableError> {
        self.insert(normal(&[name]), Entry::Content(content))
    }

    /// Adds a link; one whose name or target is no text is left out.
    pub fn insert_link(&mut self, member: &Member) -> Result<(), TableError> {
        let (Some(name), Some(target)) = (member.name(), member.link()) else {
            return Ok(());
        };
        let target = match member.kind {
            MemberKind::Symlink if !target.starts_with('/') => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                normal(&[directory, target])
            }
            _ => normal(&[target]),
        };
        self.insert(normal(&[name]), Entry::Link(target))
    }

    fn insert(&mut self, name: String, entry: Entry<T>) -> Result<(), TableError> {
        let target = match &entry {
            Entry::Link(target) => target.len(),
            Entry::Content(_) => 0,
        };
        self.bytes = self.bytes.saturating_add(name.len()).saturating_add(target);
        if self.bytes > ARCHIVE_TABLE_BYTES {
            return Err(TableError::TooMuch);
        }
        self.entries.insert(name, entry);
        Ok(())
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
        table.insert_content("./a//b/../c", 1).unwrap();
        table.insert_content("../../etc/passwd", 2).unwrap();
        table.insert_content("/abs", 3).unwrap();
        assert_eq!(table.get("a/c"), Ok(Some(&1)));
        assert_eq!(table.get("etc/passwd"), Ok(Some(&2)));
        assert_eq!(table.get("./abs"), Ok(Some(&3)));
        assert_eq!(table.get("b"), Ok(None));
        table.insert_content("abs", 4).unwrap();
        assert_eq!((table.get("abs"), table.len()), (Ok(Some(&4)), 3));
    }

    #[test]
    fn links_stay_inside() {
        let mut table = Table::default();
        table.insert_content("layer/layer.tar", 1).unwrap();
        table
            .insert_link(&link(
                MemberKind::Symlink,
                "dup/layer.tar",
                "../layer/layer.tar",
            ))
            .unwrap();
        table
            .insert_link(&link(MemberKind::Hardlink, "hard", "dup/layer.tar"))
            .unwrap();
        table
            .insert_link(&link(MemberKind::Symlink, "root", "/layer/layer.tar"))
            .unwrap();
        table
            .insert_link(&link(MemberKind::Symlink, "out", "../../../../etc/passwd"))
            .unwrap();
        for name in ["dup/layer.tar", "hard", "root"] {
            assert_eq!(table.get(name), Ok(Some(&1)), "{name}");
        }
        assert_eq!(table.get("out"), Ok(None));
    }

    #[test]
    fn circles_end() {
        let mut table: Table<()> = Table::default();
        table
            .insert_link(&link(MemberKind::Symlink, "a", "b"))
            .unwrap();
        table
            .insert_link(&link(MemberKind::Symlink, "b", "a"))
            .unwrap();
        table
            .insert_link(&link(MemberKind::Symlink, "self", "self"))
            .unwrap();
        for name in ["a", "self"] {
            assert_eq!(
                table.get(name),
                Err(TableError::TooManyLinks(name.to_owned()))
            );
        }
    }

    #[test]
    fn names_are_limited_in_all() {
        let (name, target) = ("n".repeat(4000), "t".repeat(4000));
        let mut table: Table<()> = Table::default();
        let fitting = ARCHIVE_TABLE_BYTES / 8010;
        let mut added = (0..20_000).map(|number| {
            let member = link(MemberKind::Symlink, &format!("{name}{number:010}"), &target);
            table.insert_link(&member)
        });
        assert!(added.by_ref().take(fitting).all(|result| result.is_ok()));
        assert_eq!(added.next(), Some(Err(TableError::TooMuch)));
    }
}
