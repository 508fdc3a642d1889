//! Flags of an instruction: which ones it has, each with its kind of value.
//!
//! Used by `instruction` and `health`. The words are BuildKit's.

use std::collections::BTreeMap;

use super::error::Fault;
use crate::escape::printable;
use crate::limits::FLAGS;

/// Flags by name, without the dashes.
#[derive(Debug, Default)]
pub(super) struct Flags {
    texts: BTreeMap<String, String>,
    switches: BTreeMap<String, bool>,
    lists: BTreeMap<String, Vec<String>>,
}

impl Flags {
    /// Parses words of the form `--name=value`: texts and lists need a value, lists may be repeated.
    pub(super) fn parse(
        words: &[String],
        texts: &[&str],
        switches: &[&str],
        lists: &[&str],
    ) -> Result<Self, Fault> {
        let mut flags = Self::default();
        if words.len() > FLAGS {
            return Err(Fault::new(format!("there are more than {FLAGS} flags")));
        }
        for word in words {
            let text = word.strip_prefix("--").unwrap_or(word);
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text, None),
            };
            let shown = printable(name);
            let fault = |message: String| Err(Fault::new(message).word(word));
            let missing = || format!("missing a value on flag: --{shown}");
            if flags.texts.contains_key(name) || flags.switches.contains_key(name) {
                return fault(format!("duplicate flag specified: --{shown}"));
            }
            let owned = name.to_owned();
            if lists.contains(&name) {
                let Some(value) = value else {
                    return fault(missing());
                };
                flags.lists.entry(owned).or_default().push(value.to_owned());
            } else if texts.contains(&name) {
                let Some(value) = value else {
                    return fault(missing());
                };
                flags.texts.insert(owned, value.to_owned());
            } else if switches.contains(&name) {
                let value = match value.map(str::to_ascii_lowercase).as_deref() {
                    None | Some("true") => true,
                    Some("false") => false,
                    Some("") => return fault(missing()),
                    Some(other) => {
                        let other = printable(other);
                        return fault(format!(
                            "expecting boolean value for flag --{shown}, not: {other}"
                        ));
                    }
                };
                flags.switches.insert(owned, value);
            } else {
                let known: Vec<&str> = [texts, switches, lists].concat();
                return Err(Fault::new(format!("unknown flag: --{shown}"))
                    .word(&format!("--{name}"))
                    .meant(name, &known));
            }
        }
        Ok(flags)
    }

    /// A flag's text; an empty one is as none.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.texts.remove(name).filter(|text| !text.is_empty())
    }

    /// A switch, if it is there.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        self.switches.get(name).copied()
    }

    /// A flag's values.
    pub(super) fn list(&mut self, name: &str) -> Vec<String> {
        self.lists.remove(name).unwrap_or_default()
    }
}
