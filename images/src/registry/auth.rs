//! Logging in: the registry's challenge, and the token that answers it.
//!
//! Used by `session` on a 401. The scope asked for is always our own, never the challenge's, and the
//! credentials are those of this registry, so a challenge can't get at another registry's. They go to
//! the token server that the registry names, as the protocol has it (Docker Hub's is on another host),
//! but only over HTTPS unless the registry itself is plain HTTP, and only where `reach` allows.

use http_auth::ChallengeRef;
use http_auth::parser::ChallengeParser;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use serde::Deserialize;

use super::content::Content;
use super::credentials::Credentials;
use super::error::RegistryError;
use super::http::{Authorization, Http, Request, host_of};
use crate::escape::printable;
use crate::json;
use crate::limits::{CHALLENGE_BYTES, ERROR_BYTES, TOKEN_BYTES};

/// Names us to token servers (distribution's oauth specification asks for it).
const CLIENT_ID: &str = "bulkhead";

/// How a registry wants to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token from a server.
    Bearer {
        /// The token server's address.
        realm: String,
        /// What it is to be asked a token for.
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads the challenges of a reply; a token is preferred over sending the password each time.
    pub(super) fn parse(headers: &HeaderMap) -> Option<Self> {
        let mut found = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(value) = value.to_str() else { continue };
            if value.len() > CHALLENGE_BYTES {
                continue;
            }
            for challenge in ChallengeParser::new(value).map_while(Result::ok) {
                match Self::of(&challenge) {
                    Some(bearer @ Self::Bearer { .. }) => return Some(bearer),
                    Some(Self::Basic) => found = Some(Self::Basic),
                    None => {}
                }
            }
        }
        found
    }

    fn of(challenge: &ChallengeRef<'_>) -> Option<Self> {
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !challenge.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            let found = challenge
                .params
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        Some(Self::Bearer {
            realm: parameter("realm")?,
            service: parameter("service"),
        })
    }
}

/// What a token server sends; which of the two fields it uses is its choice.
#[derive(Deserialize)]
struct TokenReply {
    token: Option<String>,
    access_token: Option<String>,
    /// What to log in with from now on, where it was asked for.
    refresh_token: Option<String>,
}

/// What a login is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// For these scopes, such as `repository:library/busybox:pull`.
    Scopes(&'a [String]),
    /// To see whether it is taken, and for a token to be kept instead of the password.
    LogIn,
}

/// An answered challenge.
#[derive(Debug)]
pub(super) struct Answer {
    /// To be sent from now on.
    pub(super) authorization: Authorization,
    /// An identity token, if the token server gave one.
    pub(super) identity_token: Option<String>,
}

/// Answers `challenge`, giving what to send from now on.
pub(super) fn answer(
    http: &Http,
    challenge: &Challenge,
    purpose: Purpose<'_>,
    credentials: Option<&Credentials>,
) -> Result<Answer, RegistryError> {
    let host = host_of(http.base());
    match (challenge, credentials) {
        (Challenge::Basic, Some(Credentials::Password(user, password))) => Ok(Answer {
            authorization: Authorization::Basic(user.clone(), password.clone()),
            identity_token: None,
        }),
        (Challenge::Basic, _) => {
            // The words are Docker's.
            let message = "no basic auth credentials".to_owned();
            Err(RegistryError::Unauthorized {
                host,
                message,
                with_credentials: false,
            })
        }
        (Challenge::Bearer { realm, service }, credentials) => {
            let url = Url::parse(realm)
                .ok()
                .filter(Url::has_host)
                .ok_or_else(|| RegistryError::Challenge {
                    host,
                    challenge: printable(realm),
                })?;
            http.check_target(&url)?;
            token(http, url, service.as_deref(), purpose, credentials)
        }
    }
}

fn token(
    http: &Http,
    url: Url,
    service: Option<&str>,
    purpose: Purpose<'_>,
    credentials: Option<&Credentials>,
) -> Result<Answer, RegistryError> {
    let host = host_of(&url);
    let what = "a token";
    let mut reply = http.send(token_request(what, url, service, purpose, credentials))?;
    match reply.status() {
        200 => {}
        status @ (400 | 401 | 403) => {
            let message = super::session::message(&reply.read(ERROR_BYTES).unwrap_or_default());
            let message = if message.is_empty() {
                format!("HTTP status {status} for a token")
            } else {
                message
            };
            return Err(RegistryError::Unauthorized {
                host,
                message,
                with_credentials: credentials.is_some(),
            });
        }
        status => {
            let message = super::session::message(&reply.read(ERROR_BYTES).unwrap_or_default());
            return Err(RegistryError::Status {
                host,
                what: what.to_owned(),
                status,
                message,
            });
        }
    }
    let body = reply.read(TOKEN_BYTES)?;
    let failed = |source| RegistryError::Token {
        host: host.clone(),
        source,
    };
    let parsed: TokenReply = json::parse(&body, TOKEN_BYTES).map_err(failed)?;
    let missing = || json::JsonError::Invalid("it holds no token".to_owned());
    // What isn't visible ASCII can't stand in a header.
    let usable =
        |token: &String| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    // One of them may be there and empty.
    let tokens = [parsed.token, parsed.access_token];
    let token = tokens.into_iter().flatten().find(usable);
    Ok(Answer {
        authorization: token
            .map(Authorization::Bearer)
            .ok_or_else(|| failed(missing()))?,
        identity_token: parsed.refresh_token.filter(usable),
    })
}

fn token_request<'a>(
    what: &'a str,
    mut url: Url,
    service: Option<&str>,
    purpose: Purpose<'_>,
    credentials: Option<&Credentials>,
) -> Request<'a> {
    let scopes = match purpose {
        Purpose::Scopes(scopes) => scopes,
        Purpose::LogIn => &[],
    };
    let mut fields: Vec<(&str, &str)> = Vec::new();
    fields.extend(service.map(|service| ("service", service)));
    match credentials {
        // OAuth2, the only way to use an identity token (distribution's oauth specification).
        Some(Credentials::IdentityToken(token)) => {
            // There, several scopes are one field.
            let scope = scopes.join(" ");
            let mut fields = fields;
            if !scope.is_empty() {
                fields.insert(0, ("scope", &scope));
            }
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("refresh_token", token),
            ]);
            Request {
                content: Content::Form(encoded(&fields)),
                ..Request::new(what, Method::POST, url)
            }
        }
        credentials => {
            let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
            let mut fields: Vec<(&str, &str)> = scopes.chain(fields).collect();
            if matches!(purpose, Purpose::LogIn) {
                fields.extend([("offline_token", "true"), ("client_id", CLIENT_ID)]);
            }
            let authorization = match credentials {
                Some(Credentials::Password(user, password)) => {
                    fields.push(("account", user));
                    Some(Authorization::Basic(user.clone(), password.clone()))
                }
                _ => None,
            };
            url.query_pairs_mut().extend_pairs(&fields);
            Request {
                authorization,
                ..Request::get(what, url)
            }
        }
    }
}

fn encoded(fields: &[(&str, &str)]) -> String {
    // A form has the syntax of a query; the address around it is never used.
    Url::parse_with_params("http://form.invalid", fields)
        .ok()
        .and_then(|url| url.query().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn parse(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                WWW_AUTHENTICATE,
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        Challenge::parse(&headers)
    }

    #[test]
    fn a_token_is_preferred() {
        let bearer = "Bearer realm=\"https://auth.example/token\",service=\"registry\",scope=\"repository:x:push\"";
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry".to_owned()),
        };
        assert_eq!(parse(&[bearer]), Some(expected.clone()));
        assert_eq!(
            parse(&["Basic realm=\"x\"", bearer]),
            Some(expected.clone())
        );
        assert_eq!(
            parse(&[&format!("Basic realm=\"x\", {bearer}")]),
            Some(expected)
        );
        assert_eq!(parse(&["basic realm=\"x\""]), Some(Challenge::Basic));
    }

    #[test]
    fn challenges_that_say_nothing_are_none() {
        for values in [
            &[][..],
            &["Bearer service=\"x\""],
            &["Negotiate"],
            &["="],
            &["Bearer realm=\"x"],
            &["\u{80}"],
        ] {
            assert_eq!(parse(values), None, "{values:?}");
        }
        assert_eq!(
            parse(&[&format!("Bearer realm=\"{}\"", "x".repeat(CHALLENGE_BYTES))]),
            None
        );
    }

    #[test]
    fn a_form_is_encoded() {
        assert_eq!(
            encoded(&[("scope", "a b&c"), ("t", "=é")]),
            "scope=a+b%26c&t=%3D%C3%A9"
        );
    }
}
