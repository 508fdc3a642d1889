//! Who wins between flags and image.

use super::*;
use crate::cli::options::tests::{options, options_of};

const ID: &str = "abababababababababababababababababababababababababababababababab";

fn image(config: &str) -> ImageConfig {
    let json = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},
            "config":{config}}}"#
    );
    ImageConfig::parse(json.as_bytes()).unwrap()
}

fn full_image() -> ImageConfig {
    image(
        r#"{"Env":["PATH=/image","LANG=C","HOME=/elsewhere"],"Entrypoint":["/entry"],
        "Cmd":["a","b"],"User":"nobody","WorkingDir":"/srv","StopSignal":"SIGINT",
        "Labels":{"from":"image","kept":"1"},"ExposedPorts":{"80/tcp":{}}}"#,
    )
}

fn launch_of(options: &RunOptions, image: &ImageConfig) -> Result<Launch> {
    let host = Host {
        resolv_conf: "nameserver 192.0.2.1\n",
        address: None,
        has_v6: false,
        window: WindowSize {
            rows: 24,
            columns: 80,
        },
    };
    launch(options, image, ID, Vec::new(), &host)
}

fn process(args: &[&str]) -> ProcessSpec {
    let launch = launch_of(&options_of(args).unwrap(), &full_image()).unwrap();
    launch.run.process
}

#[test]
fn entry_point_and_command_merge_as_in_docker() {
    for (args, want) in [
        (&["i"][..], &["/entry", "a", "b"][..]),
        (&["i", "x"], &["/entry", "x"]),
        (&["--entrypoint", "/e", "i"], &["/e"]),
        (&["--entrypoint", "/e", "i", "x"], &["/e", "x"]),
        (&["--entrypoint", "", "i", "x"], &["x"]),
    ] {
        assert_eq!(process(args).args, want, "{args:?}");
    }
    let nothing = options_of(&["--entrypoint", "", "i"]).unwrap();
    let error = launch_of(&nothing, &full_image()).unwrap_err().to_string();
    assert_eq!(error, "no command specified");
    let error = launch_of(&options(&[]).unwrap(), &image("{}")).unwrap_err();
    assert_eq!(error.to_string(), "no command specified");
}

#[test]
fn the_environment_is_dockers_then_the_users_then_the_images() {
    assert_eq!(
        process(&["-e", "Z=1", "-e", "LANG=de", "-e", "Z=2", "i"]).env,
        [
            "PATH=/image",
            "HOSTNAME=abababababab",
            "Z=2",
            "LANG=de",
            "HOME=/elsewhere"
        ]
    );
    assert_eq!(
        process(&["-t", "-h", "box", "-e", "PATH=/mine", "i"]).env[..3],
        ["PATH=/mine", "HOSTNAME=box", "TERM=xterm"]
    );
}

#[test]
fn a_bare_name_takes_away_what_docker_or_the_image_sets() {
    let env = process(&["-e", "PATH", "-e", "LANG", "-e", "HOSTNAME", "i"]).env;
    assert_eq!(env, ["HOME=/elsewhere"]);
    // But not what the user gave before.
    let env = process(&["-e", "LANG=de", "-e", "LANG", "i"]).env;
    assert!(env.contains(&"LANG=de".to_owned()), "{env:?}");
    let env = process(&["-e", "HOME", "i"]).env;
    assert!(env.contains(&"HOME=/caller".to_owned()), "{env:?}");
}

#[test]
fn image_fields_hold_until_a_flag_replaces_them() {
    let of_image = launch_of(&options(&[]).unwrap(), &full_image()).unwrap();
    assert_eq!(of_image.run.process.user, "nobody");
    assert_eq!(of_image.run.process.cwd, "/srv");
    assert_eq!(of_image.stop_signal, 2);
    let flags = options(&["-u", "0", "-w", "/x", "--stop-signal", "9"]).unwrap();
    let of_flags = launch_of(&flags, &full_image()).unwrap();
    assert_eq!(of_flags.run.process.user, "0");
    assert_eq!(of_flags.run.process.cwd, "/x");
    assert_eq!(of_flags.stop_signal, 9);
    let bare = launch_of(&options_of(&["i", "x"]).unwrap(), &image("{}")).unwrap();
    assert_eq!(bare.run.process.user, "");
    assert_eq!(bare.run.process.cwd, "/");
    assert_eq!(bare.stop_signal, 15);
}

#[test]
fn what_an_image_may_not_say_is_refused() {
    for (config, want) in [
        (
            r#"{"Cmd":["x"],"WorkingDir":"srv"}"#,
            "the working directory 'srv' is invalid, it needs to be an absolute path",
        ),
        (r#"{"Cmd":["x"],"StopSignal":"99"}"#, "Invalid signal: 99"),
    ] {
        let error = launch_of(&options(&[]).unwrap(), &image(config)).unwrap_err();
        assert_eq!(error.to_string(), want);
    }
}

#[test]
fn all_ports_of_an_image_are_published_while_they_are_not_too_many() {
    let exposing = |count: usize| {
        let ports: Vec<String> = (1..=count)
            .map(|port| format!("\"{port}/udp\":{{}}"))
            .collect();
        image(&format!(
            r#"{{"Cmd":["x"],"ExposedPorts":{{{}}}}}"#,
            ports.join(",")
        ))
    };
    let all = options_of(&["-P", "i"]).unwrap();
    let launch = launch_of(&all, &exposing(3)).unwrap();
    assert_eq!(launch.network.unwrap().ports.len(), 3);
    let many = exposing(PUBLISHED_MAX + 1);
    assert_eq!(
        launch_of(&all, &many).unwrap_err().to_string(),
        "-P would publish 10001 ports, above the limit of 10000: name those that are wanted with -p"
    );
    assert!(launch_of(&options_of(&["i"]).unwrap(), &many).is_ok());
}

#[test]
fn labels_and_ports_are_joined_and_the_users_label_wins() {
    let some = options(&["-l", "from=me", "--expose", "53/udp"]).unwrap();
    let labels = labels(&some, &full_image());
    assert_eq!(labels.get("from").unwrap(), "me");
    assert_eq!(labels.get("kept").unwrap(), "1");
    let ports: Vec<_> = exposed_ports(&some, &full_image()).into_iter().collect();
    assert_eq!(ports, ["53/udp", "80/tcp"]);
}

#[test]
fn a_privileged_container_has_no_filter_and_no_masks_unless_it_says_so() {
    let run = |args: &[&str]| {
        let options = options(args).unwrap();
        launch_of(&options, &full_image()).unwrap().run
    };
    let plain = run(&[]);
    assert_eq!(plain.process.seccomp, Seccomp::Default);
    assert!(!plain.system_paths_unconfined && !plain.writable_cgroups && !plain.privileged);
    let privileged = run(&["--privileged"]);
    assert_eq!(privileged.process.seccomp, Seccomp::Unconfined);
    assert!(privileged.system_paths_unconfined && privileged.writable_cgroups);
    assert!(privileged.privileged);
    let args = [
        "--privileged",
        "--security-opt",
        "seccomp=builtin",
        "--security-opt",
        "writable-cgroups=false",
    ];
    let filtered = run(&args);
    assert_eq!(filtered.process.seccomp, Seccomp::Default);
    assert!(!filtered.writable_cgroups);
}

#[test]
fn open_files_are_limited_as_docker_does_unless_the_user_says() {
    let limits = process(&["i"]).rlimits;
    assert_eq!(
        (limits[0].name.as_str(), limits[0].soft),
        ("nofile", NOFILE)
    );
    let limits = process(&["--ulimit", "nofile=5", "i"]).rlimits;
    assert_eq!(limits.len(), 1);
    assert_eq!(limits[0].soft, 5);
}

#[test]
fn a_vm_has_the_memory_and_the_vcpus_that_the_flags_say() {
    let flags = options(&["-m", "256m", "--cpus", "1.5", "--cpuset-cpus", "0-2"]).unwrap();
    let some = launch_of(&flags, &full_image()).unwrap();
    assert_eq!((some.memory_mib, some.vcpu_count), (320, 2));
    assert_eq!(some.host_cpus, [0, 1, 2]);
    assert_eq!(some.run.resources.memory_max, Some(256 << 20));
}

#[test]
fn a_health_check_is_the_users_and_the_rest_of_it_the_images() {
    let of_image = image(
        r#"{"Healthcheck":{"Test":["CMD","probe"],"Interval":5000000000,"Retries":7},
        "Shell":["ash","-c"]}"#,
    );
    let health = |args: &[&str], image: &ImageConfig| {
        let args = [args, &["i", "x"]].concat();
        launch_of(&options_of(&args).unwrap(), image)
            .unwrap()
            .health
    };
    let check = health(&[], &of_image).unwrap();
    assert_eq!(check.command().unwrap(), ["probe"]);
    assert_eq!((check.interval_ns, check.retries), (5_000_000_000, 7));
    let args = ["--health-cmd", "true", "--health-retries", "2"];
    let check = health(&args, &of_image).unwrap();
    assert_eq!(check.command().unwrap(), ["ash", "-c", "true"]);
    assert_eq!((check.interval_ns, check.retries), (5_000_000_000, 2));
    assert_eq!(health(&["--no-healthcheck"], &of_image), None);
    assert_eq!(health(&["--health-retries", "2"], &image("{}")), None);
}

#[test]
fn what_was_given_is_kept_apart_from_what_the_process_gets() {
    let of = |args: &[&str]| {
        let options = options_of(args).unwrap();
        let entrypoint = entrypoint(&options, &full_image());
        (entrypoint, variables(&options, &full_image()))
    };
    let (entry, env) = of(&["-e", "LANG=de", "-e", "HOME", "image", "x"]);
    assert_eq!(entry, ["/entry"]);
    assert_eq!(env, ["LANG=de", "HOME=/caller", "PATH=/image"]);
    let (entry, env) = of(&["--entrypoint", "", "image", "x"]);
    assert!(entry.is_empty());
    assert_eq!(env, ["PATH=/image", "LANG=C", "HOME=/elsewhere"]);
}
