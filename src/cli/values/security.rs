//! `--security-opt`.

use anyhow::{Context, Result, anyhow, bail};
use protocol::spec::Seccomp;

/// What the options say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityOptions {
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Which system calls are allowed; `None` when no option says.
    pub seccomp: Option<Seccomp>,
    /// No masked and no read-only paths.
    pub system_paths_unconfined: bool,
    /// The container may write to its control group; `None` when no option says.
    pub writable_cgroups: Option<bool>,
    /// Options of security modules that the guest's kernel does not have, as written.
    pub without_effect: Vec<String>,
}

/// Reads the options in order, later ones winning; `read` opens a seccomp profile.
///
/// # Errors
/// In Docker's words.
pub fn security_options(
    list: &[String],
    read: &dyn Fn(&str) -> Result<String>,
) -> Result<SecurityOptions> {
    let mut options = SecurityOptions {
        no_new_privileges: false,
        seccomp: None,
        system_paths_unconfined: false,
        writable_cgroups: None,
        without_effect: Vec::new(),
    };
    for text in list {
        let pair = text.split_once('=').or_else(|| text.split_once(':'));
        let (key, value) = match pair {
            None if text == "no-new-privileges" => (text.as_str(), "true"),
            Some((key, value)) if !value.is_empty() => (key, value),
            _ => bail!("invalid --security-opt: \"{text}\""),
        };
        let unknown = || anyhow!("invalid --security-opt 2: \"{text}\"");
        match (key, value) {
            ("no-new-privileges", _) => {
                options.no_new_privileges = switch(value).ok_or_else(unknown)?;
            }
            ("seccomp", "unconfined") => options.seccomp = Some(Seccomp::Unconfined),
            ("seccomp", "builtin") => options.seccomp = Some(Seccomp::Default),
            ("seccomp", path) => options.seccomp = Some(profile(path, read)?),
            ("systempaths", "unconfined") => options.system_paths_unconfined = true,
            ("writable-cgroups", _) => {
                options.writable_cgroups = Some(switch(value).ok_or_else(unknown)?);
            }
            ("apparmor" | "label", _) => options.without_effect.push(text.clone()),
            _ => return Err(unknown()),
        }
    }
    Ok(options)
}

/// A profile, seen to be JSON; the guest reads what it says.
fn profile(path: &str, read: &dyn Fn(&str) -> Result<String>) -> Result<Seccomp> {
    let text = read(path).with_context(|| format!("opening seccomp profile ({path}) failed"))?;
    serde_json::from_str::<serde::de::IgnoredAny>(&text)
        .with_context(|| format!("compacting json for seccomp profile ({path}) failed"))?;
    Ok(Seccomp::Profile(text))
}

/// The words for a switch that Docker takes.
pub fn switch(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "t" | "T" | "1" => Some(true),
        "false" | "False" | "FALSE" | "f" | "F" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Result<SecurityOptions> {
        let list: Vec<String> = list.iter().map(|text| (*text).to_owned()).collect();
        security_options(&list, &|path| match path {
            "profile" => Ok("{\"defaultAction\": \"SCMP_ACT_ALLOW\"}".to_owned()),
            "broken" => Ok("{".to_owned()),
            _ => bail!("open {path}: no such file or directory"),
        })
    }

    #[test]
    fn options_are_read_in_order() {
        let some = options(&["no-new-privileges", "seccomp=unconfined"]).unwrap();
        assert!(some.no_new_privileges);
        assert_eq!(some.seccomp, Some(Seccomp::Unconfined));
        let some = options(&["no-new-privileges:true", "no-new-privileges=false"]).unwrap();
        assert!(!some.no_new_privileges);
        assert_eq!(some.seccomp, None);
        let some = options(&["seccomp=builtin", "systempaths=unconfined"]).unwrap();
        assert_eq!(some.seccomp, Some(Seccomp::Default));
        assert!(some.system_paths_unconfined);
        let some = options(&["writable-cgroups=1", "seccomp:profile"]).unwrap();
        assert_eq!(some.writable_cgroups, Some(true));
        assert!(matches!(some.seccomp, Some(Seccomp::Profile(_))));
    }

    #[test]
    fn what_the_guest_has_no_module_for_is_kept_to_be_told() {
        let some = options(&["apparmor=unconfined", "label:disable"]).unwrap();
        assert_eq!(
            some.without_effect,
            ["apparmor=unconfined", "label:disable"]
        );
    }

    #[test]
    fn unknown_options_are_refused() {
        for (text, want) in [
            ("foo", "invalid --security-opt: \"foo\""),
            ("seccomp=", "invalid --security-opt: \"seccomp=\""),
            (
                "writable-cgroups",
                "invalid --security-opt: \"writable-cgroups\"",
            ),
            ("foo=bar", "invalid --security-opt 2: \"foo=bar\""),
            (
                "systempaths=foo",
                "invalid --security-opt 2: \"systempaths=foo\"",
            ),
            ("no-new-privileges=maybe", "2: \"no-new-privileges=maybe\""),
            (
                "seccomp=none",
                "opening seccomp profile (none) failed: open none",
            ),
            (
                "seccomp=broken",
                "compacting json for seccomp profile (broken) failed",
            ),
        ] {
            let error = format!("{:#}", options(&[text]).unwrap_err());
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
