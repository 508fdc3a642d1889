//! Looking into containers, running and stopped: `cp`, `export`, `diff`, `commit`, `top`, `stats`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use anyhow::{Context, Result, bail, ensure};
use harness::{Invocation, Sandbox, web};

use crate::world::World;

crate::tests![
    an_export_is_the_image_and_what_was_changed,
    copies_out_of_a_stopped_container,
    copies_into_a_stopped_container,
    copies_of_a_running_container,
    what_copies_refuse,
    archives_on_standard_streams,
    compressed_archives_are_decompressed_in_a_vm,
    a_copy_is_held_up_by_no_hostile_container,
    volumes_of_a_read_only_container_take_files,
    changes_are_dockers,
    a_commit_is_an_image,
    a_commit_of_a_running_container,
    processes_and_usage,
];

/// Runs a script in a container that is kept.
fn stopped(vm: &Sandbox, name: &str, script: &str) -> Result<()> {
    vm.bulkhead(["run", "--name", name, "busybox", "sh", "-c", script])
        .output()?
        .code(0)?;
    Ok(())
}

/// Starts a container that runs until it is removed.
fn running(vm: &Sandbox, name: &str, script: &str) -> Result<()> {
    let script = format!("{script}; touch /ready; while :; do sleep 1; done");
    vm.bulkhead(["run", "-d", "--name", name, "busybox", "sh", "-c", &script])
        .output()?
        .code(0)?;
    let wait = "until test -e /ready; do sleep 0.1; done";
    vm.bulkhead(["exec", name, "sh", "-c", wait])
        .output()?
        .code(0)?;
    Ok(())
}

/// What `cp` says to a script.
fn cp(vm: &Sandbox, words: &[&str]) -> Result<String> {
    let out = vm.bulkhead(["cp"]).args(words).output()?.code(0)?;
    ensure!(out.stdout.is_empty(), "{out}");
    Ok(out.stderr)
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

fn an_export_is_the_image_and_what_was_changed(world: &World) -> Result<()> {
    let vm = world.own()?;
    stopped(
        &vm,
        "cc",
        "mkdir -p /new/sub; echo text >/new/f; ln /new/f /new/hard; ln -s f /new/link; \
         chown 7:8 /new/sub; chmod 2711 /new/sub; rm /bin/vi; mkfifo /new/fifo",
    )?;
    vm.bulkhead(["export", "-o", "cc.tar", "cc"])
        .output()?
        .only_stdout()?;
    let tar = |words: &[&str]| -> Result<String> {
        let list = Invocation::new("/bin/tar").current_dir(vm.work());
        list.args(words).output()?.only_stdout()
    };
    let archived = tar(&["-tf", "cc.tar"])?;
    let archived: BTreeSet<String> = lines(&archived)
        .into_iter()
        .map(|line| format!("/{}", line.trim_end_matches('/')))
        .collect();
    // The same as a process finds, but for what is mounted.
    let script = "find / -xdev | grep -v '^/$'";
    let find = vm.run(["busybox", "sh", "-c", script])?.only_stdout()?;
    let mut found: BTreeSet<String> = lines(&find).into_iter().map(str::to_owned).collect();
    found.remove("/bin/vi");
    for name in ["", "/f", "/hard", "/link", "/sub", "/fifo"] {
        found.insert(format!("/new{name}"));
    }
    assert_eq!(archived, found);
    let list = tar(&["--numeric-owner", "-tvf", "cc.tar", "new"])?;
    let kinds: Vec<String> = list
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (head, tail) = (words.get(..2).unwrap_or_default(), words.get(5..));
            [head, tail.unwrap_or_default()].concat().join(" ")
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "drwxr-xr-x 0/0 new/",
            "-rw-r--r-- 0/0 new/f",
            "prw-r--r-- 0/0 new/fifo",
            "hrw-r--r-- 0/0 new/hard link to new/f",
            "lrwxrwxrwx 0/0 new/link -> f",
            "drwx--s--x 7/8 new/sub/",
        ]
    );
    // The container is as it was, and goes on.
    assert_eq!(
        vm.bulkhead(["diff", "cc"]).output()?.only_stdout()?,
        "C /bin\nD /bin/vi\nA /new\nA /new/f\nA /new/fifo\nA /new/hard\nA /new/link\nA /new/sub\n"
    );
    vm.bulkhead(["start", "-a", "cc"]).output()?;
    let piped = vm.shell("bulkhead export cc | tar -tf - new/f").output()?;
    assert_eq!(piped.only_stdout()?, "new/f\n");
    let missing = vm.bulkhead(["export", "nosuch"]).output()?.code(1)?;
    assert!(
        missing.stderr.contains("No such container: nosuch"),
        "{missing}"
    );
    Ok(())
}

fn copies_out_of_a_stopped_container(world: &World) -> Result<()> {
    let vm = world.own()?;
    let long = "n".repeat(200);
    stopped(
        &vm,
        "cc",
        &format!(
            "mkdir -p /d/sub; seq 1 200000 >/d/large; touch /d/{long}; echo x >/d/sub/f; \
             ln -s large /d/link; ln -s /d /abs; chown 5:6 /d/sub/f; chmod 4750 /d/sub/f; \
             md5sum </d/large"
        ),
    )?;
    let work = vm.work();
    // What it did is told at a terminal alone.
    assert_eq!(cp(&vm, &["cc:/d", "out"])?, "");
    let terminal = vm.terminal(["cp", "cc:/d", "told"])?;
    let (code, said) = terminal.wait()?;
    let target = work.join("told").display().to_string();
    assert!(
        code == 0
            && said.starts_with("Successfully copied 1.")
            && said.ends_with(&format!("MB to {target}\r\n")),
        "{code} {said:?}"
    );
    let large = fs::read_to_string(work.join("out/large"))?;
    assert!(
        large
            .lines()
            .map(str::to_owned)
            .eq((1..=200_000).map(|n: u32| n.to_string()))
    );
    assert_eq!(fs::metadata(work.join("out").join(&long))?.len(), 0);
    assert_eq!(
        fs::read_link(work.join("out/link"))?.to_str(),
        Some("large")
    );
    let file = fs::metadata(work.join("out/sub/f"))?;
    // Of the user who copies, without the right to become anybody.
    assert_eq!(
        (file.mode() & 0o7777, file.uid(), file.gid()),
        (0o750, 0, 0)
    );
    // Into a folder that is there, under its own name; its content alone with a dot.
    cp(&vm, &["-q", "cc:/d/sub", "out"])?;
    fs::create_dir(work.join("content"))?;
    cp(&vm, &["-q", "cc:/d/.", "content"])?;
    assert!(work.join("content/sub/f").exists() && !work.join("content/d").exists());
    // Root may keep owners.
    assert_eq!(cp(&vm, &["-aq", "cc:/d/sub/f", "kept"])?, "");
    let kept = fs::metadata(work.join("kept"))?;
    assert_eq!(
        (kept.mode() & 0o7777, kept.uid(), kept.gid()),
        (0o4750, 5, 6)
    );
    // A link as a link, or what it leads to.
    cp(&vm, &["cc:/d/link", "as-link"])?;
    assert!(fs::symlink_metadata(work.join("as-link"))?.is_symlink());
    cp(&vm, &["-L", "cc:/abs/link", "followed"])?;
    assert_eq!(fs::read_to_string(work.join("followed"))?, large);
    cp(&vm, &["-L", "cc:/abs", "folder"])?;
    assert!(work.join("folder/sub/f").exists());
    Ok(())
}

fn copies_into_a_stopped_container(world: &World) -> Result<()> {
    let vm = world.own()?;
    stopped(
        &vm,
        "cc",
        "mkdir /there; ln -s there /to-there; echo old >/file",
    )?;
    let work = vm.work();
    fs::create_dir_all(work.join("src/sub"))?;
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(work.join("src/binary"), &bytes)?;
    fs::write(work.join("src/sub").join("n".repeat(200)), "long")?;
    symlink("binary", work.join("src/link"))?;
    fs::set_permissions(work.join("src/sub"), fs::Permissions::from_mode(0o2755))?;
    std::os::unix::fs::chown(work.join("src/binary"), Some(1234), Some(5678))?;
    for (source, target) in [
        ("src", "cc:/there"),
        ("src/.", "cc:/content"),
        ("src", "cc:/to-there/renamed"),
        ("src/binary", "cc:/file"),
        ("src/binary", "cc:/there/"),
        ("-L", "cc:/through"),
    ] {
        let words: &[&str] = match source {
            "-L" => &["-L", "src/link", target],
            source => &[source, target],
        };
        cp(&vm, words)?;
    }
    cp(&vm, &["cc:/there/src/binary", "back"])?;
    assert_eq!(fs::read(work.join("back"))?, bytes);
    vm.bulkhead(["commit", "cc", "copied"]).output()?.code(0)?;
    let script = "cd /; stat -c '%n %F %a %u:%g' file content/binary there/src/link \
                  there/renamed/sub there/binary through; ls there/src/sub content/sub";
    let seen = vm.run(["copied", "sh", "-c", script])?.only_stdout()?;
    let long = "n".repeat(200);
    assert_eq!(
        seen,
        format!(
            "file regular file 644 1234:5678\n\
             content/binary regular file 644 1234:5678\n\
             there/src/link symbolic link 777 0:0\n\
             there/renamed/sub directory 2755 0:0\n\
             there/binary regular file 644 1234:5678\n\
             through regular file 644 1234:5678\n\
             content/sub:\n{long}\n\nthere/src/sub:\n{long}\n"
        )
    );
    Ok(())
}

fn copies_of_a_running_container(world: &World) -> Result<()> {
    let vm = world.own()?;
    running(&vm, "cc", "mkdir /d; echo out >/d/f")?;
    fs::write(vm.work().join("in"), "in\n")?;
    cp(&vm, &["in", "cc:/d/in"])?;
    cp(&vm, &["cc:/d", "out"])?;
    assert_eq!(fs::read_to_string(vm.work().join("out/f"))?, "out\n");
    assert_eq!(fs::read_to_string(vm.work().join("out/in"))?, "in\n");
    let seen = vm.bulkhead(["exec", "cc", "cat", "/d/in"]).output()?;
    assert_eq!(seen.only_stdout()?, "in\n");
    // What belongs to the kernel is not archived with what is around it.
    let script = "bulkhead cp cc:/ - | tar -tf - | grep -cE '^(proc|sys|dev)/.'";
    let count = vm.shell(script).output()?;
    assert_eq!(count.stdout, "0\n", "{count}");
    vm.bulkhead(["pause", "cc"]).output()?.code(0)?;
    cp(&vm, &["cc:/d/f", "paused"])?;
    vm.bulkhead(["unpause", "cc"]).output()?.code(0)?;
    vm.bulkhead(["rm", "-f", "cc"]).output()?.code(0)?;
    Ok(())
}

fn what_copies_refuse(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.bulkhead(["run", "--name", "ro", "--read-only", "busybox", "true"])
        .output()?
        .code(0)?;
    stopped(&vm, "cc", "mkdir -p /d/x; echo x >/f")?;
    fs::write(vm.work().join("file"), "x")?;
    fs::create_dir_all(vm.work().join("dir/f"))?;
    for (source, target, sentence) in [
        (
            "cc:/f",
            "cc:/g",
            "copying between containers is not supported",
        ),
        ("file", "dir", "must specify at least one container source"),
        ("cc:", "x", "source can not be empty"),
        ("file", "cc:", "destination can not be empty"),
        ("nosuch", "cc:/", "no such file or directory"),
        ("file", "nosuch:/", "No such container: nosuch"),
        ("file", "ro:/", "container rootfs is marked read-only"),
        ("file", "cc:/new/", "no such directory"),
        (
            "file",
            "cc:/no/such",
            "Could not find the file /no in container cc",
        ),
        ("dir", "cc:/f", "cannot copy directory"),
        (
            "dir/.",
            "cc:/",
            "cannot overwrite non-directory \"/f\" with directory",
        ),
        (
            "cc:/none",
            "x",
            "Could not find the file /none in container cc",
        ),
        ("cc:/f", "no/such", "does not exist"),
        ("cc:/f", "new/", "no such directory"),
        ("cc:/d", "file", "cannot copy directory"),
        ("cc:/f", "dir", "cannot overwrite directory"),
        ("-", "cc:/f", "must be a directory"),
    ] {
        let out = vm.bulkhead(["cp", source, target]).output()?.code(1)?;
        assert!(out.stderr.contains(sentence), "{source} {target}: {out}");
        assert!(out.stderr.starts_with("bulkhead: "), "{out}");
    }
    assert_eq!(fs::read(vm.work().join("file"))?, b"x");
    Ok(())
}

fn archives_on_standard_streams(world: &World) -> Result<()> {
    let vm = world.own()?;
    stopped(
        &vm,
        "cc",
        "echo someone:x:1500:1500::/:/bin/sh >>/etc/passwd; mkdir -p /d /home/someone; echo x >/d/f",
    )?;
    let list = vm.shell("bulkhead cp cc:/d - | tar -tf -").output()?;
    assert_eq!(list.only_stdout()?, "d/\nd/f\n");
    let script = "mkdir t; echo y >t/y; tar -C t --owner=7 --group=8 -cf - . | bulkhead cp -q - cc:/d; \
                  bulkhead cp cc:/d - | tar --numeric-owner -tvf - d/y";
    let list = vm.shell(script).output()?.only_stdout()?;
    assert!(list.starts_with("-rw-r--r-- 7/8 "), "{list}");
    for (flag, name) in [("-z", "gz"), ("-j", "bz2"), ("-J", "xz"), ("--zstd", "zst")] {
        let script = format!(
            "mkdir {name}; echo {name} >{name}/z; tar -C {name} {flag} -cf - . | bulkhead cp -q - cc:/d; \
             bulkhead cp cc:/d/z - | tar -xOf -"
        );
        let list = vm.shell(&script).output()?.only_stdout()?;
        assert_eq!(list, format!("{name}\n"));
    }
    let script =
        "head -c 5000 /dev/urandom >t/z; tar -C t -zcf - . | head -c 3000 | bulkhead cp - cc:/d";
    let cut = vm.shell(script).output()?.code(1)?;
    assert!(cut.stderr.contains("incomplete deflate stream"), "{cut}");
    let script = "head -c 5000 /dev/zero | tr '\\0' x | bulkhead cp - cc:/d";
    let junk = vm.shell(script).output()?.code(1)?;
    assert!(junk.stderr.contains("checksum"), "{junk}");
    // With -a the files are those of the container's user.
    vm.bulkhead(["commit", "-c", "USER someone", "cc", "users"])
        .output()?
        .code(0)?;
    vm.bulkhead(["run", "--name", "uu", "users", "true"])
        .output()?
        .code(0)?;
    fs::write(vm.work().join("mine"), "x")?;
    cp(&vm, &["-a", "mine", "uu:/home/someone"])?;
    let list = vm
        .shell("bulkhead cp uu:/home/someone/mine - | tar --numeric-owner -tvf -")
        .output()?
        .only_stdout()?;
    assert!(list.contains(" 1500/1500 "), "{list}");
    Ok(())
}

fn compressed_archives_are_decompressed_in_a_vm(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.bulkhead(["save", "-o", "saved.tar", "busybox"])
        .output()?
        .code(0)?;
    let script = "mkdir t; echo x >t/f; echo 'FROM scratch' >t/Dockerfile; echo 'COPY f /' >>t/Dockerfile; \
                  tar -C t -cf files.tar .; gzip -k files.tar saved.tar; bzip2 -k files.tar; xz -k files.tar; \
                  zstd -q files.tar; cat files.tar.gz >twice; head -c 100 files.tar.gz >cut; \
                  gzip <files.tar.gz >nested; printf '\\037\\213\\010 and what is no gzip' >junk";
    vm.shell(script).output()?.code(0)?;
    let before = vm.snapshot()?;
    let loaded = vm.bulkhead(["load", "-i", "saved.tar.gz"]).output()?;
    assert_eq!(loaded.only_stdout()?, "Loaded image: busybox:latest\n");
    let loaded = vm.shell("bulkhead load <saved.tar.gz").output()?;
    assert_eq!(loaded.only_stdout()?, "Loaded image: busybox:latest\n");
    before.no_leftovers(&vm)?;
    // The layer is the tar as it was, however it came.
    let mut ids = BTreeSet::new();
    for end in ["", ".gz", ".bz2", ".xz", ".zst"] {
        let name = format!("files{end}");
        let import = ["import", &format!("files.tar{end}"), &name];
        vm.bulkhead(import).output()?.code(0)?;
        let words = ["inspect", "-f", "{{.RootFS.Layers}}", &name];
        ids.insert(vm.bulkhead(words).output()?.only_stdout()?);
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    let port = web::serve(vm.work())?;
    let address = format!("http://127.0.0.1:{port}/files.tar.gz");
    vm.bulkhead(["import", &address, "fetched"])
        .output()?
        .code(0)?;
    let words = ["inspect", "-f", "{{.RootFS.Layers}}", "fetched"];
    ids.insert(vm.bulkhead(words).output()?.only_stdout()?);
    assert_eq!(ids.len(), 1, "{ids:?}");
    vm.shell("bulkhead build -q -t built - <files.tar.gz")
        .output()?
        .code(0)?;
    let words = ["history", "--format", "{{.CreatedBy}}", "built"];
    let history = vm.bulkhead(words).output()?.only_stdout()?;
    assert!(history.contains("COPY file:"), "{history}");
    let made = vm.snapshot()?;
    for (words, text) in [
        ("import cut", "the archive is truncated"),
        ("import - <junk", "the archive is corrupt: "),
        ("import nested", "the archive is compressed with gzip"),
        ("load -i cut", "the archive is truncated"),
        ("load -i nested", "the archive is compressed with gzip"),
        ("load -i files.tar.gz", "so it is no image"),
        ("build - <cut", "the archive is truncated"),
    ] {
        let out = vm.shell(&format!("bulkhead {words}")).output()?.code(1)?;
        assert!(out.stderr.contains(text), "{words}: {out}");
        made.no_leftovers(&vm)?;
    }
    Ok(())
}

fn a_copy_is_held_up_by_no_hostile_container(world: &World) -> Result<()> {
    let vm = world.own()?;
    // What is copied lands in a folder that is a link to elsewhere every other moment.
    let script = "mkdir -p /a/b; (until test -e /stop; do \
        mv /a/b /a/c; ln -s /proc/1/cwd/../../.. /a/b; usleep 5000; rm /a/b; mv /a/c /a/b; \
        ln -s /proc/self/root /d; rm /d; mkfifo /d; usleep 5000; rm /d; done; touch /stopped) 2>/dev/null &";
    running(&vm, "cc", &format!("{script} true"))?;
    fs::create_dir_all(vm.work().join("src/b"))?;
    for number in 0..50 {
        fs::write(vm.work().join(format!("src/b/f{number}")), "x")?;
    }
    for number in 0..2 {
        let target = format!("out{number}");
        for words in [["src/.", "cc:/a"], ["cc:/a", &target], ["cc:/d", &target]] {
            let copied = vm.bulkhead(["cp"]).args(words).output()?;
            // Well, or not and in one sentence.
            match copied.code {
                0 => ensure!(copied.stderr.is_empty(), "{copied}"),
                1 => ensure!(
                    copied.stderr.starts_with("bulkhead: ") && copied.stderr.lines().count() == 1,
                    "{copied}"
                ),
                _ => bail!("{copied}"),
            }
        }
    }
    // The agent is well, and whatever leads up leads to the container's root: there is no file of
    // the agent's. What only the kernel can follow leads nowhere.
    let links = "touch /stop; until test -e /stopped; do sleep 0.1; done; mkdir /still; \
                 ln -s ../../../.. /up; ln -s /proc/1/cwd/../../.. /cwd; ln -s /proc/self/root /own; \
                 mkfifo /fifo; ls -A / | sort";
    let root = vm
        .bulkhead(["exec", "cc", "sh", "-c", links])
        .output()?
        .only_stdout()?;
    cp(&vm, &["src/.", "cc:/up/still"])?;
    let copied = vm.bulkhead(["exec", "cc", "ls", "/still/b"]).output()?;
    assert_eq!(copied.only_stdout()?.lines().count(), 50);
    cp(&vm, &["cc:/fifo", "fifo"])?;
    let list = "bulkhead cp -L cc:/up - | tar -tf - | cut -d/ -f2 | grep . | LC_ALL=C sort -u";
    assert_eq!(vm.shell(list).output()?.only_stdout()?, root);
    let many = "too many levels of symbolic links";
    for (words, told) in [
        (&["src/.", "cc:/cwd/still"][..], many),
        (&["-L", "cc:/cwd", "out"], many),
        // The process that copies has no number in the container.
        (&["-L", "cc:/own", "out"], "Could not find the file /own"),
    ] {
        let refused = vm.bulkhead(["cp"]).args(words).output()?.code(1)?;
        assert!(refused.stderr.contains(told), "{refused}");
    }
    vm.bulkhead(["export", "-o", "all.tar", "cc"])
        .output()?
        .code(0)?;
    assert!(fs::metadata(vm.work().join("all.tar"))?.len() > 1_000_000);
    vm.bulkhead(["rm", "-f", "cc"]).output()?.code(0)?;
    Ok(())
}

fn volumes_of_a_read_only_container_take_files(world: &World) -> Result<()> {
    let vm = world.own()?;
    let flags = ["run", "-d", "--read-only", "--name", "ro"];
    let volumes = ["-v", "data:/data", "-v", "data:/kept:ro"];
    let script = "ln -s / /data/out; sleep 1000";
    vm.bulkhead(flags)
        .args(volumes)
        .args(["busybox", "sh", "-c", script])
        .output()?
        .code(0)?;
    fs::write(vm.work().join("some"), "some").context("write a file")?;
    cp(&vm, &["some", "ro:/data/"])?;
    let read = vm.bulkhead(["exec", "ro", "cat", "/data/some"]).output()?;
    assert_eq!(read.only_stdout()?, "some");
    let refused = |target: &str| -> Result<String> {
        let out = vm.bulkhead(["cp", "some", target]).output()?.code(1)?;
        Ok(out.stderr)
    };
    let marked = "container rootfs is marked read-only";
    assert!(refused("ro:/tmp/")?.contains(marked));
    assert!(refused("ro:/kept/")?.contains(marked));
    // Its own link leads out of the volume, onto what can't be written.
    assert!(refused("ro:/data/out/tmp/")?.contains("read-only"));
    vm.bulkhead(["stop", "-t", "0", "ro"]).output()?.code(0)?;
    assert!(refused("ro:/data/")?.contains(marked));
    vm.bulkhead(["rm", "-f", "ro"]).output()?.code(0)?;
    Ok(())
}

fn changes_are_dockers(world: &World) -> Result<()> {
    let vm = world.own()?;
    let diff = |name: &str| vm.bulkhead(["diff", name]).output()?.only_stdout();
    stopped(
        &vm,
        "same",
        "cat /etc/passwd >/dev/null; touch -r /bin /bin",
    )?;
    assert_eq!(diff("same")?, "");
    stopped(
        &vm,
        "cc",
        "mkdir -p /a/b; echo x >/a/b/f; echo y >>/etc/passwd; rm /bin/vi; \
         rm -r /home; mkdir /home; touch /home/new; mkdir /tmp/t /dev/shm/s; \
         chmod 711 /root; rm /etc/group; mkdir /etc/group; mv /bin/awk /bin/gawk; \
         touch /gone; rm /gone",
    )?;
    assert_eq!(
        diff("cc")?,
        "A /a\nA /a/b\nA /a/b/f\nC /bin\nD /bin/awk\nA /bin/gawk\nD /bin/vi\nC /etc\nC /etc/group\n\
         C /etc/passwd\nC /home\nD /home/app\nA /home/new\nC /root\nC /tmp\nA /tmp/t\n"
    );
    running(&vm, "run", "touch /x")?;
    assert_eq!(diff("run")?, "A /ready\nA /x\n");
    vm.bulkhead(["rm", "-f", "run"]).output()?.code(0)?;
    Ok(())
}

fn a_commit_is_an_image(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.bulkhead([
        "run", "--name", "cc", "-e", "A=1", "-w", "/srv/w", "-l", "k=v",
    ])
    .args(["busybox", "sh", "-c"])
    .arg("echo kept >/kept; rm /bin/vi; rm -r /home; mkdir /home; touch /home/new; exit 3")
    .output()?
    .code(3)?;
    let words = ["commit", "-a", "me", "-m", "more", "-c", "ENV B=\"$A 2\""];
    let id = vm
        .bulkhead(words)
        .args([
            "-c",
            "ENTRYPOINT [\"/bin/sh\", \"-c\"]",
            "-c",
            "CMD [\"env\"]",
        ])
        .args(["cc", "made:1"])
        .output()?
        .only_stdout()?;
    assert!(id.starts_with("sha256:") && id.len() == 72, "{id}");
    let env = vm.run(["made:1"])?.only_stdout()?;
    let env = lines(&env);
    for line in ["A=1", "B=1 2", "PWD=/srv/w"] {
        assert!(env.contains(line), "{line} in {env:?}");
    }
    let script = "cat /kept; ls /home; test -e /bin/vi || echo gone";
    let seen = vm.run(["made:1", script])?.only_stdout()?;
    assert_eq!(seen, "kept\nnew\ngone\n");
    let format = "{{.Author}} {{.Comment}} {{json .Config.Labels}} {{len .RootFS.Layers}}";
    let inspect = vm.bulkhead(["inspect", "-f", format, "made:1"]).output()?;
    let text = inspect.only_stdout()?;
    assert!(text.starts_with("me more {\"k\":\"v\""), "{text}");
    // Others read the store, too, and find that digests are right.
    let source = format!("oci:{}", vm.root().join("images").display());
    let copy = format!("{source}:docker.io/library/made:1");
    Invocation::new("/usr/bin/skopeo")
        .env("HOME", vm.home())
        .args(["copy", "--insecure-policy", &copy, "dir:copy"])
        .current_dir(vm.work())
        .output()?
        .code(0)?;
    // Of what did not change there is no layer, and a wrong change is refused.
    stopped(&vm, "same", "true")?;
    vm.bulkhead(["commit", "same", "unchanged"])
        .output()?
        .code(0)?;
    let layers = |name: &str| {
        let format = "{{json .RootFS.Layers}}";
        vm.bulkhead(["inspect", "-f", format, name])
            .output()?
            .only_stdout()
    };
    assert_eq!(layers("unchanged")?, layers("busybox")?);
    let wrong = vm
        .bulkhead(["commit", "-c", "FROM x", "cc"])
        .output()?
        .code(1)?;
    assert!(
        wrong.stderr.contains("FROM is not a valid change command"),
        "{wrong}"
    );
    stopped(&vm, "odd", "touch /.wh.x")?;
    let odd = vm.bulkhead(["commit", "odd"]).output()?.code(1)?;
    assert!(
        odd.stderr.contains(".wh.x can't be part of a layer"),
        "{odd}"
    );
    Ok(())
}

fn a_commit_of_a_running_container(world: &World) -> Result<()> {
    let vm = world.own()?;
    running(&vm, "cc", "echo x >/x")?;
    vm.bulkhead(["commit", "cc", "live"]).output()?.code(0)?;
    vm.bulkhead(["commit", "--pause=false", "cc", "unpaused"])
        .output()?
        .code(0)?;
    let state = vm
        .bulkhead(["inspect", "-f", "{{.State.Status}}", "cc"])
        .output()?;
    assert_eq!(state.only_stdout()?, "running\n");
    // One that was frozen before stays so.
    vm.bulkhead(["pause", "cc"]).output()?.code(0)?;
    vm.bulkhead(["commit", "cc", "frozen"]).output()?.code(0)?;
    let state = vm
        .bulkhead(["inspect", "-f", "{{.State.Status}}", "cc"])
        .output()?;
    assert_eq!(state.only_stdout()?, "paused\n");
    vm.bulkhead(["rm", "-f", "cc"]).output()?.code(0)?;
    for image in ["live", "unpaused", "frozen"] {
        let seen = vm.run(["--entrypoint", "cat", image, "/x"])?;
        assert_eq!(seen.only_stdout()?, "x\n", "{image}");
    }
    Ok(())
}

fn processes_and_usage(world: &World) -> Result<()> {
    let vm = world.own()?;
    running(&vm, "cc", "sleep 1000 & true")?;
    let top = vm.bulkhead(["top", "cc"]).output()?.only_stdout()?;
    let rows: Vec<Vec<&str>> = top
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0],
        ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    );
    assert_eq!(
        (rows[1][0], rows[1][1], rows[1][2], rows[1][7]),
        ("root", "1", "0", "sh")
    );
    assert!(
        rows.iter()
            .any(|row| row[2] == "1" && row[7..] == ["sleep", "1000"]),
        "{top}"
    );
    // None of the agent's.
    assert!(
        rows[1..]
            .iter()
            .all(|row| ["sh", "sleep"].contains(&row[7])),
        "{top}"
    );
    let list = vm.bulkhead(["top", "cc", "-o", "pid,comm"]).output()?;
    let list = list.only_stdout()?;
    assert!(
        list.starts_with("PID                 COMMAND\n1                   sh\n"),
        "{list}"
    );
    let wrong = vm.bulkhead(["top", "cc", "--forest"]).output()?.code(1)?;
    assert!(
        wrong.stderr.contains("--forest are not supported"),
        "{wrong}"
    );

    let stats = vm
        .bulkhead(["stats", "--no-stream", "--format", "json", "cc"])
        .output()?
        .only_stdout()?;
    let stats: serde_json::Value = serde_json::from_str(&stats)?;
    assert_eq!(stats["Name"], "cc");
    let text = |key: &str| stats[key].as_str().context("no text");
    assert!(text("CPUPerc")?.ends_with('%'), "{stats}");
    assert!(text("MemUsage")?.contains("MiB / "), "{stats}");
    assert!(text("PIDs")?.parse::<u32>()? >= 2, "{stats}");
    let table = vm
        .bulkhead(["stats", "--no-stream"])
        .output()?
        .only_stdout()?;
    assert!(
        table.starts_with("CONTAINER ID   NAME      CPU %"),
        "{table}"
    );
    vm.bulkhead(["stop", "-t", "0", "cc"]).output()?.code(0)?;
    let stopped = vm.bulkhead(["top", "cc"]).output()?.code(1)?;
    assert!(stopped.stderr.contains("is not running"), "{stopped}");
    let table = vm
        .bulkhead([
            "stats",
            "--no-stream",
            "-a",
            "--format",
            "{{.Name}} {{.CPUPerc}}",
        ])
        .output()?
        .only_stdout()?;
    assert_eq!(table, "cc --\n");
    Ok(())
}
