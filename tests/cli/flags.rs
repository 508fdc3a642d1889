//! `bulkhead run`: every flag of Docker's is known, and what is wrong is told before anything is
//! done.

use crate::{User, assert_refused};

/// Docker's own list: long name, short name or `-`, and what its value is.
const FLAGS: &str = include_str!("fixtures/docker-run-flags.txt");

fn flags() -> Vec<[&'static str; 3]> {
    FLAGS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            <[&str; 3]>::try_from(words).unwrap_or_else(|_| panic!("three words: {line}"))
        })
        .collect()
}

#[test]
fn every_flag_of_dockers_is_known_by_both_of_its_names() {
    let user = User::new();
    let flags = flags();
    assert_eq!(flags.len(), 104);
    for [name, short, kind] in flags {
        let mut forms = vec![format!("--{name}")];
        if short != "-" {
            forms.push(format!("-{short}"));
        }
        for form in forms {
            // A wrong value, so that the flag is read and nothing is started.
            let args = match (name, kind) {
                ("help", _) => continue,
                (_, "bool") => vec![format!("{form}=perhaps")],
                _ => vec![form.clone(), "//".to_owned(), "--no-such-flag".to_owned()],
            };
            let mut words: Vec<&str> = vec!["run"];
            words.extend(args.iter().map(String::as_str));
            words.push("image");
            let out = user.run(&words);
            assert_eq!(out.code, 125, "{out}");
            let wanted = match kind {
                "bool" => format!("--{name}\" flag: it is neither true nor false"),
                // Its value was taken: the next word is the first that nobody knows.
                _ => "unknown flag: --no-such-flag".to_owned(),
            };
            assert!(out.stderr.contains(&wanted), "{form}: {out}");
        }
    }
}

#[test]
fn what_is_not_supported_is_refused_with_one_sentence() {
    let user = User::new();
    for (args, sentence) in [
        (
            &["--ip", "10.0.0.5"][..],
            "--ip is not supported: user specified IP address is supported on user defined networks \
             only, which this version does not have; remove the flag",
        ),
        (
            &["-v", "/a:/b:shared"],
            "propagation mode shared is not supported: mounts do not pass between the host and a VM",
        ),
        (
            &["--network", "mine"],
            "network mine not found: user-defined networks are not supported in this version; leave \
             --network out, or use none",
        ),
        (
            &["--net=host"],
            "--network=host is not supported: the container's VM has a network stack of its own, \
             the host's is out of reach; publish ports with -p",
        ),
        (
            &["--pid", "host"],
            "--pid=host is not supported: the container runs on a kernel of its own, the host's is \
             out of reach; remove the flag",
        ),
        (
            &["--log-driver", "syslog"],
            "log driver syslog is not supported: logs stay on this host; use json-file, local or none",
        ),
        (
            &["--restart", "always", "--rm"],
            "conflicting options: cannot specify both --restart and --rm",
        ),
        (
            &["--gpus", "all"],
            "--gpus is not supported: a VM has no access to the host's GPUs; remove the flag",
        ),
        (
            &["--disable-content-trust=false"],
            "--disable-content-trust=false is not supported: image signatures of Docker Notary are \
             not supported; remove the flag",
        ),
        (
            &["--device", "/etc/passwd"],
            "--device /etc/passwd is not supported: only devices of the guest's own /dev are, such \
             as /dev/fuse",
        ),
    ] {
        let words = [&["run"], args, &["image"]].concat();
        assert_refused(&user.run(&words), 125, sentence);
    }
}

#[test]
fn what_the_parser_refuses_is_said_as_docker_does() {
    let user = User::new();
    for (args, code, sentence) in [
        (&["run", "--foo", "x"][..], 125, "unknown flag: --foo"),
        (
            &["run", "-Z", "x"],
            125,
            "unknown shorthand flag: 'Z' in -Z",
        ),
        (
            &["run", "-itZ", "x"],
            125,
            "unknown shorthand flag: 'Z' in -Z",
        ),
        (&["run", "--name"], 125, "flag needs an argument: --name"),
        (&["run", "-h"], 125, "flag needs an argument: --hostname"),
        (&["run"], 1, "'bulkhead run' requires at least 1 argument"),
        (&["images", "--foo"], 125, "unknown flag: --foo"),
        (&["tag", "a"], 1, "'bulkhead tag' requires 2 arguments"),
        (&["nonsense"], 1, "unknown command: bulkhead nonsense"),
        (&["--nonsense"], 125, "unknown flag: --nonsense"),
    ] {
        let out = user.run(args);
        assert_refused(&out, code, sentence);
        assert!(
            out.stderr
                .lines()
                .any(|line| line.starts_with("See 'bulkhead")),
            "{out}"
        );
    }
}

#[test]
fn wrong_values_are_told_before_the_host_is_asked_for_anything() {
    let user = User::new();
    for (args, sentence) in [
        (&["-m", "5m"][..], "Minimum memory limit allowed is 6MB"),
        (
            &["-m", "much"],
            "invalid argument \"much\" for \"-m, --memory\" flag: invalid size: 'much'",
        ),
        (
            &["--kernel-memory", "junk"],
            "invalid argument \"junk\" for \"--kernel-memory\" flag: invalid size: 'junk'",
        ),
        (
            &["-w", "rel"],
            "the working directory 'rel' is invalid, it needs to be an absolute path",
        ),
        (
            &["--pull", "sometimes"],
            "invalid pull option: 'sometimes': must be one of \"always\", \"missing\" or \"never\"",
        ),
        (
            &["--env-file", "/no/such/file"],
            "open /no/such/file: no such file or directory",
        ),
        (
            &["--cap-add", "FLY"],
            "invalid CapAdd: unknown capability: \"CAP_FLY\"",
        ),
        (
            &["--rm=perhaps"],
            "invalid argument \"perhaps\" for \"--rm\" flag: it is neither true nor false",
        ),
        (
            &["--security-opt", "seccomp=/no/such/file"],
            "opening seccomp profile (/no/such/file) failed: open /no/such/file: no such file or \
             directory",
        ),
    ] {
        let words = [&["run"], args, &["image"]].concat();
        assert_refused(&user.run(&words), 125, sentence);
    }
}

#[test]
fn a_variable_whose_value_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let out = User::new()
        .bulkhead(["run", "-e", "NAME", "image"])
        .env("NAME", std::ffi::OsStr::from_bytes(b"\xff"))
        .output()
        .expect("run");
    assert_refused(
        &out,
        125,
        "invalid argument \"NAME\" for \"-e, --env\" flag: the value of NAME in the environment is \
         not UTF-8",
    );
}

#[test]
fn an_environment_file_without_end_is_no_environment_file() {
    let user = User::new();
    let out = user.run(&["run", "--env-file", "/dev/zero", "image"]);
    assert_refused(&out, 125, "/dev/zero is larger than 1048576 bytes");
}

#[test]
fn a_terminal_for_what_is_none_is_refused_with_1() {
    let user = User::new();
    for args in [
        &["run", "-it", "image"][..],
        &["run", "-t", "-a", "stdin", "image"],
    ] {
        assert_refused(&user.run(args), 1, "the input device is not a TTY");
    }
}

#[test]
fn an_existing_cidfile_is_left_alone() {
    let user = User::new();
    std::fs::write(user.work().join("id"), "kept").expect("write");
    let out = user.run(&["run", "--cidfile", "id", "image"]);
    assert_refused(
        &out,
        125,
        "container ID file found, make sure the other container isn't running or delete id",
    );
    let left = std::fs::read_to_string(user.work().join("id")).expect("read");
    assert_eq!(left, "kept");
}

#[test]
fn a_run_that_fails_leaves_no_cidfile() {
    let user = User::new();
    let out = user.run(&["run", "--pull=never", "--cidfile", "id", "none/such"]);
    assert_eq!(out.code, 125, "{out}");
    assert!(!user.work().join("id").exists());
}

#[test]
fn arguments_that_are_not_utf8_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let wrong = std::ffi::OsStr::from_bytes(b"\xff");
    let out = User::new()
        .bulkhead(["run", "image"])
        .arg(wrong)
        .output()
        .expect("run");
    assert_refused(&out, 125, "an argument is not UTF-8: \u{fffd}");
}

#[test]
fn isolation_is_a_vm_or_a_plain_container() {
    let user = User::new();
    let of = |args: &[&str], sentence: &str| {
        assert_refused(&user.run(args), 125, sentence);
    };
    of(
        &["run", "--isolation=hyperv", "image"],
        "--isolation=hyperv is not supported: it is vm, the default, or container",
    );
    of(
        &[
            "run",
            "--isolation=container",
            "--rm",
            "-v",
            "/a:/b",
            "image",
        ],
        "--volume is not supported with --isolation=container; remove one of both",
    );
    of(
        &[
            "run",
            "--isolation=container",
            "--rm",
            "--network",
            "bridge",
            "image",
        ],
        "a plain container has the loopback only; use --network none, or leave \
         --isolation=container out",
    );
}

#[test]
fn without_a_runtime_there_is_no_plain_container() {
    let user = User::new();
    let out = user
        .bulkhead(["run", "--isolation=container", "--rm", "image"])
        .env("PATH", "/no/such/folder")
        .output()
        .unwrap();
    assert_refused(
        &out,
        125,
        "find an OCI runtime for --isolation=container: neither crun nor runc is on PATH",
    );
    assert!(
        out.stderr.contains("hint: install the package crun"),
        "{out}"
    );
}
