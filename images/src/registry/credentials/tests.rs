//! config.json in its variants, and helpers that work and that don't.

use super::*;

fn config(content: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

fn password(user: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::Password(user.to_owned(), password.to_owned()))
}

#[test]
fn logins_are_found_by_registry() {
    // me:secret and hub:pass, in Base64.
    let (_dir, path) = config(
        r#"{"auths": {
            "localhost:5000": {"auth": "bWU6c2VjcmV0"},
            "https://index.docker.io/v1/": {"auth": "aHViOnBhc3M="},
            "token.example": {"identitytoken": "id"},
            "empty.example": {}
        }, "HttpHeaders": {"X": "y"}, "detachKeys": "ctrl-q"}"#,
    );
    assert_eq!(
        find(&path, "localhost:5000").unwrap(),
        password("me", "secret")
    );
    assert_eq!(find(&path, "docker.io").unwrap(), password("hub", "pass"));
    assert_eq!(
        find(&path, "token.example").unwrap(),
        Some(Credentials::IdentityToken("id".to_owned()))
    );
    for registry in ["empty.example", "localhost", "localhost:5001", "quay.io"] {
        assert_eq!(find(&path, registry).unwrap(), None, "{registry}");
    }
}

#[test]
fn no_file_is_no_login_and_a_bad_file_is_an_error() {
    let (dir, path) = config("{");
    assert_eq!(find(&dir.path().join("missing"), "h.io").unwrap(), None);
    assert!(matches!(
        find(&path, "h.io"),
        Err(CredentialsError::Config(_))
    ));
    let (_dir, path) = config(r#"{"auths": {"h.io": {"auth": "?"}}}"#);
    assert!(matches!(
        find(&path, "h.io"),
        Err(CredentialsError::Decode(_))
    ));
}

#[test]
fn an_empty_file_is_none() {
    for content in ["", " \n"] {
        let (_dir, path) = config(content);
        assert_eq!(find(&path, "h.io").unwrap(), None);
    }
}

#[test]
fn a_key_may_be_an_address_of_the_registry() {
    for (key, registry, is_it) in [
        ("https://h.io/v1/", "h.io", true),
        ("http://h.io:5000", "h.io:5000", true),
        ("h.io/team/x", "h.io", true),
        ("https://h.io:5000/v2/", "h.io", false),
        ("ftp://h.io", "h.io", false),
        ("docker.io", "docker.io", true),
        ("https://index.docker.io/v2/", "docker.io", true),
    ] {
        let text = json!({"auths": {key: {"auth": "bWU6c2VjcmV0"}}}).to_string();
        let (_dir, path) = config(&text);
        let want = password("me", "secret").filter(|_| is_it);
        assert_eq!(find(&path, registry).unwrap(), want, "{key}");
    }
    // The registry's own key goes first.
    let (_dir, path) = config(
        r#"{"auths": {"a.io/x": {"auth": "aHViOnBhc3M="}, "a.io": {"auth": "bWU6c2VjcmV0"}}}"#,
    );
    assert_eq!(find(&path, "a.io").unwrap(), password("me", "secret"));
}

#[test]
fn a_helper_that_is_named_goes_before_the_file_and_an_empty_name_is_none() {
    let auths = json!({"h.io": {"auth": "bWU6c2VjcmV0", "identitytoken": ""}});
    for named in [
        json!({"auths": auths, "credsStore": ""}),
        json!({"auths": auths, "credsStore": "no-such-helper", "credHelpers": {"h.io": ""}}),
        json!({"auths": auths, "credHelpers": {"other.io": "no-such-helper"}}),
    ] {
        let (_dir, path) = config(&named.to_string());
        let found = find(&path, "h.io").unwrap();
        assert_eq!(found, password("me", "secret"), "{named}");
    }
    for named in [
        json!({"auths": auths, "credsStore": "no-such-helper"}),
        json!({"auths": auths, "credHelpers": {"h.io": "no-such-helper"}}),
        json!({"credsStore": "../bin/true"}),
    ] {
        let (_dir, path) = config(&named.to_string());
        let error = find(&path, "h.io").unwrap_err();
        assert!(
            matches!(error, CredentialsError::HelperMissing(_)),
            "{named}: {error}"
        );
    }
    let (_dir, path) = config(r#"{"auths": {"h.io": {"auth": ""}}, "credsStore": ""}"#);
    assert_eq!(find(&path, "h.io").unwrap(), None);
}

#[test]
fn a_missing_helper_is_named_with_a_hint() {
    let (_dir, path) = config(r#"{"credHelpers": {"h.io": "no-such-helper"}}"#);
    let error = find(&path, "h.io").unwrap_err();
    assert!(matches!(error, CredentialsError::HelperMissing(_)));
    assert!(error.hint().unwrap().contains("install"));
    assert_eq!(find(&path, "other.io").unwrap(), None);
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?}", password("me", "secret"));
    assert!(shown.contains("me") && !shown.contains("secret"), "{shown}");
    let shown = format!("{:?}", Credentials::IdentityToken("secret".to_owned()));
    assert!(!shown.contains("secret"), "{shown}");
}
