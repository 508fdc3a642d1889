//! Trying a user name and password at a registry.
//!
//! Called by the command for `login`. It keeps nothing; it asks the registry, and its token server if it
//! has one, as a push would, and says what they answered.

use reqwest::Url;

use super::RegistryOptions;
use super::auth::{self, Challenge, Purpose};
use super::credentials::{Credentials, Secret};
use super::error::RegistryError;
use super::http::{Http, Reply, Request};
use super::session::connect;
use crate::reference::{Reference, ReferenceError};

const WHAT: &str = "the login";

/// A registry that one can log in to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry(Reference);

impl Registry {
    /// Reads what a user typed: a host, also with a scheme before it and a path behind.
    ///
    /// # Errors
    /// It is no host.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let bare = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or(text);
        let host = bare.split('/').next().unwrap_or_default();
        // The grammar of names says what a host is; one without a dot or port would be a folder there.
        let reference = Reference::parse(&format!("{host}/login"))?;
        let is_host = reference.domain() == host || reference == Self::docker_hub().0;
        let is_hub = matches!(host, "docker.io" | "index.docker.io");
        match is_host || is_hub {
            true => Ok(Self(reference)),
            false => Err(ReferenceError::Format),
        }
    }

    /// Docker Hub, which is meant where none is named.
    #[must_use]
    pub fn docker_hub() -> Self {
        // The name is constant and a reference.
        match Reference::parse("docker.io/login") {
            Ok(reference) => Self(reference),
            Err(_) => unreachable!("a constant that is a reference"),
        }
    }

    /// Its name in references.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.0.domain()
    }
}

/// Asks `registry` whether it takes `user` and `password`, and gives what is to be kept: the password, or
/// the identity token that it gave for it.
///
/// # Errors
/// It does not take them, in Docker's words, or can't be asked.
pub fn log_in(
    registry: &Registry,
    user: &str,
    password: &str,
    options: &RegistryOptions,
) -> Result<Secret, RegistryError> {
    let http = connect(registry.0.host(), options)?;
    let mut url = http.base().clone();
    url.set_path("v2/");
    let kept = Secret::Password(password.to_owned());
    let reply = http.send(Request::get(WHAT, url.clone()))?;
    let challenge = match reply.status() {
        401 => Challenge::parse(reply.headers()),
        // It takes anyone.
        200 => return Ok(kept),
        _ => None,
    };
    let Some(challenge) = challenge else {
        return Err(refused(&url, &reply));
    };
    drop(reply);
    let credentials = Credentials::Password(user.to_owned(), password.to_owned());
    answer(&http, &url, &challenge, &credentials)
        .map(|token| token.map_or(kept, Secret::IdentityToken))
}

fn answer(
    http: &Http,
    url: &Url,
    challenge: &Challenge,
    credentials: &Credentials,
) -> Result<Option<String>, RegistryError> {
    let answer = auth::answer(http, challenge, Purpose::LogIn, Some(credentials));
    let answer = answer.map_err(|error| match error {
        RegistryError::Unauthorized { message, .. } => RegistryError::LoginDenied {
            url: url.to_string(),
            message,
        },
        other => other,
    })?;
    let reply = http.send(Request {
        authorization: Some(answer.authorization),
        ..Request::get(WHAT, url.clone())
    })?;
    match reply.status() {
        200 => Ok(answer.identity_token),
        _ => Err(refused(url, &reply)),
    }
}

fn refused(url: &Url, reply: &Reply<'_>) -> RegistryError {
    RegistryError::LoginRefused {
        url: url.to_string(),
        status: reply.status_text(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_what_docker_makes_of_what_was_typed() {
        for (text, domain) in [
            ("localhost:5000", "localhost:5000"),
            ("https://h.io", "h.io"),
            ("http://h.io:80/v2/", "h.io:80"),
            ("localhost", "localhost"),
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("[::1]:5000", "[::1]:5000"),
        ] {
            let registry = Registry::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(registry.domain(), domain, "{text}");
        }
        for text in [
            "", "host", "h.io:x", "h io.de", "http://", "u@h.io", "a.io\n",
        ] {
            assert!(Registry::parse(text).is_err(), "{text}");
        }
    }
}
