//! Flags to checked options, and that each flag said to work changes them.

use super::*;
use crate::cli::flags::run_command as command;
use crate::cli::surface::{Fate, Form, RUN};

/// Flags and then the image `i`, on a host of four CPUs whose caller has HOME and a few files.
pub(crate) fn options(args: &[&str]) -> Result<RunOptions> {
    options_of(&[args, &["i"]].concat())
}

/// Flags and then the image `i`, on a host of so many CPUs.
pub(crate) fn options_on(cpu_count: usize, args: &[&str]) -> Result<RunOptions> {
    parse(cpu_count, &[args, &["i"]].concat())
}

/// Flags and words.
pub(crate) fn options_of(args: &[&str]) -> Result<RunOptions> {
    parse(4, args)
}

fn parse(cpu_count: usize, args: &[&str]) -> Result<RunOptions> {
    parse_with(&[], cpu_count, args)
}

fn parse_with(variables: &[String], cpu_count: usize, args: &[&str]) -> Result<RunOptions> {
    let words = std::iter::once("run").chain(args.iter().copied());
    let flags = Flags::check(command().try_get_matches_from(words)?)?;
    let caller = Caller {
        variable: &|name| match name {
            "BINARY" => bail!("the value of {name} in the environment is not UTF-8"),
            _ => Ok((name == "HOME").then(|| "/caller".to_owned())),
        },
        read: &|path| match path {
            "vars" => Ok("FROM_FILE=1\nHOME\nGONE\n".to_owned()),
            "more" => Ok("FROM_FILE=2\n".to_owned()),
            "binary" => Ok("BINARY\n".to_owned()),
            "broken" => Ok("A B=1\n".to_owned()),
            "profile" => Ok("{}".to_owned()),
            _ => bail!("open {path}: no such file or directory"),
        },
        variables,
        detach_keys: "ctrl-e,e",
        cpu_count,
        cpus_online: &format!("0-{}", cpu_count - 1),
    };
    RunOptions::parse(&flags, &caller)
}

#[test]
fn keys_of_the_users_settings_detach_unless_others_are_given() {
    let keys = |args: &[&str]| {
        options_of(&[args, &["busybox"]].concat())
            .unwrap()
            .container
            .detach_keys
    };
    assert_eq!(keys(&[]), [5, b'e']);
    assert_eq!(keys(&["--detach-keys="]), [5, b'e']);
    assert_eq!(keys(&["--detach-keys", "ctrl-x"]), [24]);
}

#[test]
fn words_behind_the_image_are_the_processs() {
    let some = options_of(&["-i", "busybox", "sh", "-c", "echo --rm"]).unwrap();
    assert_eq!(some.image.name, "busybox");
    assert_eq!(some.process.args, ["sh", "-c", "echo --rm"]);
}

#[test]
fn variables_come_from_files_first_and_bare_names_from_the_caller() {
    let args = [
        "-e",
        "A=1",
        "--env-file",
        "vars",
        "-e",
        "HOME",
        "-e",
        "NOT_SET",
        "--env-file",
        "more",
    ];
    assert_eq!(
        options(&args).unwrap().process.env,
        [
            "FROM_FILE=1",
            "HOME=/caller",
            "FROM_FILE=2",
            "A=1",
            "HOME=/caller",
            "NOT_SET"
        ]
    );
}

#[test]
fn proxies_are_variables_of_who_does_not_set_them() {
    let proxies = ["no_proxy=.test", "HTTP_PROXY=http://proxy", "http_proxy=x"];
    let proxies = proxies.map(str::to_owned);
    let args = ["-e", "no_proxy=mine", "-e", "http_proxy", "-e", "A=1", "i"];
    let options = parse_with(&proxies, 4, &args).unwrap();
    assert_eq!(
        options.process.env,
        [
            "no_proxy=mine",
            "http_proxy",
            "A=1",
            "HTTP_PROXY=http://proxy"
        ]
    );
}

#[test]
fn a_variable_that_is_no_text_is_refused_and_not_taken_for_unset() {
    let refused = |args: &[&str]| format!("{:#}", options(args).unwrap_err());
    assert_eq!(
        refused(&["-e", "BINARY"]),
        "invalid argument \"BINARY\" for \"-e, --env\" flag: the value of BINARY in the \
         environment is not UTF-8"
    );
    assert_eq!(
        refused(&["--env-file", "binary"]),
        "invalid env file (binary): the value of BINARY in the environment is not UTF-8"
    );
    assert!(options(&["-e", "BINARY=1"]).is_ok());
}

#[test]
fn labels_on_the_line_win_over_those_of_files() {
    let some = options(&["-l", "FROM_FILE=mine", "--label-file", "vars", "-l", "x"]).unwrap();
    let labels = some.container.labels;
    assert_eq!(labels.get("FROM_FILE").unwrap(), "mine");
    // A key alone is nothing there.
    assert!(!labels.contains_key("HOME"));
    assert_eq!(labels.get("x").unwrap(), "");
}

#[test]
fn the_last_ulimit_of_a_name_counts() {
    let args = [
        "--ulimit", "nofile=1", "--ulimit", "core=2", "--ulimit", "nofile=3",
    ];
    let limits = options(&args).unwrap().process.rlimits;
    let pairs: Vec<_> = limits.iter().map(|l| (l.name.as_str(), l.hard)).collect();
    assert_eq!(pairs, [("core", 2), ("nofile", 3)]);
}

#[test]
fn without_attach_both_outputs_are_attached_and_stdin_with_i() {
    let streams = |args: &[&str]| {
        let streams = options(args).unwrap().container.streams;
        (streams.stdin, streams.stdout, streams.stderr)
    };
    assert_eq!(streams(&[]), (false, true, true));
    assert_eq!(streams(&["-i"]), (true, true, true));
    assert_eq!(streams(&["-a", "STDERR"]), (false, false, true));
    assert_eq!(
        streams(&["-a", "stdin", "-a", "stdout"]),
        (true, true, false)
    );
    assert_eq!(streams(&["-a", "stdout", "-i"]), (true, true, false));
}

#[test]
fn signals_are_forwarded_unless_turned_off() {
    let forwarded = |args: &[&str]| options(args).unwrap().container.forward_signals;
    assert!(forwarded(&[]) && forwarded(&["-t"]) && forwarded(&["--sig-proxy"]));
    assert!(!forwarded(&["--sig-proxy=false"]));
}

#[test]
fn empty_values_are_as_if_not_given() {
    let none = options(&[]).unwrap();
    let empty = options(&[
        "--name=",
        "--hostname=",
        "-u=",
        "-w=",
        "--stop-signal=",
        "--cidfile=",
        "--detach-keys=",
        "--cpuset-cpus=",
        "--pull=",
        "--platform=",
        "--shm-size=0",
        "-m=0",
        "--cpus=0",
        "--ipc=",
        "--pid=",
        "--uts=",
        "--restart=",
        "--runtime=",
    ])
    .unwrap();
    assert_eq!(empty, none);
}

#[test]
fn what_has_no_effect_is_told() {
    assert!(options(&[]).unwrap().warnings().is_empty());
    let args = [
        "--security-opt",
        "apparmor=unconfined",
        "--dns",
        "127.0.0.1",
        "--dns",
        "192.0.2.1",
    ];
    assert_eq!(
        options(&args).unwrap().warnings(),
        [
            "--security-opt apparmor=unconfined has no effect: the guest's kernel has neither \
             AppArmor nor SELinux",
            "Localhost DNS (127.0.0.1) may fail in containers."
        ]
    );
}

#[test]
fn wrong_values_are_refused_with_dockers_sentences() {
    for (args, want) in [
        (
            &["-w", "rel"][..],
            "the working directory 'rel' is invalid, it needs to be an absolute path",
        ),
        (
            &["-a", "stdfoo"],
            "invalid argument \"stdfoo\" for \"-a, --attach\" flag: valid streams are STDIN, \
             STDOUT and STDERR",
        ),
        (
            &["-e", "=x"],
            "invalid argument \"=x\" for \"-e, --env\" flag: invalid environment variable: =x",
        ),
        (
            &["-l", "=x"],
            "invalid argument \"=x\" for \"-l, --label\" flag: invalid label '=x': empty name",
        ),
        (
            &["--dns", "nowhere"],
            "invalid argument \"nowhere\" for \"--dns\" flag: IP address is not correctly \
             formatted: nowhere",
        ),
        (
            &["--dns-search", "..x"],
            "invalid argument \"..x\" for \"--dns-search\" flag: ..x is not a valid domain",
        ),
        (
            &["--add-host", "a:x"],
            "invalid argument \"a:x\" for \"--add-host\" flag: invalid IP address in add-host: \
             \"x\"",
        ),
        (
            &["--ulimit", "foo=1"],
            "invalid argument \"foo=1\" for \"--ulimit\" flag: invalid ulimit type: foo",
        ),
        (
            &["--sysctl", "kernel.x"],
            "invalid argument \"kernel.x\" for \"--sysctl\" flag: sysctl 'kernel.x' is not of the \
             form key=value",
        ),
        (
            &["--shm-size", "-1"],
            "invalid argument \"-1\" for \"--shm-size\" flag: invalid size: '-1'",
        ),
        (
            &["--stop-timeout", "x"],
            "invalid argument \"x\" for \"--stop-timeout\" flag: not a whole number",
        ),
        (&["--stop-signal", "FOO"], "Invalid signal: FOO"),
        (
            &["--oom-score-adj", "2000"],
            "Invalid value 2000, range for oom score adj is [-1000, 1000]",
        ),
        (
            &["--name", "-x"],
            "Invalid container name (-x), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        ),
        (
            &["--pull", "sometimes"],
            "invalid pull option: 'sometimes': must be one of \"always\", \"missing\" or \"never\"",
        ),
        (
            &["--env-file", "none"],
            "open none: no such file or directory",
        ),
        (
            &["--label-file", "broken"],
            "invalid env file (broken): variable 'A B' contains whitespaces",
        ),
        (
            &["--cap-add", "FLY"],
            "invalid CapAdd: unknown capability: \"CAP_FLY\"",
        ),
        (
            &["--tmpfs", "rel"],
            "invalid mount path: 'rel' mount path must be absolute",
        ),
        (&["--device", "/dev/sda:/dev/x:q"], "bad mode specified: q"),
        (
            &["--expose", "1:2"],
            "invalid port format for --expose: 1:2",
        ),
        (
            &["--device-read-bps", "sda:1"],
            "invalid argument \"sda:1\" for \"--device-read-bps\" flag: bad format for device path: sda:1",
        ),
        (&["--storage-opt", "foo"], "invalid storage option"),
        (
            &["--security-opt", "foo"],
            "invalid --security-opt: \"foo\"",
        ),
        (
            &["--detach-keys", "foo"],
            "invalid detach keys provided: Unknown character: 'foo'",
        ),
        (
            &["--rm=maybe"],
            "invalid argument \"maybe\" for \"--rm\" flag: it is neither true nor false",
        ),
        (
            &["--health-interval", "5us"],
            "Interval in Healthcheck cannot be less than 1ms",
        ),
        (
            &["--health-timeout", "-1s"],
            "--health-timeout cannot be negative",
        ),
        (
            &["--no-healthcheck", "--health-cmd", "true"],
            "--no-healthcheck conflicts with --health-* options",
        ),
        (
            &["--rm", "--restart", "always"],
            "conflicting options: cannot specify both --restart and --rm",
        ),
    ] {
        let error = format!("{:#}", options(args).unwrap_err());
        assert_eq!(error, want, "{args:?}");
    }
    let error = format!("{:#}", options(&["--platform", "a/b/c/d"]).unwrap_err());
    assert!(
        error.starts_with("error parsing specified platform: \"a/b/c/d\": "),
        "{error}"
    );
}

/// A value of each flag that must show in the options.
#[rustfmt::skip]
const SAMPLES: [(&str, &str); 76] = [
    ("health-cmd", "true"), ("health-interval", "5s"), ("health-retries", "2"),
    ("health-start-interval", "1s"), ("health-start-period", "1m"), ("health-timeout", "2s"),
    ("no-healthcheck", "true"),
    ("blkio-weight", "300"), ("blkio-weight-device", "/dev/sda:300"), ("device-read-bps", "/dev/sda:1m"),
    ("device-read-iops", "/dev/sda:9"), ("device-write-bps", "/dev/sda:1m"), ("device-write-iops", "/dev/sda:9"),
    ("add-host", "a:1.2.3.4"), ("annotation", "a=b"), ("attach", "stderr"),
    ("cap-add", "NET_ADMIN"), ("cap-drop", "CHOWN"), ("cidfile", "id"), ("cpu-period", "50000"),
    ("cpu-quota", "50000"), ("cpu-shares", "512"), ("cpus", "1"), ("cpuset-cpus", "1"),
    ("detach", "true"), ("detach-keys", "ctrl-x"), ("device", "/dev/fuse"), ("dns", "192.0.2.7"),
    ("dns-option", "ndots:3"), ("dns-search", "test"), ("domainname", "d"), ("entrypoint", "/e"),
    ("env", "A=1"), ("env-file", "vars"), ("expose", "80"), ("group-add", "7"), ("hostname", "h"),
    ("init", "true"), ("interactive", "true"), ("ipc", "none"), ("isolation", "container"), ("label", "a=b"),
    ("label-file", "vars"), ("log-driver", "local"), ("log-opt", "max-size=5m"), ("mac-address", "02:00:00:00:00:01"),
    ("memory", "64m"), ("memory-reservation", "32m"), ("name", "some"),
    ("network", "none"),    ("oom-score-adj", "5"), ("pids-limit", "9"), ("platform", "linux/arm64"),
    ("privileged", "true"), ("publish", "80"), ("publish-all", "true"), ("pull", "never"), ("quiet", "true"), ("read-only", "true"),
    ("restart", "always"), ("rm", "true"), ("security-opt", "no-new-privileges"), ("shm-size", "1m"),
    ("sig-proxy", "false"), ("stop-signal", "9"), ("stop-timeout", "3"),
    ("storage-opt", "size=1g"), ("sysctl", "kernel.shmmax=1"), ("tmpfs", "/t"), ("tty", "true"),
    ("ulimit", "nofile=5"), ("user", "5"), ("workdir", "/w"), ("mount", "target=/m"), ("volume", "/v"),
    ("volumes-from", "c"),
];

/// Flags that work and ask for what is so anyway, or for nothing of a container: `memory-swap`
/// takes values that mean no swap only.
const WITHOUT_TRACE: [&str; 2] = ["help", "memory-swap"];

#[test]
fn every_flag_that_works_changes_the_options() {
    let without = options(&[]).unwrap();
    let mut tried = 0;
    for flag in &RUN {
        if !matches!(flag.fate, Fate::Works | Fate::Differs(_))
            || WITHOUT_TRACE.contains(&flag.name)
        {
            continue;
        }
        let sample = SAMPLES.iter().find(|(name, _)| *name == flag.name);
        let (_, value) = sample.unwrap_or_else(|| panic!("--{} has no sample", flag.name));
        let arg = format!("--{}={value}", flag.name);
        assert_ne!(options(&[&arg]).unwrap(), without, "{arg} changes nothing");
        // Two mounts have two targets, and there is one network.
        let once = ["mount", "network"].contains(&flag.name);
        if matches!(flag.form, Form::List(_)) && !once {
            options(&[&arg, &arg]).unwrap();
        }
        tried += 1;
    }
    // ipc works for some values only.
    assert_ne!(options(&["--ipc=none"]).unwrap(), without);
    assert!(tried > 45, "{tried}");
}
