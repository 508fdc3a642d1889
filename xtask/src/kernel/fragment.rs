//! The kernel's configuration fragment: what it asks for, and what of it a final `.config` has
//! lost. `kernel` calls it. It must not know where the files are.

use std::collections::HashMap;

use thiserror::Error;

/// What one line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    /// `CONFIG_X=value`
    Set(String),
    /// `# CONFIG_X is not set`
    Unset,
}

/// A fragment's lines in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    wishes: Vec<(String, Wish)>,
}

/// Why a fragment is not taken.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum FragmentError {
    /// A line is neither a wish, a comment nor empty.
    #[error(
        "line {line}: {text:?} is neither CONFIG_X=value nor `# CONFIG_X is not set` nor a comment"
    )]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// Two lines are about one option.
    #[error("line {line}: {option} was named before")]
    Repeated {
        /// Counted from 1.
        line: usize,
        /// The option.
        option: String,
    },
}

impl Fragment {
    /// Reads a fragment.
    ///
    /// # Errors
    ///
    /// A line is not understood or an option is named twice.
    pub(super) fn parse(text: &str) -> Result<Self, FragmentError> {
        let mut wishes: Vec<(String, Wish)> = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let line = index + 1;
            let Some((option, wish)) = parse_line(text) else {
                // A comment that mentions an option at its start is a wish with a slip in it.
                if text.is_empty() || (text.starts_with('#') && !text.starts_with("# CONFIG_")) {
                    continue;
                }
                return Err(FragmentError::Malformed {
                    line,
                    text: text.to_owned(),
                });
            };
            if wishes.iter().any(|(known, _)| known == option) {
                return Err(FragmentError::Repeated {
                    line,
                    option: option.to_owned(),
                });
            }
            wishes.push((option.to_owned(), wish));
        }
        Ok(Self { wishes })
    }

    /// The lines that `config`, a final `.config`, does not have, and what it has instead.
    pub(super) fn lost_in(&self, config: &str) -> Vec<String> {
        let values: HashMap<&str, &str> = config
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .collect();
        let mut lost = Vec::new();
        for (option, wish) in &self.wishes {
            let value = values.get(option.as_str()).copied();
            match (wish, value) {
                (Wish::Unset, None) => {}
                (Wish::Unset, Some(value)) => {
                    lost.push(format!("# {option} is not set: became {option}={value}"))
                }
                (Wish::Set(wanted), Some(value)) if wanted == value => {}
                (Wish::Set(wanted), Some(value)) => {
                    lost.push(format!("{option}={wanted}: became {option}={value}"))
                }
                (Wish::Set(wanted), None) => {
                    lost.push(format!("{option}={wanted}: is not set (no such option, or what it depends on is off)"));
                }
            }
        }
        lost
    }
}

fn parse_line(line: &str) -> Option<(&str, Wish)> {
    let (option, wish) = match line.strip_prefix("# ") {
        Some(rest) => (rest.strip_suffix(" is not set")?, Wish::Unset),
        None => {
            let (option, value) = line.split_once('=')?;
            (option, Wish::Set(value.to_owned()))
        }
    };
    let name = option.strip_prefix("CONFIG_")?;
    let is_name = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some((option, wish))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAGMENT: &str =
        "# a comment\n\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x=y\"\nCONFIG_D=-1\n";

    #[test]
    fn nothing_is_lost_when_all_is_there() {
        let fragment = Fragment::parse(FRAGMENT).expect("parse");
        let config = "CONFIG_D=-1\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x=y\"\n";
        assert!(fragment.lost_in(config).is_empty());
        // An option that does not exist is as good as not set.
        assert!(
            fragment
                .lost_in(&config.replace("# CONFIG_B is not set\n", ""))
                .is_empty()
        );
    }

    #[test]
    fn each_lost_line_is_named_with_what_came_instead() {
        let fragment = Fragment::parse(FRAGMENT).expect("parse");
        assert_eq!(
            fragment.lost_in("# CONFIG_A is not set\nCONFIG_B=m\nCONFIG_C=\"z\"\nCONFIG_D=-1\n"),
            [
                "CONFIG_A=y: is not set (no such option, or what it depends on is off)",
                "# CONFIG_B is not set: became CONFIG_B=m",
                "CONFIG_C=\"x=y\": became CONFIG_C=\"z\"",
            ]
        );
    }

    #[test]
    fn slips_are_refused() {
        let malformed = |line, text: &str| {
            Err(FragmentError::Malformed {
                line,
                text: text.into(),
            })
        };
        assert_eq!(Fragment::parse("CONFIG_A"), malformed(1, "CONFIG_A"));
        assert_eq!(
            Fragment::parse("\n# CONFIG_A not set"),
            malformed(2, "# CONFIG_A not set")
        );
        assert_eq!(Fragment::parse("A=y"), malformed(1, "A=y"));
        let repeated = FragmentError::Repeated {
            line: 2,
            option: "CONFIG_A".into(),
        };
        assert_eq!(
            Fragment::parse("CONFIG_A=y\n# CONFIG_A is not set"),
            Err(repeated)
        );
    }
}
