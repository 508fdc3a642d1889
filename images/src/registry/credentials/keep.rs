//! Keeping and forgetting logins where Docker keeps them: config.json, or the helper that it names.
//!
//! Called by the command for `login` and `logout`. Of the file, only the entries of the one registry are
//! changed; whatever else is in it stays. It appears whole under its name, for the user alone to read.
//! A helper is used where the file names one, and not because one is installed.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Credentials, CredentialsError, DOCKER_HUB_KEY, find, helper_of};
use crate::escape::printable;
use crate::json;
use crate::limits::DOCKER_CONFIG_BYTES;

/// The name under which helpers keep identity tokens (docker-credential-helpers).
const TOKEN_USER: &str = "<token>";
/// Bytes of a helper's words that are read.
const WORDS_BYTES: u64 = 4096;

/// A login to be kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub user: String,
    /// A password, or an identity token in its place.
    pub secret: Secret,
}

/// What proves who one is.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// As the user typed it.
    Password(String),
    /// As the registry gave it for that.
    IdentityToken(String),
}

/// Secrets don't get into logs.
impl std::fmt::Debug for Login {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Login({:?}, …)", self.user)
    }
}

/// See [`Login`]'s.
impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Password(_) => "Password(…)",
            Self::IdentityToken(_) => "IdentityToken(…)",
        })
    }
}

/// Where a login is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In this file, for everyone to read who may read it.
    File(PathBuf),
    /// With `docker-credential-NAME`.
    Helper(String),
}

/// The user's logins.
#[derive(Debug, Clone)]
pub struct Keychain {
    path: PathBuf,
}

/// The key under which the login for the registry `domain` is kept.
#[must_use]
pub fn key_of(domain: &str) -> &str {
    match domain {
        "docker.io" => DOCKER_HUB_KEY,
        domain => domain,
    }
}

impl Keychain {
    /// That of Docker's config.json at `path`, or at its usual place.
    ///
    /// # Errors
    /// There is no home folder that could hold it.
    pub fn open(path: Option<PathBuf>) -> Result<Self, CredentialsError> {
        let path = path.or_else(super::default_config);
        Ok(Self {
            path: path.ok_or(CredentialsError::NoHome)?,
        })
    }

    /// The user name and password that are kept for `domain`.
    ///
    /// # Errors
    /// The file or a helper.
    pub fn password(&self, domain: &str) -> Result<Option<(String, String)>, CredentialsError> {
        Ok(match find(&self.path, domain)? {
            Some(Credentials::Password(user, password)) => Some((user, password)),
            Some(Credentials::IdentityToken(_)) | None => None,
        })
    }

    /// Where the login for `key` is or would be kept.
    ///
    /// # Errors
    /// The file.
    pub fn place(&self, key: &str) -> Result<Place, CredentialsError> {
        Ok(self.place_in(&self.read()?, key))
    }

    /// Keeps a login.
    ///
    /// # Errors
    /// The file or a helper; what was kept before stays then.
    pub fn keep(&self, key: &str, login: &Login) -> Result<(), CredentialsError> {
        let mut config = self.read()?;
        let entry = match self.place_in(&config, key) {
            Place::Helper(name) => {
                let (user, secret) = match &login.secret {
                    Secret::Password(password) => (login.user.as_str(), password),
                    Secret::IdentityToken(token) => (TOKEN_USER, token),
                };
                let input = json!({"ServerURL": key, "Username": user, "Secret": secret});
                self.call(&name, "store", &input.to_string())?;
                // So that those who list logins see that there is one.
                json!({})
            }
            Place::File(_) => match &login.secret {
                Secret::Password(password) => {
                    json!({"auth": STANDARD.encode(format!("{}:{password}", login.user))})
                }
                Secret::IdentityToken(token) => json!({
                    "auth": STANDARD.encode(format!("{}:", login.user)),
                    "identitytoken": token,
                }),
            },
        };
        let auths = config.entry("auths").or_insert_with(|| json!({}));
        let Value::Object(auths) = auths else {
            return Err(CredentialsError::Config(self.path.clone()));
        };
        auths.insert(key.to_owned(), entry);
        self.write(&config)
    }

    /// Forgets the login for `key`; that there is none is fine.
    ///
    /// # Errors
    /// The file or a helper.
    pub fn forget(&self, key: &str) -> Result<(), CredentialsError> {
        let mut config = self.read()?;
        let place = self.place_in(&config, key);
        let removed = match config.get_mut("auths") {
            Some(Value::Object(auths)) => auths.remove(key).is_some(),
            _ => false,
        };
        if removed {
            self.write(&config)?;
        }
        match place {
            Place::File(_) => Ok(()),
            Place::Helper(name) => self.call(&name, "erase", key),
        }
    }

    fn place_in(&self, config: &Map<String, Value>, key: &str) -> Place {
        match helper_of(config, key) {
            Some(name) => Place::Helper(name.to_owned()),
            None => Place::File(self.path.clone()),
        }
    }

    fn read(&self) -> Result<Map<String, Value>, CredentialsError> {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&self.path).and_then(|file| {
            file.take(DOCKER_CONFIG_BYTES.saturating_add(1))
                .read_to_end(&mut bytes)
        });
        match read {
            Ok(_) if bytes.trim_ascii().is_empty() => Ok(Map::new()),
            Ok(_) => json::parse(&bytes, DOCKER_CONFIG_BYTES)
                .map_err(|_| CredentialsError::Config(self.path.clone())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
            Err(source) => Err(CredentialsError::Read {
                path: self.path.clone(),
                source,
            }),
        }
    }

    fn write(&self, config: &Map<String, Value>) -> Result<(), CredentialsError> {
        // One that is a link to elsewhere stays one.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        let written = serde::Serialize::serialize(config, &mut serializer)
            .map_err(std::io::Error::from)
            .and_then(|()| {
                make_private(folder)?;
                let mut file = tempfile::Builder::new()
                    .prefix("config.json")
                    .permissions(std::fs::Permissions::from_mode(0o600))
                    .tempfile_in(folder)?;
                file.write_all(&text)?;
                file.as_file().sync_all()?;
                file.persist(&path).map_err(|error| error.error)?;
                Ok(())
            });
        written.map_err(|source| CredentialsError::Write {
            path: self.path.clone(),
            source,
        })
    }

    /// Runs a helper, which reads `input` and says what is wrong on its standard output.
    fn call(&self, name: &str, action: &str, input: &str) -> Result<(), CredentialsError> {
        let missing = |_| CredentialsError::HelperMissing(self.path.clone());
        // A name with a slash would be a path to any program.
        if name.contains('/') {
            return Err(CredentialsError::HelperMissing(self.path.clone()));
        }
        let helper = format!("docker-credential-{name}");
        let mut child = Command::new(&helper)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(missing)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read it says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let mut words = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let _ = stdout.take(WORDS_BYTES).read_to_end(&mut words);
        }
        let status = child.wait().map_err(missing)?;
        match status.success() {
            true => Ok(()),
            false => Err(CredentialsError::HelperFailed {
                helper,
                message: printable(String::from_utf8_lossy(&words).trim()),
            }),
        }
    }
}

/// Makes a folder that only its owner can enter, unless it is there.
fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

#[cfg(test)]
mod tests;
