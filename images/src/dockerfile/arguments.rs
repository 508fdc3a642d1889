//! Build arguments: those that are there without an ARG, those before the first FROM, and those that
//! nobody took.
//!
//! Used by `stages` and `steps`.

use super::error::{Fault, PlanError, Warning};
use super::expand::{Lexer, Variables};
use super::plan::PlanOptions;
use super::stages::Planner;
use super::state::State;
use crate::escape::printable;
use crate::limits::EXPANSION_WORK;
use crate::platform::Platform;

/// Build arguments that no ARG has to declare.
const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// The arguments that are there without an ARG before the first FROM.
pub(super) fn predefined(options: &PlanOptions, last_stage: Option<&str>) -> Variables {
    let (build, target) = (Platform::host(), &options.platform);
    let stage = options.target.as_deref().filter(|name| !name.is_empty());
    let stage = stage.or(last_stage);
    let all = [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os().to_owned()),
        ("BUILDARCH", build.architecture().to_owned()),
        (
            "BUILDVARIANT",
            build.variant().unwrap_or_default().to_owned(),
        ),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os().to_owned()),
        ("TARGETARCH", target.architecture().to_owned()),
        (
            "TARGETVARIANT",
            target.variant().unwrap_or_default().to_owned(),
        ),
        ("TARGETSTAGE", stage.unwrap_or("default").to_owned()),
    ];
    let given = |name: &str| options.build_args.get(name).cloned().flatten();
    all.into_iter()
        .map(|(name, value)| (name.to_owned(), given(name).unwrap_or(value)))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

fn is_predefined(name: &str) -> bool {
    let platform = name
        .strip_prefix("BUILD")
        .or_else(|| name.strip_prefix("TARGET"));
    PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
        || platform
            .is_some_and(|rest| ["PLATFORM", "OS", "ARCH", "VARIANT", "STAGE"].contains(&rest))
}

impl<E: std::error::Error + 'static> Planner<'_, E> {
    /// A word of an instruction before the first FROM, or of FROM.
    pub(super) fn global(&self, text: &str) -> Result<String, String> {
        Lexer::new(self.file.escape, &self.globals, &self.work).word(text)
    }

    /// Takes from what replacing variables may cost.
    pub(super) fn pay(&self, units: u64) -> Result<(), Fault> {
        let left = self.work.get().checked_sub(units).ok_or_else(|| {
            Fault::new(format!(
                "it takes more than {EXPANSION_WORK} steps to replace variables"
            ))
        })?;
        self.work.set(left);
        Ok(())
    }

    pub(super) fn global_args(&mut self) -> Result<(), PlanError<E>> {
        let file = self.file;
        for (line, args) in &file.global_args {
            for (name, default) in args {
                let given = self.given(name);
                let value = match (given, default) {
                    (Some(given), _) => Some(given),
                    (None, Some(text)) => Some(
                        self.global(text)
                            .map_err(|error| Fault::new(error).word(text).at(line, &file.source))?,
                    ),
                    (None, None) => None,
                };
                if let Some(value) = value {
                    self.globals.insert(name.clone(), value);
                }
            }
        }
        Ok(())
    }

    /// A build argument's value; it counts as consumed.
    pub(super) fn given(&mut self, name: &str) -> Option<String> {
        let given = self.options.build_args.get(name)?;
        self.consumed.insert(name.to_owned());
        given.clone()
    }

    pub(super) fn unconsumed(&self) -> Option<Warning> {
        let names = self.options.build_args.keys();
        let left: Vec<String> = names
            .filter(|name| !self.consumed.contains(*name) && !is_predefined(name))
            .map(|name| printable(name))
            .collect();
        (!left.is_empty()).then(|| Warning {
            line: 0,
            text: format!(
                "One or more build-args [{}] were not consumed",
                left.join(" ")
            ),
        })
    }

    /// Proxies among the build arguments that are no ARG of the stage, in both of their cases.
    pub(super) fn proxies(&self, state: &State) -> Vec<String> {
        let mut proxies = Vec::new();
        for name in PROXIES {
            let lower = name.to_ascii_lowercase();
            let given = |name: &str| self.options.build_args.get(name).cloned().flatten();
            let Some(value) = given(&lower).or_else(|| given(name)) else {
                continue;
            };
            for name in [name, &lower] {
                if !state.variables.contains_key(name) {
                    proxies.push(format!("{name}={value}"));
                }
            }
        }
        proxies
    }
}
