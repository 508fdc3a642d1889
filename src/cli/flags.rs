//! The parsers of `run`, `create` and `update`, built from [`super::surface`], and of `build`, from
//! [`super::build::surface`]: Docker's flags, read as Docker's own parser reads them.

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::build::surface::BUILD;
use super::surface::{ALIASES, Fate, Flag, Form, IMAGE, RUN};
use super::{values, variables};

/// The words after the flags.
const WORDS: &str = "IMAGE [COMMAND] [ARG...]";

/// Flags that only a command which stays can have.
const OF_RUN_ALONE: [&str; 3] = ["detach", "detach-keys", "sig-proxy"];

/// The parser of `run`.
#[must_use]
pub fn run_command() -> Command {
    command("run", "Run an image's process in a microVM of its own", &[])
}

/// The parser of `create`.
#[must_use]
pub fn create_command() -> Command {
    command(
        "create",
        "Make a container without starting it",
        &OF_RUN_ALONE,
    )
}

/// Flags of `update`.
pub const OF_UPDATE: [&str; 15] = [
    "blkio-weight",
    "cpu-period",
    "cpu-quota",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpu-shares",
    "cpus",
    "cpuset-cpus",
    "cpuset-mems",
    "kernel-memory",
    "memory",
    "memory-reservation",
    "memory-swap",
    "pids-limit",
    "restart",
];

/// The words of `update`.
pub const WORDS_OF_UPDATE: &str = "CONTAINER [CONTAINER...]";

/// The parser of `update`.
#[must_use]
pub fn update_command() -> Command {
    let words = Arg::new(WORDS_OF_UPDATE)
        .action(ArgAction::Append)
        .num_args(1..)
        .required(true)
        .hide(true);
    let mut command = Command::new("update")
        .about("Change limits and restart policies of containers")
        .override_usage(format!("bulkhead update [OPTIONS] {WORDS_OF_UPDATE}"))
        .args_override_self(true)
        .arg(words);
    for flag in RUN.iter().filter(|flag| OF_UPDATE.contains(&flag.name)) {
        command = command.arg(argument(flag).help_heading(None::<&'static str>));
    }
    command
}

fn command(name: &'static str, about: &'static str, without: &[&str]) -> Command {
    let mut command = Command::new(name)
        .about(about)
        .override_usage(format!(
            "bulkhead {name} [OPTIONS] IMAGE [COMMAND] [ARG...]"
        ))
        .after_help(footnotes())
        .disable_help_flag(true)
        .args_override_self(true)
        .arg(
            Arg::new(WORDS)
                .action(ArgAction::Append)
                .num_args(1..)
                .required(true)
                .hide(true)
                .trailing_var_arg(true)
                .allow_hyphen_values(false),
        );
    for flag in RUN.iter().filter(|flag| !without.contains(&flag.name)) {
        command = command.arg(argument(flag));
    }
    command
}

/// Derived parsers as Docker's own reads flags: the last of one that is repeated counts, a switch may have a
/// value, and what stands behind an option that has one is that, whatever it begins with.
#[must_use]
pub fn as_dockers(command: Command) -> Command {
    let as_read = |arg: Arg| match arg.get_action() {
        // Those with a default have a value as well.
        ArgAction::SetTrue if arg.get_default_values().is_empty() => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_name("bool")
            .value_parser(|text: &str| {
                values::security::switch(text).ok_or("it is neither true nor false")
            }),
        ArgAction::Set | ArgAction::Append if !arg.is_positional() => {
            let needs_value = arg
                .get_num_args()
                .is_none_or(|range| range.min_values() > 0);
            arg.allow_hyphen_values(needs_value)
        }
        _ => arg,
    };
    command
        .args_override_self(true)
        .mut_args(as_read)
        .mut_subcommands(as_dockers)
}

fn argument(flag: &'static Flag) -> Arg {
    let mut arg = Arg::new(flag.name)
        .long(flag.name)
        .help(help(flag))
        .help_heading(flag.group);
    if let Some(short) = flag.short {
        arg = arg.short(short);
    }
    for (name, alias) in ALIASES {
        if name == flag.name {
            arg = arg.alias(alias);
        }
    }
    if matches!(flag.fate, Fate::Refused(_)) {
        arg = arg.hide(true);
    }
    if flag.name == "help" {
        return arg.action(ArgAction::Help);
    }
    match flag.form {
        Form::Switch => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .hide_default_value(true)
            .value_name("bool"),
        Form::Value(word) | Form::List(word) => arg
            .action(match flag.form {
                Form::List(_) => ArgAction::Append,
                _ => ArgAction::Set,
            })
            .num_args(1)
            .value_name(word)
            .allow_hyphen_values(true),
    }
}

/// One line of help, with what is different here.
fn help(flag: &Flag) -> String {
    match flag.fate {
        Fate::Differs(how) => format!("{} ({how})", flag.help),
        Fate::Only(values, _) => {
            let values: Vec<&str> = values.iter().copied().filter(|v| !v.is_empty()).collect();
            match values.as_slice() {
                [] => format!("{} (not supported)", flag.help),
                some => format!("{} (only {})", flag.help, some.join(", ")),
            }
        }
        Fate::Warns(_) => format!("{} (discarded with a warning)", flag.help),
        Fate::Works | Fate::Refused(_) => flag.help.to_owned(),
    }
}

/// What follows the flags in the help: those that are refused, the image's part, and variables.
fn footnotes() -> String {
    let refused: Vec<String> = RUN
        .iter()
        .filter(|flag| matches!(flag.fate, Fate::Refused(_)))
        .map(|flag| format!("--{}", flag.name))
        .collect();
    let image: Vec<String> = IMAGE
        .iter()
        .filter_map(|(member, fate)| match fate {
            Fate::Differs(how) => Some(format!("  {member}: {how}")),
            _ => None,
        })
        .collect();
    format!(
        "Refused, each with its reason when it is used:\n  {}\n\nOf the image's configuration:\n{}\n\n{}",
        refused.join(" "),
        image.join("\n"),
        variables::of_run()
    )
}

/// A flag as Docker's messages have it: `-m, --memory`.
fn shown(table: &[Flag], name: &str) -> String {
    let short = table
        .iter()
        .find(|flag| flag.name == name)
        .and_then(|flag| flag.short);
    match short {
        Some(short) => format!("-{short}, --{name}"),
        None => format!("--{name}"),
    }
}

/// The words of `build`.
const WORDS_OF_BUILD: &str = "PATH | REPOSITORY#COMMIT[:FOLDER] | -";

/// The parser of `build`.
#[must_use]
pub fn build_command() -> Command {
    let words = Arg::new(WORDS_OF_BUILD)
        .action(ArgAction::Append)
        .num_args(1)
        .required(true)
        .hide(true);
    let refused = BUILD
        .iter()
        .filter(|flag| matches!(flag.fate, Fate::Refused(_)));
    let refused: Vec<String> = refused.map(|flag| format!("--{}", flag.name)).collect();
    let mut command = Command::new("build")
        .about("Build an image from a Dockerfile, each step in a microVM")
        .override_usage(format!("bulkhead build [OPTIONS] {WORDS_OF_BUILD}"))
        .after_help(format!(
            "Refused, each with its reason when it is used:\n  {}\n\n{}",
            refused.join(" "),
            variables::of_build()
        ))
        .disable_help_flag(true)
        .args_override_self(true)
        .arg(words);
    for flag in &BUILD {
        command = command.arg(argument(flag));
    }
    command
}

/// The parsed flags and words, with everything that this version does not do refused.
#[derive(Debug)]
pub struct Flags {
    table: &'static [Flag],
    matches: ArgMatches,
}

impl Flags {
    /// Checks what was parsed against the table.
    ///
    /// # Errors
    /// The sentence of the first flag that is refused.
    pub fn check(matches: ArgMatches) -> Result<Self> {
        Self::check_of(&RUN, matches)
    }

    /// As [`Self::check`], of `build`.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_build(matches: ArgMatches) -> Result<Self> {
        Self::check_of(&BUILD, matches)
    }

    fn check_of(table: &'static [Flag], matches: ArgMatches) -> Result<Self> {
        let flags = Self { table, matches };
        for flag in table.iter().filter(|flag| flag.name != "help") {
            let given = flags.given(flag)?;
            match flag.fate {
                Fate::Refused(why) if !given.is_empty() => {
                    bail!("--{} is not supported: {why}", flag.name);
                }
                Fate::Only(values, why) => {
                    let other = given.iter().find(|value| !values.contains(&value.as_str()));
                    if let Some(value) = other {
                        bail!("--{}={value} is not supported: {why}", flag.name);
                    }
                }
                Fate::Works | Fate::Differs(_) | Fate::Warns(_) | Fate::Refused(_) => {}
            }
        }
        Ok(flags)
    }

    /// What was given for a flag; a switch that is off asks for nothing, unless off is the
    /// question.
    fn given(&self, flag: &Flag) -> Result<Vec<String>> {
        if flag.form != Form::Switch {
            return Ok(self.list(flag.name));
        }
        Ok(match (self.switch(flag.name)?, flag.fate) {
            (Some(on), Fate::Only(..)) => vec![on.to_string()],
            (Some(true), _) => vec!["true".to_owned()],
            (Some(false) | None, _) => Vec::new(),
        })
    }

    /// Warnings for what is accepted without effect.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        self.table
            .iter()
            .filter_map(|flag| match (flag.fate, self.given(flag)) {
                (Fate::Warns(text), Ok(given)) if given.iter().any(|value| value != "0") => {
                    Some(text)
                }
                _ => None,
            })
            .collect()
    }

    /// The first flag that was given and is none of these.
    #[must_use]
    pub fn set_beyond(&self, known: &[&str]) -> Option<&'static str> {
        self.table
            .iter()
            .filter(|flag| flag.name != "help" && !known.contains(&flag.name))
            .find(|flag| self.given(flag).is_ok_and(|given| !given.is_empty()))
            .map(|flag| flag.name)
    }

    /// Every value of a flag, in order.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        if name == "help" {
            return Vec::new();
        }
        // `create` has fewer of them.
        self.matches
            .try_get_many::<String>(name)
            .unwrap_or_default()
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// The last value of a flag.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<String> {
        self.list(name).pop()
    }

    /// The last value of a flag for which empty is the same as absent.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.value(name).filter(|text| !text.is_empty())
    }

    /// The last value of a flag, read by `parse`.
    ///
    /// # Errors
    /// As Docker says that a value can't be read.
    pub fn one<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
        Ok(self.each(name, parse)?.pop())
    }

    /// Every value of a flag, read by `parse`.
    ///
    /// # Errors
    /// As Docker says that a value can't be read.
    pub fn each<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
        self.list(name)
            .iter()
            .map(|text| match parse(text) {
                Ok(value) => Ok(value),
                Err(cause) => bail!(
                    "invalid argument \"{text}\" for \"{}\" flag: {cause:#}",
                    shown(self.table, name)
                ),
            })
            .collect()
    }

    fn switch(&self, name: &str) -> Result<Option<bool>> {
        self.one(name, |text| {
            values::security::switch(text).context("it is neither true nor false")
        })
    }

    /// Whether a switch is on; `check` has seen that its value is one.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        self.switch(name).ok().flatten().unwrap_or(false)
    }

    /// Whether a switch was turned off.
    #[must_use]
    pub fn is_off(&self, name: &str) -> bool {
        self.switch(name).ok().flatten() == Some(false)
    }

    /// Image, command and arguments.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        self.strings(WORDS)
    }

    /// What `build` is to build.
    #[must_use]
    pub fn words_of_build(&self) -> Vec<String> {
        self.strings(WORDS_OF_BUILD)
    }

    fn strings(&self, name: &str) -> Vec<String> {
        self.matches
            .get_many::<String>(name)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags> {
        let matches = run_command().try_get_matches_from(std::iter::once(&"run").chain(args))?;
        Flags::check(matches)
    }

    #[test]
    fn parsing_stops_at_the_image() {
        let flags = parse(&["-it", "--rm", "busybox", "sh", "-c", "echo --rm -x"]).unwrap();
        assert_eq!(flags.words(), ["busybox", "sh", "-c", "echo --rm -x"]);
        assert!(flags.is_on("interactive") && flags.is_on("tty") && flags.is_on("rm"));
        let flags = parse(&["busybox", "--rm"]).unwrap();
        assert!(!flags.is_on("rm"));
        assert_eq!(flags.words(), ["busybox", "--rm"]);
    }

    #[test]
    fn short_values_may_be_glued_and_switches_may_be_false() {
        let flags = parse(&[
            "-eA=1",
            "-e",
            "B=2",
            "--rm=false",
            "--name=x1",
            "-m64m",
            "i",
        ])
        .unwrap();
        assert_eq!(flags.list("env"), ["A=1", "B=2"]);
        assert!(flags.is_off("rm"));
        assert_eq!(flags.value("name").unwrap(), "x1");
        assert_eq!(flags.value("memory").unwrap(), "64m");
        assert!(parse(&["--rm=maybe", "i"]).is_err());
    }

    #[test]
    fn the_last_value_counts_and_negative_numbers_are_values() {
        let flags = parse(&["-w", "/a", "-w", "/b", "--memory-swap", "-1", "i"]).unwrap();
        assert_eq!(flags.value("workdir").unwrap(), "/b");
        assert_eq!(flags.value("memory-swap").unwrap(), "-1");
    }

    type Parse = fn(&[&str]) -> Result<Flags>;

    /// Both tables, each with its parser.
    fn tables() -> [(&'static [Flag], Parse); 2] {
        fn parse_build(args: &[&str]) -> Result<Flags> {
            let words = std::iter::once(&"build").chain(args);
            Flags::check_build(build_command().try_get_matches_from(words)?)
        }
        [(&RUN, parse), (&BUILD, parse_build)]
    }

    #[test]
    fn every_refused_flag_is_refused_with_its_sentence() {
        for (table, parse) in tables() {
            let mut refused = 0;
            for flag in table {
                let Fate::Refused(why) = flag.fate else {
                    continue;
                };
                let long = format!("--{}", flag.name);
                let args: Vec<&str> = match flag.form {
                    Form::Switch => vec![&long, "i"],
                    Form::Value(_) | Form::List(_) => vec![&long, "1", "i"],
                };
                let error = parse(&args).unwrap_err().to_string();
                assert_eq!(error, format!("--{} is not supported: {why}", flag.name));
                refused += 1;
            }
            assert!(refused > 10, "{refused}");
        }
    }

    #[test]
    fn only_the_listed_values_of_a_limited_flag_are_taken() {
        for (table, parse) in tables() {
            for flag in table {
                let Fate::Only(values, _) = flag.fate else {
                    continue;
                };
                for value in values {
                    let arg = format!("--{}={value}", flag.name);
                    assert!(parse(&[&arg, "i"]).is_ok(), "{arg}");
                }
                let other = if flag.form == Form::Switch && values.contains(&"false") {
                    "true"
                } else {
                    match values.contains(&"false") {
                        true => "other",
                        false => "false",
                    }
                };
                let arg = format!("--{}={other}", flag.name);
                assert!(parse(&[&arg, "i"]).is_err(), "{arg}");
            }
        }
    }

    #[test]
    fn dockers_own_list_is_covered() {
        let list = include_str!("../../tests/cli/fixtures/docker-run-flags.txt");
        let mut count = 0;
        for line in list.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (name, short) = (words.next().unwrap(), words.next().unwrap());
            let flag = RUN
                .iter()
                .find(|flag| flag.name == name)
                .unwrap_or_else(|| panic!("{name}"));
            let want = if short == "-" {
                None
            } else {
                short.chars().next()
            };
            assert_eq!(flag.short, want, "{name}");
            count += 1;
        }
        assert_eq!(count, RUN.len());
    }

    #[test]
    fn the_parsers_themselves_are_sound() {
        run_command().debug_assert();
        build_command().debug_assert();
    }
}
