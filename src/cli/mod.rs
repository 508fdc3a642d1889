//! The command: a file per verb; flags in, words and exit codes out.
//!
//! Called by `main`. It knows no KVM and no agent: that is `sandbox`'s.

pub mod containers;
pub mod flags;
pub mod image_verbs;
pub mod inspect;
mod names;
pub mod plan;
pub mod pull;
pub mod run;
pub mod surface;
mod template;
pub mod values;
pub mod version;

use clap::{Args, CommandFactory, FromArgMatches, Subcommand};

/// Verbs other than `run`, which is built from a table.
#[derive(Debug, clap::Parser)]
#[command(
    name = "bulkhead",
    about = "Run OCI images with docker run flags, each in its own KVM microVM",
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Download an image from a registry
    Pull(pull::PullArgs),
    /// List images
    Images(image_verbs::ImagesArgs),
    /// Load images from an archive of docker save or an OCI layout
    Load(image_verbs::LoadArgs),
    /// Give an image another name
    Tag(image_verbs::TagArgs),
    /// Remove images
    Rmi(image_verbs::RmiArgs),
    /// Show images and containers in detail
    Inspect(inspect::InspectArgs),
    /// List containers
    Ps(containers::PsArgs),
    /// Remove containers
    Rm(containers::RmArgs),
    /// Say whether this host can run VMs, and if not, why
    Doctor(NoArgs),
    /// Show versions of the command, the guest kernel and the agent
    Version(NoArgs),
    /// Manage images
    Image {
        /// Verb.
        #[command(subcommand)]
        verb: ImageVerb,
    },
    /// Manage containers
    Container {
        /// Verb.
        #[command(subcommand)]
        verb: ContainerVerb,
    },
}

/// No flags.
#[derive(Debug, Args)]
pub struct NoArgs {}

/// `bulkhead image …`.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Download an image from a registry
    Pull(pull::PullArgs),
    /// List images
    #[command(alias = "list")]
    Ls(image_verbs::ImagesArgs),
    /// Load images from an archive
    Load(image_verbs::LoadArgs),
    /// Give an image another name
    Tag(image_verbs::TagArgs),
    /// Remove images
    #[command(alias = "remove")]
    Rm(image_verbs::RmiArgs),
    /// Show images in detail
    Inspect(inspect::InspectArgs),
}

/// `bulkhead container …`.
#[derive(Debug, Subcommand)]
pub enum ContainerVerb {
    /// List containers
    #[command(alias = "list", alias = "ps")]
    Ls(containers::PsArgs),
    /// Remove containers
    #[command(alias = "remove")]
    Rm(containers::RmArgs),
    /// Show containers in detail
    Inspect(inspect::InspectArgs),
}

/// The whole parser.
#[must_use]
pub fn command() -> clap::Command {
    let mut command = Cli::command().subcommand(flags::command().display_order(0));
    command = command.mut_subcommand("container", |c| c.subcommand(flags::command()));
    command
}

/// The verb of parsed words other than `run`.
///
/// # Errors
/// When clap's own bookkeeping fails.
pub fn verb(matches: &clap::ArgMatches) -> Result<Verb, clap::Error> {
    Cli::from_arg_matches(matches).map(|cli| cli.verb)
}

/// A count of bytes as Docker prints it: `1.23MB`, units of 1000.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[allow(clippy::cast_precision_loss)] // four digits are shown
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let mut text = format!("{value:.digits$}");
    if text.contains('.') {
        text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    format!("{text}{}", UNITS.get(unit).copied().unwrap_or(""))
}

/// A time in the past as Docker says it: `2 hours ago`.
#[must_use]
pub fn human_age(seconds: i64) -> String {
    let (n, unit) = match seconds.max(0) {
        0 => return "Less than a second ago".to_owned(),
        1 => return "1 second ago".to_owned(),
        s @ 2..60 => (s, "seconds"),
        60..120 => return "About a minute ago".to_owned(),
        s @ 120..3600 => (s / 60, "minutes"),
        3600..7200 => return "About an hour ago".to_owned(),
        s @ 7200..172_800 => (s / 3600, "hours"),
        s @ 172_800..1_209_600 => (s / 86_400, "days"),
        s @ 1_209_600..5_184_000 => (s / 604_800, "weeks"),
        s @ 5_184_000..63_072_000 => (s / 2_592_000, "months"),
        s => (s / 31_536_000, "years"),
    };
    format!("{n} {unit} ago")
}

/// Rows under headers, columns as wide as needed, as Docker prints tables.
pub fn print_table(headers: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headers.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", padded.join("   ").trim_end());
    };
    line(&headers.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>());
    for row in rows {
        line(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_dockers() {
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.23MB"),
            (12_345_678, "12.3MB"),
            (123_456_789, "123MB"),
            (4_200_000_000, "4.2GB"),
        ] {
            assert_eq!(human_size(bytes), want);
        }
        for (seconds, want) in [
            (-5, "Less than a second ago"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (61, "About a minute ago"),
            (3599, "59 minutes ago"),
            (3601, "About an hour ago"),
            (90_000, "25 hours ago"),
            (200_000, "2 days ago"),
            (40_000_000, "15 months ago"),
        ] {
            assert_eq!(human_age(seconds), want);
        }
    }

    #[test]
    fn the_whole_parser_is_sound() {
        command().debug_assert();
    }
}
