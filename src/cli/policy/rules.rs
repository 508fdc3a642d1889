//! The text of a policy and what of it holds for one user. Pure: called by [`super`], which reads the file.
//!
//! ```toml
//! [default]                        # everyone but root
//! vms = 4
//! [group.students]
//! memory = "8g"
//! ports = ["8000-8999"]
//! [user.alice]
//! vms = 16
//! ```
//! For each rule the user's own section counts, else those of the user's groups, the most generous of them,
//! else the default; a rule that none of them has allows everything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::cli::values::number;

/// A file with its rules as they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    default: Section,
    user: BTreeMap<String, Section>,
    group: BTreeMap<String, Section>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Section {
    vms: Option<u64>,
    vcpus: Option<u64>,
    memory: Option<String>,
    disk: Option<String>,
    registries: Option<Vec<String>>,
    ports: Option<Vec<String>>,
    addresses: Option<Vec<IpAddr>>,
    bind_mounts: Option<bool>,
    container_isolation: Option<bool>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The user's name and number.
    pub user: [String; 2],
    /// Names and numbers of the user's groups.
    pub groups: Vec<String>,
    /// Whether only the user's own section is meant.
    pub is_root: bool,
}

/// A rule and the section that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule<T> {
    /// What it allows.
    pub value: T,
    /// Such as `group.students`.
    pub section: String,
}

/// What one user may. `None` allows everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// VMs of containers that run at the same time.
    pub vms: Option<Rule<u64>>,
    /// vCPUs of all of them.
    pub vcpus: Option<Rule<u64>>,
    /// Bytes of memory of all of them.
    pub memory: Option<Rule<u64>>,
    /// Bytes that the state root takes.
    pub disk: Option<Rule<u64>>,
    /// Registries that are pulled from and pushed to.
    pub registries: Option<Rule<Vec<String>>>,
    /// Ports of the host that are published.
    pub ports: Option<Rule<Vec<RangeInclusive<u16>>>>,
    /// Addresses of the host where they are.
    pub addresses: Option<Rule<Vec<IpAddr>>>,
    /// Whether folders of the host may be mounted.
    pub bind_mounts: Option<Rule<bool>>,
    /// Whether a container may do without a VM.
    pub container_isolation: Option<Rule<bool>>,
}

impl Document {
    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// Names and numbers of users that have a section.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.user.keys().map(String::as_str)
    }

    /// Names and numbers of groups that have one.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.group.keys().map(String::as_str)
    }

    /// What users may of whom nothing else is said.
    ///
    /// # Errors
    /// A value that is none.
    pub fn default_rules(&self) -> Result<Rules> {
        self.default.rules("default")
    }

    /// What `who` may.
    ///
    /// # Errors
    /// A value that is none, also in sections that are of no use here.
    pub fn rules(&self, who: &Who) -> Result<Rules> {
        let mut user = Rules::default();
        for (name, section) in &self.user {
            let rules = section.rules(&format!("user.{name}"))?;
            if who.user.contains(name) {
                user = user.or(rules);
            }
        }
        let mut groups = Rules::default();
        for (name, section) in &self.group {
            let rules = section.rules(&format!("group.{name}"))?;
            if who.groups.contains(name) {
                groups = groups.widened(rules);
            }
        }
        let default = self.default_rules()?;
        Ok(match who.is_root {
            true => user,
            false => user.or(groups).or(default),
        })
    }
}

impl Section {
    fn rules(&self, section: &str) -> Result<Rules> {
        let bytes = |name: &str, text: &Option<String>| {
            let bytes = text.as_deref().map(number::bytes).transpose();
            bytes.with_context(|| format!("{name} of [{section}]"))
        };
        let ports = self.ports.as_ref().map(|list| {
            let ranges = list.iter().map(|text| range(text));
            ranges.collect::<Result<Vec<_>>>()
        });
        let ports = ports
            .transpose()
            .with_context(|| format!("ports of [{section}]"))?;
        let rule = |value| rule(section, value);
        Ok(Rules {
            vms: rule(self.vms),
            vcpus: rule(self.vcpus),
            memory: rule(bytes("memory", &self.memory)?),
            disk: rule(bytes("disk", &self.disk)?),
            registries: self::rule(section, self.registries.clone()),
            ports: self::rule(section, ports),
            addresses: self::rule(section, self.addresses.clone()),
            bind_mounts: self::rule(section, self.bind_mounts),
            container_isolation: self::rule(section, self.container_isolation),
        })
    }
}

fn rule<T>(section: &str, value: Option<T>) -> Option<Rule<T>> {
    let section = section.to_owned();
    value.map(|value| Rule { value, section })
}

/// `80` or `8000-8999`.
fn range(text: &str) -> Result<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => bail!("{text:?} is neither a port nor a range of them"),
    }
}

impl Rules {
    /// The rules that there are: name, section and what they allow.
    pub fn told(&self) -> Vec<(&'static str, &str, String)> {
        fn one<'a, T>(
            name: &'static str,
            rule: &'a Option<Rule<T>>,
            text: impl Fn(&T) -> String,
        ) -> Option<(&'static str, &'a str, String)> {
            let rule = rule.as_ref()?;
            Some((name, &rule.section, text(&rule.value)))
        }
        let all = [
            one("vms", &self.vms, u64::to_string),
            one("vcpus", &self.vcpus, u64::to_string),
            one("memory", &self.memory, in_bytes),
            one("disk", &self.disk, in_bytes),
            one("registries", &self.registries, |list| listed(list)),
            one("ports", &self.ports, |ranges| port_list(ranges)),
            one("addresses", &self.addresses, |list| listed(list)),
            one("bind-mounts", &self.bind_mounts, bool::to_string),
            one(
                "container-isolation",
                &self.container_isolation,
                bool::to_string,
            ),
        ];
        all.into_iter().flatten().collect()
    }

    /// These, and where they have none, those.
    fn or(self, other: Self) -> Self {
        Self {
            vms: self.vms.or(other.vms),
            vcpus: self.vcpus.or(other.vcpus),
            memory: self.memory.or(other.memory),
            disk: self.disk.or(other.disk),
            registries: self.registries.or(other.registries),
            ports: self.ports.or(other.ports),
            addresses: self.addresses.or(other.addresses),
            bind_mounts: self.bind_mounts.or(other.bind_mounts),
            container_isolation: self.container_isolation.or(other.container_isolation),
        }
    }

    /// The more generous of each two.
    fn widened(self, other: Self) -> Self {
        Self {
            vms: larger(self.vms, other.vms),
            vcpus: larger(self.vcpus, other.vcpus),
            memory: larger(self.memory, other.memory),
            disk: larger(self.disk, other.disk),
            registries: joined(self.registries, other.registries),
            ports: joined(self.ports, other.ports),
            addresses: joined(self.addresses, other.addresses),
            bind_mounts: larger(self.bind_mounts, other.bind_mounts),
            container_isolation: larger(self.container_isolation, other.container_isolation),
        }
    }
}

/// A number of bytes, as it is told.
pub fn in_bytes(bytes: &u64) -> String {
    format!("{bytes} bytes")
}

/// Values one after the other.
pub fn listed<T: ToString>(values: &[T]) -> String {
    let texts: Vec<String> = values.iter().map(T::to_string).collect();
    match texts.as_slice() {
        [] => "empty".to_owned(),
        texts => texts.join(", "),
    }
}

/// Ports and ranges of them, as they are written.
pub fn port_list(ranges: &[RangeInclusive<u16>]) -> String {
    let texts = ranges
        .iter()
        .map(|range| match range.start() == range.end() {
            true => range.start().to_string(),
            false => format!("{}-{}", range.start(), range.end()),
        });
    listed(&texts.collect::<Vec<_>>())
}

fn larger<T: Ord>(one: Option<Rule<T>>, other: Option<Rule<T>>) -> Option<Rule<T>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.value > one.value { other } else { one }),
        (one, other) => one.or(other),
    }
}

fn joined<T>(one: Option<Rule<Vec<T>>>, other: Option<Rule<Vec<T>>>) -> Option<Rule<Vec<T>>> {
    match (one, other) {
        (Some(mut one), Some(other)) => {
            one.value.extend(other.value);
            one.section = format!("{}] and [{}", one.section, other.section);
            Some(one)
        }
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [default]
        vms = 2
        memory = "1g"
        registries = ["registry.test:5000"]
        bind-mounts = false

        [group.students]
        vms = 4
        ports = ["8000-8999", "80"]

        [group.staff]
        vms = 3
        ports = ["22"]
        bind-mounts = true

        [user.alice]
        vms = 1
        [user.1001]
        memory = "512m"
    "#;

    fn who(name: &str, groups: &[&str]) -> Who {
        Who {
            user: [name.to_owned(), "1001".to_owned()],
            groups: groups.iter().map(ToString::to_string).collect(),
            is_root: name == "root",
        }
    }

    fn of(text: &str, who: &Who) -> Result<Rules> {
        Document::parse(text)?.rules(who)
    }

    #[test]
    fn the_users_section_counts_then_the_groups_then_the_default() {
        let rules = of(TEXT, &who("alice", &["students", "staff"])).unwrap();
        assert_eq!(rules.vms, rule("user.alice", Some(1)));
        assert_eq!(rules.memory, rule("user.1001", Some(512 << 20)));
        assert_eq!(rules.bind_mounts, rule("group.staff", Some(true)));
        let registries = vec!["registry.test:5000".to_owned()];
        assert_eq!(rules.registries, rule("default", Some(registries)));
        assert_eq!(rules.vcpus, None);
        let rules = of(TEXT, &who("bob", &["students", "staff", "others"])).unwrap();
        assert_eq!(rules.vms, rule("group.students", Some(4)));
        let ports = rules.ports.unwrap();
        assert_eq!(ports.value, [22..=22, 8000..=8999, 80..=80]);
        assert_eq!(ports.section, "group.staff] and [group.students");
    }

    #[test]
    fn rules_are_told_as_they_are_written() {
        let rules = of(TEXT, &who("bob", &["students"])).unwrap();
        let told = rules.told();
        let told: Vec<_> = told
            .iter()
            .map(|(name, section, text)| format!("{name} {section} {text}"))
            .collect();
        let wanted = [
            "vms group.students 4",
            "memory user.1001 536870912 bytes",
            "registries default registry.test:5000",
            "ports group.students 8000-8999, 80",
            "bind-mounts default false",
        ];
        assert_eq!(told, wanted);
        assert!(Rules::default().told().is_empty());
    }

    #[test]
    fn root_is_bound_by_what_names_root_only() {
        let mut root = who("root", &["root"]);
        root.user = ["root".to_owned(), "0".to_owned()];
        assert_eq!(of(TEXT, &root).unwrap(), Rules::default());
        let text = "[default]\nvms = 1\n[group.root]\nvms = 2\n[user.root]\nvcpus = 8\n";
        let rules = of(text, &root).unwrap();
        assert_eq!((rules.vms, rules.vcpus), (None, rule("user.root", Some(8))));
    }

    #[test]
    fn what_is_no_rule_is_told_for_everyone() {
        for (text, wanted) in [
            ("[default]\nvm = 1", "unknown field `vm`"),
            ("[users.alice]\nvms = 1", "unknown field `users`"),
            ("[default]\nvms = -1", "invalid value"),
            ("[default]\nvms = \"4\"", "invalid type"),
            (
                "[user.x]\nmemory = \"much\"",
                "memory of [user.x]: invalid size: 'much'",
            ),
            (
                "[group.x]\nports = [\"9-8\"]",
                "ports of [group.x]: \"9-8\" is neither",
            ),
            (
                "[group.x]\nports = [\"65536\"]",
                "ports of [group.x]: \"65536\" is neither",
            ),
            (
                "[default]\naddresses = [\"localhost\"]",
                "invalid IP address",
            ),
            ("[default", "TOML parse error at line 1"),
        ] {
            let error = format!("{:#}", of(text, &who("bob", &[])).unwrap_err());
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert_eq!(of("", &who("bob", &[])).unwrap(), Rules::default());
    }
}
