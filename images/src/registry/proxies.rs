//! The proxies that Docker's config.json names for containers and builds.
//!
//! Called by the command. They are for what runs in a container, and not for what this host asks a
//! registry. The file is the user's own.

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

/// Variables of containers, names and values, that the user's config.json has under `proxies.default`: each
/// in capitals and in small letters, as Docker sets them. None when there is no such file.
///
/// # Errors
/// The file can't be read, or is not what it should be.
pub fn proxies() -> Result<Vec<(String, String)>, CredentialsError> {
    default_config().map_or(Ok(Vec::new()), |path| proxies_of(&path))
}

fn proxies_of(path: &Path) -> Result<Vec<(String, String)>, CredentialsError> {
    let Some(bytes) = credentials::read(path)? else {
        return Ok(Vec::new());
    };
    let config: Config =
        serde_json::from_slice(&bytes).map_err(|_| CredentialsError::Config(path.to_owned()))?;
    let Some(named) = config.proxies.get("default") else {
        return Ok(Vec::new());
    };
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
    Ok(both.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<(String, String)>, CredentialsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        proxies_of(&path)
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
        assert_eq!(of(text).unwrap(), want);
        for text in [
            "{}",
            r#"{"proxies": {}}"#,
            r#"{"proxies": {"tcp://x": {"httpProxy": "y"}}}"#,
        ] {
            assert_eq!(of(text).unwrap(), [], "{text}");
        }
    }

    #[test]
    fn a_file_that_is_none_is_told_and_a_missing_one_names_no_proxy() {
        for text in ["", "1", r#"{"proxies": {"default": {"httpProxy": 1}}}"#] {
            let error = of(text).unwrap_err();
            assert!(
                matches!(error, CredentialsError::Config(_)),
                "{text}: {error}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(proxies_of(&dir.path().join("config.json")).unwrap(), []);
    }
}
