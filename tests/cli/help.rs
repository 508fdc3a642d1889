//! Help and versions.

use crate::User;

#[test]
fn the_help_of_run_names_every_flag() {
    let out = User::new()
        .run(&["run", "--help"])
        .only_stdout()
        .expect("help");
    let list = include_str!("fixtures/docker-run-flags.txt");
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(' ').next().expect("a name");
        // Switches are shown as `--rm[=<bool>]`.
        let named = |text: &str| text.split('[').next() == Some(&*format!("--{name}"));
        assert!(
            out.split_whitespace().any(named),
            "--{name} is not in the help"
        );
    }
    for heading in ["Lifecycle:", "Limits:", "Network:", "Process:", "Security:"] {
        assert!(out.contains(heading), "{heading}");
    }
    // -h is the host name.
    assert!(out.contains("-h, --hostname <string>"), "{out}");
}

#[test]
fn variables_are_named_where_they_are_read_and_in_the_readme() {
    let user = User::new();
    let (run, pull) = (
        user.stdout(&["run", "--help"]),
        user.stdout(&["pull", "--help"]),
    );
    let readme = include_str!("../../README.md");
    for (name, of_pull) in [
        ("BULKHEAD_ROOT", true),
        ("BULKHEAD_INSECURE_REGISTRIES", true),
        ("BULKHEAD_CA_FILES", true),
        ("BULKHEAD_GUEST", false),
        ("BULKHEAD_TEMPLATES", false),
    ] {
        assert!(run.contains(&format!("  {name}: ")), "{run}");
        assert_eq!(pull.contains(&format!("  {name}: ")), of_pull, "{pull}");
        assert!(readme.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[test]
fn import_takes_what_it_uses_of_a_pulls_flags() {
    let user = User::new();
    let help = user.stdout(&["import", "--help"]);
    for (word, is_there) in [
        ("  BULKHEAD_CA_FILES: ", true),
        ("--ca-file", true),
        ("  BULKHEAD_INSECURE_REGISTRIES: ", false),
        ("--insecure-registry", false),
    ] {
        assert_eq!(help.contains(word), is_there, "{help}");
    }
    let out = user.run(&["import", "--insecure-registry", "localhost", "http://x/"]);
    assert!(
        out.stderr.contains("unknown flag: --insecure-registry"),
        "{out}"
    );
}

/// The verbs that a help lists.
fn listed(help: &str) -> Vec<&str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // What is further in goes on with what a verb does.
    let names = lines.filter_map(|line| line.strip_prefix("  "));
    let names = names.filter(|line| !line.starts_with(' '));
    names
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

#[test]
fn every_verb_has_a_help() {
    let user = User::new();
    let mut pending: Vec<Vec<String>> = vec![Vec::new()];
    let (mut verbs, mut groups) = (0, 0);
    while let Some(words) = pending.pop() {
        let with = |last: &[&str]| -> String {
            let words = words.iter().map(String::as_str);
            let out = user.run(&words.chain(last.iter().copied()).collect::<Vec<_>>());
            assert_eq!(out.code, 0, "{out}");
            let text = format!("{}{}", out.stdout, out.stderr);
            assert!(text.contains("Usage:"), "{out}");
            text
        };
        let help = with(&["--help"]);
        let own = listed(&help);
        if own.is_empty() {
            verbs += 1;
            continue;
        }
        groups += 1;
        assert_eq!(listed(&with(&[])), own, "{words:?} without a verb");
        pending.extend(own.into_iter().map(|verb| {
            let mut words = words.clone();
            words.push(verb.to_owned());
            words
        }));
    }
    assert!(verbs > 80 && groups > 5, "{verbs} verbs, {groups} groups");
}

#[test]
fn versions_are_told_without_a_kernel_too() {
    let user = User::new();
    let version = format!("bulkhead {}\n", env!("CARGO_PKG_VERSION"));
    for flag in ["-v", "--version"] {
        assert_eq!(user.stdout(&[flag]), version);
    }
    let out = user.stdout(&["version"]);
    assert!(out.starts_with(&version), "{out}");
    assert!(out.contains("agent protocol "), "{out}");
    assert!(out.contains("guest kernel"), "{out}");
    let either = "{{.Client.Version}} {{.Server.Version}} {{.Server.Os}}/{{.Server.Arch}}";
    let number = env!("CARGO_PKG_VERSION");
    assert_eq!(
        user.stdout(&["version", "--format", either]),
        format!("{number} {number} linux/amd64\n")
    );
    let format = ["version", "--format", "{{.Version}}"];
    let out = user.stdout(&format);
    assert_eq!(out, format!("{}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_version_has_the_hash_of_the_guest_kernels_configuration() {
    let user = User::new();
    let hash = "0123456789abcdef".repeat(4);
    let guest = user.work();
    for (name, content) in [
        ("vmlinux", "a kernel"),
        ("initramfs.cpio", "an agent"),
        ("kernel.json", &format!(r#"{{"config_hash": "{hash}"}}"#)),
    ] {
        std::fs::write(guest.join(name), content).expect("write");
    }
    let version = |args: &[&str]| {
        user.bulkhead([&["version"], args].concat())
            .env("BULKHEAD_GUEST", &guest)
            .output()
            .and_then(harness::Output::only_stdout)
            .expect("version")
    };
    let all = version(&[]);
    let line = format!("  config_hash: {hash}");
    assert!(all.lines().any(|found| found == line), "{all}");
    let format = ["--format", "{{.GuestKernel.config_hash}}"];
    assert_eq!(version(&format), format!("{hash}\n"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let user = User::new();
    for args in [
        &["version"][..],
        &["images"],
        &["run", "--help"],
        &["doctor"],
    ] {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let closed = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        let out = user.bulkhead(args).stdout_to(closed).output().expect("run");
        assert_eq!((out.code, out.stderr.as_str()), (0, ""), "{out}");
    }
}
