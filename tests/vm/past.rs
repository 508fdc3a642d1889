//! Names of the past: for each class of attack that became a CVE against a runtime of containers or
//! microVMs and could apply here, a payload of our own. docs/security.md has the table of all: what
//! the attack was, why it fails here, and which test shows it; those that other files have had before
//! are not doubled here.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fixtures::layer::{Layer, root};
use fixtures::oci::{self, ImageConfig};
use harness::{Output, Sandbox};
use serde_json::{Value, json};

use crate::contrast::mounts;
use crate::world::World;

crate::tests![
    cve_2019_5736_the_runtime_is_not_overwritten,
    cve_2019_19921_proc_can_not_be_shadowed,
    cve_2021_30465_a_mount_races_with_a_link,
    cve_2024_21626_a_descriptor_is_no_working_directory,
    cve_2025_31133_devices_of_an_image_are_not_used,
    cve_2022_0492_what_runs_in_the_kernel_runs_in_the_guests,
    cve_2025_9074_no_socket_of_the_host_is_reached,
    cve_2026_53488_an_images_labels_decide_nothing,
    cve_2022_23648_an_images_volumes_are_its_own,
    cve_2018_15664_a_copy_races_with_a_link,
    cve_2026_41567_a_copy_runs_no_program_of_the_image,
    cve_2024_9676_users_are_looked_up_in_the_guest,
    cve_2024_3727_a_digest_is_no_path,
    cve_2020_2023_the_guests_disks_are_out_of_reach,
    podman_16843_another_process_is_in_the_vm,
    cve_2021_29657_there_is_no_nested_virtualization,
];

/// Programs that the images here need.
const PROGRAMS: [&str; 12] = [
    "cat", "echo", "false", "grep", "id", "ls", "mkdir", "pwd", "sh", "sleep", "stat", "true",
];

/// Where the tests' own machine has a static busybox.
const BUSYBOX: &str = "/bin/busybox";

/// A layer with busybox and what `add` puts on it, as an image of this configuration.
pub(crate) fn load(
    vm: &Sandbox,
    name: &str,
    config: Value,
    add: impl FnOnce(&mut Layer) -> std::io::Result<()>,
) -> Result<()> {
    let mut layer = Layer::new();
    for folder in ["bin", "etc", "proc", "sys", "tmp"] {
        layer.directory(folder, root(0o755))?;
    }
    let busybox = fs::read(BUSYBOX).context("read busybox")?;
    layer.file("bin/busybox", root(0o755), &busybox)?;
    for program in PROGRAMS {
        layer.symlink(&format!("bin/{program}"), "busybox")?;
    }
    add(&mut layer)?;
    let tar = layer.finish()?;
    let archive = vm.work().join("image.tar");
    let images = [(name, ImageConfig::new(config), &[&tar[..]][..])];
    oci::docker_archive(&archive, &images)?;
    vm.load(&archive)?;
    fs::remove_file(&archive).context("remove an archive")
}

/// Content of files of the host that must be as they were.
fn contents(paths: &[PathBuf]) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let read = |path: &PathBuf| -> Result<_> {
        let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Ok((path.clone(), content))
    };
    paths.iter().map(read).collect()
}

/// It ran, or was refused: one sentence, no panic.
fn ended(out: &Output) -> Result<()> {
    ensure!(!out.stderr.contains("panicked"), "{out}");
    Ok(())
}

fn shell(vm: &Sandbox, flags: &[&str], image: &str, script: &str) -> Result<Output> {
    vm.bulkhead(["run", "--rm"])
        .args(flags)
        .args([image, "sh", "-c", script])
        .output()
}

/// runc: a container wrote to the runtime's binary by /proc/self/exe. Here the program that starts
/// processes is the guest's, read-only, and the host's is in no guest.
fn cve_2019_5736_the_runtime_is_not_overwritten(world: &World) -> Result<()> {
    let vm = world.own()?;
    let guest = vm.guest();
    let files = ["guest-agent", "initramfs.cpio", "vmlinux"].map(|name| guest.join(name));
    let files = [files.as_slice(), &[vm.program()]].concat();
    let before = contents(&files)?;
    let script = "echo '#!/proc/self/exe' >/evil; chmod 755 /evil
        for file in /proc/1/exe /proc/self/exe; do
            (echo hostile >$file) 2>/dev/null && echo wrote $file
        done; sleep 100000";
    // With an init the agent's program is also PID 1 of the container.
    crate::life::begin(&vm, "evil", &["--init"], script)?;
    let exec = |words: &[&str]| vm.bulkhead(["exec", "evil"]).args(words).output();
    // What starts a process there is started itself: the agent's program as an ordinary process.
    for words in [
        &["/proc/self/exe"][..],
        &["/evil"],
        &["/proc/self/exe", "run"],
    ] {
        let out = exec(words)?.code(126)?;
        ensure!(out.stderr.contains("no program of a container"), "{out}");
    }
    let script = "for id in /proc/[0-9]*; do (echo hostile >$id/exe) 2>/dev/null && echo wrote $id; done; echo tried";
    let text = exec(&["sh", "-c", script])?.only_stdout()?;
    assert_eq!(text, "tried\n");
    assert_eq!(exec(&["echo", "alive"])?.only_stdout()?, "alive\n");
    let log = vm.bulkhead(["logs", "evil"]).output()?.only_stdout()?;
    ensure!(!log.contains("wrote"), "{log}");
    vm.bulkhead(["rm", "-f", "evil"]).output()?.code(0)?;
    let out = vm.run(["--entrypoint", "/proc/self/exe", "busybox"])?;
    let out = out.code(126)?;
    ensure!(out.stderr.contains("no program of a container"), "{out}");
    ensure!(contents(&files)? == before, "a file of the host changed");
    assert_eq!(
        vm.run(["busybox", "echo", "alive"])?.only_stdout()?,
        "alive\n"
    );
    Ok(())
}

/// runc, also CVE-2025-52881: with something else at /proc, labels and sysctls were written
/// elsewhere. Here the process has its filter and capabilities, and /proc/sys is read-only, or it
/// does not run.
fn cve_2019_19921_proc_can_not_be_shadowed(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "grep -E '^(CapEff|Seccomp):' /proc/self/status; \
        (echo hostile >/proc/sys/kernel/domainname) 2>/dev/null && echo wrote; true";
    let mut with_proc = 0;
    for flags in [
        ["--tmpfs", "/proc/self/attr"],
        ["--tmpfs", "/proc/sys"],
        ["--tmpfs", "/proc"],
        ["-v", "/proc"],
        ["-v", "/proc/self/attr"],
        ["-v", "shadow:/proc/1"],
        ["--mount", "type=tmpfs,target=/proc/thread-self/attr"],
        ["--mount", "type=tmpfs,target=/sys/fs/cgroup"],
    ] {
        let out = shell(vm, &flags, "busybox", script)?;
        ended(&out)?;
        // With something else at /proc there is nothing to write to, and nothing to read.
        let confined = "CapEff:\t00000000a80425fb\nSeccomp:\t2\n";
        let is_refused = out.code != 0 && !out.stderr.is_empty();
        let is_shadowed = flags.contains(&"/proc") && out.code == 0;
        let is_nothing = out.stdout.is_empty() && (is_refused || is_shadowed);
        ensure!(out.stdout == confined || is_nothing, "{flags:?}: {out}");
        with_proc += usize::from(out.code == 0 && out.stdout == confined);
    }
    ensure!(with_proc > 0, "none ran with its own /proc");
    Ok(())
}

/// Rounds of mounts that race with a link, and how many there may be until one comes through.
const MOUNTS_MIN: usize = 1;
const MOUNTS_MAX: usize = 5;

/// runc, also CVE-2024-45310: who shared a volume swapped a folder in it for a link while another
/// container was to have a mount there. Here links lead nowhere but in the guest, and the host makes
/// nothing for a mount.
fn cve_2021_30465_a_mount_races_with_a_link(world: &World) -> Result<()> {
    let vm = world.own()?;
    let shared = vm.work().join("shared");
    fs::create_dir(&shared).context("create a share")?;
    let secret = vm.work().join("secret");
    fs::create_dir(&secret).context("create a folder")?;
    let flag = format!("{}:/shared", shared.display());
    // It counts how often the folder became a link, and says so in the share.
    let script = format!(
        "cd /shared; count=0; while :; do mkdir swap; rmdir swap; ln -s {} swap && count=$((count+1)); rm swap
            ln -s / swap; rm swap; echo $count >raced; done 2>/dev/null",
        secret.display()
    );
    vm.bulkhead(["run", "-d", "--name", "racer", "-v", &flag, "busybox"])
        .args(["sh", "-c", &script])
        .output()?
        .code(0)?;
    let raced = || -> Option<u64> {
        let text = fs::read_to_string(shared.join("raced")).ok()?;
        text.trim().parse().ok()
    };
    let until_raced = |more_than: u64| {
        crate::life::until("another round of the race", || {
            Ok(raced().filter(|count| *count > more_than))
        })
    };
    let mounted = mounts(&vm)?;
    // A mount comes through when there is a folder, or nothing, just then.
    let mut came = 0;
    let mut rounds = until_raced(0)?;
    for round in 0..MOUNTS_MAX {
        if round >= MOUNTS_MIN && came > 0 {
            break;
        }
        for target in ["/shared/swap", "/shared/swap/etc", "/shared/swap/made"] {
            for kind in ["-v", "--tmpfs"] {
                let mount = match kind {
                    "-v" => format!("inner:{target}"),
                    _ => target.to_owned(),
                };
                let script = "echo hostile >/etc/made; echo mounted";
                let out = shell(&vm, &["-v", &flag, kind, &mount], "busybox", script)?;
                ended(&out)?;
                // Without its mount it would not run.
                let is_mounted = out.code == 0 && out.stdout == "mounted\n";
                ensure!(is_mounted || !out.stderr.is_empty(), "{out}");
                came += usize::from(is_mounted);
            }
        }
        rounds = until_raced(rounds)?;
    }
    println!("{came} mounts, {rounds} rounds of the race");
    ensure!(came > 0, "no mount of {MOUNTS_MAX} rounds came through");
    vm.bulkhead(["rm", "-f", "racer"]).output()?.code(0)?;
    assert_eq!(mounts(&vm)?, mounted);
    assert_eq!(fs::read_dir(&secret)?.count(), 0, "a link was followed");
    ensure!(
        !Path::new("/etc/made").exists() && !Path::new("/made").exists(),
        "made on the host"
    );
    Ok(())
}

/// runc ("Leaky Vessels"): a working directory /proc/self/fd/N was one of the host that the runtime
/// had open. Here none of the host's is in the guest, and what the agent has open is closed before.
fn cve_2024_21626_a_descriptor_is_no_working_directory(world: &World) -> Result<()> {
    let vm = world.own()?;
    crate::life::begin(&vm, "fds", &[], "sleep 100000")?;
    for number in 0..=20 {
        let folder = format!("/proc/self/fd/{number}");
        let script = "ls -d ../../../../init ../../../../../stage 2>/dev/null; ls -di ../../../../..; ls -di /";
        let out = vm
            .bulkhead(["exec", "-w", &folder, "fds", "sh", "-c", script])
            .output()?;
        ended(&out)?;
        if out.code == 0 {
            // It is a folder of the container's root.
            let mut lines = out
                .stdout
                .lines()
                .map(|line| line.split_whitespace().next());
            let (top, root) = (lines.next(), lines.next());
            ensure!(top == root && lines.next().is_none(), "{folder}: {out}");
        }
    }
    for folder in ["/proc/self/fd/3", "/proc/1/root", "/proc/1/cwd/../../.."] {
        let out = shell(
            &vm,
            &["-w", folder],
            "busybox",
            "ls /proc/self/fd; ls -d init",
        )?;
        ended(&out)?;
        ensure!(!out.stdout.contains("init"), "{folder}: {out}");
    }
    // The shell's own three, and the one that it lists by.
    let text = shell(&vm, &[], "busybox", "ls /proc/self/fd")?.only_stdout()?;
    assert_eq!(text, "0\n1\n2\n3\n");
    Ok(())
}

/// runc, also CVE-2025-52565 and CVE-2026-41579: /dev, /dev/null or /dev/console of an image was a
/// link by which masks were mounted elsewhere. Here /dev is the guest's, and masks hold.
fn cve_2025_31133_devices_of_an_image_are_not_used(world: &World) -> Result<()> {
    let vm = world.own()?;
    load(&vm, "past:links", json!({}), |layer| {
        layer.directory("dev", root(0o755))?;
        for name in [
            "null", "console", "ptmx", "pts", "shm", "mqueue", "tty", "fd",
        ] {
            layer.symlink(&format!("dev/{name}"), "/etc/target")?;
        }
        layer.file("etc/target", root(0o644), b"as it was\n")
    })?;
    load(&vm, "past:dev", json!({}), |layer| {
        layer.symlink("dev", "/target")?;
        layer.directory("target", root(0o755))?;
        layer.file("target/ptmx", root(0o644), b"as it was\n")
    })?;
    let script = "stat -c %F /dev/null /dev/console; echo x >/dev/null; cat /etc/target; \
        for file in /proc/kcore /proc/keys /proc/timer_list; do \
            [ -e $file ] && [ \"$(head -c 1 $file 2>/dev/null)\" ] && echo open $file; done; \
        (echo b >/proc/sysrq-trigger) 2>/dev/null && echo wrote; true";
    for flags in [&[][..], &["-t"], &["--read-only"]] {
        for image in ["past:links", "past:dev"] {
            let out = shell(&vm, flags, image, script)?;
            ended(&out)?;
            let out = out.code(0)?;
            ensure!(
                !out.stdout.contains("open /") && !out.stdout.contains("wrote"),
                "{out}"
            );
            // The guest's own, and what the image's link names was not written.
            ensure!(out.stdout.contains("character special file"), "{out}");
            let kept = image == "past:dev" || out.stdout.contains("as it was");
            ensure!(kept, "{out}");
        }
    }
    Ok(())
}

/// Linux by way of containers (CVE-2022-0811, -0492, -0185, -0847, CVE-2024-1086): core patterns,
/// release agents, holes of the kernel itself. Here the kernel is the guest's: what a container does
/// to it, with every privilege, is done to its VM.
fn cve_2022_0492_what_runs_in_the_kernel_runs_in_the_guests(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let names = [
        "kernel/core_pattern",
        "kernel/domainname",
        "kernel/randomize_va_space",
        "vm/drop_caches",
        "kernel/sysrq",
    ];
    let ours = || -> Vec<_> {
        let read = |name| fs::read(Path::new("/proc/sys").join(name)).ok();
        names.map(read).into_iter().collect()
    };
    let before = ours();
    let marker = vm.work().join("marker");
    let script = format!(
        "printf '#!/bin/sh\\ntouch {0}; touch /ran\\n' >/evil; chmod 755 /evil
        echo '|/evil' >/proc/sys/kernel/core_pattern; cat /proc/sys/kernel/core_pattern
        echo hostile >/proc/sys/kernel/domainname
        echo 0 >/proc/sys/kernel/randomize_va_space
        ulimit -c unlimited; sh -c 'kill -SEGV $$'
        mkdir -p /tmp/group; mount -t cgroup -o memory none /tmp/group 2>/dev/null && echo version 1
        ls /lib/modules 2>/dev/null; cat /proc/modules 2>/dev/null; true",
        marker.display()
    );
    let out = shell(vm, &["--privileged"], "busybox", &script)?.code(0)?;
    assert_eq!(out.stdout, "|/evil\n", "{out}");
    ensure!(ours() == before, "the host's kernel has other settings");
    ensure!(!marker.exists(), "it ran on the host");
    // The last resort: the whole machine, which a guest's kernel has no such key for.
    let begun = boot_id()?;
    let out = shell(
        vm,
        &["--privileged"],
        "busybox",
        "echo 1 >/proc/sys/kernel/sysrq; echo b >/proc/sysrq-trigger; echo still there",
    )?;
    let out = out.code(0)?;
    assert_eq!(out.stdout, "still there\n", "{out}");
    ensure!(
        out.stderr
            .contains("create /proc/sysrq-trigger: nonexistent"),
        "{out}"
    );
    assert_eq!(boot_id()?, begun);
    Ok(())
}

fn boot_id() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the boot id")?;
    Ok(text.trim().to_owned())
}

/// Docker Desktop's API, and CVE-2020-15257 of containerd: a container reached the socket by which
/// containers are made. Here there is a socket per container, in the host's files, which no guest has;
/// abstract sockets are those of the guest's kernel. (Addresses: `network`.)
fn cve_2025_9074_no_socket_of_the_host_is_reached(world: &World) -> Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let vm = world.busybox()?;
    let address = SocketAddr::from_abstract_name("bulkhead-past")?;
    let listener = UnixListener::bind_addr(&address).context("listen")?;
    ensure!(
        fs::read_to_string("/proc/net/unix")?.contains("@bulkhead-past"),
        "the host has it"
    );
    let script = "find / -xdev -type s; ls /var/run /run 2>/dev/null; grep -c . /proc/net/unix; \
        grep bulkhead /proc/net/unix; env | grep -i sock; true";
    for flags in [&[][..], &["--privileged"]] {
        let text = shell(vm, flags, "busybox", script)?.only_stdout()?;
        // The heading of an empty list.
        assert_eq!(text, "1\n", "{flags:?}");
    }
    drop(listener);
    Ok(())
}

/// containerd, also CVE-2026-53489 and Kata's GHSA-rr59-xxvx-96qr: labels or annotations of an image
/// became options of a logger, a path, arguments of a daemon. Here they are shown by `inspect`, and
/// nothing reads them.
fn cve_2026_53488_an_images_labels_decide_nothing(world: &World) -> Result<()> {
    let vm = world.own()?;
    let marker = vm.work().join("marker");
    let logger = vm.work().join("logger");
    fs::write(&logger, format!("#!/bin/sh\ntouch {}\n", marker.display()))?;
    harness::Invocation::new("/bin/chmod")
        .args(["755", &logger.to_string_lossy()])
        .output()?
        .code(0)?;
    let uri = format!("binary://{}?touch", logger.display());
    let escape = "\u{1b}[2Jhostile";
    let config = json!({
        "Cmd": ["sleep", "100000"],
        "Env": ["LD_PRELOAD=/evil.so", "BULKHEAD_ROOT=/hostile", "BULKHEAD_GUEST=/hostile", "DOCKER_HOST=unix:///hostile"],
        "Labels": {
            "containerd.io/restart.loguri": uri,
            "containerd.io/restart.logpath": marker.display().to_string(),
            "containerd.io/restart.status": "running",
            "io.katacontainers.config.hypervisor.virtio_fs_extra_args": "[\"-o\",\"source=/\"]",
            "io.katacontainers.config.hypervisor.path": logger.display().to_string(),
            "io.podman.annotations.privileged": "TRUE",
            "cdi.k8s.io/vendor": "vendor.com/device=all",
            "org.opencontainers.image.title": escape,
            "maker": escape,
        },
        "StopSignal": "SIGKILL",
    });
    load(&vm, "past:labels", config, |_| Ok(()))?;
    vm.bulkhead(["run", "-d", "--name", "labels", "past:labels"])
        .output()?
        .code(0)?;
    for process in vm.processes()? {
        let folder = PathBuf::from(format!("/proc/{}", process.id));
        for name in ["cmdline", "environ"] {
            let text = fs::read(folder.join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            ensure!(
                !text.contains("hostile") && !text.contains("loguri") && !text.contains("evil.so"),
                "{process:?}: {text}"
            );
        }
    }
    let format = "{{.HostConfig.LogConfig.Type}} {{.HostConfig.Privileged}} {{.HostConfig.RestartPolicy.Name}}";
    let text = vm
        .bulkhead(["inspect", "-f", format, "labels"])
        .output()?
        .only_stdout()?;
    assert_eq!(text, "json-file false no\n");
    // At a terminal, what they say moves no cursor.
    for words in [
        &["ps", "--format", "{{.Labels}}"][..],
        &["ps", "--no-trunc"],
        &["inspect", "labels"],
    ] {
        let (code, text) = vm.terminal(words)?.wait()?;
        ensure!(code == 0, "{words:?}: {text}");
        ensure!(!text.contains('\u{1b}'), "{words:?}: {text:?}");
    }
    vm.bulkhead(["rm", "-f", "labels"]).output()?.code(0)?;
    ensure!(!marker.exists(), "a label was obeyed");
    Ok(())
}

/// containerd: VOLUME with `..` in an image copied files of the host into the volume. Here the guest
/// copies, out of the image, into a volume that is empty.
fn cve_2022_23648_an_images_volumes_are_its_own(world: &World) -> Result<()> {
    let vm = world.own()?;
    let secret = vm.work().join("secret");
    fs::create_dir(&secret).context("create a folder")?;
    fs::write(secret.join("file"), "the host's").context("write a file")?;
    let up = format!("/../../../../../../..{}", secret.display());
    let relative = up.trim_start_matches('/').to_owned();
    let mut ran = 0;
    for (number, volume) in [
        up.as_str(),
        &relative,
        "/link",
        "/link/sub",
        "/proc/1/root",
        "/",
        ".",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("past:volume{number}");
        let config = json!({"Volumes": {volume: {}}, "Cmd": ["sh"]});
        load(&vm, &name, config, |layer| {
            layer.symlink("link", &secret.to_string_lossy())
        })?;
        let script = format!(
            "echo ran; cat {}/file /link/file 2>/dev/null; true",
            secret.display()
        );
        // Not of --rm, so that its volumes are there to be looked at.
        let words = ["run", "--name", "past", &name, "sh", "-c", &script];
        let out = vm.bulkhead(words).output()?;
        ended(&out)?;
        ensure!(!out.stdout.contains("the host's"), "{volume}: {out}");
        // One that is refused is told.
        ensure!(out.code == 0 || !out.stderr.is_empty(), "{volume}: {out}");
        ran += usize::from(out.code == 0 && out.stdout.starts_with("ran\n"));
        let found = vm.shell(&format!("grep -rl \"the host's\" {}", vm.root().display()));
        assert_eq!(found.output()?.stdout, "", "{volume}");
        vm.bulkhead(["rm", "-f", "-v", "past"]).output()?;
        vm.bulkhead(["rmi", "-f", &name]).output()?;
    }
    ensure!(ran > 0, "no container with such a volume ran");
    assert_eq!(fs::read_dir(&secret)?.count(), 1);
    Ok(())
}

/// Rounds of copies that race with a link, and how many there may be until one comes through.
const COPIES_MIN: usize = 4;
const COPIES_MAX: usize = 40;

/// Docker, also CVE-2026-41568, CVE-2026-42306, moby#52948 and podman's CVE-2019-18466: a path of
/// `cp` was looked up on the host while the container swapped a part of it for a link. Here the guest
/// looks it up, beneath the container's root, and what comes out stays beneath the folder named.
fn cve_2018_15664_a_copy_races_with_a_link(world: &World) -> Result<()> {
    let vm = world.own()?;
    let secret = vm.work().join("secret");
    fs::create_dir(&secret).context("create a folder")?;
    fs::write(secret.join("file"), "the host's").context("write a file")?;
    let script = format!(
        "mkdir /real; echo \"the guest's\" >/real/file; ln -s {0} /glob-link; ln -s / /glob-root
        while :; do ln -sfn {0} /swap; ln -sfn /real /swap; ln -sfn / /swap; done",
        secret.display()
    );
    crate::life::begin(&vm, "racer", &[], &script)?;
    fs::write(vm.work().join("in"), "from outside").context("write a file")?;
    // A copy comes through when the link leads to the container's file just then.
    let mut came = 0;
    for round in 0..COPIES_MAX {
        if round >= COPIES_MIN && came > 0 {
            break;
        }
        let to = vm.work().join(format!("out{round}"));
        fs::create_dir(&to).context("create a folder")?;
        let to_text = to.to_string_lossy().into_owned();
        for source in [
            "racer:/swap/file",
            "racer:/swap/../swap/file",
            "racer:/glob-*",
        ] {
            ended(&vm.bulkhead(["cp", "-L", source, &to_text]).output()?)?;
        }
        ended(&vm.bulkhead(["cp", "in", "racer:/swap/file"]).output()?)?;
        ended(&vm.bulkhead(["cp", "in", "racer:/swap/"]).output()?)?;
        match fs::read_to_string(to.join("file")) {
            Ok(copied) => {
                ensure!(!copied.contains("the host's"), "{copied}");
                came += 1;
            }
            Err(error) => ensure!(error.kind() == ErrorKind::NotFound, "{error}"),
        }
    }
    ensure!(came > 0, "no copy of {COPIES_MAX} came through");
    vm.bulkhead(["rm", "-f", "racer"]).output()?.code(0)?;
    assert_eq!(fs::read_to_string(secret.join("file"))?, "the host's");
    assert_eq!(fs::read_dir(&secret)?.count(), 1, "something came in");
    Ok(())
}

/// Docker, also CVE-2019-14271: `cp` ran a decompressor, or loaded a library, of the container's files
/// on the host. Here the host runs nothing for a copy, and the guest's agent unpacks by itself.
fn cve_2026_41567_a_copy_runs_no_program_of_the_image(world: &World) -> Result<()> {
    let vm = world.own()?;
    let marker = vm.work().join("marker");
    let evil = format!(
        "#!/bin/sh\necho ran >>{}\necho ran >>/ran\n",
        marker.display()
    );
    load(
        &vm,
        "past:programs",
        json!({"Cmd": ["sleep", "100000"]}),
        |layer| {
            for name in [
                "xz",
                "unxz",
                "gzip",
                "unpigz",
                "zstd",
                "bzip2",
                "tar",
                "docker-untar",
            ] {
                layer.file(&format!("bin/{name}"), root(0o755), evil.as_bytes())?;
            }
            layer.directory("lib", root(0o755))?;
            for name in ["libnss_files.so.2", "libc.so.6", "libnss_compat.so.2"] {
                layer.file(&format!("lib/{name}"), root(0o755), b"\x7fELF hostile")?;
            }
            layer.file("etc/ld.so.preload", root(0o644), b"/lib/libc.so.6\n")?;
            layer.file("etc/nsswitch.conf", root(0o644), b"passwd: files compat\n")
        },
    )?;
    vm.bulkhead(["run", "-d", "--name", "programs", "past:programs"])
        .output()?
        .code(0)?;
    // Archives of each kind, by their beginnings; none is what it says.
    for (name, bytes) in [
        ("a.xz", &b"\xfd7zXZ\0\0\x04"[..]),
        ("a.gz", b"\x1f\x8b\x08\0"),
        ("a.zst", b"\x28\xb5\x2f\xfd"),
        ("a.bz2", b"BZh91AY"),
    ] {
        fs::write(vm.work().join(name), bytes).context("write a file")?;
        vm.bulkhead(["cp", name, "programs:/tmp/"])
            .output()?
            .code(0)?;
        let back = vm.work().join("back");
        let back = back.to_string_lossy();
        vm.bulkhead(["cp", &format!("programs:/tmp/{name}"), &back])
            .output()?
            .code(0)?;
        assert_eq!(fs::read(&*back)?, bytes, "{name}");
        let piped = vm
            .shell(&format!("bulkhead cp - programs:/tmp <{name}"))
            .output()?;
        ended(&piped)?;
    }
    let ran = vm
        .bulkhead(["exec", "programs", "sh", "-c", "[ -e /ran ] || echo none"])
        .output()?
        .only_stdout()?;
    assert_eq!(ran, "none\n", "the guest ran one");
    ensure!(!marker.exists(), "the host ran one");
    vm.bulkhead(["rm", "-f", "programs"]).output()?.code(0)?;
    Ok(())
}

/// containers/storage: /etc/passwd of an image was a link that the host followed. Here users are
/// looked up in the guest, and what is no file there is told.
fn cve_2024_9676_users_are_looked_up_in_the_guest(world: &World) -> Result<()> {
    let vm = world.own()?;
    let secret = vm.work().join("passwd");
    fs::write(&secret, "app:x:4711:4711::/:/bin/sh\n").context("write a file")?;
    for (number, target) in [
        secret.to_string_lossy().into_owned(),
        "/proc/kcore".to_owned(),
        "/dev/zero".to_owned(),
        "passwd".to_owned(),
        "/proc/self/fd/0".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let name = format!("past:passwd{number}");
        load(&vm, &name, json!({"User": "app"}), |layer| {
            layer.symlink("etc/passwd", target)?;
            layer.symlink("etc/group", target)
        })?;
        let out = shell(&vm, &[], &name, "id -u")?;
        out.refusal("app")?;
    }
    Ok(())
}

/// containers/image: what came as a digest became a path. Here a digest is 64 digits of sha256.
fn cve_2024_3727_a_digest_is_no_path(world: &World) -> Result<()> {
    let vm = world.own()?;
    let zeros = "0".repeat(64);
    for digest in [
        "sha256:../../../etc/passwd".to_owned(),
        "sha256:..".to_owned(),
        format!("sha256:{}", "../".repeat(21) + "x"),
        format!("sha256:{}", "A".repeat(64)),
        format!("sha1:{}", "0".repeat(40)),
        format!("../sha256:{zeros}"),
        format!("sha256:{zeros}\n"),
    ] {
        let name = format!("127.0.0.1:1/busybox@{digest}");
        for (words, why) in [
            (["run", &name], "invalid reference format"),
            (["pull", &name], "invalid reference format"),
            (["rmi", &digest], "No such image"),
        ] {
            let out = vm.bulkhead(words).output()?;
            ensure!(out.code != 0 && out.stderr.contains(why), "{out}");
        }
    }
    assert_eq!(
        vm.run(["busybox", "echo", "alive"])?.only_stdout()?,
        "alive\n"
    );
    Ok(())
}

/// Kata, also CVE-2020-2025, CVE-2020-2026 and CVE-2026-24834: a container made a node of the guest's
/// root device and changed the agent there, for all that used the same image. Here nodes give no
/// access, layers are read-only for the VM itself, and the agent lies in the VM's own memory.
fn cve_2020_2023_the_guests_disks_are_out_of_reach(world: &World) -> Result<()> {
    let vm = world.own()?;
    let layers = || -> Result<String> {
        let sums = format!(
            "find {} -type f -name '*layer*' -o -path '*layers*' -type f | sort | xargs sha256sum",
            vm.root().display()
        );
        vm.shell(&sums).output()?.code(0).map(|out| out.stdout)
    };
    let before = layers()?;
    ensure!(!before.is_empty(), "no layer is found");
    let script =
        "for minor in 0 16 32; do mknod /disk$minor b 254 $minor; mknod /disc$minor b 253 $minor
        for node in /disk$minor /disc$minor; do
            head -c 16 $node >/dev/null 2>&1 && echo read $node
            (echo hostile >$node) 2>/dev/null && echo wrote $node
        done; done
        for node in 'mem c 1 1' 'kmsg c 1 11' 'hvc0 c 229 0' 'port c 1 4'; do mknod /$node
            head -c 16 /${node%% *} >/dev/null 2>&1 && echo read $node; done; echo tried";
    let text = shell(&vm, &[], "busybox", script)?.stdout;
    assert_eq!(text, "tried\n");
    // With every privilege there are the devices, and the host refuses to write the layers.
    let script = "for disk in /dev/vd?; do
            before=$(head -c 65536 $disk | md5sum); ro=$(cat /sys/block/${disk#/dev/}/ro)
            [ $ro = 1 ] || continue
            blockdev --setrw $disk 2>/dev/null
            dd if=/dev/urandom of=$disk bs=4096 count=16 conv=fsync,notrunc 2>/dev/null && echo wrote $disk
            echo 3 >/proc/sys/vm/drop_caches
            [ \"$before\" = \"$(head -c 65536 $disk | md5sum)\" ] && echo same
        done";
    let text = shell(&vm, &["--privileged"], "busybox", script)?
        .code(0)?
        .stdout;
    assert_eq!(text, "same\n");
    assert_eq!(layers()?, before);
    assert_eq!(
        vm.run(["busybox", "echo", "alive"])?.only_stdout()?,
        "alive\n"
    );
    Ok(())
}

/// crun with krun: `exec` ran on the host's kernel. Here a process beside the container's is in its
/// VM, or nowhere.
fn podman_16843_another_process_is_in_the_vm(world: &World) -> Result<()> {
    let vm = world.own()?;
    crate::life::begin(&vm, "vm", &[], "sleep 100000")?;
    let exec = |flags: &[&str]| -> Result<String> {
        vm.bulkhead(["exec"])
            .args(flags)
            .args(["vm", "cat", "/proc/sys/kernel/random/boot_id"])
            .output()?
            .only_stdout()
    };
    let first = exec(&[])?;
    ensure!(
        !first.trim().is_empty() && first.trim() != boot_id()?,
        "{first}"
    );
    for flags in [&["--privileged"][..], &["-u", "1000"], &["-w", "/tmp"]] {
        assert_eq!(exec(flags)?, first, "{flags:?}");
    }
    vm.bulkhead(["rm", "-f", "vm"]).output()?.code(0)?;
    Ok(())
}

/// KVM, also CVE-2021-3656 and others of nested virtualization. Here guests have no virtualization,
/// so that what KVM does for it is not reached.
fn cve_2021_29657_there_is_no_nested_virtualization(world: &World) -> Result<()> {
    let script = "grep -cwE 'vmx|svm' /proc/cpuinfo; ls /dev/kvm 2>/dev/null; true";
    let text = shell(world.busybox()?, &["--privileged"], "busybox", script)?.only_stdout()?;
    assert_eq!(text, "0\n");
    Ok(())
}
