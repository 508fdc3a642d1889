//! e20: what a configuration asks for, none of which may be the host's business; and what its names and
//! texts do to a terminal (e22).

use serde_json::{Value, json};

use super::{
    Case, Expected, agent_as_program, alive, config, documents, draft, layer, not_made,
    not_started, prints, reading,
};
use crate::image::{Base, Draft};
use crate::tarball::{Header, Tar};

fn user(name: &'static str, tries: &'static str, user: &'static str, expected: Expected) -> Case {
    config(20, name, tries, move || json!({"User": user}), expected)
}

fn folder(name: &'static str, tries: &'static str, path: &'static str, expected: Expected) -> Case {
    config(
        20,
        name,
        tries,
        move || json!({"WorkingDir": path}),
        expected,
    )
}

fn volume(name: &'static str, tries: &'static str, path: &'static str, expected: Expected) -> Case {
    config(
        20,
        name,
        tries,
        move || json!({"Volumes": {path: {}}}),
        expected,
    )
}

fn env(name: &'static str, tries: &'static str, lines: fn() -> Value, expected: Expected) -> Case {
    config(20, name, tries, move || json!({"Env": lines()}), expected)
}

pub(super) fn cases() -> Vec<Case> {
    [users(), environment(), texts(), sizes(), shown()]
        .into_iter()
        .flatten()
        .collect()
}

fn users() -> Vec<Case> {
    let starting = |words| not_started(125, words);
    vec![
        user(
            "user-with-a-path",
            "a group that is a path",
            "root:../../etc/passwd",
            starting("unable to find group"),
        ),
        user(
            "user-2-to-32",
            "a user that wraps to root",
            "4294967296",
            starting("uids and gids must be in range"),
        ),
        user(
            "user-negative",
            "a user of -1",
            "-1",
            starting("uids and gids must be in range"),
        ),
        user(
            "user-2-to-31",
            "a user that is negative as an int",
            "2147483648",
            starting("uids and gids must be in range"),
        ),
        user(
            "user-of-two-lines",
            "a user of two lines",
            "app\nroot:x:0:0",
            starting("unable to find"),
        ),
        user(
            "user-with-escapes",
            "a user that changes a terminal",
            "\u{1b}[2J\u{202e}",
            starting("unable to find user"),
        ),
        folder(
            "folder-of-a-descriptor",
            "a descriptor of the runtime's as working folder",
            "/proc/self/fd/7",
            starting("/proc/self/fd/7"),
        ),
        folder(
            "folder-up",
            "a working folder above the root",
            "/../../../tmp/bulkhead-canary/pwned",
            prints("pwd", "/tmp/bulkhead-canary/pwned\n"),
        ),
        folder(
            "folder-through-proc",
            "a working folder through another root",
            concat!("/proc/1/root", "/tmp/bulkhead-canary"),
            prints("echo here", "here\n"),
        ),
        folder(
            "folder-relative",
            "a working folder of no place",
            "tmp/bulkhead-canary/pwned",
            not_made("needs to be an absolute path"),
        ),
        volume(
            "volume-root",
            "the root as a volume",
            "/",
            not_made("destination can't be '/'"),
        ),
        volume("volume-proc", "processes as a volume", "/proc", alive()),
        volume(
            "volume-dev",
            "devices as a volume",
            "/dev",
            starting("open /dev/null"),
        ),
        volume(
            "volume-up",
            "a volume above the root",
            "/../../../tmp/bulkhead-canary",
            prints("test -e /tmp/bulkhead-canary/file; echo $?", "1\n"),
        ),
        volume(
            "volume-relative",
            "a volume of no place",
            "tmp/bulkhead-canary",
            not_made("mount path must be absolute"),
        ),
        volume(
            "volume-with-a-colon",
            "a volume that looks like a bind",
            "/etc/shadow:/stolen",
            alive(),
        ),
    ]
}

fn environment() -> Vec<Case> {
    vec![
        env(
            "environment-preload",
            "a library before every program",
            || {
                json!([
                    "PATH=/bin",
                    "LD_PRELOAD=/tmp/bulkhead-canary/evil.so",
                    "LD_LIBRARY_PATH=/tmp/bulkhead-canary"
                ])
            },
            prints("echo $LD_PRELOAD", "/tmp/bulkhead-canary/evil.so\n"),
        ),
        env(
            "environment-of-ours",
            "variables that this program reads",
            || {
                json!([
                    "PATH=/bin",
                    "BULKHEAD_ROOT=/tmp/bulkhead-canary",
                    "BULKHEAD_GUEST=/tmp/bulkhead-canary",
                    "DOCKER_CONFIG=/tmp/bulkhead-canary",
                    "HTTPS_PROXY=http://169.254.169.254/"
                ])
            },
            prints("echo $BULKHEAD_ROOT", "/tmp/bulkhead-canary\n"),
        ),
        env(
            "environment-path",
            "a path of programs that leads up",
            || json!(["PATH=/bin:../../tmp/bulkhead-canary:."]),
            alive(),
        ),
        env(
            "environment-without-a-value",
            "variables that are none",
            || json!(["PATH=/bin", "NOTHING", "=x", "", "=", "A B=c"]),
            alive(),
        ),
        env(
            "environment-nul",
            "a variable with a NUL",
            || json!(["PATH=/bin", "A=b\u{0}LD_PRELOAD=x"]),
            reading("a NUL byte in Env"),
        ),
        env(
            "environment-of-1-mib",
            "a variable that no program can be given",
            || json!(["PATH=/bin", format!("A={}", "b".repeat(1 << 20))]),
            not_started(125, "what the process is to be given is too large"),
        ),
        env(
            "environment-of-20000",
            "more variables than there may be",
            || {
                json!(
                    (0..20_000)
                        .map(|number| format!("A{number}="))
                        .collect::<Vec<_>>()
                )
            },
            reading("20000 entries in Env, above the limit of 10000"),
        ),
    ]
}

fn texts() -> Vec<Case> {
    let list = |words: &'static [&'static str]| move || json!({"Entrypoint": words});
    vec![
        config(
            20,
            "label-of-containerd",
            "a label that was once a command of the host",
            || json!({"Labels": {"containerd.io/restart.status": "running", "containerd.io/restart.loguri": "binary:///tmp/bulkhead-canary/evil?x=y", "containerd.io/restart.logpath": "/tmp/bulkhead-canary/pwned"}}),
            alive(),
        ),
        config(
            20,
            "label-of-kata",
            "labels that set up a hypervisor elsewhere",
            || json!({"Labels": {"io.katacontainers.config.hypervisor.virtio_fs_extra_args": "-o source=/", "io.katacontainers.config.hypervisor.path": "/tmp/bulkhead-canary/evil", "run.oci.handler": "krun"}}),
            alive(),
        ),
        config(
            20,
            "label-of-compose",
            "labels of whoever else reads them",
            || json!({"Labels": {"com.docker.compose.project.working_dir": "/tmp/bulkhead-canary", "bulkhead.privileged": "true", "": "x", "a=b": "c"}}),
            alive(),
        ),
        config(
            20,
            "ports-of-no-kind",
            "ports that are none",
            || json!({"ExposedPorts": {"99999/tcp": {}, "-1/udp": {}, "80/tcp; touch pwned": {}, "1-65535/sctp": {}, "": {}}}),
            alive(),
        ),
        config(
            20,
            "stop-signal-of-nobody",
            "a signal that is none",
            || json!({"StopSignal": "SIGPWNED"}),
            not_made("Invalid signal"),
        ),
        config(
            20,
            "stop-signal-9999",
            "a signal beyond all",
            || json!({"StopSignal": "9999"}),
            not_made("Invalid signal"),
        ),
        config(
            20,
            "health-of-the-host",
            "a health check in a shell, each nanosecond",
            || json!({"Healthcheck": {"Test": ["CMD-SHELL", "touch /tmp/bulkhead-canary/pwned"], "Interval": 1, "Timeout": 1, "Retries": 1}}),
            alive(),
        ),
        config(
            20,
            "health-negative",
            "a health check each -1 nanoseconds",
            || json!({"Healthcheck": {"Test": ["CMD", "x"], "Interval": -1}}),
            reading("cannot read the image config"),
        ),
        config(
            20,
            "entrypoint-of-the-runtime",
            "a program that would be the one that starts it",
            list(&["/proc/self/exe", "__vmm"]),
            agent_as_program(),
        ),
        config(
            20,
            "entrypoint-of-a-descriptor",
            "a descriptor of the runtime's as a program",
            list(&["/proc/self/fd/3"]),
            not_started(126, "/proc/self/fd/3"),
        ),
        config(
            20,
            "entrypoint-up",
            "a program above the root",
            list(&["/../../../../tmp/bulkhead-canary/evil"]),
            not_started(127, "no such file or directory"),
        ),
        config(
            20,
            "entrypoint-empty",
            "a program without a name",
            list(&["", ""]),
            not_started(127, "exec: \"\": executable file not found in $PATH"),
        ),
        config(
            20,
            "entrypoint-nul",
            "a program's name with a NUL",
            list(&["/bin/sh\u{0}x"]),
            reading("a NUL byte in Entrypoint"),
        ),
        config(
            20,
            "command-option",
            "words that look like our options",
            || json!({"Cmd": ["--privileged", "-v", "/:/host", "sh"]}),
            alive(),
        ),
        config(
            20,
            "shell-of-the-host",
            "a shell of the host for a build's steps",
            || json!({"Shell": ["/tmp/bulkhead-canary/evil", "-c"]}),
            alive(),
        ),
        config(
            20,
            "on-build",
            "steps for whoever builds upon it",
            || json!({"OnBuild": ["COPY / /stolen", "RUN touch /triggered"]}),
            alive(),
        ),
        config(
            20,
            "fields-of-docker",
            "fields by which Docker's daemon was once told more",
            || json!({"Hostname": "pwned", "NetworkDisabled": true, "MacAddress": "02:00:00:00:00:01", "Tty": true, "OpenStdin": true, "Privileged": true, "Binds": ["/:/host"], "HostConfig": {"Binds": ["/:/host"]}, "ArgsEscaped": true}),
            prints("test -e /host; echo $?", "1\n"),
        ),
        Case::new(
            20,
            "other-architecture",
            "an image of another CPU",
            draft(|base| Draft::on(base).beside(json!({"architecture": "arm64"}))),
            reading("the image is for linux/arm64, not for linux/amd64"),
        ),
        Case::new(
            20,
            "other-system",
            "an image of another system",
            draft(|base| Draft::on(base).beside(json!({"os": "windows\u{1b}[2J"}))),
            reading("the image is for windows"),
        ),
        Case::new(
            20,
            "time-of-no-kind",
            "a time that is none, and notes that change a terminal",
            draft(|base| {
                Draft::on(base).beside(json!({"created": "99999-13-45T99:99:99Z", "author": "\u{1b}[2J", "comment": "\u{202e}", "docker_version": "\u{7}"}))
            }),
            alive(),
        ),
    ]
}

/// The usual image with these bytes for a configuration.
fn raw(
    name: &'static str,
    tries: &'static str,
    make: impl Fn(Value) -> Vec<u8> + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    let image = move |base: &Base| {
        let draft = Draft::on(base);
        let bytes = make(draft.configuration());
        draft.image_with(bytes, |_| {})
    };
    documents(20, name, tries, image, expected)
}

fn sizes() -> Vec<Case> {
    let invalid = "cannot read the image config";
    vec![
        raw(
            "config-of-10-mib",
            "a label of 10 MiB",
            |mut config| {
                config["config"]["Labels"] = json!({"x": "y".repeat(10 << 20)});
                config.to_string().into_bytes()
            },
            reading("above the limit of 4194304"),
        ),
        raw(
            "config-of-3-mib",
            "a label of 3 MiB",
            |mut config| {
                config["config"]["Labels"] = json!({"x": "y".repeat(3 << 20)});
                config.to_string().into_bytes()
            },
            alive(),
        ),
        raw(
            "config-nested",
            "arrays in each other, 100,000",
            |config| {
                format!(
                    "{{\"x\":{}{},{}",
                    "[".repeat(100_000),
                    "]".repeat(100_000),
                    &config.to_string()[1..]
                )
                .into_bytes()
            },
            reading("it is nested deeper than 64 levels"),
        ),
        raw(
            "config-no-json",
            "a configuration that is a shell script",
            |_| b"#!/bin/sh\ntouch /tmp/bulkhead-canary/pwned\n".to_vec(),
            reading(invalid),
        ),
        raw(
            "config-root-twice",
            "two lists of layers in a configuration",
            |config| {
                config
                    .to_string()
                    .replacen('{', "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},", 1)
                    .into_bytes()
            },
            reading(invalid),
        ),
        raw(
            "config-config-twice",
            "two configurations in one",
            |config| {
                config
                    .to_string()
                    .replacen('{', "{\"config\":{\"User\":\"root\"},", 1)
                    .into_bytes()
            },
            reading(invalid),
        ),
        config(
            20,
            "volumes-of-20000",
            "more volumes than there may be",
            || json!({"Volumes": (0..20_000).map(|number| (format!("/{number}"), json!({}))).collect::<serde_json::Map<_, _>>()}),
            reading("20000 entries in Volumes, above the limit of 10000"),
        ),
        config(
            20,
            "ports-of-200000",
            "more ports than there may be",
            || json!({"ExposedPorts": (0..200_000).map(|number| (format!("{number}/tcp"), json!({}))).collect::<serde_json::Map<_, _>>()}),
            reading("200000 entries in ExposedPorts, above the limit of 196608"),
        ),
        config(
            20,
            "command-of-20000",
            "more words than there may be",
            || json!({"Cmd": vec!["x"; 20_000]}),
            reading("20000 entries in Cmd, above the limit of 10000"),
        ),
    ]
}

/// e22: what is copied, exported and listed.
fn shown() -> Vec<Case> {
    vec![
        layer(
            22,
            "names-that-lie",
            "names that change what a list of files says",
            |tar| {
                tar.file("tree/a\nb/../../pwned", b"x")
                    .file("tree/\x1b[1A\x1b[2Kinnocent", b"x")
                    .file("tree/ -> etc", b"x")
            },
            prints("ls tree | wc -l", "2\n"),
        ),
        layer(
            22,
            "links-to-copy",
            "links out of the folder that is copied out",
            |tar| {
                tar.dir("tree")
                    .link(b'2', "tree/out", "/tmp/bulkhead-canary")
                    .link(b'2', "tree/up", "../../../../../tmp/bulkhead-canary")
                    .link(b'2', "tree/self", ".")
            },
            prints("ls /tree | wc -l", "3\n"),
        )
        .into("/tree/out/copied"),
        layer(
            22,
            "devices-to-copy",
            "devices and pipes in what is copied out",
            |tar| {
                let mut node = Header::new(b'4', "tree/disk");
                node.device = (8, 0);
                tar.header(&node, b"")
                    .header(&Header::new(b'6', "tree/pipe"), b"")
                    .file("tree/f", b"x")
            },
            prints("cat /tree/f", "x"),
        ),
        layer(
            22,
            "setuid-to-copy",
            "programs with setuid and capabilities in what is copied out",
            |tar| {
                let mut header = Header::new(b'0', "tree/su");
                header.mode = 0o6777;
                tar.pax(&[(
                    "SCHILY.xattr.security.capability",
                    &[
                        1, 0, 0, 2, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                    ],
                )])
                .header(&header, b"x")
            },
            prints("stat -c %a /tree/su", "6777\n"),
        ),
        layer(
            22,
            "folders-without-rights",
            "folders in which nobody may do anything",
            |tar| {
                let mut header = Header::new(b'5', "tree/closed");
                header.mode = 0;
                tar.header(&header, b"").file("tree/closed/f", b"x")
            },
            prints("cat /tree/closed/f", "x"),
        ),
        layer(
            22,
            "names-that-differ-in-case",
            "names that are one on other systems",
            |tar| {
                tar.file("tree/A", b"1")
                    .link(b'2', "tree/a", "/tmp/bulkhead-canary")
                    .file("tree/\u{e9}", b"2")
                    .file("tree/e\u{301}", b"3")
            },
            prints("cat /tree/A", "1"),
        ),
        Case::new(
            22,
            "whiteouts-to-commit",
            "files whose names would be whiteouts in a commit",
            draft(|base| {
                Draft::on(base)
                    .tar(Tar::new().dir("tree"))
                    .with(json!({"Labels": {"\u{1b}[2J": "\u{202e}\n"}}))
            }),
            prints(
                "touch /tree/.wh.etc /tree/.wh..wh..opq; ls -a /tree | grep -c wh",
                "2\n",
            ),
        )
        .not_committed("its name stands for a file that is gone"),
    ]
}
