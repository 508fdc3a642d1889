//! `contrast`, and the plain container that it compares with: `run --isolation=container`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use harness::{Output, Sandbox};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::world::World;

crate::tests![
    both_sides_are_measured,
    a_plain_container_has_the_flags_it_says,
    a_plain_container_ends_with_dockers_codes,
    what_a_plain_container_left_is_removed,
    an_image_in_use_stays_unpacked,
    a_plain_container_is_held_to_its_limits,
    a_plain_container_of_several_layers_has_their_files,
    a_terminated_command_hands_the_signal_on,
];

/// Where an emulated host has a file system that an overlay may be put on.
const NATIVE: &str = "/scratch";

/// A sandbox whose state root lies where an overlay may be put on: in an emulated host, all else
/// is one already.
pub(crate) struct Plain {
    pub(crate) vm: Sandbox,
    native: Option<TempDir>,
}

impl Plain {
    pub(crate) fn new(world: &World) -> Result<Self> {
        let vm = world.own()?;
        let native = match Path::new(NATIVE).is_dir() {
            true => {
                let native = TempDir::new_in(NATIVE).context("make a folder")?;
                let root = native.path().join("root");
                harness::Invocation::new("/bin/mv")
                    .args([&vm.root(), &root])
                    .output()?
                    .code(0)?;
                std::os::unix::fs::symlink(root, vm.root()).context("link the state root")?;
                Some(native)
            }
            false => None,
        };
        Ok(Self { vm, native })
    }

    /// Gives what is not in the sandbox's folder to a user.
    pub(crate) fn give(&self, id: u32) -> Result<()> {
        if let Some(native) = &self.native {
            harness::Invocation::new("/bin/chown")
                .args(["-R", &format!("{id}:{id}")])
                .arg(native.path())
                .output()?
                .code(0)?;
        }
        Ok(())
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        let words = ["run", "--rm", "--isolation=container", "-q"];
        self.vm.bulkhead(words).args(args).output()
    }

    /// How many containers there are, with what is left of those that went.
    pub(crate) fn bundles(&self) -> Result<usize> {
        Ok(fs::read_dir(self.vm.root().join("containers"))
            .context("read the bundles")?
            .count())
    }
}

fn both_sides_are_measured(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let page = plain.vm.work().join("page.html");
    let output = plain
        .vm
        .bulkhead(["contrast", "--format", "json", "--html"])
        .arg(&page)
        .args(["busybox", "true"])
        .output()?
        .code(0)?;
    let value: Value = serde_json::from_str(&output.stdout).context("read the JSON")?;
    let (vm, container) = (&value["vm"], &value["container"]);
    assert!(container.is_object(), "{}", value["container_error"]);
    let boot = |side: &Value| side["report"]["kernel"]["boot_id"].clone();
    assert_eq!(boot(container), value["host"]["boot_id"]);
    assert_ne!(boot(vm), value["host"]["boot_id"]);
    for side in [vm, container] {
        let quotas = &side["report"]["quotas"];
        assert_eq!(quotas["memory_held"], true, "{quotas}");
        assert_eq!(quotas["memory_limit"], "67108864");
        assert_eq!(quotas["cpu_limit"], "50000 100000");
        assert_eq!(side["report"]["command"]["code"], 0);
        let calls = &side["report"]["syscalls"];
        assert!(
            calls["reached"]
                .as_array()
                .is_some_and(|list| list.len() > 100)
        );
        assert!(
            calls["killed"].as_array().is_some_and(Vec::is_empty),
            "{calls}"
        );
        // Both kernels have an entry for 32-bit programs, which Docker's filter lets through: read,
        // write, open and close.
        let calls = &side["report"]["ia32"]["tried"];
        for call in [3, 4, 5, 6] {
            let reached = calls["reached"].as_array().context("no calls reached")?;
            assert!(reached.contains(&call.into()), "{call}: {calls}");
        }
        assert_eq!(calls["killed"].as_array().map(Vec::len), Some(0), "{calls}");
        assert!(side["memory_bytes"].as_u64() > Some(1 << 20));
    }
    assert_eq!(vm["panic"]["other_lives"], true);
    let words = vm["panic"]["words"].as_str().unwrap_or_default();
    assert!(words.contains("the guest reset itself"), "{words}");
    let rows = value["rows"].as_array().context("rows")?;
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    for name in ["whose", "memory quota", "IP addresses", "disk of its own"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let page = fs::read_to_string(page).context("read the page")?;
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    for word in ["http:", "https:", "src=", "<script"] {
        assert!(!page.contains(word), "{word}");
    }
    assert_eq!(plain.bundles()?, 0);
    Ok(())
}

fn a_plain_container_has_the_flags_it_says(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let script =
        "id -u; echo $A; pwd; hostname; cat /etc/hostname; touch /x 2>/dev/null || echo ro";
    let args = [
        "-u",
        "7",
        "-e",
        "A=b c",
        "-w",
        "/tmp",
        "-h",
        "box",
        "--read-only",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let out = plain.run(&args)?.code(0)?;
    assert_eq!(out.stdout, "7\nb c\n/tmp\nbox\nbox\nro\n", "{out}");
    assert!(out.stderr.contains("runs on the host's kernel"), "{out}");
    let boot = "/proc/sys/kernel/random/boot_id";
    let out = plain.run(&["busybox", "cat", boot])?.code(0)?;
    assert_eq!(out.stdout, fs::read_to_string(boot)?);
    let refused = [
        (&["-v", "/a:/b"][..], "--volume is not supported with"),
        (&["-p", "80:80"], "--publish is not supported with"),
        (&["--privileged"], "--privileged is not supported with"),
        (
            &["--security-opt", "systempaths=unconfined"],
            "--security-opt systempaths and writable-cgroups are not supported",
        ),
    ];
    for (flags, words) in refused {
        plain
            .run(&[flags, &["busybox", "true"]].concat())?
            .refusal(words)?;
    }
    assert_eq!(plain.bundles()?, 0);
    Ok(())
}

fn a_plain_container_ends_with_dockers_codes(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    for (command, code) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["no-such-program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let out = plain.run(&[&["busybox"], command].concat())?;
        assert_eq!(out.code, code, "{command:?}: {out}");
    }
    let out = plain
        .vm
        .bulkhead([
            "run",
            "--rm",
            "-i",
            "--isolation=container",
            "busybox",
            "cat",
        ])
        .stdin("in and out")
        .output()?
        .code(0)?;
    assert_eq!(out.stdout, "in and out");
    // Without -i the input is somebody else's.
    let words = ["run", "--rm", "--isolation=container", "busybox", "cat"];
    let out = plain
        .vm
        .bulkhead(words)
        .stdin("not mine")
        .output()?
        .code(0)?;
    assert_eq!(out.stdout, "");
    Ok(())
}

/// Deeper than there are descriptors, and below folders that nobody may read.
fn what_a_plain_container_left_is_removed(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let script = "i=0; while [ $i -lt 1100 ]; do mkdir d && cd d; i=$((i+1)); done; \
                  mkdir /shut && touch /shut/x && chmod 0 /shut; exit 3";
    let out = plain.run(&["busybox", "sh", "-c", script])?;
    assert_eq!(out.code, 3, "{out}");
    assert_eq!(plain.bundles()?, 0);
    Ok(())
}

/// The files of an image are there as long as the image or a container is.
fn an_image_in_use_stays_unpacked(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let build = |name: &str| {
        let words = ["build", "-q", "-t", name, "-"];
        let dockerfile = format!("FROM busybox\nRUN echo {name} > /name\n");
        plain.vm.bulkhead(words).stdin(dockerfile).output()?.code(0)
    };
    build("one")?;
    build("two")?;
    let verb = |words: &[&str]| plain.vm.bulkhead(words).output();
    verb(&[
        "create",
        "--isolation=container",
        "--name",
        "box",
        "one",
        "cat",
        "/name",
    ])?
    .code(0)?;
    verb(&["rmi", "-f", "one"])?.code(0)?;
    plain.run(&["two", "true"])?.code(0)?;
    let images = || -> Result<usize> {
        let entries = fs::read_dir(plain.vm.root().join("plain/images"))?;
        Ok(entries.count())
    };
    assert_eq!(images()?, 2);
    assert_eq!(verb(&["start", "-a", "box"])?.code(0)?.stdout, "one\n");
    // It goes when another is unpacked.
    verb(&["rm", "box"])?.code(0)?;
    plain.run(&["busybox", "true"])?.code(0)?;
    assert_eq!(images()?, 2);
    Ok(())
}

fn a_plain_container_is_held_to_its_limits(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max";
    let limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "20"];
    let out = plain
        .run(&[&limits[..], &["busybox", "sh", "-c", script]].concat())?
        .code(0)?;
    assert_eq!(out.stdout, "67108864\n50000 100000\n20\n");
    let eats = "x=y; while true; do x=$x$x; done";
    let out = plain.run(&["-m", "16m", "busybox", "sh", "-c", eats])?;
    assert_eq!(out.code, 137, "{out}");
    Ok(())
}

/// Whiteouts, hard links and owners of an image of several layers, as a VM shows them.
fn a_plain_container_of_several_layers_has_their_files(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let script = "mkdir -p /d/a /d/gone; echo one >/d/one; ln /d/one /d/two; ln -s one /d/link; \
                  mkfifo /d/pipe; chown 5:6 /d/a; chmod 1750 /d/a; head -c 70000 /dev/zero >/d/big";
    let dockerfile =
        format!("FROM busybox\nRUN {script}\nRUN rmdir /d/gone; rm /d/big; echo three >/d/two\n");
    plain
        .vm
        .bulkhead(["build", "-q", "-t", "layered", "-"])
        .stdin(dockerfile)
        .output()?
        .code(0)?;
    let look = "cd /d; for name in *; do stat -c '%A %u %g %n' $name; done; readlink link; \
                cat one two; find /etc | sort";
    let look = ["layered", "sh", "-c", look];
    let in_vm = plain.vm.run(look)?.code(0)?;
    let out = plain.run(&look)?.code(0)?;
    assert_eq!(out.stdout, in_vm.stdout);
    assert!(!out.stdout.contains("gone") && out.stdout.contains("three"));
    Ok(())
}

fn a_terminated_command_hands_the_signal_on(world: &World) -> Result<()> {
    let plain = Plain::new(world)?;
    let words = [
        "run",
        "--rm",
        "--isolation=container",
        "busybox",
        "sh",
        "-c",
    ];
    let script = "trap 'echo told; exit 5' TERM; echo runs; while true; do sleep 0.1; done";
    let mut command = plain.vm.bulkhead(words).arg(script).spawn()?;
    command.wait_for_stdout("runs")?;
    command.signal(Signal::TERM)?;
    let out = command.wait()?;
    assert_eq!(
        (out.code, out.stdout.as_str()),
        (5, "runs\ntold\n"),
        "{out}"
    );
    assert_eq!(plain.bundles()?, 0);
    Ok(())
}

/// The host's mounts that have to do with the sandbox: other tests run beside.
pub(crate) fn mounts(vm: &Sandbox) -> Result<Vec<String>> {
    let all = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let root = fs::canonicalize(vm.root()).context("find the state root")?;
    let places = [vm.folder(), &root].map(|place| place.display().to_string());
    let is_own = |line: &&str| places.iter().any(|place| line.contains(place));
    Ok(all.lines().filter(is_own).map(str::to_owned).collect())
}

/// Whether a process with these words runs.
pub(crate) fn someone_sleeps(seconds: &str) -> Result<bool> {
    let wanted = format!("sleep\0{seconds}\0");
    Ok(fs::read_dir("/proc")
        .context("read /proc")?
        .flatten()
        .any(|entry| {
            fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes())
        }))
}

/// Waits for what must come.
pub(crate) fn wait_until(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = std::time::Instant::now();
    while !is_so()? {
        anyhow::ensure!(
            begun.elapsed() < harness::PATIENCE,
            "it does not come to be"
        );
        std::thread::sleep(harness::POLL_INTERVAL);
    }
    Ok(())
}
