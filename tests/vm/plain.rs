//! `--isolation=container` for containers that are kept: what their verbs do, and what is left after a
//! kill.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use harness::Output;
use serde_json::Value;

use crate::contrast::{Plain, mounts, someone_sleeps, wait_until};
use crate::jail::check_supervisor;
use crate::streams::stalled;
use crate::tenant::{ID, give, needs_root};
use crate::world::World;

crate::tests![
    a_kept_plain_container_has_a_life,
    another_process_runs_in_a_plain_container,
    a_stalled_reader_hides_no_end_of_a_plain_container,
    a_plain_container_has_a_terminal,
    a_plain_container_is_attached_to_and_has_a_log_with_limits,
    a_policy_starts_a_plain_container_again,
    a_plain_container_is_checked,
    a_plain_container_is_frozen_and_has_other_limits,
    what_a_plain_container_has_not_is_refused,
    a_killed_supervisor_leaves_no_plain_container,
    a_killed_agent_ends_its_plain_container,
    an_ordinary_user_keeps_a_plain_container,
    a_plain_containers_supervisor_is_shut_in,
    runc_runs_plain_containers_where_there_is_no_crun,
];

/// The hidden verb of a plain container's agent.
const AGENT: &str = "__plain-agent";

const SUPERVISOR: &str = "__supervisor";

impl Plain {
    /// Does a verb with a container.
    fn verb(&self, words: &[&str]) -> Result<Output> {
        self.vm.bulkhead(words).output()
    }

    /// Makes one that is kept, and starts it.
    fn keep(&self, words: &[&str]) -> Result<String> {
        let run = ["run", "-d", "--isolation=container", "-q"];
        let out = self.vm.bulkhead(run).args(words).output()?.code(0)?;
        Ok(out.stdout.trim().to_owned())
    }

    fn state(&self, name: &str, field: &str) -> Result<String> {
        let format = format!("{{{{.{field}}}}}");
        let out = self
            .verb(&["inspect", "--format", &format, name])?
            .code(0)?;
        Ok(out.stdout.trim().to_owned())
    }

    /// Whether a container has a control group.
    fn has_group(id: &str) -> bool {
        Path::new("/sys/fs/cgroup/bulkhead").join(id).exists()
    }

    fn wait_for_log(&self, name: &str, text: &str) -> Result<()> {
        wait_until(|| Ok(self.verb(&["logs", name])?.stdout.contains(text)))
    }
}

/// One sentence says why not; the exit code is each verb's own.
fn refused(out: &Output, words: &str) {
    assert!(out.code != 0 && out.stderr.contains(words), "{out}");
}

fn a_kept_plain_container_has_a_life(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let script = "trap 'echo told; exit 5' TERM; echo out; echo err >&2; echo x >>/kept; \
                  wc -l </kept; while true; do sleep 0.1; done";
    let words = [
        "--isolation=container",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let out = plain
        .vm
        .bulkhead(["create"])
        .args(words)
        .output()?
        .code(0)?;
    let id = out.stdout.trim();
    assert_eq!(plain.state("box", "Id")?, id);
    assert_eq!(plain.state("box", "HostConfig.Isolation")?, "container");
    assert_eq!(plain.state("box", "State.Status")?, "created");
    plain.verb(&["start", "box"])?.code(0)?;
    plain.wait_for_log("box", "1\n")?;
    let out = plain.verb(&["logs", "box"])?.code(0)?;
    assert_eq!(
        (out.stdout.as_str(), out.stderr.as_str()),
        ("out\n1\n", "err\n")
    );
    let pid = plain.state("box", "State.Pid")?;
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).context("read its words")?;
    assert!(line.starts_with("sh\0-c\0trap"), "{line}");
    let out = plain.verb(&["ps", "--format", "{{.Names}} {{.State}}"])?;
    assert_eq!(out.stdout, "box running\n");
    plain.verb(&["rename", "box", "crate"])?.code(0)?;
    plain.verb(&["stop", "crate"])?.code(0)?;
    assert_eq!(plain.verb(&["wait", "crate"])?.code(0)?.stdout, "5\n");
    assert_eq!(plain.state("crate", "State.Status")?, "exited");
    plain.vm.wait_for_no_process()?;
    plain.verb(&["start", "crate"])?.code(0)?;
    plain.wait_for_log("crate", "2\n")?;
    plain.verb(&["restart", "-t", "0", "crate"])?.code(0)?;
    plain.wait_for_log("crate", "3\n")?;
    refused(&plain.verb(&["rm", "crate"])?, "container is running");
    plain.verb(&["kill", "crate"])?.code(0)?;
    assert_eq!(plain.state("crate", "State.ExitCode")?, "137");
    plain.verb(&["rm", "crate"])?.code(0)?;
    assert_eq!(plain.bundles()?, 0);
    plain.vm.wait_for_no_process()?;
    // One that is gone when it has ended.
    plain.keep(&["--rm", "busybox", "true"])?;
    wait_until(|| Ok(plain.bundles()? == 0))
}

fn a_stalled_reader_hides_no_end_of_a_plain_container(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let script = "until test -e /end; do sleep 0.1; done; exit 5";
    plain.keep(&["--name", "box", "busybox", "sh", "-c", script])?;
    let (exec, reader) = stalled(&plain.vm, &["exec", "box", "yes"])?;
    plain
        .verb(&["exec", "-d", "box", "touch", "/end"])?
        .code(0)?;
    assert_eq!(plain.verb(&["wait", "box"])?.code(0)?.stdout, "5\n");
    drop(reader);
    exec.wait()?.code(137)?;
    plain.verb(&["rm", "box"])?.code(0)?;
    plain.vm.wait_for_no_process()
}

fn another_process_runs_in_a_plain_container(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let id = plain.keep(&["--name", "box", "busybox", "sleep", "1000"])?;
    let script = "cat; echo err >&2; id -u; cat /proc/1/cmdline | tr '\\0' ' '; exit 3";
    let words = ["exec", "-i", "-u", "7", "box", "sh", "-c", script];
    let out = plain.vm.bulkhead(words).stdin("in ").output()?.code(3)?;
    assert_eq!(
        (out.stdout.as_str(), out.stderr.as_str()),
        ("in 7\nsleep 1000 ", "err\n")
    );
    assert_eq!(plain.verb(&["exec", "box", "no-such"])?.code, 127);
    assert_eq!(plain.verb(&["exec", "box", "/etc/passwd"])?.code, 126);
    // The kernel finds that only when it is executed.
    let script =
        "echo nonsense >/bin/x; chmod 755 /bin/x; echo '#!/no/such' >/bin/y; chmod 755 /bin/y";
    plain.verb(&["exec", "box", "sh", "-c", script])?.code(0)?;
    assert_eq!(plain.verb(&["exec", "box", "/bin/x"])?.code, 126);
    assert_eq!(plain.verb(&["exec", "box", "/bin/y"])?.code, 127);
    // What it leaves behind is not waited for.
    let out = plain.verb(&["exec", "box", "sh", "-c", "sleep 4322 & echo done"])?;
    assert_eq!(out.code(0)?.stdout, "done\n");
    plain
        .verb(&["exec", "-d", "box", "touch", "/made"])?
        .code(0)?;
    wait_until(|| Ok(plain.verb(&["exec", "box", "test", "-e", "/made"])?.code == 0))?;
    refused(
        &plain.verb(&["exec", "--privileged", "box", "true"])?,
        "exec --privileged is not supported with --isolation=container",
    );
    plain.verb(&["rm", "-f", &id])?.code(0)?;
    plain.vm.wait_for_no_process()?;
    wait_until(|| Ok(!someone_sleeps("4322")?))?;
    assert_eq!(plain.bundles()?, 0);
    Ok(())
}

fn a_plain_container_has_a_terminal(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let words = [
        "run",
        "-it",
        "--rm",
        "-q",
        "--isolation=container",
        "busybox",
        "sh",
    ];
    let mut terminal = plain.vm.terminal(words)?;
    terminal.wait_for("#")?;
    terminal.send("test -t 0 && echo is-a-$((1+1))-terminal; exit 4\n")?;
    terminal.wait_for("is-a-2-terminal")?;
    assert_eq!(terminal.wait()?.0, 4);
    plain.keep(&["-t", "--name", "box", "busybox", "sleep", "1000"])?;
    let mut terminal = plain.vm.terminal(["exec", "-it", "box", "sh"])?;
    terminal.wait_for("#")?;
    terminal.resize((33, 99))?;
    terminal.send("until stty size | grep '33 99'; do sleep 0.1; done; exit 6\n")?;
    assert_eq!(terminal.wait()?.0, 6);
    plain.verb(&["rm", "-f", "box"])?.code(0)?;
    Ok(())
}

fn a_plain_container_is_attached_to_and_has_a_log_with_limits(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let script = "seq 1 5000; read line; echo got $line; exit 7";
    let flags = ["--log-opt", "max-size=20k", "--log-opt", "max-file=3"];
    let words = ["-i", "--name", "box", "busybox", "sh", "-c", script];
    plain.keep(&[&flags[..], &words].concat())?;
    plain.wait_for_log("box", "\n5000\n")?;
    let attach = plain.vm.bulkhead(["attach", "box"]);
    let out = attach.stdin("a line\n").output()?.code(7)?;
    assert_eq!(out.stdout, "got a line\n", "{out}");
    let out = plain.verb(&["logs", "--tail", "2", "box"])?;
    assert_eq!(out.stdout, "5000\ngot a line\n", "{out}");
    let path = plain.state("box", "LogPath")?;
    for suffix in ["", ".1", ".2"] {
        let len = fs::metadata(format!("{path}{suffix}"))?.len();
        assert!(len < 20_200, "{suffix}: {len}");
    }
    assert!(!fs::exists(format!("{path}.3"))?);
    // With no log, there is none to be shown.
    let words = ["--log-driver", "none", "--name", "mute", "busybox", "echo"];
    plain.keep(&words)?;
    refused(&plain.verb(&["logs", "mute"])?, "does not support reading");
    Ok(())
}

fn a_policy_starts_a_plain_container_again(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let words = [
        "--restart",
        "on-failure:2",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
    ];
    plain.keep(&[&words[..], &["echo again; exit 9"]].concat())?;
    // Who waits is told of the end of any life.
    wait_until(|| Ok(plain.state("box", "State.Status")? == "exited"))?;
    assert_eq!(plain.verb(&["wait", "box"])?.code(0)?.stdout, "9\n");
    let out = plain.verb(&["logs", "box"])?;
    assert_eq!(out.stdout, "again\nagain\nagain\n");
    assert_eq!(plain.state("box", "RestartCount")?, "2");
    Ok(())
}

fn a_plain_container_is_checked(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let check = [
        "--health-cmd",
        "test -e /well",
        "--health-interval",
        "200ms",
        "--health-retries",
        "1",
    ];
    let rest = ["--name", "box", "busybox", "sleep", "1000"];
    plain.keep(&[&check[..], &rest].concat())?;
    let is = |word: &str| wait_until(|| Ok(plain.state("box", "State.Health.Status")? == word));
    is("unhealthy")?;
    plain.verb(&["exec", "box", "touch", "/well"])?.code(0)?;
    is("healthy")?;
    plain.verb(&["rm", "-f", "box"])?.code(0)?;
    Ok(())
}

fn a_plain_container_is_frozen_and_has_other_limits(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let limits = ["-m64m", "--device-write-iops=/dev/vda:9000"];
    let sleep = ["--name=box", "busybox", "sleep", "1000"];
    let id = plain.keep(&[&limits[..], &sleep].concat())?;
    let group = format!("/sys/fs/cgroup/bulkhead/{id}");
    let file = |name: &str| fs::read_to_string(format!("{group}/{name}")).context("read the group");
    assert_eq!(file("memory.max")?, "67108864\n");
    assert!(file("io.max")?.ends_with(" wiops=9000\n"));
    plain.verb(&["pause", "box"])?.code(0)?;
    assert_eq!(plain.state("box", "State.Status")?, "paused");
    assert!(file("cgroup.events")?.contains("frozen 1"));
    refused(&plain.verb(&["exec", "box", "true"])?, "is paused");
    plain.verb(&["unpause", "box"])?.code(0)?;
    plain.verb(&["exec", "box", "true"])?.code(0)?;
    plain.verb(&["update", "-m", "32m", "box"])?.code(0)?;
    assert_eq!(file("memory.max")?, "33554432\n");
    plain.verb(&["pause", "box"])?.code(0)?;
    plain.verb(&["stop", "-t", "0", "box"])?.code(0)?;
    assert!(!fs::exists(&group)?);
    plain.verb(&["rm", "box"])?.code(0)?;
    let words = ["--name", "eats", "-m", "16m", "busybox", "sh", "-c"];
    plain.keep(&[&words[..], &["x=y; while true; do x=$x$x; done"]].concat())?;
    assert_eq!(plain.verb(&["wait", "eats"])?.stdout, "137\n");
    assert_eq!(plain.state("eats", "State.OOMKilled")?, "true");
    Ok(())
}

fn what_a_plain_container_has_not_is_refused(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    plain.keep(&["--name", "box", "busybox", "sleep", "1000"])?;
    let files = "the files of a plain container can't be looked at or changed from outside";
    for running in [true, false] {
        for words in [
            &["cp", "box:/etc/passwd", "-"][..],
            &["diff", "box"],
            &["export", "-o", "out.tar", "box"],
            &["commit", "box", "other"],
        ] {
            let out = plain.verb(words)?;
            assert!(
                out.code != 0 && out.stderr.contains(files),
                "{words:?}: {out}"
            );
        }
        if running {
            refused(
                &plain.verb(&["top", "box"])?,
                "top does not work with a plain container",
            );
            plain.verb(&["kill", "box"])?.code(0)?;
        }
    }
    assert_eq!(plain.verb(&["port", "box"])?.stdout, "");
    plain.verb(&["rm", "box"])?.code(0)?;
    // A tar without an entry.
    let archive = plain.vm.work().join("empty.tar");
    fs::write(&archive, [0; 1024])?;
    let archive = archive.to_string_lossy();
    let import = ["import", "-c", "VOLUME /data", &archive, "volume"];
    plain.verb(&import)?.code(0)?;
    let create = [
        "create",
        "--isolation=container",
        "--name=box",
        "volume",
        "x",
    ];
    let out = plain.verb(&create)?.code(0)?;
    assert!(
        out.stderr
            .contains("is kept in the container's own files: /data"),
        "{out}"
    );
    assert_eq!(plain.state("box", "Mounts")?, "[]");
    plain.verb(&["rm", "box"])?.code(0)?;
    Ok(())
}

fn a_killed_supervisor_leaves_no_plain_container(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let before = mounts(&plain.vm)?;
    let id = plain.keep(&[
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "echo x >>/kept; sleep 4321",
    ])?;
    assert!(Plain::has_group(&id));
    plain.vm.wait_for_process(SUPERVISOR)?.kill()?;
    plain.vm.wait_for_no_process()?;
    wait_until(|| Ok(!someone_sleeps("4321")?))?;
    assert_eq!(mounts(&plain.vm)?, before);
    assert_eq!(plain.state("box", "State.ExitCode")?, "137");
    // What it wrote is there.
    plain.verb(&["start", "box"])?.code(0)?;
    let script = ["exec", "box", "wc", "-l", "/kept"];
    assert_eq!(plain.verb(&script)?.code(0)?.stdout, "2 /kept\n");
    plain.verb(&["rm", "-f", "box"])?.code(0)?;
    assert_eq!(plain.bundles()?, 0);
    assert!(!Plain::has_group(&id));
    // One of --rm goes with the next look.
    let id = plain.keep(&["--rm", "busybox", "sleep", "4324"])?;
    plain.vm.wait_for_process(SUPERVISOR)?.kill()?;
    plain.vm.wait_for_no_process()?;
    assert_eq!(plain.verb(&["ps", "-aq"])?.stdout, "");
    assert_eq!(plain.bundles()?, 0);
    assert!(!Plain::has_group(&id));
    Ok(())
}

fn a_killed_agent_ends_its_plain_container(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let before = mounts(&plain.vm)?;
    let id = plain.keep(&["--name", "box", "busybox", "sleep", "4325"])?;
    plain.vm.wait_for_process(AGENT)?.kill()?;
    plain.verb(&["wait", "box"])?.code(0)?;
    assert!(!Plain::has_group(&id));
    plain.vm.wait_for_no_process()?;
    wait_until(|| Ok(!someone_sleeps("4325")?))?;
    assert_eq!(mounts(&plain.vm)?, before);
    let error = plain.state("box", "State.Error")?;
    assert!(
        error.starts_with("the agent of the plain container ended"),
        "{error}"
    );
    Ok(())
}

/// Without a network and without limits; its files are the user's, or of its subordinate ids.
fn an_ordinary_user_keeps_a_plain_container(world: &World) -> Result<()> {
    needs_root()?;
    let plain = Plain::new(world)?;
    give(&plain.vm)?;
    plain.give(ID)?;
    let user = format!("exec setpriv --reuid={ID} --regid={ID} --clear-groups bulkhead");
    let does = |words: &str| plain.vm.shell(&format!("{user} {words}")).output();
    let run = "run -d -q --isolation=container --name box";
    does(&format!("{run} -m 64m busybox true"))?.refusal("which need root here")?;
    does(&format!(
        "{run} busybox sh -c 'echo x >>/kept; id -u; sleep 4323'"
    ))?
    .code(0)?;
    wait_until(|| Ok(does("logs box")?.stdout == "0\n"))?;
    assert_eq!(does("exec box cat /kept")?.code(0)?.stdout, "x\n");
    let refusal = "a plain container of an ordinary user has no control group";
    refused(&does("pause box")?, refusal);
    check_supervisor(&plain.vm, Some(ID))?;
    does("kill box")?.code(0)?;
    does("start box")?.code(0)?;
    assert_eq!(does("exec box cat /kept")?.code(0)?.stdout, "x\nx\n");
    does("restart -t 0 box")?.code(0)?;
    wait_until(|| Ok(does("exec box cat /kept")?.stdout == "x\nx\nx\n"))?;
    let out = does("inspect box")?.code(0)?;
    let value: Value = serde_json::from_str(&out.stdout).context("read the JSON")?;
    assert_eq!(value[0]["HostConfig"]["Isolation"], "container");
    does("rm -f box")?.code(0)?;
    plain.vm.wait_for_no_process()?;
    wait_until(|| Ok(!someone_sleeps("4323")?))?;
    assert_eq!(plain.bundles()?, 0);
    Ok(())
}

/// Also in a second life; and what another user wrote is removed for it.
fn a_plain_containers_supervisor_is_shut_in(world: &World) -> Result<()> {
    needs_root()?;
    let plain = Plain::new(world)?;
    let script = "mkdir -p /shut; chown 7 /shut; touch /shut/x; chmod 0 /shut; echo up; sleep 1000";
    let words = ["--name", "box", "busybox", "sh", "-c", script];
    plain.keep(&[&["--rm"], &words[..]].concat())?;
    plain.wait_for_log("box", "up\n")?;
    check_supervisor(&plain.vm, None)?;
    plain.verb(&["restart", "-t", "0", "box"])?.code(0)?;
    plain.wait_for_log("box", "up\nup\n")?;
    check_supervisor(&plain.vm, None)?;
    // What the runtime goes by is nowhere that a supervisor may write, or that anyone but the agent sees.
    let names = |path: &std::path::Path| -> Result<Vec<String>> {
        let entries = fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    let id = plain.state("box", "Id")?;
    let bundle = plain.vm.root().join("containers").join(id).join("bundle");
    assert_eq!(names(&bundle)?, ["upper", "work"]);
    assert_eq!(names(&plain.vm.root().join("plain/run"))?, [""; 0]);
    plain.verb(&["kill", "box"])?.code(0)?;
    plain.vm.wait_for_no_process()?;
    assert_eq!(plain.bundles()?, 0);
    Ok(())
}

fn runc_runs_plain_containers_where_there_is_no_crun(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let programs = plain.vm.work().join("programs");
    fs::create_dir(&programs)?;
    let verb = |words: &[&str]| {
        let command = plain.vm.bulkhead(words);
        command.env("PATH", &programs).output()
    };
    let run = ["run", "--isolation=container", "-q"];
    let run = |words: &[&str]| verb(&[&run[..], words].concat());
    run(&["--rm", "busybox", "true"])?.refusal("neither crun nor runc is on PATH")?;
    std::os::unix::fs::symlink("/usr/sbin/runc", programs.join("runc"))?;
    for (program, code) in [("no-such-program", 127), ("/etc/passwd", 126)] {
        let out = run(&["--rm", "busybox", program])?.code(code)?;
        assert!(out.stderr.contains("runc run failed"), "{out}");
    }
    let script = "trap 'exit 5' TERM; echo up; while true; do sleep 0.1; done";
    let words = ["-m", "64m", "busybox", "sh", "-c", script];
    run(&[&["-d", "--name", "box"], &words[..]].concat())?.code(0)?;
    plain.wait_for_log("box", "up\n")?;
    let script = "cat /sys/fs/cgroup/memory.max; exit 4";
    let out = verb(&["exec", "box", "sh", "-c", script])?.code(4)?;
    assert_eq!(out.stdout, "67108864\n");
    verb(&["pause", "box"])?.code(0)?;
    assert_eq!(plain.state("box", "State.Status")?, "paused");
    verb(&["unpause", "box"])?.code(0)?;
    verb(&["stop", "box"])?.code(0)?;
    assert_eq!(plain.state("box", "State.ExitCode")?, "5");
    verb(&["start", "box"])?.code(0)?;
    plain.wait_for_log("box", "up\nup\n")?;
    verb(&["rm", "-f", "box"])?.code(0)?;
    plain.vm.wait_for_no_process()?;
    assert_eq!(plain.bundles()?, 0);
    Ok(())
}
