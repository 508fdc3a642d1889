//! What becomes of config.json, and what helpers are told.

use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

fn keychain(content: Option<&str>) -> (tempfile::TempDir, Keychain) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker/config.json");
    if let Some(content) = content {
        std::fs::create_dir(dir.path().join("docker")).unwrap();
        std::fs::write(&path, content).unwrap();
    }
    (dir, Keychain { path })
}

fn login(user: &str, password: &str) -> Login {
    Login {
        user: user.to_owned(),
        secret: Secret::Password(password.to_owned()),
    }
}

fn written(keychain: &Keychain) -> Value {
    serde_json::from_slice(&std::fs::read(&keychain.path).unwrap()).unwrap()
}

#[test]
fn a_login_is_written_for_its_owner_alone_and_found_again() {
    let (dir, keychain) = keychain(None);
    keychain.keep("h.io:5000", &login("me", "secret")).unwrap();
    let auths = json!({"auths": {"h.io:5000": {"auth": "bWU6c2VjcmV0"}}});
    assert_eq!(written(&keychain), auths);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&keychain.path), 0o600);
    assert_eq!(mode(&dir.path().join("docker")), 0o700);
    let found = keychain.password("h.io:5000").unwrap();
    assert_eq!(found, Some(("me".to_owned(), "secret".to_owned())));
    assert_eq!(
        keychain.place("h.io:5000").unwrap(),
        Place::File(keychain.path.clone())
    );
    // Nothing else is left in the folder.
    assert_eq!(
        std::fs::read_dir(dir.path().join("docker"))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn what_else_is_in_the_file_stays() {
    let before = r#"{"auths": {"a.io": {"auth": "YTpi"}, "h.io": {"auth": "eDp5"}},
        "HttpHeaders": {"X": "y"}, "detachKeys": "ctrl-q", "new": [1, {"deep": null}]}"#;
    let (dir, keychain) = keychain(Some(before));
    keychain.keep("h.io", &login("me", "secret")).unwrap();
    let mut expected: Value = serde_json::from_str(before).unwrap();
    expected["auths"]["h.io"] = json!({"auth": "bWU6c2VjcmV0"});
    assert_eq!(written(&keychain), expected);
    // It was readable by others.
    assert_eq!(
        std::fs::metadata(&keychain.path).unwrap().mode() & 0o777,
        0o600
    );
    keychain.forget("h.io").unwrap();
    expected["auths"].as_object_mut().unwrap().remove("h.io");
    assert_eq!(written(&keychain), expected);
    // A link to elsewhere, as managers of such files make it, stays one.
    let target = dir.path().join("target.json");
    std::fs::rename(&keychain.path, &target).unwrap();
    symlink(&target, &keychain.path).unwrap();
    keychain.keep("h.io", &login("me", "secret")).unwrap();
    assert!(keychain.path.symlink_metadata().unwrap().is_symlink());
    assert_eq!(written(&keychain)["HttpHeaders"]["X"], "y");
}

#[test]
fn an_identity_token_takes_the_place_of_the_password() {
    let (_dir, keychain) = keychain(None);
    let login = Login {
        user: "me".to_owned(),
        secret: Secret::IdentityToken("the token".to_owned()),
    };
    keychain.keep("h.io", &login).unwrap();
    assert_eq!(
        written(&keychain)["auths"]["h.io"],
        json!({"auth": "bWU6", "identitytoken": "the token"})
    );
    assert_eq!(
        find(&keychain.path, "h.io").unwrap(),
        Some(Credentials::IdentityToken("the token".to_owned()))
    );
    assert_eq!(keychain.password("h.io").unwrap(), None);
}

#[test]
fn a_file_that_is_none_of_dockers_is_left_alone() {
    for content in ["{", "[]", "\"x\"", "{\"auths\": 7}"] {
        let (_dir, keychain) = keychain(Some(content));
        let error = keychain.keep("h.io", &login("me", "secret")).unwrap_err();
        assert!(matches!(error, CredentialsError::Config(_)), "{error}");
        assert_eq!(std::fs::read_to_string(&keychain.path).unwrap(), content);
    }
    // An empty one is as good as none.
    let (_dir, keychain) = keychain(Some(""));
    keychain.keep("h.io", &login("me", "secret")).unwrap();
}

#[test]
fn nothing_to_forget_writes_nothing() {
    let (dir, keychain) = keychain(None);
    keychain.forget("h.io").unwrap();
    assert!(!dir.path().join("docker").exists());
}

#[test]
fn a_helper_that_is_not_there_or_a_path_is_named() {
    for name in ["no-such-helper", "../bin/true"] {
        let config = json!({"credsStore": name}).to_string();
        let (_dir, keychain) = keychain(Some(&config));
        let error = keychain.keep("h.io", &login("me", "secret")).unwrap_err();
        assert!(
            matches!(error, CredentialsError::HelperMissing(_)),
            "{error}"
        );
        // It is not kept in the file instead.
        assert_eq!(std::fs::read_to_string(&keychain.path).unwrap(), config);
        assert_eq!(
            keychain.place("h.io").unwrap(),
            Place::Helper(name.to_owned())
        );
    }
}

#[test]
fn a_registrys_own_helper_goes_first() {
    let config = r#"{"credsStore": "all", "credHelpers": {"h.io": "own"}}"#;
    let (_dir, keychain) = keychain(Some(config));
    let helper = |name: &str| Place::Helper(name.to_owned());
    assert_eq!(keychain.place("h.io").unwrap(), helper("own"));
    assert_eq!(keychain.place("i.io").unwrap(), helper("all"));
}
