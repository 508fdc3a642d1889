//! `--filter KEY=VALUE`: read the same way and matched the same way by every list, prune and
//! `events`. Of several values of a key one has to hold, labels apart; every key has to.
//!
//! Pure: it knows no container and no image.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use jiff::Timestamp;
use regex_lite::Regex;

use super::values;

/// What was asked for, by key.
#[derive(Debug, Default)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the values of a flag that messages call `flag`; only the keys in `known` are any.
    ///
    /// # Errors
    /// Docker's sentences for what is no filter, and for an unknown key.
    pub fn parse(texts: &[String], flag: &str, known: &[&str]) -> Result<Self> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            let Some((key, value)) = text.split_once('=') else {
                bail!(
                    "invalid argument \"{text}\" for \"{flag}\" flag: bad format of filter \
                     (expected name=value)"
                );
            };
            let key = key.trim().to_lowercase();
            all.entry(key).or_default().push(value.trim().to_owned());
        }
        if let Some(key) = all.keys().find(|key| !known.contains(&key.as_str())) {
            bail!("invalid filter '{key}'");
        }
        Ok(Self(all))
    }

    /// Whether there is any of this key.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Every value of a key, as given.
    #[must_use]
    pub fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether one value holds, or nothing was asked.
    #[must_use]
    pub fn any(&self, key: &str, holds: impl Fn(&str) -> bool) -> bool {
        let values = self.0.get(key);
        values.is_none_or(|values| values.iter().any(|value| holds(value)))
    }

    /// Whether one value is this text.
    #[must_use]
    pub fn is(&self, key: &str, text: &str) -> bool {
        self.any(key, |value| value == text)
    }

    /// Whether one value is this text, or a pattern that is found in it. What is no pattern is found
    /// nowhere, as in Docker.
    #[must_use]
    pub fn matches(&self, key: &str, text: &str) -> bool {
        self.any(key, |value| {
            value == text || Regex::new(value).is_ok_and(|pattern| pattern.is_match(text))
        })
    }

    /// Whether every `KEY` or `KEY=VALUE` is among the labels.
    #[must_use]
    pub fn labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(key).iter().all(|wanted| {
            let (name, value) = match wanted.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (wanted.as_str(), None),
            };
            let found = labels.get(name);
            found.is_some_and(|found| value.is_none_or(|value| found == value))
        })
    }

    /// As [`Self::labels`] for `label`, and whether none of `label!` is among them.
    #[must_use]
    pub fn labels_of_prune(&self, labels: &BTreeMap<String, String>) -> bool {
        let unwanted = self.has("label!") && self.labels("label!", labels);
        self.labels("label", labels) && !unwanted
    }

    /// A key that is true or false.
    ///
    /// # Errors
    /// When it is neither, or both.
    pub fn switch(&self, key: &str) -> Result<Option<bool>> {
        let values = self.values(key);
        Ok(match values {
            [] => None,
            [one] if matches!(one.as_str(), "true" | "1") => Some(true),
            [one] if matches!(one.as_str(), "false" | "0") => Some(false),
            _ => bail!("invalid filter '{key}=[{}]'", values.join(" ")),
        })
    }

    /// `until`: a moment, or how long before `now`.
    ///
    /// # Errors
    /// When it is none, or there are several.
    pub fn until(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        match self.values("until") {
            [] => Ok(None),
            [one] => values::time::moment(one, now).map(Some),
            _ => bail!("more than one until filter specified"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(texts: &[&str]) -> Result<Filters> {
        let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
        let known = ["name", "label", "label!", "dangling", "until"];
        Filters::parse(&texts, "-f, --filter", &known)
    }

    #[test]
    fn what_is_no_filter_is_refused_in_dockers_words() {
        for (text, want) in [
            (
                "foo",
                "invalid argument \"foo\" for \"-f, --filter\" flag: bad format of filter \
                 (expected name=value)",
            ),
            ("foo=bar", "invalid filter 'foo'"),
            ("=x", "invalid filter ''"),
        ] {
            assert_eq!(filters(&[text]).unwrap_err().to_string(), want);
        }
        assert!(!filters(&[""]).unwrap().has("name"));
    }

    #[test]
    fn names_are_patterns_one_of_which_is_found() {
        let some = filters(&["Name = ^web[0-9]$", "name=db"]).unwrap();
        for (name, want) in [("web1", true), ("web12", false), ("a-db-b", true)] {
            assert_eq!(some.matches("name", name), want, "{name}");
        }
        assert!(some.is("name", "db") && !some.is("name", "a-db-b"));
        let none = filters(&["name=("]).unwrap();
        assert!(none.matches("name", "(") && !none.matches("name", "a("));
        assert!(filters(&[]).unwrap().matches("name", "any"));
    }

    #[test]
    fn every_label_has_to_be_there() {
        let labels = BTreeMap::from([("a", "1"), ("b", "")]);
        let labels = labels.into_iter().map(|(k, v)| (k.into(), v.into()));
        let labels = labels.collect();
        for (texts, want) in [
            (&["label=a"][..], true),
            (&["label=a=1", "label=b"], true),
            (&["label=a=1", "label=c"], false),
            (&["label=a=2"], false),
            (&["label!=a"], false),
            (&["label!=a=2"], true),
            (&["label=a", "label!=b"], false),
            (&[], true),
        ] {
            let got = filters(texts).unwrap().labels_of_prune(&labels);
            assert_eq!(got, want, "{texts:?}");
        }
    }

    #[test]
    fn switches_and_moments_are_read_once() {
        let some = |texts: &[&str]| filters(texts).unwrap();
        assert_eq!(
            some(&["dangling=1"]).switch("dangling").unwrap(),
            Some(true)
        );
        assert_eq!(some(&[]).switch("dangling").unwrap(), None);
        for (texts, want) in [
            (&["dangling=x"][..], "invalid filter 'dangling=[x]'"),
            (
                &["dangling=1", "dangling=0"],
                "invalid filter 'dangling=[1 0]'",
            ),
        ] {
            let error = some(texts).switch("dangling").unwrap_err();
            assert_eq!(error.to_string(), want);
        }
        let now: Timestamp = "2025-01-02T12:00:00Z".parse().unwrap();
        let until = some(&["until=1h"]).until(now).unwrap().unwrap();
        assert_eq!(until.to_string(), "2025-01-02T11:00:00Z");
        some(&["until=1h", "until=2h"]).until(now).unwrap_err();
        some(&["until=soon"]).until(now).unwrap_err();
    }
}
