//! Passwords, tokens, and registries that ask for them in bad faith.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bulkhead_images::registry::{Registry, RegistryError, Secret, log_in};
use serde_json::json;

use crate::client::{Client, except, is_blob, sample};
use crate::sample::Sample;
use crate::server::{Body, Reply, Request, Server, site};

/// A server that wants a password, and the name it then serves.
fn basic(sample: &Sample) -> Server {
    except(sample, |request| {
        // me:secret
        (request.header("authorization") != Some("Basic bWU6c2VjcmV0")).then(|| {
            Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Basic realm=\"x\"")
        })
    })
}

#[test]
fn a_password_is_sent_when_it_is_asked_for() {
    let server = basic(&sample());
    let client = Client::with_login(&server.host(), json!({"auth": "bWU6c2VjcmV0"}));
    client.pull(&server.name("x")).unwrap();
    let first = &server.requests_for("/manifests/")[0];
    assert_eq!(first.header("authorization"), None);
    assert_eq!(server.requests_for("/manifests/").len(), 2);
}

#[test]
fn without_the_right_password_there_is_a_hint() {
    let server = basic(&sample());
    let error = Client::new().refused(&server.name("x"));
    assert!(matches!(
        error,
        RegistryError::Unauthorized {
            with_credentials: false,
            ..
        }
    ));
    assert_eq!(
        error.hint().unwrap(),
        format!("log in with: bulkhead login {}", server.host())
    );
    let wrong = Client::with_login(
        &server.host(),
        json!({"username": "me", "password": "wrong"}),
    );
    let error = wrong.refused(&server.name("x"));
    assert!(matches!(
        error,
        RegistryError::Unauthorized {
            with_credentials: true,
            ..
        }
    ));
    assert_eq!(
        error.to_string(),
        format!(
            "{} refused the login: unauthorized: UNAUTHORIZED it is",
            server.host()
        )
    );
    assert_eq!(server.requests_for("/manifests/").len(), 3);
}

#[test]
fn a_broken_config_is_named_only_when_it_matters() {
    let open = Server::start(site(&sample()));
    let client = Client::new();
    std::fs::write(client.dir.path().join("config.json"), "{").unwrap();
    client.pull(&open.name("x")).unwrap();
    let error = client.pull(&basic(&sample()).name("x")).unwrap_err();
    assert!(
        matches!(error, RegistryError::Credentials { .. }),
        "{error}"
    );
    assert!(error.hint().is_some());
}

/// A server that wants a token of its own, which it grants where `grant` says so.
fn bearer(grant: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    let site = site(&sample());
    Server::start(move |request| {
        if request.path.starts_with("/token") {
            return grant(request);
        }
        if request.header("authorization") == Some("Bearer good") {
            return site(request);
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        let challenge = format!(
            "Bearer realm=\"{realm}\",service=\"the service\",scope=\"repository:evil:push\""
        );
        Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", &challenge)
    })
}

#[test]
fn a_token_is_fetched_once_for_our_own_scope() {
    let server = bearer(|_| Reply::ok("{\"token\":\"good\",\"expires_in\":60}"));
    Client::new().pull(&server.name("a/x")).unwrap();
    let tokens = server.requests_for("/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].path,
        "/token?scope=repository%3Aa%2Fx%3Apull&service=the+service"
    );
    assert_eq!(tokens[0].header("authorization"), None);
}

#[test]
fn a_password_buys_a_token() {
    // Some send both names, one of them empty.
    let server = bearer(|_| Reply::ok("{\"token\":\"\",\"access_token\":\"good\"}"));
    let client = Client::with_login(&server.host(), json!({"auth": "bWU6c2VjcmV0"}));
    client.pull(&server.name("x")).unwrap();
    let token = &server.requests_for("/token")[0];
    assert_eq!(token.header("authorization"), Some("Basic bWU6c2VjcmV0"));
    assert!(token.path.ends_with("&account=me"), "{}", token.path);
    // The password goes to the token server only.
    for request in server.requests_for("/v2/") {
        assert_ne!(request.header("authorization"), Some("Basic bWU6c2VjcmV0"));
    }
}

#[test]
fn an_identity_token_buys_a_token() {
    let server = bearer(|_| Reply::ok("{\"access_token\":\"good\"}"));
    let client = Client::with_login(&server.host(), json!({"identitytoken": "id token"}));
    client.pull(&server.name("x")).unwrap();
    let token = &server.requests_for("/token")[0];
    assert_eq!(
        (token.method.as_str(), token.path.as_str()),
        ("POST", "/token")
    );
    assert_eq!(
        String::from_utf8_lossy(&token.body),
        "scope=repository%3Ax%3Apull&service=the+service&grant_type=refresh_token&client_id=bulkhead&refresh_token=id+token"
    );
}

#[test]
fn a_token_that_is_not_enough_means_no_access() {
    let server = bearer(|_| Reply::ok("{\"token\":\"weak\"}"));
    let error = Client::new().refused(&server.name("x"));
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    let server = bearer(|_| {
        Reply::new(
            401,
            Body::Whole(b"{\"details\":\"wrong password\"}".to_vec()),
        )
    });
    let client = Client::with_login(&server.host(), json!({"auth": "bWU6c2VjcmV0"}));
    let error = client.refused(&server.name("x"));
    assert_eq!(
        error.to_string(),
        format!(
            "{} refused the login: unauthorized: wrong password",
            server.host()
        )
    );
}

#[test]
fn bad_tokens_are_refused() {
    for reply in [
        "",
        "{}",
        "{\"token\":\"\"}",
        "{\"token\":\"a\\r\\nX: y\"}",
        "{\"token\":7}",
        "[]",
    ] {
        let server = bearer(move |_| Reply::ok(reply));
        let error = Client::new().refused(&server.name("x"));
        assert!(
            matches!(error, RegistryError::Token { .. }),
            "{reply}: {error}"
        );
    }
    let server = bearer(|_| Reply::new(200, Body::Endless(b"{\"token\":[[[[[[[[")));
    assert!(matches!(
        Client::new().refused(&server.name("x")),
        RegistryError::TooLarge { .. }
    ));
}

#[test]
fn a_token_that_expires_is_renewed() {
    let image = sample();
    let issued = Arc::new(AtomicUsize::new(0));
    let (site, count) = (site(&image), Arc::clone(&issued));
    let layer = image.layers[0].clone();
    let server = Server::start(move |request| {
        if request.path.starts_with("/token") {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            return Reply::ok(format!("{{\"token\":\"t{number}\"}}"));
        }
        let valid = if is_blob(request, &layer) {
            "Bearer t2"
        } else {
            "Bearer t"
        };
        if request
            .header("authorization")
            .is_some_and(|token| token.starts_with(valid))
        {
            return site(request);
        }
        let realm = format!(
            "Bearer realm=\"http://{}/token\"",
            request.header("host").unwrap()
        );
        Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", &realm)
    });
    Client::new().pull(&server.name("x")).unwrap();
    assert_eq!(issued.load(Ordering::SeqCst), 2);
}

#[test]
fn challenges_that_lead_astray_are_refused() {
    for (challenge, expected) in [
        (
            "Bearer realm=\"http://169.254.169.254/token\"",
            "not on the registry's network",
        ),
        (
            "Bearer realm=\"http://[fe80::1]/token\"",
            "not on the registry's network",
        ),
        (
            "Bearer realm=\"ftp://127.0.0.1/token\"",
            "neither HTTP nor HTTPS",
        ),
        (
            "Bearer realm=\"http://a:b@127.0.0.1/token\"",
            "a user name in it",
        ),
        ("Bearer realm=\"file:///etc/passwd\"", "not supported"),
        ("Bearer realm=\"\"", "not supported"),
    ] {
        let server =
            Server::start(move |_| Reply::error(401, "X").with("WWW-Authenticate", challenge));
        let client = Client::with_login(&server.host(), json!({"auth": "bWU6c2VjcmV0"}));
        let error = client.refused(&server.name("x")).to_string();
        assert!(error.contains(expected), "{challenge}: {error}");
        assert!(!error.contains("a:b@"), "{error}");
    }
    let server = Server::start(|_| Reply::error(401, "X").with("WWW-Authenticate", "Negotiate"));
    assert!(matches!(
        Client::new().refused(&server.name("x")),
        RegistryError::Unauthorized { .. }
    ));
}

fn try_login(server: &Server, user: &str, password: &str) -> Result<Secret, RegistryError> {
    let registry = Registry::parse(&server.host()).unwrap();
    log_in(&registry, user, password, &Client::new().options)
}

#[test]
fn a_login_is_tried_before_it_is_kept() {
    let server = Server::start(|request| match request.header("authorization") {
        Some("Basic bWU6c2VjcmV0") => Reply::ok("{}"),
        _ => Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let kept = try_login(&server, "me", "secret").unwrap();
    assert_eq!(kept, Secret::Password("secret".to_owned()));
    let error = try_login(&server, "me", "wrong").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "login attempt to http://{}/v2/ failed with status: 401 Unauthorized",
            server.host()
        )
    );
    // One that takes anyone takes this one, too.
    let open = Server::start(|_| Reply::ok("{}"));
    assert!(try_login(&open, "me", "secret").is_ok());
    // And one that is no registry takes nobody.
    let other = Server::start(|_| Reply::error(404, "NOT_FOUND"));
    let error = try_login(&other, "me", "secret").unwrap_err();
    assert!(error.to_string().ends_with("404 Not Found"), "{error}");
}

#[test]
fn a_token_server_may_give_something_to_keep_instead_of_the_password() {
    // With a blank in it, it is nothing that could be sent.
    let server =
        with_version(|_| Reply::ok("{\"token\":\"good\",\"refresh_token\":\"an identity\"}"));
    let kept = try_login(&server, "me", "secret").unwrap();
    assert_eq!(kept, Secret::Password("secret".to_owned()));
    let server = with_version(|_| Reply::ok("{\"token\":\"good\",\"refresh_token\":\"id\"}"));
    let kept = try_login(&server, "me", "secret").unwrap();
    assert_eq!(kept, Secret::IdentityToken("id".to_owned()));
    let token = &server.requests_for("/token")[0];
    assert_eq!(
        token.path,
        "/token?service=the+service&offline_token=true&client_id=bulkhead&account=me"
    );
    assert_eq!(token.header("authorization"), Some("Basic bWU6c2VjcmV0"));
    let server = with_version(|_| {
        let details = b"{\"details\":\"incorrect username or password\"}";
        Reply::new(401, Body::Whole(details.to_vec()))
    });
    let error = try_login(&server, "me", "wrong").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Get \"http://{}/v2/\": unauthorized: incorrect username or password",
            server.host()
        )
    );
}

/// As [`bearer`], for a registry that answers at its root.
fn with_version(grant: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |request| {
        if request.path.starts_with("/token") {
            return grant(request);
        }
        if request.header("authorization") == Some("Bearer good") {
            return Reply::ok("{}");
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        let challenge = format!("Bearer realm=\"{realm}\",service=\"the service\"");
        Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", &challenge)
    })
}
