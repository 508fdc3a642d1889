//! Images in the store: `load`, `images`, `inspect`, `tag`, `rmi`.

use std::path::Path;

use fixtures::hostile::{self, Wrong};
use fixtures::oci::{Compression, ImageConfig, Layout};
use serde_json::{Value, json};

use crate::{User, assert_refused};

/// Writes a layout with an image of no layer worth speaking of.
fn layout(folder: &Path, name: &str, config: Value) {
    let mut layout = Layout::create(folder).expect("create a layout");
    let layer = layout
        .layer(&[0; 1024][..], Compression::None)
        .expect("write a layer");
    layout
        .image(name, &ImageConfig::new(config), &[layer])
        .expect("write an image");
    layout.finish().expect("finish a layout");
}

/// As [`layout`], with the steps that made the image.
pub fn layout_with_history(folder: &Path, name: &str, history: Value) {
    let mut layout = Layout::create(folder).expect("create a layout");
    let layer = layout
        .layer(&[0; 1024][..], Compression::None)
        .expect("write a layer");
    let mut config = ImageConfig::new(json!({"Cmd": ["/x"]}));
    config.history = history;
    layout
        .image(name, &config, &[layer])
        .expect("write an image");
    layout.finish().expect("finish a layout");
}

/// A user with `demo:1`.
pub fn with_demo() -> User {
    let user = User::new();
    let folder = user.work().join("demo");
    let config = json!({"Cmd": ["/x"], "Labels": {"maker": "tests", "odd": "a\u{1b}b"}});
    layout(&folder, "demo:1", config);
    let out = user.run(&["load", "-i", "demo"]);
    assert_eq!(out.only_stdout().expect("load"), "Loaded image: demo:1\n");
    user
}

#[test]
fn images_are_listed_as_docker_lists_them() {
    let user = User::new();
    assert_eq!(
        user.stdout(&["images"]),
        "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n"
    );
    assert_eq!(user.stdout(&["images", "-q"]), "");
    let user = with_demo();
    let id = user.stdout(&["images", "-q", "--no-trunc"]);
    let id = id.trim_end();
    assert_eq!(id.len(), "sha256:".len() + 64);
    let short = &id["sha256:".len()..][..12];
    let table = user.stdout(&["images"]);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert!(
        rows[0].starts_with("REPOSITORY   TAG       IMAGE ID       CREATED"),
        "{table}"
    );
    assert!(
        rows[1].starts_with(&format!("demo         1         {short}   ")),
        "{table}"
    );
    let args = [
        "image",
        "ls",
        "--format",
        r"{{.ID}}\t{{.Repository}}:{{.Tag}}",
    ];
    assert_eq!(user.stdout(&args), format!("{short}\tdemo:1\n"));
    let json = user.stdout(&["images", "--format", "json"]);
    let row: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&row["Repository"], &row["Tag"]),
        (&"demo".into(), &"1".into())
    );
}

#[test]
fn filters_leave_the_images_that_match() {
    let user = with_demo();
    let folder = user.work().join("other");
    layout(&folder, "other/thing:2", json!({"Cmd": ["/y"]}));
    user.stdout(&["load", "-i", "other"]);
    let names = |args: &[&str]| {
        let all = [&["images", "--format", "{{.Repository}}"], args].concat();
        let mut names: Vec<String> = user.stdout(&all).lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(&[]), ["demo", "other/thing"]);
    assert_eq!(names(&["demo"]), ["demo"]);
    assert_eq!(names(&["demo:2"]), [""; 0]);
    assert_eq!(names(&["-f", "reference=*mo"]), ["demo"]);
    assert_eq!(names(&["-f", "reference=other/*:2"]), ["other/thing"]);
    assert_eq!(names(&["-f", "label=maker"]), ["demo"]);
    assert_eq!(names(&["-f", "label=maker=others"]), [""; 0]);
    assert_eq!(names(&["-f", "dangling=true"]), [""; 0]);
    assert_eq!(names(&["-f", "dangling=false"]).len(), 2);
    // Both were made at the same time.
    assert_eq!(names(&["-f", "before=demo:1"]), [""; 0]);
    for (filter, sentence) in [
        ("foo=bar", "invalid filter 'foo'"),
        ("dangling=x", "invalid filter 'dangling=[x]'"),
        (
            "foo",
            "invalid argument \"foo\" for \"-f, --filter\" flag: bad format of filter (expected \
             name=value)",
        ),
        ("since=none", "No such image: none:latest"),
    ] {
        assert_refused(&user.run(&["images", "-f", filter]), 1, sentence);
    }
}

#[test]
fn images_are_inspected_and_templates_are_go_s() {
    let user = with_demo();
    let whole = user.stdout(&["inspect", "demo:1"]);
    assert!(
        whole.starts_with("[\n    {\n        \"Id\": \"sha256:"),
        "{whole}"
    );
    let value: Value = serde_json::from_str(&whole).expect("JSON");
    assert_eq!(value[0]["RepoTags"], json!(["demo:1"]));
    for (format, want) in [
        ("{{.RepoTags}}", "[demo:1]\n"),
        ("{{json .Config.Cmd}}", "[\"/x\"]\n"),
        (
            "{{.Config.Labels.maker}} {{.Config.Labels.none}}",
            "tests <no value>\n",
        ),
        ("{{index .Config.Labels \"maker\"}}", "tests\n"),
        (
            "{{range $k, $v := .Config.Labels}}{{$k}},{{end}}",
            "maker,odd,\n",
        ),
        // A pipe gets what is there.
        ("{{.Config.Labels.odd}}", "a\u{1b}b\n"),
    ] {
        let args = ["image", "inspect", "-f", format, "demo:1"];
        assert_eq!(user.stdout(&args), want, "{format}");
    }
    let out = user.run(&["inspect", "-f", "{{.Nope}}", "demo:1"]);
    // An empty line, as Docker's command prints it.
    assert_eq!((out.code, out.stdout.as_str()), (1, "\n"), "{out}");
    assert_eq!(
        out.stderr,
        "bulkhead: template parsing error: map has no entry for key \"Nope\"\n"
    );
    let out = user.run(&["inspect", "-f", "{{.Id", "demo:1"]);
    assert_refused(&out, 64, "template parsing error: unclosed action");
}

#[test]
fn what_is_not_there_is_told_and_the_rest_is_shown() {
    let user = with_demo();
    let out = user.run(&["inspect", "none"]);
    assert_eq!((out.code, out.stdout.as_str()), (1, "[]\n"), "{out}");
    assert_eq!(out.stderr, "bulkhead: No such object: none\n");
    let out = user.run(&["inspect", "--type", "container", "demo:1"]);
    assert_eq!((out.code, out.stdout.as_str()), (1, "[]\n"), "{out}");
    assert_eq!(out.stderr, "bulkhead: No such container: demo:1\n");
    let out = user.run(&["inspect", "-f", "{{.RepoTags}}", "none", "demo:1"]);
    assert_eq!((out.code, out.stdout.as_str()), (1, "[demo:1]\n"), "{out}");
    let out = user.run(&["inspect", "--type", "volume", "demo:1"]);
    assert_eq!((out.code, out.stdout.as_str()), (1, "[]\n"), "{out}");
    assert_eq!(out.stderr, "bulkhead: No such volume: demo:1\n");
}

#[test]
fn tags_are_given_and_taken_away() {
    let user = with_demo();
    user.stdout(&["tag", "demo:1", "localhost:5000/a/b:2"]);
    let names = user.stdout(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(names, "demo:1\nlocalhost:5000/a/b:2\n");
    assert_refused(
        &user.run(&["tag", "none", "x"]),
        1,
        "No such image: none:latest",
    );
    let out = user.run(&["tag", "demo:1", "UP"]);
    assert_eq!(out.code, 1, "{out}");
    assert!(
        out.stderr
            .starts_with("bulkhead: \"UP\" is not a valid repository/tag: "),
        "{out}"
    );
    let out = user.stdout(&["rmi", "localhost:5000/a/b:2"]);
    assert_eq!(out, "Untagged: localhost:5000/a/b:2\n");
    let out = user.run(&["rmi", "none", "demo:1"]);
    assert_eq!(
        (out.code, out.stderr.as_str()),
        (1, "bulkhead: No such image: none:latest\n")
    );
    assert!(
        out.stdout.starts_with("Untagged: demo:1\nDeleted: sha256:"),
        "{out}"
    );
    let out = user.run(&["rmi", "-f", "none"]);
    assert_eq!(
        (out.code, out.stderr.as_str()),
        (0, "bulkhead: No such image: none:latest\n")
    );
    assert_eq!(user.stdout(&["images", "-q"]), "");
}

#[test]
fn what_can_not_be_loaded_or_pulled_is_told() {
    let user = User::new();
    let out = user.run(&["load", "-i", "missing.tar"]);
    assert_eq!(out.code, 1, "{out}");
    assert!(out.stderr.contains("missing.tar"), "{out}");
    let out = user
        .bulkhead(["load"])
        .stdin("no archive")
        .output()
        .expect("run");
    assert_eq!((out.code, out.stdout.as_str()), (1, ""), "{out}");
    let out = user.run(&["pull", "UP"]);
    assert_eq!(out.code, 1, "{out}");
    assert!(out.stderr.contains("must be lowercase"), "{out}");
    let out = user.run(&["pull", "-a", "demo"]);
    assert_refused(&out, 1, "--all-tags is not supported: name each tag");
}

/// Names of all files below the user's state root.
pub(super) fn stored(user: &User) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![user.root()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(folder).expect("read a folder") {
            let path = entry.expect("read a folder").path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn images_that_are_damaged_are_not_loaded() {
    let user = User::new();
    user.stdout(&["images", "-q"]);
    let before = stored(&user);
    for (wrong, text) in [
        (Wrong::ShortBlob, "bytes"),
        (Wrong::MissingBlob, "sha256"),
        (Wrong::BlobDigest, "sha256:"),
        (Wrong::MissingDiffId, "layers"),
        (Wrong::ManyLayers, "1000"),
        (Wrong::LongManifest, "10486188 bytes"),
        (Wrong::LongConfig, "config"),
        (Wrong::DeepManifest, "manifest"),
        (Wrong::NotJson, "manifest"),
        (Wrong::Platform, "arm64"),
    ] {
        let folder = user.work().join("layout");
        hostile::write(&folder, wrong).expect("write an image");
        let out = user.run(&["load", "-i", "layout"]);
        std::fs::remove_dir_all(&folder).expect("remove a layout");
        // As with docker, other verbs than `run` fail with 1.
        assert_eq!(out.code, 1, "{wrong:?}: {out}");
        let mut lines = out.stderr.lines();
        let sentence = lines.next().unwrap_or_default();
        assert!(sentence.contains(text), "{wrong:?}: {out}");
        assert!(lines.all(|line| line.starts_with("hint: ")), "{out}");
        assert_eq!(stored(&user), before, "{wrong:?}");
    }
}
