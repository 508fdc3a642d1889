//! `save` and `import`, and that what they make is what others take.

use std::fs;

use harness::{Invocation, Output};
use serde_json::Value;

use crate::images::with_demo;
use crate::{User, assert_refused};

fn tar(user: &User, args: &[&str]) -> Output {
    Invocation::new("/bin/tar")
        .env("PATH", "/usr/bin:/bin")
        .current_dir(user.work())
        .args(args)
        .output()
        .expect("tar")
}

/// A user with `files.tar`, which holds a file.
fn with_tar() -> User {
    let user = User::new();
    fs::write(user.work().join("hello"), "hello\n").expect("a file");
    tar(&user, &["-cf", "files.tar", "hello"])
        .code(0)
        .expect("a tar");
    user
}

#[test]
fn what_is_saved_is_loaded_again() {
    let user = with_demo();
    user.stdout(&["tag", "demo:1", "demo:2"]);
    assert_eq!(user.stdout(&["save", "-o", "demo.tar", "demo"]), "");
    let id = user.stdout(&["images", "-q", "--no-trunc", "demo:1"]);
    let other = User::new();
    fs::copy(user.work().join("demo.tar"), other.work().join("demo.tar")).expect("a copy");
    assert_eq!(
        other.stdout(&["load", "-i", "demo.tar"]),
        "Loaded image: demo:1\nLoaded image: demo:2\n"
    );
    assert_eq!(other.stdout(&["images", "-q", "--no-trunc", "demo:2"]), id);
    // The same to the bit, also through a pipe.
    let piped = user
        .bulkhead(["image", "save", "demo:2", "demo:1"])
        .stdout_to(fs::File::create(user.work().join("piped.tar")).expect("a file"))
        .output()
        .expect("save");
    assert_eq!(piped.code, 0, "{piped}");
    assert_eq!(
        fs::read(user.work().join("piped.tar")).expect("read"),
        fs::read(user.work().join("demo.tar")).expect("read")
    );
    for transport in ["docker-archive:demo.tar:demo:2", "oci-archive:demo.tar:1"] {
        let skopeo = Invocation::new("skopeo")
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", "/nonexistent")
            .current_dir(user.work())
            .args(["inspect", "--config", transport])
            .output()
            .expect("skopeo");
        let config: Value = serde_json::from_str(&skopeo.stdout).expect("JSON");
        assert_eq!(config["config"]["Labels"]["maker"], "tests", "{skopeo}");
    }
    let events = user.stdout(&["events", "--since", "1h", "--until", "0s"]);
    let saved = format!("image save {} ", id.trim_end());
    assert!(events.contains(&saved), "{events}");
}

#[test]
fn what_cant_be_saved_leaves_no_file() {
    let user = with_demo();
    for (word, sentence) in [
        ("nosuch", "No such image: nosuch"),
        ("demo:nosuch", "No such image: demo:nosuch"),
    ] {
        let out = user.run(&["save", "-o", "out.tar", "demo:1", word]);
        assert_refused(&out, 1, sentence);
    }
    assert_refused(
        &user.run(&["save"]),
        1,
        "'bulkhead save' requires at least 1 argument",
    );
    let names: Vec<_> = fs::read_dir(user.work())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["demo"]);
}

#[test]
fn a_tar_becomes_an_image() {
    let user = with_tar();
    let id = user.stdout(&[
        "import",
        "--change",
        "CMD [\"/hello\"]",
        "-c",
        "ENV A=b",
        "-m",
        "by hand",
        "files.tar",
        "made",
    ]);
    assert!(id.starts_with("sha256:") && id.len() == 72, "{id}");
    let format = "{{.Id}} {{.Config.Cmd}} {{.Config.Env}} {{.Comment}} {{len .RootFS.Layers}} {{.Architecture}}";
    assert_eq!(
        user.stdout(&["inspect", "-f", format, "made:latest"]),
        format!("{} [/hello] [A=b] by hand 1 amd64\n", id.trim_end())
    );
    // From standard input, without a name, for another machine.
    let bytes = fs::read(user.work().join("files.tar")).expect("read");
    let out = user
        .bulkhead(["image", "import", "--platform", "linux/arm64", "-"])
        .stdin(bytes)
        .output()
        .expect("import");
    let id = out.only_stdout().expect("an id");
    let format = "{{.Comment}} {{.Architecture}} {{.RepoTags}}";
    assert_eq!(
        user.stdout(&["inspect", "-f", format, id.trim_end()]),
        "Imported from - arm64 []\n"
    );
    // What is in it is what was.
    user.stdout(&["save", "-o", "made.tar", "made"]);
    let list = tar(&user, &["-xOf", "made.tar", "manifest.json"]);
    let list: Value = serde_json::from_str(&list.stdout).expect("JSON");
    let layer = list[0]["Layers"][0].as_str().expect("a layer");
    tar(&user, &["-xf", "made.tar"]).code(0).expect("a tar");
    assert_eq!(
        tar(&user, &["-xOf", layer, "hello"]).stdout,
        "hello\n",
        "{list}"
    );
}

#[test]
fn imports_that_cant_be_are_refused() {
    let user = with_tar();
    fs::write(user.work().join("garbage"), "garbage").expect("a file");
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for (args, sentence) in [
        (&["garbage"][..], "the archive is no tar"),
        (
            &["nosuch"],
            "open nosuch: No such file or directory (os error 2)",
        ),
        (
            &["files.tar", "Upper"],
            "invalid reference format: repository name (library/Upper) must be lowercase",
        ),
        (
            &["files.tar", &format!("a@{digest}")],
            "cannot import digest reference",
        ),
        (&["http://"], "http:// is no address of HTTP"),
        (
            &["https://me:secret@127.0.0.1/files.tar"],
            "an address with a user name or a password in it is not supported",
        ),
    ] {
        let out = user.run(&[&["import"], args].concat());
        assert_refused(&out, 1, sentence);
    }
    assert_eq!(user.stdout(&["images", "-qa"]), "");
}
