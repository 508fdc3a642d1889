//! What Docker's config.json says beside logins: the proxies of containers and builds, the keys that
//! detach from a terminal, and how lists are shown.
//!
//! Called by the command. The proxies are for what runs in a container, and not for what this host asks
//! a registry. The file is the user's own.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::credentials::{self, CredentialsError, default_config};

/// Docker's config.json; keys that are of no use here are left alone.
#[derive(Debug, Default, Deserialize)]
struct Config {
    /// By the daemon's address, or `default`.
    #[serde(default)]
    proxies: BTreeMap<String, Proxies>,
    #[serde(default, rename = "detachKeys")]
    detach_keys: String,
    #[serde(flatten)]
    formats: Formats,
}

/// What the user's config.json says, or nothing when there is no such file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Variables of containers, names and values, by `proxies.default`: each in capitals and in small
    /// letters, as Docker sets them.
    pub proxies: Vec<(String, String)>,
    /// `detachKeys` as it stands there, for `--detach-keys`; empty when it does not.
    pub detach_keys: String,
    /// For lists without `--format`.
    pub formats: Formats,
}

/// How lists are shown, as for `--format`; empty where nothing is said.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Formats {
    /// `psFormat`
    #[serde(rename = "psFormat")]
    pub ps: String,
    /// `imagesFormat`
    #[serde(rename = "imagesFormat")]
    pub images: String,
    /// `volumesFormat`
    #[serde(rename = "volumesFormat")]
    pub volumes: String,
    /// `statsFormat`
    #[serde(rename = "statsFormat")]
    pub stats: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Proxies {
    http_proxy: String,
    https_proxy: String,
    no_proxy: String,
    ftp_proxy: String,
    all_proxy: String,
}

/// Reads the user's config.json.
///
/// # Errors
/// The file can't be read, or is not what it should be.
pub fn settings() -> Result<Settings, CredentialsError> {
    default_config().map_or(Ok(Settings::default()), |path| settings_of(&path))
}

fn settings_of(path: &Path) -> Result<Settings, CredentialsError> {
    let Some(bytes) = credentials::read(path)? else {
        return Ok(Settings::default());
    };
    let config: Config =
        serde_json::from_slice(&bytes).map_err(|_| CredentialsError::Config(path.to_owned()))?;
    let named = config.proxies.get("default");
    Ok(Settings {
        proxies: named.map_or(Vec::new(), variables),
        detach_keys: config.detach_keys,
        formats: config.formats,
    })
}

fn variables(named: &Proxies) -> Vec<(String, String)> {
    let all = [
        ("HTTP_PROXY", &named.http_proxy),
        ("HTTPS_PROXY", &named.https_proxy),
        ("NO_PROXY", &named.no_proxy),
        ("FTP_PROXY", &named.ftp_proxy),
        ("ALL_PROXY", &named.all_proxy),
    ];
    let set = all.into_iter().filter(|(_, value)| !value.is_empty());
    let both = set.flat_map(|(name, value)| {
        [name.to_owned(), name.to_ascii_lowercase()].map(|name| (name, value.clone()))
    });
    both.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Settings, CredentialsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        settings_of(&path)
    }

    #[test]
    fn each_proxy_has_both_of_its_names() {
        let text = r#"{"auths": {}, "proxies": {
            "tcp://host:2375": {"allProxy": "http://other"},
            "default": {"httpProxy": "http://proxy:3128", "noProxy": "localhost,.test", "ftpProxy": ""}}}"#;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let want = [
            pair("HTTP_PROXY", "http://proxy:3128"),
            pair("http_proxy", "http://proxy:3128"),
            pair("NO_PROXY", "localhost,.test"),
            pair("no_proxy", "localhost,.test"),
        ];
        assert_eq!(of(text).unwrap().proxies, want);
        for text in [
            "{}",
            r#"{"proxies": {}}"#,
            r#"{"proxies": {"tcp://x": {"httpProxy": "y"}}}"#,
        ] {
            assert_eq!(of(text).unwrap(), Settings::default(), "{text}");
        }
    }

    #[test]
    fn lists_have_their_formats() {
        let settings = of(r#"{"psFormat": "{{.ID}}", "statsFormat": "table {{.Name}}"}"#).unwrap();
        let formats = settings.formats;
        assert_eq!((&*formats.ps, &*formats.images), ("{{.ID}}", ""));
        assert_eq!(
            (&*formats.stats, &*formats.volumes),
            ("table {{.Name}}", "")
        );
    }

    #[test]
    fn keys_that_detach_are_handed_on_as_they_stand() {
        let settings = of(r#"{"detachKeys": "ctrl-e,e"}"#).unwrap();
        assert_eq!(settings.detach_keys, "ctrl-e,e");
        assert_eq!(settings.proxies, []);
    }

    #[test]
    fn a_file_that_is_none_is_told_and_a_missing_one_says_nothing() {
        for text in [
            "1",
            r#"{"detachKeys": 1}"#,
            r#"{"proxies": {"default": {"httpProxy": 1}}}"#,
        ] {
            let error = of(text).unwrap_err();
            assert!(
                matches!(error, CredentialsError::Config(_)),
                "{text}: {error}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let settings = settings_of(&dir.path().join("config.json")).unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(of("").unwrap(), Settings::default());
    }
}
