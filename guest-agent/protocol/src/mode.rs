//! `--chmod`: permissions as chmod(1) writes them, octal or symbolic.
//!
//! The host checks them when it reads a Dockerfile, the agent applies them to what it copies. Pure.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Clauses of one symbolic mode: more than anybody writes.
const CHANGES_MAX: usize = 64;

/// Bits of user, group and others, with the special bit that goes with each.
const USER: u16 = 0o4700;
const GROUP: u16 = 0o2070;
const OTHERS: u16 = 0o1007;

/// Permissions, or how to change them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// These, at most 0o7777.
    Octal(u16),
    /// Changes of those that are there, one after the other.
    Symbolic(Vec<ModeChange>),
}

/// `WHO OPERATION PERMISSIONS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeChange {
    /// The bits that are meant: those of users, group and others.
    who: u16,
    operation: Operation,
    permissions: Permissions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operation {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Permissions {
    /// `rwxst` of everybody, and whether there is an `X`.
    Bits { bits: u16, search: bool },
    /// `u`, `g` or `o`: as they are, as a number of bits to the right.
    Of(u16),
}

/// Text that is no mode. The words are BuildKit's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777, or symbolic as u+x"
)]
pub struct ModeError(String);

impl Mode {
    /// Parses `0644`, `u+x`, `go-w,a+X` and the like. Who is not named is everybody: there is no umask.
    ///
    /// # Errors
    /// The text, in BuildKit's words.
    pub fn parse(text: &str) -> Result<Self, ModeError> {
        let error = || ModeError(text.escape_debug().take(200).collect());
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u16::from_str_radix(text, 8).ok();
            return mode
                .filter(|mode| *mode <= 0o7777)
                .map(Self::Octal)
                .ok_or_else(error);
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            clause_changes(clause, &mut changes).ok_or_else(error)?;
        }
        match changes.len() <= CHANGES_MAX {
            true => Ok(Self::Symbolic(changes)),
            false => Err(error()),
        }
    }

    /// What `mode`, of which only the low twelve bits are looked at, becomes.
    #[must_use]
    pub fn apply(&self, mode: u16, is_directory: bool) -> u16 {
        match self {
            Self::Octal(octal) => *octal,
            Self::Symbolic(changes) => changes.iter().fold(mode & 0o7777, |mode, change| {
                change.apply(mode, is_directory)
            }),
        }
    }
}

/// Takes apart `ugo+rw-x`: who, and any number of operations.
fn clause_changes(clause: &str, changes: &mut Vec<ModeChange>) -> Option<()> {
    let rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    let names = clause.strip_suffix(rest)?;
    let who = names.chars().fold(0, |who, name| {
        who | match name {
            'u' => USER,
            'g' => GROUP,
            'o' => OTHERS,
            _ => USER | GROUP | OTHERS,
        }
    });
    let who = if names.is_empty() { 0o7777 } else { who };
    let mut rest = rest;
    loop {
        let operation = match rest.chars().next()? {
            '+' => Operation::Add,
            '-' => Operation::Remove,
            '=' => Operation::Set,
            _ => return None,
        };
        let after = rest.get(1..)?;
        let end = after.find(['+', '-', '=']).unwrap_or(after.len());
        let (letters, next) = after.split_at_checked(end)?;
        changes.push(ModeChange {
            who,
            operation,
            permissions: permissions(letters)?,
        });
        if next.is_empty() {
            return Some(());
        }
        rest = next;
    }
}

fn permissions(letters: &str) -> Option<Permissions> {
    match letters {
        "u" => return Some(Permissions::Of(6)),
        "g" => return Some(Permissions::Of(3)),
        "o" => return Some(Permissions::Of(0)),
        _ => {}
    }
    let (mut bits, mut search) = (0, false);
    for letter in letters.chars() {
        bits |= match letter {
            'r' => 0o444,
            'w' => 0o222,
            'x' => 0o111,
            's' => 0o6000,
            't' => 0o1000,
            'X' => {
                search = true;
                0
            }
            _ => return None,
        };
    }
    Some(Permissions::Bits { bits, search })
}

impl ModeChange {
    fn apply(&self, mode: u16, is_directory: bool) -> u16 {
        let bits = match self.permissions {
            Permissions::Bits { bits, search } => {
                let searches = search && (is_directory || mode & 0o111 != 0);
                bits | if searches { 0o111 } else { 0 }
            }
            Permissions::Of(shift) => {
                let of_one = mode.checked_shr(shift.into()).unwrap_or(0) & 0o7;
                of_one * 0o111
            }
        };
        let bits = bits & self.who;
        match self.operation {
            Operation::Add => mode | bits,
            Operation::Remove => mode & !bits,
            // As GNU chmod: the special bits of a directory stay unless they are named.
            Operation::Set if is_directory => mode & !(self.who & 0o1777) | bits,
            Operation::Set => mode & !self.who | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_do_as_chmod_does() {
        for (text, mode, is_directory, want) in [
            ("0644", 0o755, false, 0o644),
            ("755", 0, true, 0o755),
            ("07777", 0, false, 0o7777),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o777, false, 0o555),
            ("go=", 0o777, false, 0o700),
            ("u=rwx,go=rx", 0, false, 0o755),
            ("g=u", 0o740, false, 0o770),
            ("o+g", 0o750, false, 0o755),
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o744, false, 0o755),
            ("a+X", 0o644, true, 0o755),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, true, 0o2755),
            ("+t", 0o777, true, 0o1777),
            ("u=rw", 0o4755, false, 0o655),
            ("g=rx", 0o2755, true, 0o2755),
            ("u-x+w", 0o500, false, 0o600),
            ("u+x", 0o10_0644, false, 0o744),
        ] {
            let parsed = Mode::parse(text).unwrap();
            assert_eq!(parsed.apply(mode, is_directory), want, "{text} of {mode:o}");
            let json = serde_json::to_string(&parsed).unwrap();
            assert_eq!(serde_json::from_str::<Mode>(&json).unwrap(), parsed);
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        let many = ["u+x"; CHANGES_MAX + 1].join(",");
        for text in [
            "", "8", "0888", "77777", "10000", "u", "u+", "x", "u*x", "u+q", "u+x,", ",u+x", "u+ü",
            "+ü", "uü+x", "0x1ff", &many,
        ] {
            let parsed = Mode::parse(text);
            // An operation without permissions is one.
            if text == "u+" {
                assert_eq!(parsed.unwrap().apply(0o600, false), 0o600);
                continue;
            }
            assert!(parsed.is_err(), "{text}");
        }
        assert_eq!(
            Mode::parse("99").unwrap_err().to_string(),
            "invalid chmod parameter: '99'. it should be octal string and between 0 and 07777, or symbolic as u+x"
        );
    }
}
