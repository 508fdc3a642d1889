//! `--change`: a Dockerfile's instructions applied to an image's config.
//!
//! Syntax and rules: Dockerfile reference; what Docker refuses here is refused in its words.

use anyhow::{Context, Result, bail};
use images::ImageConfig;
use images::config::Healthcheck;

use crate::cli::values::{self, network, time};

/// What shell forms are given to when the image does not say.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Applies instructions, one a line.
///
/// # Errors
/// An instruction that is unknown, or not one for a config, or has no or wrong arguments.
pub fn apply(mut config: ImageConfig, changes: &[String]) -> Result<ImageConfig> {
    let mut has_cmd = false;
    for line in changes.iter().flat_map(|change| change.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = match line.split_once(char::is_whitespace) {
            Some((word, rest)) => (word.to_ascii_uppercase(), rest.trim()),
            None => (line.to_ascii_uppercase(), ""),
        };
        if rest.is_empty() && word != "CMD" && word != "ENTRYPOINT" {
            bail!("{word} requires at least one argument");
        }
        match word.as_str() {
            "CMD" => {
                config.cmd = Some(command(rest, &config));
                has_cmd = true;
            }
            "ENTRYPOINT" => {
                config.entrypoint = Some(command(rest, &config)).filter(|list| !list.is_empty());
                if !has_cmd {
                    config.cmd = None;
                }
            }
            "ENV" => {
                for (name, value) in pairs("ENV", rest, &config.env)? {
                    let begin = format!("{name}=");
                    let entry = format!("{begin}{value}");
                    match config.env.iter_mut().find(|text| text.starts_with(&begin)) {
                        Some(old) => *old = entry,
                        None => config.env.push(entry),
                    }
                }
            }
            "LABEL" => {
                let labels = pairs("LABEL", rest, &config.env)?;
                config.labels.extend(labels);
            }
            "EXPOSE" => {
                for word in words(rest, &config.env)? {
                    config.exposed_ports.extend(network::exposed_ports(&word)?);
                }
                config.exposed_ports.sort();
                config.exposed_ports.dedup();
            }
            "VOLUME" => {
                let list = match json_list(rest) {
                    Some(list) => list,
                    None => words(rest, &config.env)?,
                };
                if list.iter().any(|path| path.trim().is_empty()) {
                    bail!("VOLUME specified can not be an empty string");
                }
                config.volumes.extend(list);
                config.volumes.sort();
                config.volumes.dedup();
            }
            "USER" => config.user = one("USER", rest, &config.env)?,
            "WORKDIR" => {
                let path = one("WORKDIR", rest, &config.env)?;
                config.working_dir = joined(&config.working_dir, &path);
            }
            "STOPSIGNAL" => {
                let signal = one("STOPSIGNAL", rest, &config.env)?;
                values::signal(&signal)?;
                config.stop_signal = signal;
            }
            "ONBUILD" => {
                let trigger = rest.split_whitespace().next().unwrap_or_default();
                match trigger.to_ascii_uppercase().as_str() {
                    "ONBUILD" => bail!("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
                    "FROM" | "MAINTAINER" => {
                        bail!("{trigger} isn't allowed as an ONBUILD trigger")
                    }
                    _ => config.on_build.push(rest.to_owned()),
                }
            }
            "HEALTHCHECK" => config.healthcheck = Some(health(rest)?),
            "ADD" | "ARG" | "COPY" | "FROM" | "MAINTAINER" | "RUN" | "SHELL" => {
                bail!("{word} is not a valid change command")
            }
            _ => bail!("unknown instruction: {word}"),
        }
    }
    Ok(config)
}

/// `["a", "b"]`, or text for a shell; nothing at all is an empty list.
fn command(text: &str, config: &ImageConfig) -> Vec<String> {
    if let Some(list) = json_list(text) {
        return list;
    }
    if text.is_empty() {
        return Vec::new();
    }
    let shell = config.shell.clone();
    let mut list = shell.unwrap_or_else(|| SHELL.map(str::to_owned).to_vec());
    list.push(text.to_owned());
    list
}

fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())?
}

fn one(instruction: &str, text: &str, env: &[String]) -> Result<String> {
    match words(text, env)?.as_slice() {
        [word] => Ok(word.clone()),
        _ => bail!("{instruction} requires exactly one argument"),
    }
}

/// `NAME=VALUE …`, or the old `NAME VALUE` with one value that may have blanks.
fn pairs(instruction: &str, text: &str, env: &[String]) -> Result<Vec<(String, String)>> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .with_context(|| format!("{instruction} must have two arguments"))?;
        let value = expanded(value.trim(), env)?;
        return Ok(vec![(name.to_owned(), value)]);
    }
    let mut pairs = Vec::new();
    for word in words(text, env)? {
        match word.split_once('=') {
            Some(("", _)) => bail!("{instruction} names can not be blank"),
            Some((name, value)) => pairs.push((name.to_owned(), value.to_owned())),
            None => {
                bail!("Syntax error - can't find = in \"{word}\". Must be of the form: name=value")
            }
        }
    }
    Ok(pairs)
}

/// Words as a Dockerfile has them: quotes keep blanks, a backslash keeps the next character, and
/// `$NAME` and `${NAME}` are the image's variables, but for what is in single quotes.
fn words(text: &str, env: &[String]) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, quote) {
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => match rest.next() {
                // In double quotes only what means something is kept from it.
                Some(next) if quote.is_some() && !matches!(next, '"' | '$' | '\\') => {
                    word.get_or_insert_default().extend(['\\', next]);
                }
                Some(next) => word.get_or_insert_default().push(next),
                None => word.get_or_insert_default().push('\\'),
            },
            ('$', None | Some('"')) => {
                let value = variable(&mut rest, env)?;
                word.get_or_insert_default().push_str(&value);
            }
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        bail!("unexpected end of statement while looking for matching quote");
    }
    words.extend(word);
    Ok(words)
}

/// The value of the variable behind a `$`.
fn variable(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, env: &[String]) -> Result<String> {
    let in_braces = rest.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if in_braces && rest.next() != Some('}') {
        bail!("unsupported modifier in substitution of {name}");
    }
    if name.is_empty() {
        return Ok("$".to_owned());
    }
    let begin = format!("{name}=");
    let value = env.iter().find_map(|text| text.strip_prefix(&begin));
    Ok(value.unwrap_or_default().to_owned())
}

/// Text with its variables replaced and its quotes taken away, blanks kept.
fn expanded(text: &str, env: &[String]) -> Result<String> {
    Ok(words(text, env)?.join(" "))
}

/// A path from the working directory on.
fn joined(from: &str, path: &str) -> String {
    let full = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{from}/{path}"),
    };
    let mut names: Vec<&str> = Vec::new();
    for name in full.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// `NONE`, or flags and `CMD` with a command.
fn health(text: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while rest.starts_with("--") {
        let (flag, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = after.trim_start();
        let (name, value) = flag
            .split_once('=')
            .with_context(|| format!("{flag} needs a value"))?;
        let nanos = || -> Result<u64> {
            let nanos = time::duration(value)?.as_nanos();
            match u64::try_from(nanos) {
                Ok(nanos) if nanos == 0 || nanos >= 1_000_000 => Ok(nanos),
                _ => bail!(
                    "Interval \"{}\" cannot be less than 1ms",
                    name.trim_start_matches('-')
                ),
            }
        };
        match name {
            "--interval" => check.interval = nanos()?,
            "--timeout" => check.timeout = nanos()?,
            "--start-period" => check.start_period = nanos()?,
            "--start-interval" => check.start_interval = nanos()?,
            "--retries" => {
                check.retries = value
                    .parse()
                    .with_context(|| format!("--retries {value}: not a number"))?;
            }
            _ => bail!("unknown flag: {name}"),
        }
    }
    let (kind, command_text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match (kind.to_ascii_uppercase().as_str(), command_text.trim()) {
        ("NONE", "") => check.test = vec!["NONE".to_owned()],
        ("NONE", _) => bail!("HEALTHCHECK NONE takes no arguments"),
        ("CMD", "") => bail!("Missing command after HEALTHCHECK CMD"),
        ("CMD", text) => {
            check.test = match json_list(text) {
                Some(list) => [vec!["CMD".to_owned()], list].concat(),
                None => vec!["CMD-SHELL".to_owned(), text.to_owned()],
            };
        }
        _ => bail!("Unknown type {kind:?} in HEALTHCHECK (try CMD)"),
    }
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> ImageConfig {
        let json = r#"{"architecture":"amd64","os":"linux",
            "rootfs":{"type":"layers","diff_ids":[]},
            "config":{"Env":["A=1","PATH=/bin"],"Cmd":["old"],"WorkingDir":"/srv"}}"#;
        ImageConfig::parse(json.as_bytes()).unwrap()
    }

    fn changed(changes: &[&str]) -> Result<ImageConfig, String> {
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        apply(base(), &changes).map_err(|error| error.to_string())
    }

    #[test]
    fn commands_have_two_forms() {
        let config = changed(&["CMD [\"a\", \"b c\"]"]).unwrap();
        assert_eq!(config.cmd.unwrap(), ["a", "b c"]);
        let config = changed(&["cmd echo $A 'x'"]).unwrap();
        assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "echo $A 'x'"]);
        // An entry point takes away a command that was there before.
        let config = changed(&["ENTRYPOINT [\"/e\"]"]).unwrap();
        assert_eq!(
            (config.entrypoint.unwrap(), config.cmd),
            (vec!["/e".to_owned()], None)
        );
        let config = changed(&["CMD [\"x\"]", "ENTRYPOINT [\"/e\"]"]).unwrap();
        assert_eq!(config.cmd.unwrap(), ["x"]);
        let config = changed(&["ENTRYPOINT []"]).unwrap();
        assert_eq!(config.entrypoint, None);
    }

    #[test]
    fn variables_and_labels() {
        let config = changed(&["ENV A=2 B=\"x y\" C=$A D='$A' E=a\\ b", "ENV F one  two"]).unwrap();
        assert_eq!(
            config.env,
            [
                "A=2",
                "PATH=/bin",
                "B=x y",
                "C=1",
                "D=$A",
                "E=a b",
                "F=one two"
            ]
        );
        let config = changed(&["LABEL k=v \"a b\"=\"c d\" e=${PATH}/x"]).unwrap();
        assert_eq!(config.labels["k"], "v");
        assert_eq!(config.labels["a b"], "c d");
        assert_eq!(config.labels["e"], "/bin/x");
    }

    #[test]
    fn the_rest() {
        let config = changed(&[
            "EXPOSE 80 53/udp 8000-8001",
            "VOLUME /b /a",
            "VOLUME [\"/c d\"]",
            "USER me:us",
            "WORKDIR sub/../other",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make\nONBUILD COPY . .",
            "# nothing",
        ])
        .unwrap();
        assert_eq!(
            config.exposed_ports,
            ["53/udp", "80/tcp", "8000/tcp", "8001/tcp"]
        );
        assert_eq!(config.volumes, ["/a", "/b", "/c d"]);
        assert_eq!(config.user, "me:us");
        assert_eq!(config.working_dir, "/srv/other");
        assert_eq!(config.stop_signal, "SIGINT");
        assert_eq!(config.on_build, ["RUN make", "COPY . ."]);
    }

    #[test]
    fn health_checks() {
        let check = |text: &str| changed(&[text]).map(|config| config.healthcheck.unwrap());
        assert_eq!(check("HEALTHCHECK NONE").unwrap().test, ["NONE"]);
        let full = check("HEALTHCHECK --interval=5s --retries=2 CMD curl x").unwrap();
        assert_eq!(full.test, ["CMD-SHELL", "curl x"]);
        assert_eq!((full.interval, full.retries), (5_000_000_000, 2));
        let exec = check("HEALTHCHECK CMD [\"a\",\"b\"]").unwrap();
        assert_eq!(exec.test, ["CMD", "a", "b"]);
        for wrong in [
            "HEALTHCHECK x",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --interval=1us CMD x",
            "HEALTHCHECK --what=1 CMD x",
            "HEALTHCHECK --retries=x CMD x",
            "HEALTHCHECK NONE x",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for (text, want) in [
            ("FROM x", "FROM is not a valid change command"),
            ("run x", "RUN is not a valid change command"),
            ("WHAT x", "unknown instruction: WHAT"),
            ("USER", "USER requires at least one argument"),
            ("USER a b", "USER requires exactly one argument"),
            ("ENV A", "ENV must have two arguments"),
            ("ENV =x", "ENV names can not be blank"),
            (
                "ENV A=1 B",
                "Syntax error - can't find = in \"B\". Must be of the form: name=value",
            ),
            (
                "LABEL a='x",
                "unexpected end of statement while looking for matching quote",
            ),
            ("ENV A=${B:-c}", "unsupported modifier in substitution of B"),
            ("STOPSIGNAL none", "Invalid signal: none"),
            (
                "ONBUILD ONBUILD RUN",
                "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            ),
        ] {
            assert_eq!(changed(&[text]).unwrap_err(), want, "{text}");
        }
    }
}
