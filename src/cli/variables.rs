//! Environment variables that the command reads, as help shows them.
//!
//! Verbs name those they read; the README has the same list, and the proxies'.

use super::build::{EPOCH_VARIABLE, PROGRESS_VARIABLE};
use super::pull::{CA_VARIABLE, INSECURE_VARIABLE, PLATFORM_VARIABLE};
use crate::sandbox::paths::{GUEST_VARIABLE, ROOT_VARIABLE};
use crate::sandbox::template::TEMPLATES_VARIABLE;

/// Where logins are.
const DOCKER_CONFIG: (&str, &str) = (
    "DOCKER_CONFIG",
    "folder of config.json, with logins [default: ~/.docker]",
);

/// Name and meaning of each, those of `pull` first.
const ALL: [(&str, &str); 7] = [
    (
        ROOT_VARIABLE,
        "folder of images and containers [default: bulkhead in $XDG_DATA_HOME or ~/.local/share; root's: /var/lib/bulkhead]",
    ),
    (
        INSECURE_VARIABLE,
        "registries that may speak plain HTTP, separated by commas",
    ),
    (
        CA_VARIABLE,
        "further certificate authorities: PEM files separated by colons",
    ),
    DOCKER_CONFIG,
    (
        PLATFORM_VARIABLE,
        "platform where --platform names none [default: this host's]",
    ),
    (
        GUEST_VARIABLE,
        "folder of vmlinux, initramfs.cpio and guest-agent [default: the command's own, then ../lib/bulkhead]",
    ),
    (
        TEMPLATES_VARIABLE,
        "folder of VM templates, or `off` [default: below the first]",
    ),
];

/// How many of them `pull` reads.
const OF_PULL: usize = 5;

/// The end of `pull --help` and `push --help`.
#[must_use]
pub fn of_pull() -> String {
    section(ALL.iter().take(OF_PULL))
}

/// The end of `login --help`.
#[must_use]
pub fn of_login() -> String {
    let read = |name| name != PLATFORM_VARIABLE;
    section(
        ALL.iter()
            .take(OF_PULL)
            .skip(1)
            .filter(|(name, _)| read(*name)),
    )
}

/// The end of `import --help`.
#[must_use]
pub fn of_import() -> String {
    let read = |name| [ROOT_VARIABLE, CA_VARIABLE].contains(&name);
    section(ALL.iter().filter(|(name, _)| read(*name)))
}

/// The end of `logout --help`.
#[must_use]
pub fn of_logout() -> String {
    section(std::iter::once(&DOCKER_CONFIG))
}

/// The end of `build --help`: it may pull, too.
#[must_use]
pub fn of_build() -> String {
    let own = [
        (
            EPOCH_VARIABLE,
            "seconds since 1970 that nothing made is younger than, so that the same input gives the same image",
        ),
        (PROGRESS_VARIABLE, "what --progress is without the flag"),
    ];
    section(own.iter().chain(ALL.iter()))
}

/// The end of `run --help`: a run may pull.
#[must_use]
pub fn of_run() -> String {
    section(ALL.iter())
}

fn section<'a>(variables: impl Iterator<Item = &'a (&'static str, &'static str)>) -> String {
    let lines: Vec<String> = variables
        .map(|(name, meaning)| format!("  {name}: {meaning}"))
        .collect();
    format!("Environment variables:\n{}", lines.join("\n"))
}
