//! Patterns of file names: Go's `filepath.Match`, and the `**` of .dockerignore.
//!
//! The host matches what is in a build context, the agent what is in a stage or an image. Pure. A
//! pattern is run as an automaton, all of its states at once, so that it takes at most its length
//! times that of the name, whatever it is.

use thiserror::Error;

/// Bytes of one pattern: a path has no more (`PATH_MAX`).
pub const PATTERN_BYTES_MAX: usize = 4096;

/// Text that is no pattern. The first words are Go's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// A bracket that is not closed, or nothing behind a backslash.
    #[error("syntax error in pattern: {0}")]
    Syntax(String),
    /// It is above [`PATTERN_BYTES_MAX`].
    #[error("a pattern of {0} bytes is above the limit of {PATTERN_BYTES_MAX}")]
    Length(usize),
}

/// A checked pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
    /// What most patterns are, for which nothing has to run.
    plain: Plain,
}

/// A pattern without wildcards, or with none but folders before it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plain {
    /// `name`: this path.
    Path(String),
    /// `**/name`: this path in any folder.
    InFolder(String),
    /// Neither.
    No,
}

impl Plain {
    fn of(parts: &[Part]) -> Self {
        let (rest, make): (_, fn(String) -> Self) = match parts {
            [Part::Fork, Part::Folders, rest @ ..] => (rest, Self::InFolder),
            parts => (parts, Self::Path),
        };
        let chars = rest.iter().map(|part| match part {
            Part::Char(c) => Some(*c),
            _ => None,
        });
        chars.collect::<Option<String>>().map_or(Self::No, make)
    }
}

/// What matches a piece of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// One character.
    Char(char),
    /// `?`: any character but a slash.
    Any,
    /// `[…]`: one of these ranges, or none of them; a slash never.
    Class(bool, Vec<(char, char)>),
    /// `*`: any number of characters but slashes.
    Star,
    /// `**`: any number of characters.
    DeepStar,
    /// `**/`: nothing, or what [`Part::Folders`] matches, which follows.
    Fork,
    /// Any number of characters and a slash.
    Folders,
}

/// States of the automaton: each is the number of the part that has to match next.
struct States {
    active: Vec<usize>,
    is_active: Vec<bool>,
}

impl States {
    fn clear(&mut self) {
        for at in self.active.drain(..) {
            if let Some(is_active) = self.is_active.get_mut(at) {
                *is_active = false;
            }
        }
    }

    /// Adds a state, and those behind it that are reached without a character.
    fn add(&mut self, parts: &[Part], at: usize) {
        let mut at = at;
        loop {
            match self.is_active.get_mut(at) {
                Some(is_active) if !*is_active => *is_active = true,
                _ => return,
            }
            self.active.push(at);
            match parts.get(at) {
                Some(Part::Star | Part::DeepStar) => at += 1,
                Some(Part::Fork) => {
                    self.add_one(at + 1);
                    at += 2;
                }
                _ => return,
            }
        }
    }

    fn add_one(&mut self, at: usize) {
        if let Some(is_active) = self.is_active.get_mut(at)
            && !std::mem::replace(is_active, true)
        {
            self.active.push(at);
        }
    }
}

impl Pattern {
    /// A pattern as Go's `filepath.Match` has it: `*`, `?`, `[a-z]`, `[^a]`, `\*`. Two stars are as one.
    ///
    /// # Errors
    /// See [`PatternError`].
    pub fn shallow(text: &str) -> Result<Self, PatternError> {
        Self::parse(text, false)
    }

    /// A pattern of .dockerignore, `--exclude` or `--parents`: as [`Self::shallow`], and `**` matches
    /// folders, too.
    ///
    /// # Errors
    /// See [`PatternError`].
    pub fn deep(text: &str) -> Result<Self, PatternError> {
        Self::parse(text, true)
    }

    /// Whether `text` has anything in it that [`Self::shallow`] would not take as it is, but for escapes.
    #[must_use]
    pub fn has_wildcards(text: &str) -> bool {
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '*' | '?' | '[' => return true,
                '\\' => drop(chars.next()),
                _ => {}
            }
        }
        false
    }

    /// Whether it matches all of a path with slashes. What is no UTF-8 in it is matched by `*` and `?`.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.plain {
            Plain::Path(own) => return path == own.as_bytes(),
            Plain::InFolder(own) => {
                let folder = path.strip_suffix(own.as_bytes());
                return folder.is_some_and(|folder| folder.is_empty() || folder.ends_with(b"/"));
            }
            Plain::No => {}
        }
        let states = || States {
            active: Vec::new(),
            is_active: vec![false; self.parts.len() + 1],
        };
        let (mut now, mut next) = (states(), states());
        now.add(&self.parts, 0);
        for chunk in path.utf8_chunks() {
            let valid = chunk.valid().chars().map(Some);
            for c in valid.chain(chunk.invalid().iter().map(|_| None)) {
                if now.active.is_empty() {
                    return false;
                }
                self.step(&now, &mut next, c);
                std::mem::swap(&mut now, &mut next);
                next.clear();
            }
        }
        now.is_active.last().copied().unwrap_or(false)
    }

    /// States behind a character; `None` is a byte that is no part of one.
    fn step(&self, now: &States, next: &mut States, c: Option<char>) {
        for at in now.active.iter().copied() {
            let is_slash = c == Some('/');
            match self.parts.get(at) {
                Some(Part::Char(own)) if c == Some(*own) => next.add(&self.parts, at + 1),
                Some(Part::Any) if !is_slash => next.add(&self.parts, at + 1),
                Some(Part::Class(is_negated, ranges)) if !is_slash => {
                    let is_in = |c| ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                    if c.is_some_and(is_in) != *is_negated {
                        next.add(&self.parts, at + 1);
                    }
                }
                Some(Part::Star) if !is_slash => next.add(&self.parts, at),
                Some(Part::DeepStar) => next.add(&self.parts, at),
                Some(Part::Folders) => {
                    next.add(&self.parts, at);
                    if is_slash {
                        next.add(&self.parts, at + 1);
                    }
                }
                _ => {}
            }
        }
    }

    fn parse(text: &str, is_deep: bool) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::Length(text.len()));
        }
        let syntax = || PatternError::Syntax(text.escape_debug().take(200).collect());
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let is_first = rest.len() == text.len();
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            match c {
                '*' if is_deep && rest.starts_with('*') => {
                    rest = rest.get(1..).unwrap_or_default();
                    let after = rest.strip_prefix('/');
                    // Docker takes `**x` at the beginning as any name that ends in x.
                    let is_suffix =
                        is_first && after.is_none() && !rest.contains(['*', '?', '[', ']', '\\']);
                    rest = after.unwrap_or(rest);
                    match rest.is_empty() || is_suffix {
                        true => parts.push(Part::DeepStar),
                        false => parts.extend([Part::Fork, Part::Folders]),
                    }
                }
                '*' => {
                    // More of them in a row are no other pattern.
                    if parts.last() != Some(&Part::Star) {
                        parts.push(Part::Star);
                    }
                }
                '?' => parts.push(Part::Any),
                '[' => {
                    let (class, after) = class(rest).ok_or_else(syntax)?;
                    parts.push(class);
                    rest = after;
                }
                '\\' => {
                    let next = rest.chars().next().ok_or_else(syntax)?;
                    rest = rest.get(next.len_utf8()..).unwrap_or_default();
                    parts.push(Part::Char(next));
                }
                c => parts.push(Part::Char(c)),
            }
        }
        Ok(Self {
            plain: Plain::of(&parts),
            parts,
        })
    }
}

/// What is behind a `[`, and what is behind its `]`.
fn class(text: &str) -> Option<(Part, &str)> {
    let (is_negated, mut rest) = match text.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut ranges = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(']')
            && !ranges.is_empty()
        {
            return Some((Part::Class(is_negated, ranges), after));
        }
        let (low, after) = class_char(rest)?;
        let (high, after) = match after.strip_prefix('-') {
            Some(after) => class_char(after)?,
            None => (low, after),
        };
        ranges.push((low, high));
        rest = after;
    }
}

fn class_char(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    let c = match chars.next()? {
        '-' | ']' => return None,
        '\\' => chars.next()?,
        c => c,
    };
    // Go wants the class to go on.
    let rest = chars.as_str();
    (!rest.is_empty()).then_some((c, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(parse: fn(&str) -> Result<Pattern, PatternError>, rows: &[(&str, &str, bool)]) {
        for (pattern, path, want) in rows {
            let parsed = parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert_eq!(parsed.matches(path.as_bytes()), *want, "{pattern} {path}");
        }
    }

    #[test]
    fn shallow_patterns_are_as_in_go() {
        table(
            Pattern::shallow,
            &[
                ("", "", true),
                ("", "a", false),
                ("abc", "abc", true),
                ("*", "abc", true),
                ("*", "", true),
                ("*c", "abc", true),
                ("a*", "a", true),
                ("a*", "ab/c", false),
                ("a*/b", "abc/b", true),
                ("a*/b", "a/c/b", false),
                ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
                ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
                ("a*b?c*x", "abxbbxdbxebxczzx", true),
                ("a*b?c*x", "abxbbxdbxebxczzy", false),
                ("ab[c]", "abc", true),
                ("ab[b-d]", "abc", true),
                ("ab[e-g]", "abc", false),
                ("ab[^c]", "abc", false),
                ("ab[^e-g]", "abc", true),
                ("a\\*b", "a*b", true),
                ("a\\*b", "ab", false),
                ("a?b", "a☺b", true),
                ("a[^a]b", "a☺b", true),
                ("a???b", "a☺b", false),
                ("[a-ζ]*", "α", true),
                ("*[a-ζ]", "A", false),
                ("a?b", "a/b", false),
                ("a*b", "a/b", false),
                ("[\\]a]", "]", true),
                ("[\\-]", "-", true),
                ("[x\\-]", "x", true),
                ("[\\-x]", "a", false),
                ("**", "a", true),
                ("**", "a/b", false),
            ],
        );
        for bad in [
            "[", "[^", "[^bc", "a[", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "a\\", "[]", "[^]",
            "[a", "[\\",
        ] {
            let error = Pattern::shallow(bad).unwrap_err();
            assert_eq!(
                error,
                PatternError::Syntax(bad.escape_debug().collect()),
                "{bad}"
            );
        }
    }

    #[test]
    fn deep_patterns_are_as_in_docker() {
        table(
            Pattern::deep,
            &[
                ("**", "file", true),
                ("**", "dir/file", true),
                ("**/", "dir/file", true),
                ("**/**", "dir/file", true),
                ("dir/**", "dir/file", true),
                ("dir/**", "dir/dir2/file", true),
                ("dir/**", "dir", false),
                ("**/dir2/*", "dir/dir2/file", true),
                ("**/dir2/*", "dir/dir2/dir2/file", true),
                ("**/dir2/**", "dir/dir2/dir2/file", true),
                ("**file", "file", true),
                ("**file", "dir/file", true),
                ("**file", "dir/afile", true),
                ("**/file", "file", true),
                ("**/file", "dir/file", true),
                ("**/file", "dir/afile", false),
                ("**/file*", "dir/dir/file.txt", true),
                ("**/*.go", "a.go", true),
                ("**/*.go", "x/y/a.go", true),
                ("a**b", "ab", true),
                ("a**b", "a/x/b", true),
                ("a**b", "axxb", false),
                ("a**/*.txt", "a/x/t.txt", true),
                ("a/**/b", "a/b", true),
                ("a/**/b", "a/x/y/b", true),
                ("a/**/b", "a/xb", false),
                ("abc.def", "abcdef", false),
                ("abc?def", "abc/def", false),
                ("a(b)|c+{d}$", "a(b)|c+{d}$", true),
                ("**/b/c", "b/c", true),
                ("**/b/c", "a/b/c", true),
                ("**/b/c", "ab/c", false),
                ("**/b/c", "b/c/d", false),
                ("**/\\*", "a/*", true),
                ("**/\\*", "a/b", false),
                ("foo/*", "foo/bar/baz", false),
            ],
        );
    }

    #[test]
    fn names_need_not_be_utf8() {
        for (pattern, path, want) in [
            ("a?", &b"a\xff"[..], true),
            ("*", b"\xff\xfe", true),
            ("[^a]", b"\xff", true),
            ("a", b"\xff", false),
        ] {
            assert_eq!(
                Pattern::shallow(pattern).unwrap().matches(path),
                want,
                "{pattern}"
            );
        }
    }

    /// A matcher that goes back would take years.
    #[test]
    fn many_stars_take_no_time() {
        let pattern = Pattern::deep(&format!("{}b", "**/*a".repeat(800))).unwrap();
        assert!(!pattern.matches(&b"a/".repeat(2000)));
        let pattern = Pattern::shallow(&"a*".repeat(2000)).unwrap();
        assert!(!pattern.matches(&[b"a".repeat(1999), vec![b'/']].concat()));
        assert!(matches!(
            Pattern::deep(&"a".repeat(PATTERN_BYTES_MAX + 1)),
            Err(PatternError::Length(_))
        ));
    }

    #[test]
    fn wildcards_are_seen() {
        for (text, want) in [
            ("a", false),
            ("a*", true),
            ("?", true),
            ("[a]", true),
            ("\\*", false),
            ("\\", false),
        ] {
            assert_eq!(Pattern::has_wildcards(text), want, "{text}");
        }
    }
}
