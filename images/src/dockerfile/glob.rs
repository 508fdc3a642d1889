//! Patterns of `${name#pattern}` and its kin: `*`, `?` and text, found in a value.
//!
//! Used by `expand`. With no brackets in a pattern the pieces between stars can be looked for one
//! after the other, each at its first place (or the last one at its last), and nothing is ever tried
//! again. A star matches line ends, too, as in a shell.

use crate::limits::EXPANSION_WORK;

/// A pattern, as pieces between stars.
#[derive(Debug)]
pub(super) struct Glob {
    /// At least one; `None` in a piece is any character.
    pieces: Vec<Vec<Option<char>>>,
}

/// Characters that were compared.
pub(super) type Work = u64;

impl Glob {
    /// Parses it; `}` and `/` may be escaped, and only what means something besides.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = vec![Vec::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let part = match c {
                '*' => {
                    pieces.push(Vec::new());
                    continue;
                }
                '?' => None,
                '\\' => match chars.next() {
                    Some(c @ ('}' | '/' | '*' | '?' | '\\')) => Some(c),
                    Some(c) => {
                        let c = crate::escape::printable(&c.to_string());
                        return Err(format!("invalid escape '\\{c}'"));
                    }
                    None => return Err("invalid escape at its end".to_owned()),
                },
                c => Some(c),
            };
            if let Some(piece) = pieces.last_mut() {
                piece.push(part);
            }
        }
        Ok(Self { pieces })
    }

    /// The same pattern for text from its end to its beginning.
    pub(super) fn reversed(mut self) -> Self {
        self.pieces.reverse();
        self.pieces.iter_mut().for_each(|piece| piece.reverse());
        self
    }

    /// Length of the shortest or longest beginning that it matches.
    pub(super) fn prefix(&self, value: &[char], longest: bool, work: &mut Work) -> Option<usize> {
        let (first, rest) = self.pieces.split_first()?;
        if !fits(first, value, 0, work) {
            return None;
        }
        chain(rest, value, first.len(), longest, work)
    }

    /// Where it is first, and the longest match there: start and end.
    pub(super) fn find(
        &self,
        value: &[char],
        from: usize,
        work: &mut Work,
    ) -> Option<(usize, usize)> {
        let (first, rest) = self.pieces.split_first()?;
        // What does not follow the first place does not follow a later one.
        let start = find(first, value, from, work)?;
        let end = chain(rest, value, start + first.len(), true, work)?;
        Some((start, end))
    }
}

/// The end of pieces that follow `at` with anything between them.
fn chain(
    pieces: &[Vec<Option<char>>],
    value: &[char],
    at: usize,
    longest: bool,
    work: &mut Work,
) -> Option<usize> {
    let Some((last, before)) = pieces.split_last() else {
        return Some(at);
    };
    let mut at = at;
    for piece in before {
        at = find(piece, value, at, work)? + piece.len();
    }
    let start = match longest {
        true => {
            let latest = value.len().checked_sub(last.len())?;
            (at..=latest)
                .rev()
                .find(|start| fits(last, value, *start, work))?
        }
        false => find(last, value, at, work)?,
    };
    Some(start + last.len())
}

fn find(piece: &[Option<char>], value: &[char], from: usize, work: &mut Work) -> Option<usize> {
    let latest = value.len().checked_sub(piece.len())?;
    (from..=latest).find(|start| fits(piece, value, *start, work))
}

fn fits(piece: &[Option<char>], value: &[char], at: usize, work: &mut Work) -> bool {
    *work = work.saturating_add(1);
    // Whoever pays for it can't, so that it does not matter what is found.
    if *work > EXPANSION_WORK {
        return false;
    }
    let Some(part) = value.get(at..).and_then(|rest| rest.get(..piece.len())) else {
        return false;
    };
    piece.iter().zip(part).all(|(want, c)| {
        *work = work.saturating_add(1);
        want.is_none_or(|want| want == *c)
    })
}
