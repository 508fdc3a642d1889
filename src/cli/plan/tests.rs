//! Flags and images joined, and that each flag said to work changes what is started.

use super::*;
use crate::cli::flags::command;
use crate::cli::surface::{Fate, Form, RUN};

fn image() -> ImageConfig {
    let json = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
        "config":{"Env":["PATH=/image","LANG=C"],"Entrypoint":["/entry"],"Cmd":["a","b"],
        "User":"nobody","WorkingDir":"/srv","StopSignal":"SIGINT","Labels":{"from":"image"}}}"#;
    ImageConfig::parse(json).unwrap()
}

fn plan_of(args: &[&str]) -> Result<Plan> {
    let words = std::iter::once("run").chain(args.iter().copied());
    let flags = Flags::check(command().try_get_matches_from(words)?)?;
    let caller = Caller {
        variable: &|name| (name == "HOME").then(|| "/caller".to_owned()),
        read: &|path| match path {
            "vars" => Ok("FROM_FILE=1\n".to_owned()),
            "profile" => Ok("{}".to_owned()),
            _ => bail!("no file {path}"),
        },
        host_cpus: 4,
        resolv_conf: "nameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch example.org\n",
        window: WindowSize {
            rows: 24,
            columns: 80,
        },
    };
    plan(&flags, &image(), &"ab".repeat(32), Vec::new(), &caller)
}

fn process(args: &[&str]) -> ProcessSpec {
    plan_of(args).unwrap().launch.run.process
}

#[test]
fn entry_point_and_command_merge_as_in_docker() {
    assert_eq!(process(&["i"]).args, ["/entry", "a", "b"]);
    assert_eq!(process(&["i", "x"]).args, ["/entry", "x"]);
    assert_eq!(process(&["--entrypoint", "/e", "i"]).args, ["/e"]);
    assert_eq!(process(&["--entrypoint", "/e", "i", "x"]).args, ["/e", "x"]);
    assert_eq!(process(&["--entrypoint", "", "i", "x"]).args, ["x"]);
    let error = plan_of(&["--entrypoint", "", "i"]).unwrap_err().to_string();
    assert_eq!(error, "no command specified");
}

#[test]
fn the_users_environment_wins_and_a_bare_name_copies_or_removes() {
    let env = process(&[
        "-e",
        "LANG=de",
        "-e",
        "HOME",
        "-e",
        "PATH",
        "--env-file",
        "vars",
        "i",
    ])
    .env;
    assert!(env.contains(&"LANG=de".to_owned()), "{env:?}");
    assert!(env.contains(&"HOME=/caller".to_owned()));
    assert!(env.contains(&"FROM_FILE=1".to_owned()));
    assert!(!env.iter().any(|e| e.starts_with("PATH")), "{env:?}");
    let env = process(&["-t", "-h", "box", "i"]).env;
    assert!(env.contains(&"HOSTNAME=box".to_owned()) && env.contains(&"TERM=xterm".to_owned()));
    assert!(env.contains(&"PATH=/image".to_owned()));
}

#[test]
fn image_fields_hold_until_a_flag_replaces_them() {
    let plan = plan_of(&["i"]).unwrap();
    assert_eq!(plan.launch.run.process.user, "nobody");
    assert_eq!(plan.launch.run.process.cwd, "/srv");
    assert_eq!(plan.launch.stop_signal, 2);
    assert_eq!(plan.labels.get("from").unwrap(), "image");
    let plan = plan_of(&[
        "-u",
        "0",
        "-w",
        "/x",
        "--stop-signal",
        "9",
        "-l",
        "from=me",
        "i",
    ])
    .unwrap();
    assert_eq!(plan.launch.run.process.user, "0");
    assert_eq!(plan.launch.run.process.cwd, "/x");
    assert_eq!(plan.launch.stop_signal, 9);
    assert_eq!(plan.labels.get("from").unwrap(), "me");
}

#[test]
fn cpus_are_vcpus_rounded_up_and_a_quota() {
    let plan = plan_of(&["--cpus", "1.5", "i"]).unwrap();
    assert_eq!(plan.launch.vcpu_count, 2);
    assert_eq!(plan.launch.run.resources.cpu_quota_us, Some(150_000));
    assert_eq!(plan_of(&["i"]).unwrap().launch.vcpu_count, 4);
    assert_eq!(
        plan_of(&["--cpuset-cpus", "1,3", "i"])
            .unwrap()
            .launch
            .host_cpus,
        [1, 3]
    );
    let error = plan_of(&["--cpus", "5", "i"]).unwrap_err().to_string();
    assert!(
        error.contains("as there are only 4 CPUs available"),
        "{error}"
    );
    assert!(plan_of(&["--cpuset-cpus", "4", "i"]).is_err());
}

#[test]
fn wrong_values_are_refused_with_dockers_sentences() {
    for (args, want) in [
        (
            &["-m", "5m", "i"][..],
            "Minimum memory limit allowed is 6MB",
        ),
        (
            &["-w", "rel", "i"],
            "the working directory 'rel' is invalid",
        ),
        (
            &["-a", "stdfoo", "i"],
            "valid streams are STDIN, STDOUT and STDERR",
        ),
        (&["--dns", "nowhere", "i"], "is not an ip address"),
        (&["--tmpfs", "rel", "i"], "must be absolute"),
        (
            &["--device", "/etc/passwd", "i"],
            "only devices of the guest's own /dev",
        ),
        (
            &["--device", "/dev/../etc/x", "i"],
            "only devices of the guest's own /dev",
        ),
        (&["--memory-swap", "1g", "i"], "always set the Memory limit"),
        (
            &["-m", "1g", "--memory-swap", "2g", "i"],
            "a VM has no swap",
        ),
        (&["--security-opt", "apparmor=x", "i"], "no AppArmor"),
        (&["--storage-opt", "dm.x=1", "i"], "only size=BYTES"),
        (&["--sysctl", "kernel.x", "i"], "key=value"),
        (&["--pids-limit", "many", "i"], "invalid argument \"many\""),
        (&["--env-file", "none", "i"], "no file none"),
        (
            &["--cpus", "1", "--cpu-quota", "5000", "i"],
            "cannot both be set",
        ),
    ] {
        let error = format!("{:#}", plan_of(args).unwrap_err());
        assert!(error.contains(want), "{args:?}: {error}");
    }
}

#[test]
fn resolv_conf_drops_loopback_servers_and_takes_flags() {
    let text = plan_of(&["i"]).unwrap().launch.run.resolv_conf;
    assert_eq!(text, "nameserver 192.0.2.1\nsearch example.org\n");
    let args = [
        "--dns",
        "192.0.2.9",
        "--dns-search",
        ".",
        "--dns-option",
        "ndots:2",
        "i",
    ];
    let text = plan_of(&args).unwrap().launch.run.resolv_conf;
    assert_eq!(text, "nameserver 192.0.2.9\noptions ndots:2\n");
}

/// A value of each flag that must show in what is started.
const SAMPLES: [(&str, &str); 45] = [
    ("add-host", "a:1.2.3.4"),
    ("annotation", "a=b"),
    ("attach", "stderr"),
    ("cap-add", "NET_ADMIN"),
    ("cap-drop", "CHOWN"),
    ("cpu-period", "50000"),
    ("cpu-quota", "50000"),
    ("cpu-shares", "512"),
    ("cpus", "1"),
    ("cpuset-cpus", "1"),
    ("detach-keys", "ctrl-x"),
    ("device", "/dev/fuse"),
    ("dns", "192.0.2.7"),
    ("dns-option", "ndots:3"),
    ("dns-search", "test"),
    ("domainname", "d"),
    ("entrypoint", "/e"),
    ("env", "A=1"),
    ("env-file", "vars"),
    ("group-add", "7"),
    ("hostname", "h"),
    ("init", "true"),
    ("interactive", "true"),
    ("ipc", "none"),
    ("label", "a=b"),
    ("label-file", "vars"),
    ("memory", "64m"),
    ("memory-reservation", "32m"),
    ("oom-score-adj", "5"),
    ("pids-limit", "9"),
    ("privileged", "true"),
    ("read-only", "true"),
    ("rm", "true"),
    ("security-opt", "no-new-privileges"),
    ("shm-size", "1m"),
    ("sig-proxy", "false"),
    ("stop-signal", "9"),
    ("stop-timeout", "3"),
    ("storage-opt", "size=1g"),
    ("sysctl", "kernel.shmmax=1"),
    ("tmpfs", "/t"),
    ("tty", "true"),
    ("ulimit", "nofile=5"),
    ("user", "5"),
    ("workdir", "/w"),
];

/// Flags whose effect is on the command itself and not on what is started: their tests are in
/// `tests/cli` and `tests/vm`. `no-healthcheck` turns off what does not exist; `memory-swap` takes
/// only values that mean no swap.
const OF_THE_COMMAND: [&str; 8] = [
    "cidfile",
    "help",
    "memory-swap",
    "name",
    "no-healthcheck",
    "platform",
    "pull",
    "quiet",
];

#[test]
fn every_flag_that_works_changes_what_is_started() {
    let without = format!("{:?}", plan_of(&["i"]).unwrap());
    for flag in &RUN {
        if !matches!(flag.fate, Fate::Works | Fate::Differs(_))
            || OF_THE_COMMAND.contains(&flag.name)
        {
            continue;
        }
        let sample = SAMPLES.iter().find(|(name, _)| *name == flag.name);
        let (_, value) = sample.unwrap_or_else(|| panic!("--{} has no sample", flag.name));
        let arg = format!("--{}={value}", flag.name);
        let with = format!("{:?}", plan_of(&[&arg, "i"]).unwrap());
        assert_ne!(with, without, "{arg} changes nothing");
        if flag.form == Form::List {
            plan_of(&[&arg, &arg, "i"]).unwrap();
        }
    }
}
