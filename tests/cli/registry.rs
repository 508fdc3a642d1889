//! `push`, `login` and `logout` against Debian's docker-registry, and what they refuse.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use harness::registry::{Access, PASSWORD, USER};
use harness::{Invocation, Output, Registry, Terminal};
use serde_json::{Value, json};

use crate::images::with_demo;
use crate::{User, assert_refused};

const WARNING: &str = "WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n";

fn registry(access: Access) -> Registry {
    Registry::start(access).expect("docker-registry")
}

/// A user with `demo:1`, which has this name, too.
fn with_name(name: &str) -> User {
    let user = with_demo();
    user.stdout(&["tag", "demo:1", name]);
    user
}

fn config(user: &User) -> Value {
    let path = user.0.path().join("home/.docker/config.json");
    serde_json::from_slice(&fs::read(path).expect("a config")).expect("JSON")
}

fn log_in(user: &User, server: &str, password: &str) -> Output {
    user.bulkhead(["login", "-u", USER, "--password-stdin", server])
        .stdin(format!("{password}\n"))
        .output()
        .expect("login")
}

/// The command at a terminal.
fn terminal(user: &User, args: &[&str]) -> Terminal {
    let mut line = vec![OsString::from(env!("CARGO_BIN_EXE_bulkhead"))];
    line.extend(args.iter().map(OsString::from));
    let variables = [
        ("HOME", user.0.path().join("home").into_os_string()),
        ("BULKHEAD_ROOT", user.root().into_os_string()),
    ];
    Terminal::start(&line, &variables, &user.work()).expect("a terminal")
}

#[test]
fn a_push_says_what_docker_says_and_others_find_the_image() {
    let registry = registry(Access::Open);
    let name = registry.name("team/demo:1");
    let repository = registry.name("team/demo");
    let user = with_name(&name);
    let first = user.stdout(&["push", &name]);
    let lines: Vec<&str> = first.lines().collect();
    let [refers, preparing, pushed, last] = lines[..] else {
        panic!("{first}")
    };
    assert_eq!(
        refers,
        format!("The push refers to repository [{repository}]")
    );
    let layer = preparing.strip_suffix(": Preparing").expect("a layer");
    assert_eq!(layer.len(), 12);
    assert_eq!(pushed, format!("{layer}: Pushed"));
    let words: Vec<&str> = last.split(' ').collect();
    let ["1:", "digest:", digest, "size:", size] = words[..] else {
        panic!("{last}")
    };
    assert!(
        digest.starts_with("sha256:") && digest.len() == 71,
        "{last}"
    );
    assert!(size.parse::<u32>().is_ok(), "{last}");
    // The digest is that of the repository from now on.
    let format = "{{index .RepoDigests 0}}";
    assert_eq!(
        user.stdout(&["inspect", "-f", format, &name]),
        format!("{repository}@{digest}\n")
    );
    let table = user.stdout(&["images", "--digests", &repository]);
    assert!(table.contains(digest), "{table}");
    // What is there is not sent again.
    let again = user.stdout(&["push", &name]);
    assert_eq!(
        again.lines().nth(2),
        Some(format!("{layer}: Layer already exists").as_str())
    );
    assert_eq!(again.lines().last(), Some(last));
    assert_eq!(user.stdout(&["push", "-q", &name]), format!("{name}\n"));
    // Another repository of the same registry gets it from the first.
    let other = registry.name("other/demo");
    user.stdout(&["tag", "demo:1", &other]);
    let mounted = user.stdout(&["push", &other]);
    assert!(
        mounted.starts_with("Using default tag: latest\n"),
        "{mounted}"
    );
    assert!(
        mounted.contains(&format!("{layer}: Mounted from team/demo\n")),
        "{mounted}"
    );
    // Others find the same image, by each of its names.
    let reader = User::new();
    let id = user.stdout(&["images", "-q", "--no-trunc", "demo"]);
    for name in [&name, &other, &format!("{repository}@{digest}")] {
        let pulled = reader.run(&["pull", "-q", name]).code(0).expect("a pull");
        assert!(!pulled.stdout.is_empty());
    }
    assert_eq!(
        reader.stdout(&["images", "-q", "--no-trunc", &repository]),
        id
    );
    // And to whoever pushed it, it is up to date.
    let pulled = user.run(&["pull", &name]).code(0).expect("a pull");
    assert!(pulled.stdout.contains("Image is up to date"), "{pulled}");
    let skopeo = Invocation::new("skopeo")
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"])
        .arg(format!("docker://{name}"))
        .output()
        .expect("skopeo");
    assert_eq!(skopeo.stdout.trim(), digest, "{skopeo}");
    let events = user.stdout(&["events", "--since", "1h", "--until", "0s"]);
    assert!(events.contains(&format!("image push {name} ")), "{events}");
}

#[test]
fn at_a_terminal_layers_have_a_line_each() {
    let registry = registry(Access::Open);
    let name = registry.name("demo:1");
    let user = with_name(&name);
    let mut shown = terminal(&user, &["push", &name]);
    shown.wait_for("The push refers to").expect("a line");
    shown.wait_for(": Pushed").expect("its end");
    shown.wait_for("1: digest: sha256:").expect("a digest");
    let (code, text) = shown.wait().expect("its end");
    assert_eq!(code, 0, "{text}");
}

#[test]
fn every_tag_of_a_repository_is_pushed() {
    let registry = registry(Access::Open);
    let user = with_name(&registry.name("a:1"));
    user.stdout(&["tag", "demo:1", &registry.name("a:2")]);
    user.stdout(&["tag", "demo:1", &registry.name("b:3")]);
    let all = user.stdout(&["push", "--all-tags", &registry.name("a")]);
    let ends: Vec<&str> = all
        .lines()
        .filter(|line| line.contains("digest: "))
        .map(|line| &line[..2])
        .collect();
    assert_eq!(ends, ["1:", "2:"]);
    assert_refused(
        &user.run(&["push", "-a", &registry.name("a:1")]),
        1,
        "tag can't be used with --all-tags/-a",
    );
}

#[test]
fn pushes_that_cant_be_are_refused_in_dockers_words() {
    let user = with_name("127.0.0.1:1/a:1");
    let refused = |args: &[&str], sentence: &str| {
        let out = user.run(args).code(1).expect("a refusal");
        let last = out.stderr.lines().find(|line| line.starts_with("bulkhead"));
        assert_eq!(
            last,
            Some(format!("bulkhead: {sentence}").as_str()),
            "{out}"
        );
        out
    };
    let out = refused(
        &["push", "127.0.0.1:1/b"],
        "An image does not exist locally with the tag: 127.0.0.1:1/b",
    );
    assert_eq!(
        out.stdout,
        "Using default tag: latest\nThe push refers to repository [127.0.0.1:1/b]\n"
    );
    refused(
        &["push", "127.0.0.1:1/a"],
        "tag does not exist: 127.0.0.1:1/a:latest",
    );
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    refused(
        &["push", &format!("127.0.0.1:1/a@{digest}")],
        "cannot push a digest reference",
    );
    refused(
        &["push", "Upper"],
        "invalid reference format: repository name (library/Upper) must be lowercase",
    );
    refused(
        &["push", "--disable-content-trust=false", "127.0.0.1:1/a:1"],
        "--disable-content-trust=false is not supported: images are not signed",
    );
    let out = user.run(&["push", "--platform", "linux/arm64", "127.0.0.1:1/a:1"]);
    assert_eq!(out.code, 1);
    assert!(out.stderr.contains("linux/arm64"), "{out}");
    // Nobody listens there.
    let out = user.run(&["push", "127.0.0.1:1/a:1"]).code(1).expect("1");
    assert!(
        out.stderr.contains("cannot reach 127.0.0.1:1") && out.stderr.contains("hint: "),
        "{out}"
    );
    refused(
        &["search", "--limit", "3", "x"],
        "search is not supported: the protocol of registries has no index that could be searched",
    );
}

#[test]
fn a_login_is_checked_kept_used_and_forgotten() {
    let registry = registry(Access::Password);
    let server = registry.address();
    let name = registry.name("team/demo:1");
    let user = with_name(&name);
    let denied = user.run(&["push", &name]).code(1).expect("a refusal");
    assert!(
        denied.stderr.contains("no basic auth credentials"),
        "{denied}"
    );
    let hint = format!("hint: log in with: bulkhead login {server}\n");
    assert!(denied.stderr.ends_with(&hint), "{denied}");

    let wrong = log_in(&user, &server, "wrong").code(1).expect("a refusal");
    assert_eq!(
        wrong.stderr,
        format!(
            "bulkhead: login attempt to http://{server}/v2/ failed with status: 401 Unauthorized\n"
        )
    );
    assert!(!user.0.path().join("home/.docker").exists());

    let right = log_in(&user, &server, PASSWORD).code(0).expect("a login");
    assert_eq!(right.stdout, "Login Succeeded\n");
    let path = user.0.path().join("home/.docker/config.json");
    assert_eq!(
        right.stderr,
        format!(
            "WARNING! Your password will be stored unencrypted in {}.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/engine/reference/commandline/login/#credentials-store\n\n",
            path.display()
        )
    );
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    user.stdout(&["push", &name]);
    // Without words it is what is kept that is tried.
    let known = user.run(&["login", &server]).code(0).expect("a login");
    assert_eq!(
        known.stdout,
        "Authenticating with existing credentials...\nLogin Succeeded\n"
    );
    // Docker's client reads it, and so do others.
    let skopeo = Invocation::new("skopeo")
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", user.0.path().join("home"))
        .args(["inspect", "--tls-verify=false", "--format", "{{.Name}}"])
        .arg(format!("docker://{name}"))
        .output()
        .expect("skopeo");
    assert_eq!(skopeo.code, 0, "{skopeo}");

    let out = user.stdout(&["logout", &format!("http://{server}/v2/")]);
    assert_eq!(out, format!("Removing login credentials for {server}\n"));
    assert_eq!(config(&user), json!({"auths": {}}));
    user.run(&["push", &name]).code(1).expect("a refusal");
    // Once more is fine, as for Docker.
    user.stdout(&["logout", &server]);
    assert_eq!(
        user.stdout(&["logout"]),
        "Removing login credentials for https://index.docker.io/v1/\n"
    );
}

#[test]
fn a_login_without_a_terminal_is_refused_in_dockers_words() {
    let user = User::new();
    let server = "127.0.0.1:1";
    let terminal = "Error: Cannot perform an interactive login from a non TTY device";
    assert_refused(&user.run(&["login", server]), 1, terminal);
    assert_refused(&user.run(&["login", "-u", "me", server]), 1, terminal);
    assert_refused(
        &user.run(&["login", "--password-stdin", server]),
        1,
        "Must provide --username with --password-stdin",
    );
    let both = ["login", "-u", "me", "-p", "x", "--password-stdin", server];
    assert_eq!(
        user.run(&both).code(1).expect("a refusal").stderr,
        format!("{WARNING}bulkhead: --password and --password-stdin are mutually exclusive\n")
    );
    let out = user.run(&["login", "-u", "me", "-p", "x", "no registry"]);
    assert_eq!(out.code, 1);
    assert!(
        out.stderr.contains("\"no registry\" is not a registry"),
        "{out}"
    );
    // An empty password is none.
    assert_refused(&log_in(&user, server, ""), 1, terminal);
}

#[test]
fn at_a_terminal_the_password_is_not_shown() {
    let registry = registry(Access::Password);
    let server = registry.address();
    let user = User::new();
    let mut shown = terminal(&user, &["login", &server]);
    shown.wait_for("Username: ").expect("a prompt");
    shown.send(&format!("{USER}\n")).expect("send");
    shown.wait_for("Password: ").expect("a prompt");
    shown.send(&format!("{PASSWORD}\n")).expect("send");
    let (code, text) = shown.wait().expect("its end");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("Login Succeeded"), "{text}");
    assert!(text.contains(USER) && !text.contains(PASSWORD), "{text}");
    assert!(config(&user)["auths"][&server]["auth"].is_string());

    // An interrupt leaves a terminal that shows what is typed.
    let other = User::new();
    let script = format!(
        "{} login -u {USER} {server}; stty -a | grep -o ' -\\?echo '",
        env!("CARGO_BIN_EXE_bulkhead")
    );
    let line = ["/bin/sh", "-c", &script].map(OsString::from);
    let variables = [
        ("HOME", other.0.path().join("home").into_os_string()),
        ("PATH", OsString::from("/usr/bin:/bin")),
    ];
    let mut shown = Terminal::start(&line, &variables, &other.work()).expect("a terminal");
    shown.wait_for("Password: ").expect("a prompt");
    shown.send("secr\x03").expect("send");
    let (_, text) = shown.wait().expect("its end");
    assert!(text.contains("bulkhead: interrupted"), "{text}");
    assert!(text.ends_with(" echo \r\n"), "{text:?}");
    assert!(!text.contains("secr"), "{text}");
}

#[test]
fn a_helper_that_the_config_names_keeps_the_login() {
    let registry = registry(Access::Password);
    let server = registry.address();
    let name = registry.name("demo:1");
    let user = with_name(&name);
    let bin = user.0.path().join("bin");
    fs::create_dir(&bin).expect("a folder");
    let helper = bin.join("docker-credential-drawer");
    // Keeps one login as a file, and what it was asked in another.
    let script = "#!/bin/sh\nd=$(dirname \"$0\"); echo \"$1\" >>\"$d/log\"\n\
        case $1 in\nstore) cat >\"$d/kept\";;\n\
        get) test -e \"$d/kept\" && cat \"$d/kept\" || { echo 'credentials not found in native keychain'; exit 1; };;\n\
        erase) cat >>\"$d/log\"; rm \"$d/kept\" 2>/dev/null || { echo 'no such login'; exit 1; };;\nesac\n";
    fs::write(&helper, script).expect("a helper");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("a helper");
    let folder = user.0.path().join("home/.docker");
    fs::create_dir(&folder).expect("a folder");
    let before = json!({"credsStore": "drawer", "detachKeys": "ctrl-q"});
    fs::write(folder.join("config.json"), before.to_string()).expect("a config");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let run = |args: &[&str], input: &str| {
        let invocation = user.bulkhead(args).env("PATH", &path);
        invocation.stdin(input).output().expect("a run")
    };
    let login = ["login", "-u", USER, "--password-stdin", &server];
    let out = run(&login, PASSWORD).code(0).expect("a login");
    // Nothing is unencrypted.
    assert_eq!(out.stderr, "", "{out}");
    let kept: Value =
        serde_json::from_slice(&fs::read(bin.join("kept")).expect("kept")).expect("JSON");
    assert_eq!(
        kept,
        json!({"ServerURL": server, "Username": USER, "Secret": PASSWORD})
    );
    assert_eq!(
        config(&user),
        json!({"auths": {&server: {}}, "credsStore": "drawer", "detachKeys": "ctrl-q"})
    );
    run(&["push", &name], "").code(0).expect("a push");
    run(&["logout", &server], "").code(0).expect("a logout");
    assert!(!bin.join("kept").exists());
    assert_eq!(
        config(&user),
        json!({"auths": {}, "credsStore": "drawer", "detachKeys": "ctrl-q"})
    );
    // It fails for what it does not have, which is told and no failure.
    let again = run(&["logout", &server], "").code(0).expect("a logout");
    assert!(
        again
            .stderr
            .starts_with("WARNING: could not erase credentials:\n"),
        "{again}"
    );
    assert!(again.stderr.contains("no such login"), "{again}");
    run(&["push", &name], "").code(1).expect("a refusal");
    // A helper that is not there is named, and the password goes nowhere.
    let out = log_in(&user, &server, PASSWORD).code(1).expect("a failure");
    assert!(
        out.stderr.contains("Error saving credentials") && out.stderr.contains("hint: install"),
        "{out}"
    );
}
