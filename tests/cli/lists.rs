//! What looks at and tidies everything at once, where there are images and no container: lists,
//! prunes, sizes, the journal of events.

use serde_json::Value;

use crate::images::with_demo;
use crate::{User, assert_refused};

#[test]
fn filters_are_checked_where_there_is_nothing_to_filter() {
    let user = User::new();
    for (args, sentence) in [
        (&["ps", "-f", "driver=x"][..], "invalid filter 'driver'"),
        (&["ps", "-f", "is-task=x"], "invalid filter 'is-task=[x]'"),
        (&["ps", "--filter", "since=x"], "No such container: x"),
        (&["events", "-f", "color=x"], "invalid filter 'color'"),
        (
            &["container", "prune", "-f", "--filter", "name=x"],
            "invalid filter 'name'",
        ),
        (
            &[
                "image", "prune", "-f", "--filter", "until=1h", "--filter", "until=2h",
            ],
            "more than one until filter specified",
        ),
        (
            &["system", "prune", "-f", "--volumes", "--filter", "until=1h"],
            "the \"until\" filter is not supported with \"--volumes\"",
        ),
    ] {
        assert_refused(&user.run(args), 1, sentence);
    }
    for args in [
        &["ps", "-a", "-f", "name=x", "-n", "3"][..],
        &["ps", "-l"],
        &["container", "ls", "-f", "ancestor=none", "-s"],
    ] {
        assert!(
            user.stdout(args).starts_with("CONTAINER ID   IMAGE"),
            "{args:?}"
        );
    }
    assert!(user.stdout(&["ps", "-s"]).contains("NAMES     SIZE\n"));
}

#[test]
fn a_prune_asks_and_takes_what_is_not_y_for_no() {
    let user = with_demo();
    let prune = |args: &[&str], answer: &str| {
        let out = user.bulkhead(args).stdin(answer).output().expect("run");
        out.only_stdout().expect("prune")
    };
    assert_eq!(
        prune(&["container", "prune"], "y\n"),
        "WARNING! This will remove all stopped containers.\n\
         Are you sure you want to continue? [y/N] Total reclaimed space: 0B\n"
    );
    let asked = prune(&["image", "prune", "-a"], "n\n");
    assert_eq!(
        asked,
        "WARNING! This will remove all images without at least one container associated to them.\n\
         Are you sure you want to continue? [y/N] "
    );
    let asked = prune(&["system", "prune"], "");
    assert!(asked.starts_with("WARNING! This will remove:\n  - all stopped containers\n"));
    // It has a name.
    assert_eq!(
        user.stdout(&["image", "prune", "-f"]),
        "Total reclaimed space: 0B\n"
    );
    let kept = ["image", "prune", "-af", "--filter", "label!=maker"];
    assert_eq!(user.stdout(&kept), "Total reclaimed space: 0B\n");
    let id = user.stdout(&["images", "-q", "--no-trunc"]);
    let out = user.stdout(&["system", "prune", "-af"]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["Deleted Images:", "untagged: demo:1"], "{out}");
    assert_eq!(lines[2], format!("deleted: {}", id.trim_end()), "{out}");
    let last = lines.last().expect("a line");
    assert!(
        last.starts_with("Total reclaimed space: ") && !last.ends_with(" 0B"),
        "{out}"
    );
    assert_eq!(user.stdout(&["images", "-q"]), "");
}

#[test]
fn what_takes_space_is_told() {
    let user = with_demo();
    let table = user.stdout(&["system", "df"]);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| {
            line.split("   ")
                .map(str::trim)
                .filter(|s| !s.is_empty())
                .collect()
        })
        .collect();
    assert_eq!(rows[0], ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    assert_eq!(rows[1][..3], ["Images", "1", "0"], "{table}");
    assert!(rows[1][4].ends_with("(100%)"), "{table}");
    assert_eq!(rows[2], ["Containers", "0", "0", "0B", "0B"], "{table}");
    assert_eq!(rows[3], ["Local Volumes", "0", "0", "0B", "0B"], "{table}");
    assert_eq!(rows[4], ["Build Cache", "0", "0", "0B", "0B"], "{table}");
    let json = user.stdout(&["system", "df", "--format", "json"]);
    let row: Value = serde_json::from_str(json.lines().next().expect("a line")).expect("JSON");
    assert_eq!(
        (&row["Type"], &row["TotalCount"]),
        (&"Images".into(), &"1".into())
    );
    let json = user.stdout(&["system", "df", "-v", "--format", "json"]);
    let all: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(all["Images"][0]["Repository"], "demo", "{json}");
    assert_eq!(all["Containers"], Value::Array(Vec::new()), "{json}");
    let verbose = user.stdout(&["system", "df", "-v"]);
    for part in [
        "Images space usage:\n\nREPOSITORY   TAG       IMAGE ID",
        "SHARED SIZE   UNIQUE SIZE   CONTAINERS\ndemo ",
        "Containers space usage:\n\nCONTAINER ID   IMAGE     COMMAND   LOCAL VOLUMES   SIZE",
        "Build cache usage: 0B\n\nCACHE ID   CACHE TYPE   SIZE      CREATED",
    ] {
        assert!(verbose.contains(part), "{verbose}");
    }
}

#[test]
fn the_journal_has_what_was_done_to_images() {
    let user = with_demo();
    user.stdout(&["tag", "demo:1", "demo:2"]);
    user.stdout(&["rmi", "demo:2"]);
    user.stdout(&["rmi", "demo:1"]);
    let format = "{{.Type}} {{.Action}}";
    let events = |args: &[&str]| {
        let all = [
            &[
                "events", "--since", "1h", "--until", "0s", "--format", format,
            ],
            args,
        ];
        let text = user.stdout(&all.concat());
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        events(&[]),
        [
            "image load",
            "image tag",
            "image untag",
            "image untag",
            "image delete"
        ]
    );
    assert_eq!(events(&["-f", "event=tag"]), ["image tag"]);
    assert_eq!(events(&["-f", "image=demo:2"]), ["image tag"]);
    assert_eq!(events(&["-f", "type=container"]), [""; 0]);
    // None is new.
    assert_eq!(
        user.stdout(&["events", "--since", "0s", "--until", "0s"]),
        ""
    );
    let json = ["events", "--until", "0s", "--format", "json"];
    for line in user.stdout(&json).lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(event["scope"], "local", "{line}");
        assert!(
            event["Actor"]["ID"]
                .as_str()
                .is_some_and(|id| id.starts_with("sha256:"))
        );
    }
}

#[test]
fn the_steps_of_an_image_are_listed() {
    let user = User::new();
    let folder = user.work().join("made");
    let history = serde_json::json!([
        {"created": "2024-01-02T03:04:05Z", "created_by": "ADD\trootfs / # buildkit"},
        {"created": "2024-01-02T03:04:06Z", "created_by": "CMD [\"/x\"]", "empty_layer": true,
         "comment": "said"},
    ]);
    crate::images::layout_with_history(&folder, "made:1", history);
    user.stdout(&["load", "-i", "made"]);
    let id = user.stdout(&["images", "-q"]);
    let format = r"{{.ID}}|{{.CreatedAt}}|{{.CreatedBy}}|{{.Size}}|{{.Comment}}";
    let out = user.stdout(&["history", "--format", format, "made:1"]);
    let rows: Vec<&str> = out.lines().collect();
    let first = format!(
        "{}|2024-01-02T03:04:06Z|CMD [\"/x\"]|0B|said",
        id.trim_end()
    );
    assert_eq!(rows[0], first, "{out}");
    assert!(rows[1].starts_with("<missing>|2024-01-02T03:04:05Z|ADD rootfs / # buildkit|"));
    let table = user.stdout(&["image", "history", "--human=false", "made:1"]);
    assert!(table.starts_with("IMAGE          CREATED AT"), "{table}");
    assert!(table.contains("   2024-01-02T03:04:06Z   CMD"), "{table}");
    assert_eq!(
        user.stdout(&["history", "-q", "made:1"]),
        format!("{id}<missing>\n")
    );
    assert_refused(
        &user.run(&["history", "none"]),
        1,
        "No such image: none:latest",
    );
}

#[test]
fn the_host_is_told() {
    let user = with_demo();
    for verb in [&["info"][..], &["system", "info"]] {
        let out = user.stdout(verb);
        assert!(out.starts_with("Client:\n Version:    "), "{out}");
        assert!(
            out.contains("\nServer:\n Containers: 0\n  Running: 0\n"),
            "{out}"
        );
        assert!(out.contains("\n Images: 1\n"), "{out}");
    }
    let format = ["info", "-f", "{{.Images}} {{.OSType}} {{.DockerRootDir}}"];
    let want = format!("1 linux {}\n", user.root().display());
    assert_eq!(user.stdout(&format), want);
}
