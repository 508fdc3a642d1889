//! `RUN --mount`: fields of one flag, checked for the kind of mount that they make.
//!
//! Used by `instruction`, and by `run` with variables replaced. The words are BuildKit's.

use super::error::Fault;
use crate::escape::printable;

/// Fields of one flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountLine {
    /// The flag's value, for errors.
    text: String,
    /// Names in lower case, and values.
    fields: Vec<(String, Option<String>)>,
}

/// What a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bind,
    Cache,
    Tmpfs,
    Secret,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
        }
    }
}

/// A mount as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    pub(crate) from: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) read_only: bool,
    pub(crate) size: Option<u64>,
    pub(crate) id: Option<String>,
    pub(crate) sharing: Option<super::plan::CacheSharing>,
    pub(crate) required: bool,
    pub(crate) env: Option<String>,
    pub(crate) mode: Option<u16>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// All names of fields, for `did you mean`.
const NAMES: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// Takes a flag apart. What its fields mean is seen when their variables are replaced, but for those
/// that have none.
pub(crate) fn parse(text: &str) -> Result<MountLine, Fault> {
    let fields = fields(text).ok_or_else(|| {
        let fault = Fault::new("failed to parse csv mounts: a quote is not where one can be");
        fault.word(text)
    })?;
    let line = MountLine {
        text: text.to_owned(),
        fields,
    };
    if let Some(from) = line.value("from")
        && let Some(at) = from.find('$')
        && at + 1 < from.len()
    {
        let fault =
            Fault::new("'from' doesn't support variable expansion, define alias stage instead");
        return Err(fault.word(from));
    }
    let mut values = line.fields.iter().filter_map(|(_, value)| value.as_ref());
    if !values.any(|value| value.contains('$')) {
        line.wanted(&mut |value| Ok(value.to_owned()))?;
    }
    Ok(line)
}

/// Fields of CSV (RFC 4180).
fn fields(text: &str) -> Option<Vec<(String, Option<String>)>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            None => match rest.split_once(',') {
                Some((field, after)) => (field.to_owned(), Some(after)),
                None => (rest.to_owned(), None),
            },
            Some(quoted) => {
                let mut field = String::new();
                let mut chars = quoted.char_indices().peekable();
                let end = loop {
                    let (at, c) = chars.next()?;
                    match c {
                        '"' if chars.next_if(|(_, c)| *c == '"').is_some() => field.push('"'),
                        '"' => break at + 1,
                        c => field.push(c),
                    }
                };
                let after = quoted.get(end..)?;
                match after.strip_prefix(',') {
                    None if !after.is_empty() => return None,
                    after => (field, after),
                }
            }
        };
        if rest.get(..1) != Some("\"") && field.contains('"') {
            return None;
        }
        fields.push(match field.split_once('=') {
            Some((name, value)) => (name.to_lowercase(), Some(value.to_owned())),
            None => (field.to_lowercase(), None),
        });
        match after {
            Some(after) => rest = after,
            None => return Some(fields),
        }
    }
}

impl MountLine {
    /// `from=`, in which no variable can be.
    pub(crate) fn from(&self) -> Option<&str> {
        self.value("from")
    }

    fn value(&self, name: &str) -> Option<&str> {
        let (_, value) = self.fields.iter().rev().find(|(other, _)| other == name)?;
        value.as_deref()
    }

    /// The mount with variables replaced by `expand`.
    pub(crate) fn wanted(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Wanted, Fault> {
        self.wanted_or(expand)
            .map_err(|fault| fault.word(&self.text))
    }

    fn wanted_or(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Wanted, Fault> {
        let mut wanted = Wanted {
            kind: Kind::Bind,
            from: None,
            source: None,
            target: None,
            read_only: false,
            size: None,
            id: None,
            sharing: None,
            required: false,
            env: None,
            mode: None,
            uid: None,
            gid: None,
        };
        let mut access = None;
        for (name, value) in &self.fields {
            let value = value.as_deref().map(&mut *expand).transpose()?;
            wanted.field(name, value, &mut access)?;
        }
        wanted.read_only = access.unwrap_or(!matches!(wanted.kind, Kind::Cache | Kind::Tmpfs));
        wanted.check()?;
        Ok(wanted)
    }
}

impl Wanted {
    fn field(
        &mut self,
        name: &str,
        value: Option<String>,
        access: &mut Option<bool>,
    ) -> Result<(), Fault> {
        let kind = self.kind;
        let unexpected = || {
            let kind = kind.name();
            Err(Fault::new(format!(
                "unexpected key '{name}' for mount type '{kind}'"
            )))
        };
        let Some(value) = value else {
            match name {
                "readonly" | "ro" => *access = Some(true),
                "readwrite" | "rw" => *access = Some(false),
                "required" if kind == Kind::Secret => self.required = true,
                "required" => return unexpected(),
                _ => {
                    let name = printable(name);
                    return Err(Fault::new(format!(
                        "invalid field '{name}' must be a key=value pair"
                    )));
                }
            }
            return Ok(());
        };
        let shown = printable(&value);
        let invalid = || Fault::new(format!("invalid value for {name}: {shown}"));
        let number = |radix: u32| {
            let is_number = value.chars().all(|c| c.is_digit(radix));
            u32::from_str_radix(&value, radix)
                .ok()
                .filter(|_| is_number)
                .ok_or_else(|| Fault::new(format!("invalid value {shown} for {name}")))
        };
        match name {
            "type" => self.kind = kind_of(&value)?,
            "from" => self.from = Some(value).filter(|value| !value.is_empty()),
            "source" | "src" => self.source = Some(value).filter(|value| !value.is_empty()),
            "target" | "dst" | "destination" => {
                self.target = Some(value).filter(|value| !value.is_empty());
            }
            "readonly" | "ro" => *access = Some(boolean(&value).ok_or_else(invalid)?),
            "readwrite" | "rw" => *access = Some(!boolean(&value).ok_or_else(invalid)?),
            "required" if kind == Kind::Secret => {
                self.required = boolean(&value).ok_or_else(invalid)?;
            }
            "size" if kind == Kind::Tmpfs => self.size = Some(bytes(&value).ok_or_else(invalid)?),
            "required" | "size" => return unexpected(),
            "id" => self.id = Some(value).filter(|value| !value.is_empty()),
            "sharing" => {
                self.sharing = Some(match value.to_ascii_lowercase().as_str() {
                    "shared" => super::plan::CacheSharing::Shared,
                    "private" => super::plan::CacheSharing::Private,
                    "locked" => super::plan::CacheSharing::Locked,
                    other => {
                        let fault = Fault::new(format!("unsupported sharing value \"{shown}\""));
                        return Err(fault.meant(other, &["shared", "private", "locked"]));
                    }
                });
            }
            "mode" => {
                let mode = number(8)?;
                let mode = u16::try_from(mode).ok().filter(|mode| *mode <= 0o7777);
                self.mode = Some(
                    mode.ok_or_else(|| Fault::new(format!("invalid value {shown} for mode")))?,
                );
            }
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "env" => self.env = Some(value),
            _ => {
                let name_shown = printable(name);
                let fault = Fault::new(format!(
                    "unexpected key '{name_shown}' in '{name_shown}={shown}'"
                ));
                return Err(fault.meant(name, &NAMES));
            }
        }
        Ok(())
    }

    /// What goes together.
    fn check(&self) -> Result<(), Fault> {
        let kind = self.kind.name();
        if !matches!(self.kind, Kind::Secret | Kind::Cache) {
            for (name, is_there) in [
                ("mode", self.mode.is_some()),
                ("uid", self.uid.is_some()),
                ("gid", self.gid.is_some()),
            ] {
                if is_there {
                    return Err(Fault::new(format!(
                        "{name} not allowed for \"{kind}\" type mounts"
                    )));
                }
            }
        }
        let fault = |message: &str| Err(Fault::new(message));
        if self.kind == Kind::Secret {
            if self.from.is_some() {
                return fault("secret mount should not have a from");
            }
            if self.sharing.is_some() {
                return fault("secret mount should not define sharing");
            }
            if self.source.is_none() && self.target.is_none() && self.id.is_none() {
                return fault("invalid secret mount. one of source, target required");
            }
            if self.source.is_some() && self.id.is_some() {
                return fault("both source and id can't be set");
            }
        } else if self.env.is_some() {
            return Err(Fault::new(format!(
                "env not allowed for \"{kind}\" type mounts"
            )));
        }
        if self.sharing.is_some() && self.kind != Kind::Cache {
            return Err(Fault::new(format!(
                "invalid cache sharing set for {kind} mount"
            )));
        }
        if self.kind == Kind::Tmpfs && (self.from.is_some() || self.source.is_some()) {
            return fault("from and source not allowed for \"tmpfs\" type mounts");
        }
        if self.kind == Kind::Tmpfs && self.read_only {
            return fault("readonly not allowed for \"tmpfs\" type mounts");
        }
        let has_id = matches!(self.kind, Kind::Cache | Kind::Secret);
        if self.id.is_some() && !has_id {
            return Err(Fault::new(format!(
                "id not allowed for \"{kind}\" type mounts"
            )));
        }
        Ok(())
    }
}

fn kind_of(value: &str) -> Result<Kind, Fault> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "bind" => Kind::Bind,
        "cache" => Kind::Cache,
        "tmpfs" => Kind::Tmpfs,
        "secret" => Kind::Secret,
        "ssh" => {
            return Err(Fault::new(
                "--mount=type=ssh is not supported: a build step's VM has no way to an SSH agent",
            ));
        }
        other => {
            let shown = printable(value);
            let fault = Fault::new(format!("unsupported mount type \"{shown}\""));
            return Err(fault.meant(other, &["bind", "cache", "tmpfs", "secret", "ssh"]));
        }
    })
}

/// As Go's strconv.ParseBool.
fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `64m`, `1.5g`, `1024`: bytes, in binary multiples as Docker's.
fn bytes(value: &str) -> Option<u64> {
    let lower = value.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower.strip_prefix(number)?.trim();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if !unit.contains('i') => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let number = number.trim();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let one: u64 = 1 << shift;
    let whole = whole.parse::<u64>().ok()?.checked_mul(one)?;
    let ten = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = match fraction {
        "" => 0,
        digits => u128::from(digits.parse::<u64>().ok()?) * u128::from(one) / u128::from(ten),
    };
    whole.checked_add(u64::try_from(part).ok()?)
}
