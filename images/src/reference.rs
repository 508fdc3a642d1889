//! Image references: `[host[:port]/]path[:tag][@digest]`, parsed and completed as Docker does.
//!
//! Used by the command for every image name, by the store as keys, and by the registry for its URLs.
//! A `Reference` holds only what its grammar allows (distribution's reference.go: lower-case letters,
//! digits and separators), so it is safe in a URL, in JSON and on a terminal. It knows no store and no
//! network.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::digest::{Digest, DigestError};
use crate::limits::{NAME_BYTES, REFERENCE_BYTES, TAG_BYTES};

/// The registry of names that have none.
const DEFAULT_DOMAIN: &str = "docker.io";
/// An older name of the same registry, which Docker still takes.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where Docker Hub answers the registry API.
const DEFAULT_HOST: &str = "registry-1.docker.io";
/// The folder of Docker Hub's official images.
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// What stands in front of a digest.
const DIGEST_ALGORITHM: &str = "sha256";

/// A text that is no reference. The messages are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReferenceError {
    /// It doesn't follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// It would, in lower case.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// A bare 64-digit hex name, which would look like an id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    HexName(String),
    /// The name is longer than [`NAME_BYTES`].
    #[error("repository name must not be more than {NAME_BYTES} characters")]
    NameTooLong,
    /// What follows `@` is no digest.
    #[error("invalid reference format")]
    Digest(#[from] DigestError),
}

/// A complete reference: it always has a registry, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses what a user typed: `docker.io` and `library/` are filled in, and the tag `latest` where
    /// there is neither a tag nor a digest.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() || !text.is_ascii() {
            return Err(ReferenceError::Format);
        }
        if text.len() > REFERENCE_BYTES {
            return Err(ReferenceError::NameTooLong);
        }
        if Digest::from_hex(text).is_some() {
            return Err(ReferenceError::HexName(text.to_owned()));
        }
        let (domain, rest) = split_domain(text);
        let (named, digest) = match rest.split_once('@') {
            Some((named, digest)) => (named, Some(Digest::parse(digest)?)),
            None => (rest, None),
        };
        let (path, tag) = match named.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (named, None),
        };
        // Docker names what is before a tag, with a digest in it.
        let before_tag = rest.split(':').next().unwrap_or_default();
        if before_tag.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let official = match domain == DEFAULT_DOMAIN && !before_tag.contains('/') {
                true => OFFICIAL,
                false => "",
            };
            let named = crate::escape::printable(before_tag);
            return Err(ReferenceError::Uppercase(format!("{official}{named}")));
        }
        if !is_domain(domain) || !path.split('/').all(is_path_component) || !tag.is_none_or(is_tag)
        {
            return Err(ReferenceError::Format);
        }
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if domain.len() + 1 + path.len() > NAME_BYTES {
            return Err(ReferenceError::NameTooLong);
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// Parses what a user typed where that is a name alone, without a tag and a digest. The tag `latest`
    /// is filled in; where a name alone means more, it is the name that counts.
    pub fn parse_name(text: &str) -> Option<Self> {
        let name = Self::parse(text).ok()?;
        // Only behind a name alone a tag can be put.
        Self::parse(&format!("{text}:{DEFAULT_TAG}")).ok()?;
        Some(name)
    }

    /// Whether it is a repository and a tag that look like a digest or the start of one, `sha256:0123`.
    pub fn reads_as_digest(&self) -> bool {
        self.digest.is_none() && self.familiar_repository() == DIGEST_ALGORITHM
    }

    /// The registry as named, for example `docker.io` or `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Where that registry answers; differs from [`Self::domain`] for Docker Hub only.
    pub fn host(&self) -> &str {
        if self.domain == DEFAULT_DOMAIN {
            DEFAULT_HOST
        } else {
            &self.domain
        }
    }

    /// The repository without its registry, for example `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The repository with its registry, for example `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as Docker prints it: without `docker.io/`, and without `library/` there, unless
    /// what is left would be taken for another repository.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        let short = match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short,
            _ => &self.path,
        };
        // Of a path like `ghcr.io/x`, Docker prints that alone, which names another registry's image.
        if split_domain(short) == (DEFAULT_DOMAIN, short) {
            short.to_owned()
        } else {
            self.repository()
        }
    }

    /// The tag, if it has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if it has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository at `digest` alone, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The reference as Docker prints it, for example `busybox:latest`.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_repository())
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

/// The canonical form, for example `docker.io/library/busybox:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.suffixed(self.repository()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

/// The first component is a registry when it looks like a host: it has a dot or a port, is `localhost`,
/// or has upper case, which no repository has.
fn split_domain(text: &str) -> (&str, &str) {
    let is_host = |first: &str| {
        first.contains(['.', ':'])
            || first == "localhost"
            || first.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    match text.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    }
}

/// `name[:port]`, where name is dotted labels or an IPv6 address in brackets.
fn is_domain(domain: &str) -> bool {
    let (name, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, rest)) => {
                let valid = !address.is_empty()
                    && address
                        .bytes()
                        .all(|byte| byte.is_ascii_hexdigit() || byte == b':');
                if !valid {
                    return false;
                }
                match rest.strip_prefix(':') {
                    Some(port) => (None, Some(port)),
                    None if rest.is_empty() => (None, None),
                    None => return false,
                }
            }
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(domain), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let number =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    name.is_none_or(|name| name.split('.').all(label)) && port.is_none_or(number)
}

/// Runs of lower-case letters and digits, between them one dot, one or two underscores, or any number
/// of dashes.
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let edges = bytes.first().is_some_and(is_word) && bytes.last().is_some_and(is_word);
    edges
        && bytes.split(is_word).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__")
                || separator.iter().all(|byte| *byte == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_BYTES
        && tag.bytes().next().is_some_and(is_word)
        && tag
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn both(text: &str, canonical: &str, familiar: &str) {
        let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.to_string(), canonical, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
        assert_eq!(Reference::parse(canonical).unwrap(), reference, "{text}");
        assert_eq!(Reference::parse(familiar).unwrap(), reference, "{text}");
    }

    #[test]
    fn names_alone_are_told_from_others() {
        for text in ["a", "a/b", "h:5000/a", "localhost/a"] {
            assert_eq!(
                Reference::parse_name(text),
                Reference::parse(text).ok(),
                "{text}"
            );
        }
        for text in [
            "a:1",
            "h:5000/a:1",
            "A",
            "",
            &format!("a@sha256:{HEX}"),
            HEX,
        ] {
            assert_eq!(Reference::parse_name(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_completed_as_docker_does() {
        both(
            "busybox",
            "docker.io/library/busybox:latest",
            "busybox:latest",
        );
        both(
            "busybox:1.36",
            "docker.io/library/busybox:1.36",
            "busybox:1.36",
        );
        both(
            "library/busybox",
            "docker.io/library/busybox:latest",
            "busybox:latest",
        );
        both(
            "docker.io/busybox",
            "docker.io/library/busybox:latest",
            "busybox:latest",
        );
        both(
            "index.docker.io/busybox",
            "docker.io/library/busybox:latest",
            "busybox:latest",
        );
        both("foo/bar:t", "docker.io/foo/bar:t", "foo/bar:t");
        both(
            "library/foo/bar",
            "docker.io/library/foo/bar:latest",
            "library/foo/bar:latest",
        );
        both("localhost/x", "localhost/x:latest", "localhost/x:latest");
        both(
            "localhost:5000/x/y:v1",
            "localhost:5000/x/y:v1",
            "localhost:5000/x/y:v1",
        );
        both("quay.io/a/b", "quay.io/a/b:latest", "quay.io/a/b:latest");
        both(
            "127.0.0.1:5000/a",
            "127.0.0.1:5000/a:latest",
            "127.0.0.1:5000/a:latest",
        );
        both("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest");
        both(
            "[2001:db8::1]/a",
            "[2001:db8::1]/a:latest",
            "[2001:db8::1]/a:latest",
        );
        both("Host/a", "Host/a:latest", "Host/a:latest");
        both(
            "h.io/b-c__d.e/f--g_h",
            "h.io/b-c__d.e/f--g_h:latest",
            "h.io/b-c__d.e/f--g_h:latest",
        );
    }

    #[test]
    fn a_short_form_never_names_another_registry() {
        for text in [
            "docker.io/ghcr.io/a:latest",
            "docker.io/localhost/a:latest",
            "docker.io/index.docker.io/a:latest",
        ] {
            both(text, text, text);
        }
        both(
            "docker.io/localhost",
            "docker.io/library/localhost:latest",
            "localhost:latest",
        );
    }

    #[test]
    fn digests_and_tags_stand_together() {
        let digest = format!("sha256:{HEX}");
        both(
            &format!("a@{digest}"),
            &format!("docker.io/library/a@{digest}"),
            &format!("a@{digest}"),
        );
        both(
            &format!("h:1/a:t@{digest}"),
            &format!("h:1/a:t@{digest}"),
            &format!("h:1/a:t@{digest}"),
        );
        let reference = Reference::parse(&format!("a:t@{digest}")).unwrap();
        assert_eq!(
            (reference.tag(), reference.digest()),
            (Some("t"), Some(&Digest::of(b"")))
        );
    }

    #[test]
    fn docker_hub_answers_elsewhere() {
        assert_eq!(
            Reference::parse("a").unwrap().host(),
            "registry-1.docker.io"
        );
        assert_eq!(Reference::parse("quay.io/a").unwrap().host(), "quay.io");
    }

    #[test]
    fn bad_references_have_dockers_messages() {
        for text in [
            "",
            " ",
            "a b",
            ":t",
            "a:",
            "a:-t",
            "a:.t",
            "a@",
            "a@sha256:x",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "../a",
            "a/../b",
            "./a",
            "h:5000/",
            "h:99999/a",
            "h:+5/a",
            "h:x/a",
            "-h.x/a",
            "h..x/a",
            "[::1/a",
            "[]/a",
            "[zz]:1/a",
            "[::1]x/a",
            "http://h/a",
            "a?b",
            "a%2e",
            "a\n",
            "ä",
            "a:t:u",
            "a\0",
            "a:\u{1b}[2J",
            "a@sha256:../../x",
            "a_",
        ] {
            let error = Reference::parse(text).expect_err(text);
            assert_eq!(error.to_string(), "invalid reference format", "{text:?}");
        }
        for (text, named) in [
            ("Busybox", "library/Busybox"),
            ("docker.io/Busybox:t", "library/Busybox"),
            ("a/B:t", "a/B"),
            ("h:5000/A", "A"),
            ("h:5000/A\u{1b}:T", "A\\u{1b}"),
            (&format!("A@sha256:{HEX}"), "library/A@sha256"),
        ] {
            assert_eq!(
                Reference::parse(text).unwrap_err().to_string(),
                format!("invalid reference format: repository name ({named}) must be lowercase")
            );
        }
        assert_eq!(
            Reference::parse(HEX).unwrap_err().to_string(),
            format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings")
        );
    }

    #[test]
    fn lengths_are_limited() {
        let fits = "a".repeat(NAME_BYTES - "docker.io/library/".len());
        assert!(Reference::parse(&fits).is_ok());
        assert_eq!(
            Reference::parse(&format!("{fits}a")),
            Err(ReferenceError::NameTooLong)
        );
        assert_eq!(
            Reference::parse(&"a/".repeat(1 << 20)),
            Err(ReferenceError::NameTooLong)
        );
        assert!(Reference::parse(&format!("a:{}", "t".repeat(TAG_BYTES))).is_ok());
        assert_eq!(
            Reference::parse(&format!("a:{}", "t".repeat(TAG_BYTES + 1))),
            Err(ReferenceError::Format)
        );
    }

    #[test]
    fn another_digest_algorithm_is_named_in_the_cause() {
        let error = Reference::parse(&format!("a@sha512:{HEX}{HEX}")).unwrap_err();
        let cause = std::error::Error::source(&error)
            .expect("a cause")
            .to_string();
        assert!(cause.contains("other than sha256"), "{cause}");
    }
}
