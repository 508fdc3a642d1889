//! The user's logins: Docker's config.json and its credential helpers.
//!
//! Used by `session` when a registry asks who we are, and only then, so a pull that needs no login starts
//! no helper. The file is the user's own; only `keep` writes it.

mod keep;

use std::io::Read;
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::limits::DOCKER_CONFIG_BYTES;

pub use keep::{Keychain, Login, Place, Secret, key_of};

/// The key of Docker Hub's login, for historical reasons.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a credential helper says when it has no login; it then exits with an error all the same.
const NOT_FOUND: &str = "credentials not found";

/// A login.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// User name and password.
    Password(String, String),
    /// A token that the token server exchanges for others.
    IdentityToken(String),
}

/// Logins don't get into logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password(user, _) => write!(out, "Password({user:?}, …)"),
            Self::IdentityToken(_) => write!(out, "IdentityToken(…)"),
        }
    }
}

/// Why there is no login though one may be configured.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// config.json can't be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// config.json can't be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no place for config.json.
    #[error("neither DOCKER_CONFIG nor HOME names a folder for logins")]
    NoHome,
    /// config.json is not what it should be.
    #[error("{} is not a config file of Docker's", .0.display())]
    Config(PathBuf),
    /// The `auth` field can't be decoded, or contradicts others.
    #[error("the login stored in {} cannot be decoded", .0.display())]
    Decode(PathBuf),
    /// The helper isn't there, or can't be started.
    #[error("cannot run the credential helper named in {}", .0.display())]
    HelperMissing(PathBuf),
    /// The helper's answer is not what it should be.
    #[error("the credential helper named in {} gave a malformed answer", .0.display())]
    HelperAnswer(PathBuf),
    /// The helper failed.
    #[error("the credential helper {helper} failed: {message}")]
    HelperFailed {
        /// The program.
        helper: String,
        /// Its words, escaped.
        message: String,
    },
}

impl CredentialsError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::HelperMissing(_) => {
                "install docker-credential-NAME on PATH, or remove it from credsStore and credHelpers"
            }
            Self::HelperAnswer(_) | Self::HelperFailed { .. } => {
                "run the helper by hand, or log in again with bulkhead login"
            }
            Self::Read { .. } | Self::Write { .. } | Self::NoHome => return None,
            Self::Config(_) => "repair the file, or remove it and log in again with bulkhead login",
            Self::Decode(_) => "log in again with bulkhead login, which rewrites the entry",
        };
        Some(text.to_owned())
    }
}

/// Where Docker's config.json is: in `$DOCKER_CONFIG`, else in `~/.docker`.
pub(super) fn default_config() -> Option<PathBuf> {
    let dir = match std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(&std::env::var_os("HOME")?).join(".docker"),
    };
    Some(dir.join("config.json"))
}

/// What is in config.json, if there is one. An empty one, as `touch` makes it, is none to Docker.
pub(super) fn read(config: &Path) -> Result<Option<Vec<u8>>, CredentialsError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(config)
        .and_then(|file| file.take(DOCKER_CONFIG_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.trim_ascii().is_empty() => Ok(None),
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CredentialsError::Read {
            path: config.to_owned(),
            source,
        }),
    }
}

/// The helper that has the login for `key`, where one is named: then nothing of the file counts, and what is
/// left there is of the time before.
fn helper_of<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    let own = config
        .get("credHelpers")
        .and_then(|helpers| helpers.get(key));
    let helper = own.or_else(|| config.get("credsStore"))?.as_str();
    helper.filter(|name| !name.is_empty())
}

/// The entry for `key` in the file: under that key, or under an address of the registry's, as Docker wrote it
/// long ago and people write it still.
fn entry_of<'a>(auths: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let host = hostname(key);
    let mut entries = auths.iter();
    auths.get(key).or_else(|| {
        entries
            .find(|(other, _)| hostname(other) == host)
            .map(|(_, entry)| entry)
    })
}

/// The registry of a key in the file; those of Docker Hub are one.
fn hostname(key: &str) -> &str {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    match bare.unwrap_or(key).split('/').next().unwrap_or_default() {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        host => host,
    }
}

/// What of config.json counts for `key`, in the same form, with what is empty left out; `None` where that is
/// nothing.
fn of_registry(config: &Map<String, Value>, key: &str) -> Result<Option<Value>, ()> {
    if let Some(helper) = helper_of(config, key) {
        return Ok(Some(json!({"credHelpers": {key: helper}})));
    }
    let auths = match config.get("auths") {
        None | Some(Value::Null) => return Ok(None),
        Some(auths) => auths.as_object().ok_or(())?,
    };
    let Some(entry) = entry_of(auths, key) else {
        return Ok(None);
    };
    let mut entry = entry.as_object().ok_or(())?.clone();
    entry.retain(|_, value| value.as_str() != Some(""));
    Ok(Some(json!({"auths": {key: entry}})))
}

/// The login for the registry named `domain`, if there is one.
pub(super) fn find(config: &Path, domain: &str) -> Result<Option<Credentials>, CredentialsError> {
    let Some(bytes) = read(config)? else {
        return Ok(None);
    };
    let key = key_of(domain);
    let path = || config.to_owned();
    let whole: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|_| CredentialsError::Config(path()))?;
    // A name with a slash would be a path to any program.
    if helper_of(&whole, key).is_some_and(|name| name.contains('/')) {
        return Err(CredentialsError::HelperMissing(path()));
    }
    let Some(own) = of_registry(&whole, key).map_err(|()| CredentialsError::Config(path()))? else {
        return Ok(None);
    };
    match docker_credential::get_credential_from_reader(own.to_string().as_bytes(), key) {
        // An empty login is what `docker logout` and some helpers leave.
        Ok(DockerCredential::UsernamePassword(user, password))
            if user.is_empty() && password.is_empty() =>
        {
            Ok(None)
        }
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Some(Credentials::Password(user, password)))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credentials::IdentityToken(token))),
        Err(
            CredentialRetrievalError::NoCredentialConfigured
            | CredentialRetrievalError::ConfigNotFound,
        ) => Ok(None),
        Err(CredentialRetrievalError::ConfigReadError) => Err(CredentialsError::Config(path())),
        Err(
            CredentialRetrievalError::CredentialDecodingError
            | CredentialRetrievalError::CredentialMismatchError,
        ) => Err(CredentialsError::Decode(path())),
        Err(CredentialRetrievalError::HelperCommunicationError) => {
            Err(CredentialsError::HelperMissing(path()))
        }
        Err(CredentialRetrievalError::MalformedHelperResponse) => {
            Err(CredentialsError::HelperAnswer(path()))
        }
        Err(CredentialRetrievalError::HelperFailure { stdout, stderr, .. })
            if stdout.contains(NOT_FOUND) || stderr.contains(NOT_FOUND) =>
        {
            Ok(None)
        }
        Err(CredentialRetrievalError::HelperFailure {
            helper,
            stdout,
            stderr,
        }) => {
            let words = if stdout.trim().is_empty() {
                stderr
            } else {
                stdout
            };
            Err(CredentialsError::HelperFailed {
                helper,
                message: crate::escape::printable(words.trim()),
            })
        }
    }
}

#[cfg(test)]
mod tests;
