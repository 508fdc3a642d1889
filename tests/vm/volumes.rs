//! Folders of the host and volumes: what both sides see, what the guest can't do, and what is left.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;

use anyhow::{Context, Result};
use harness::{Output, Sandbox};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::tenant::{self, GroupsDevice};
use crate::world::World;

crate::tests![
    both_sides_read_and_write,
    read_only_is_the_hosts_to_say,
    a_file_is_shared,
    mounts_nest,
    links_lead_nowhere_on_the_host,
    a_link_in_place_of_a_source_is_not_followed,
    a_named_volume_outlives_and_is_shared,
    an_empty_volume_takes_the_images_content,
    the_images_volumes_go_with_rm,
    mounts_of_another_container,
    a_volume_may_be_mounted_twice,
    only_what_nobody_named_goes_with_a_container,
    what_users_of_a_guest_wrote_goes_with_rm,
    volumes_are_listed_and_removed,
    what_can_not_be_had_is_refused,
    a_source_that_vanishes_is_seen_at_the_next_start,
    what_was_emptied_stays_empty,
    a_name_that_another_takes_away_is_made_again,
    programs_use_files_as_they_may,
    a_user_removes_whatever_the_guest_made,
    a_user_owns_what_the_guest_makes,
    a_process_finds_an_ordinary_file_system,
    thousands_of_files_are_made_and_found,
];

/// A folder of the sandbox that is shared.
fn folder(vm: &Sandbox, name: &str) -> Result<PathBuf> {
    let path = vm.work().join(name);
    fs::create_dir(&path)?;
    Ok(path)
}

fn of(path: &std::path::Path, target: &str) -> String {
    format!("{}:{target}", path.display())
}

/// Runs a script of busybox's shell.
fn sh(vm: &Sandbox, flags: &[&str], script: &str) -> Result<Output> {
    let words = flags.iter().copied();
    vm.run(words.chain(["busybox", "sh", "-c", script]))
}

fn bulkhead(vm: &Sandbox, words: &[&str]) -> Result<Output> {
    vm.bulkhead(words).output()
}

fn both_sides_read_and_write(world: &World) -> Result<()> {
    let vm = world.own()?;
    let share = folder(&vm, "share")?;
    fs::write(share.join("from-host"), "host")?;
    let before = vm.snapshot()?;
    let script = "cat /x/from-host; echo guest >/x/from-guest; mkdir /x/sub; mv /x/from-guest /x/sub; \
                  chmod 600 /x/sub/from-guest; chown 12:34 /x/sub/from-guest";
    let out = sh(&vm, &["-v", &of(&share, "/x")], script)?;
    assert_eq!(out.only_stdout()?, "host");
    let made = share.join("sub/from-guest");
    assert_eq!(fs::read_to_string(&made)?, "guest\n");
    let metadata = fs::metadata(&made)?;
    let seen = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    assert_eq!(seen, (0o600, 12, 34));
    fs::remove_dir_all(share.join("sub"))?;
    before.no_leftovers(&vm)?;
    // While it runs, a change by either side is seen by the other.
    let script = "echo ready; until [ -e /x/go ]; do sleep 0.1; done; cat /x/go";
    let flags = [
        "run",
        "--rm",
        "-v",
        &of(&share, "/x"),
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let mut running = vm.bulkhead(flags).spawn()?;
    running.wait_for_stdout("ready")?;
    fs::write(share.join(".go"), "went\n")?;
    fs::rename(share.join(".go"), share.join("go"))?;
    assert_eq!(running.wait()?.only_stdout()?, "ready\nwent\n");
    Ok(())
}

fn read_only_is_the_hosts_to_say(world: &World) -> Result<()> {
    let vm = world.own()?;
    let share = folder(&vm, "share")?;
    fs::write(share.join("file"), "host")?;
    let script = "try() { \"$@\" 2>/dev/null && echo did: $*; }; \
                  try touch /x/new; try mount -o remount,rw /x; try touch /x/new2; \
                  try sh -c 'echo guest >/x/file'; try rm /x/file; try chmod 777 /x/file; \
                  try mkdir /x/dir; try mv /x/file /x/other; try truncate -s 0 /x/file; \
                  mkdir /own; try mount -t virtiofs bulkhead /own; \
                  try touch /own/0/new3; try touch /own/new4; echo end";
    let bind = format!("{}:ro", of(&share, "/x"));
    let out = sh(&vm, &["--privileged", "-v", &bind], script)?;
    // Both are the guest's own to say, and neither changes anything.
    assert_eq!(
        out.only_stdout()?,
        "did: mount -o remount,rw /x\ndid: mount -t virtiofs bulkhead /own\nend\n"
    );
    assert_eq!(fs::read_to_string(share.join("file"))?, "host");
    assert_eq!(fs::read_dir(&share)?.count(), 1);
    Ok(())
}

fn a_file_is_shared(world: &World) -> Result<()> {
    let vm = world.own()?;
    let file = vm.work().join("hosts");
    fs::write(&file, "127.0.0.1 mine\n")?;
    let flags = [
        "-v",
        &of(&file, "/etc/hosts"),
        "-v",
        &of(&file, "/made/for/it"),
    ];
    let out = sh(
        &vm,
        &flags,
        "cat /etc/hosts; echo more >>/made/for/it; cat /etc/hosts",
    )?;
    assert_eq!(out.only_stdout()?, "127.0.0.1 mine\n127.0.0.1 mine\nmore\n");
    assert_eq!(fs::read_to_string(&file)?, "127.0.0.1 mine\nmore\n");
    let out = sh(&vm, &["-v", &of(&file, "/etc")], "true")?.code(125)?;
    assert!(
        out.stderr.contains("mount a directory onto a file"),
        "{out}"
    );
    Ok(())
}

fn mounts_nest(world: &World) -> Result<()> {
    let vm = world.own()?;
    let (outer, inner) = (folder(&vm, "outer")?, folder(&vm, "inner")?);
    fs::write(inner.join("file"), "inner\n")?;
    // The deeper one first: the order of flags does not matter.
    let flags = [
        "-v",
        &of(&inner, "/x/a/b"),
        "-v",
        &of(&outer, "/x"),
        "--tmpfs",
        "/x/t",
    ];
    let script = "cat /x/a/b/file; touch /x/t/lost /x/kept; stat -c %d /x /x/a/b | uniq | wc -l";
    assert_eq!(sh(&vm, &flags, script)?.only_stdout()?, "inner\n2\n");
    assert!(outer.join("kept").exists() && outer.join("a/b").is_dir());
    assert!(!outer.join("t/lost").exists());
    Ok(())
}

fn links_lead_nowhere_on_the_host(world: &World) -> Result<()> {
    let vm = world.own()?;
    let share = folder(&vm, "share")?;
    fs::write(vm.work().join("secret"), "of the host")?;
    symlink(vm.work().join("secret"), share.join("absolute"))?;
    symlink("../secret", share.join("relative"))?;
    symlink("../../../../../etc/hostname", share.join("up"))?;
    let script = "cat /x/absolute /x/relative 2>/dev/null; cat /x/up; ls /x/..; \
                  ln -s ../secret /x/made; cat /x/made 2>/dev/null; echo x >/x/relative; cat /secret";
    let out = sh(&vm, &["-h", "guest", "-v", &of(&share, "/x")], script)?;
    let text = out.only_stdout()?;
    assert!(
        text.starts_with("guest\n") && text.ends_with("x\n"),
        "{text}"
    );
    assert!(!text.contains("of the host"), "{text}");
    assert_eq!(fs::read_to_string(vm.work().join("secret"))?, "of the host");
    Ok(())
}

/// A share in a share: who may write the outer one may put a link where the inner one's source was.
fn a_link_in_place_of_a_source_is_not_followed(world: &World) -> Result<()> {
    let vm = world.own()?;
    let outer = folder(&vm, "outer")?;
    fs::create_dir(outer.join("inner"))?;
    fs::write(outer.join("inner/file"), "mine")?;
    // A link that was there before is the user's own.
    symlink(&outer, vm.work().join("named"))?;
    let inner = vm.work().join("named/inner");
    let script = "cat /inner/file; mv /outer/inner /outer/was; ln -s / /outer/inner; exit 3";
    let out = bulkhead(
        &vm,
        &[
            "run",
            "--name",
            "climbs",
            "--restart",
            "on-failure:2",
            "-v",
            &of(&outer, "/outer"),
            "-v",
            &of(&inner, "/inner"),
            "busybox",
            "sh",
            "-c",
            script,
        ],
    )?;
    // Whoever is attached is told of the first life; the next one has no source.
    assert_eq!(out.stdout, "mine", "{out}");
    let told = "leads through a symbolic link that was not there";
    crate::life::until("the end of the restarts", || {
        let format = "{{.State.Status}} {{.State.Error}}";
        let state = bulkhead(&vm, &["inspect", "-f", format, "climbs"])?.only_stdout()?;
        Ok((state.starts_with("exited") && state.contains(told)).then_some(()))
    })?;
    let out = bulkhead(&vm, &["start", "climbs"])?.code(1)?;
    assert!(out.stderr.contains(told), "{out}");
    bulkhead(&vm, &["rm", "climbs"])?.code(0)?;
    Ok(())
}

fn a_named_volume_outlives_and_is_shared(world: &World) -> Result<()> {
    let vm = world.own()?;
    sh(&vm, &["-v", "data:/d"], "echo kept >/d/file")?.code(0)?;
    let mount = "type=volume,source=data,target=/d,readonly";
    let out = sh(&vm, &["--mount", mount], "cat /d/file; touch /d/x")?.code(1)?;
    assert_eq!(out.stdout, "kept\n");
    assert!(out.stderr.contains("Read-only file system"), "{out}");
    // Two at the same time.
    let script = "until [ -e /d/go ]; do sleep 0.1; done; cat /d/go; echo two >/d/back";
    let flags = [
        "run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", script,
    ];
    let first = vm.bulkhead(flags).spawn()?;
    let script =
        "echo one >/d/.go; mv /d/.go /d/go; until [ -e /d/back ]; do sleep 0.1; done; cat /d/back";
    let out = sh(&vm, &["-v", "data:/d"], script)?;
    assert!(out.only_stdout()?.starts_with("two"));
    assert_eq!(first.wait()?.only_stdout()?, "one\n");
    Ok(())
}

fn an_empty_volume_takes_the_images_content(world: &World) -> Result<()> {
    let vm = world.debian()?.copied()?;
    // The engine's own files are what differs.
    let list = "cd /etc && find . -printf '%p %y %m %u %g %s %n %l %T@\n' | \
                grep -v -e hostname -e hosts -e resolv.conf -e mtab -e '^\\. ' -e ' d ' | sort";
    let run = |flags: &[&str], script: &str| {
        let words = flags.iter().copied();
        vm.run(words.chain(["debian:12", "sh", "-c", script]))
    };
    let image = run(&[], list)?.only_stdout()?;
    assert!(image.lines().count() > 100, "{image}");
    let volume = run(&["-v", "etc:/etc"], list)?.only_stdout()?;
    assert_eq!(volume, image);
    let data = vm.root().join("volumes/etc/_data");
    let shadow = fs::metadata(data.join("shadow"))?;
    assert_eq!(
        (shadow.uid(), shadow.gid(), shadow.mode() & 0o777),
        (0, 42, 0o640)
    );
    // What is in it now stays, and one that is not to be filled is not.
    run(&["-v", "etc:/etc"], "rm /etc/shadow; echo mine >/etc/issue")?.code(0)?;
    let out = run(&["-v", "etc:/etc"], "[ -e /etc/shadow ]; cat /etc/issue")?;
    assert_eq!(out.only_stdout()?, "mine\n");
    let out = run(
        &["-v", "none:/opt/x:nocopy", "-v", "none:/usr:nocopy"],
        "true",
    );
    assert_ne!(out?.code, 0, "an empty /usr has no shell");
    assert_eq!(
        fs::read_dir(vm.root().join("volumes/none/_data"))?.count(),
        0
    );
    Ok(())
}

fn the_images_volumes_go_with_rm(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let script = "stat -c '%U %a' /home/app; touch /home/app/new; grep -c virtiofs /proc/mounts";
    let words = ["variant:volume", "sh", "-c", script];
    let out = vm.run(words)?.only_stdout()?;
    assert!(out.starts_with("app ") && out.ends_with("\n2\n"), "{out}");
    assert_eq!(bulkhead(&vm, &["volume", "ls", "-q"])?.only_stdout()?, "");
    let words = [
        "run",
        "--name",
        "ctr",
        "-v",
        "named:/etc",
        "variant:volume",
        "true",
    ];
    bulkhead(&vm, &words)?.code(0)?;
    let names = bulkhead(&vm, &["volume", "ls", "-q"])?.only_stdout()?;
    assert_eq!(names.lines().count(), 2, "{names}");
    let format = "{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}} {{len .Name}};{{end}}";
    let mounts = bulkhead(&vm, &["inspect", "-f", format, "ctr"])?.only_stdout()?;
    assert_eq!(mounts, "volume /etc true 5;volume /home/app true 64;\n");
    bulkhead(&vm, &["rm", "-v", "ctr"])?.code(0)?;
    let names = bulkhead(&vm, &["volume", "ls", "-q"])?.only_stdout()?;
    assert_eq!(names, "named\n");
    bulkhead(&vm, &["volume", "rm", "named"])?.code(0)?;
    before.no_leftovers(&vm)
}

fn mounts_of_another_container(world: &World) -> Result<()> {
    let vm = world.own()?;
    let share = folder(&vm, "share")?;
    let words = [
        "create",
        "--name",
        "owner",
        "-v",
        &of(&share, "/x"),
        "-v",
        "/y",
        "busybox",
    ];
    bulkhead(&vm, &words)?.code(0)?;
    sh(
        &vm,
        &["--volumes-from", "owner"],
        "echo 1 >/x/file; echo 2 >/y/file",
    )?
    .code(0)?;
    let script = "cat /x/file /y/file; touch /x/new /y/new";
    let out = sh(&vm, &["--volumes-from", "owner:ro"], script)?.code(1)?;
    assert_eq!(out.stdout, "1\n2\n");
    let words = [
        "create",
        "--name",
        "ro",
        "--volumes-from",
        "owner:ro",
        "busybox",
    ];
    bulkhead(&vm, &words)?.code(0)?;
    let format = "{{range .Mounts}}{{.Destination}}:{{.Mode}}:{{.RW}} {{end}}";
    for (name, rw) in [("owner", true), ("ro", false)] {
        let shown = bulkhead(&vm, &["inspect", "-f", format, name])?.only_stdout()?;
        assert_eq!(shown, format!("/x::{rw} /y::{rw} \n"));
    }
    let out = sh(&vm, &["--volumes-from", "nobody"], "true")?.code(125)?;
    assert!(out.stderr.contains("No such container: nobody"), "{out}");
    Ok(())
}

fn volumes_are_listed_and_removed(world: &World) -> Result<()> {
    let vm = world.own()?;
    let made = bulkhead(&vm, &["volume", "create", "--label", "k=v", "one"])?;
    assert_eq!(made.only_stdout()?, "one\n");
    let anonymous = bulkhead(&vm, &["volume", "create"])?.only_stdout()?;
    bulkhead(&vm, &["create", "--name", "ctr", "-v", "one:/d", "busybox"])?.code(0)?;
    let dangling = bulkhead(&vm, &["volume", "ls", "-q", "-f", "dangling=true"])?;
    assert_eq!(dangling.only_stdout()?, anonymous);
    let table = bulkhead(&vm, &["volume", "ls", "-f", "name=one"])?.only_stdout()?;
    assert_eq!(table, "DRIVER    VOLUME NAME\nlocal     one\n");
    let format = "{{.Name}} {{.Driver}} {{.Labels.k}} {{.Mountpoint}}";
    let shown = bulkhead(&vm, &["volume", "inspect", "-f", format, "one"])?.only_stdout()?;
    let data = vm.root().join("volumes/one/_data");
    assert_eq!(shown, format!("one local v {}\n", data.display()));
    let id = bulkhead(&vm, &["inspect", "-f", "{{.Id}}", "ctr"])?.only_stdout()?;
    let out = bulkhead(&vm, &["volume", "rm", "one"])?.code(1)?;
    let told = format!("remove one: volume is in use - [{}]", id.trim());
    assert!(out.stderr.contains(&told), "{out}");
    let pruned = bulkhead(&vm, &["volume", "prune", "-f"])?.only_stdout()?;
    let wanted = format!("Deleted Volumes:\n{anonymous}\nTotal reclaimed space: 0B\n");
    assert_eq!(pruned, wanted);
    bulkhead(&vm, &["rm", "ctr"])?.code(0)?;
    fs::write(data.join("file"), vec![1; 100_000])?;
    // Some file systems give it its place only now.
    fs::File::open(data.join("file"))?.sync_all()?;
    let kept = bulkhead(&vm, &["volume", "prune", "-f"])?.only_stdout()?;
    assert_eq!(kept, "Total reclaimed space: 0B\n");
    let pruned = bulkhead(&vm, &["volume", "prune", "-f", "-a"])?.only_stdout()?;
    assert!(
        pruned.starts_with("Deleted Volumes:\none\n\nTotal reclaimed space: 1"),
        "{pruned}"
    );
    let out = bulkhead(&vm, &["volume", "rm", "one"])?.code(1)?;
    assert!(out.stderr.contains("get one: no such volume"), "{out}");
    bulkhead(&vm, &["volume", "rm", "-f", "one"])?.code(0)?;
    Ok(())
}

fn what_can_not_be_had_is_refused(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let socket = vm.work().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    for (flags, told) in [
        (
            vec!["-v".to_owned(), of(&socket, "/x")],
            "is not supported: it is a socket",
        ),
        (
            vec![
                "--mount".to_owned(),
                "type=bind,source=/no/such,target=/x".to_owned(),
            ],
            "bind source path does not exist: /no/such",
        ),
        (
            vec!["-v".into(), "a:/x".into(), "-v".into(), "bb:/x".into()],
            "Duplicate mount point: /x",
        ),
        (vec!["-v".into(), "a:/x".into()], "is too short"),
        (
            vec!["--volume-driver".into(), "nfs".into()],
            "only Docker's own driver",
        ),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let out = sh(&vm, &flags, "true")?.code(125)?;
        assert!(out.stderr.contains(told), "{out}");
    }
    drop(listener);
    fs::remove_file(&socket)?;
    before.no_leftovers(&vm)
}

fn a_source_that_vanishes_is_seen_at_the_next_start(world: &World) -> Result<()> {
    let vm = world.own()?;
    let share = folder(&vm, "share")?;
    let source = format!("{}/../share", share.display());
    let (made, must) = (
        format!("{source}:/x"),
        format!("type=bind,source={source},target=/x"),
    );
    for (name, flag, value) in [("made", "-v", &made), ("must", "--mount", &must)] {
        bulkhead(&vm, &["create", "--name", name, flag, value, "busybox"])?.code(0)?;
        let format = "{{range .Mounts}}{{.Source}}{{end}}";
        let shown = bulkhead(&vm, &["inspect", "-f", format, name])?.only_stdout()?;
        assert_eq!(shown, format!("{}\n", share.display()));
    }
    fs::remove_dir(&share)?;
    let out = bulkhead(&vm, &["start", "must"])?.code(1)?;
    assert!(
        out.stderr.contains("bind source path does not exist"),
        "{out}"
    );
    bulkhead(&vm, &["start", "-a", "made"])?.code(0)?;
    assert!(share.is_dir());
    bulkhead(&vm, &["start", "-a", "must"])?.code(0)?;
    Ok(())
}

/// Of root's container: a volume that is another user's, looked into again when the container is started
/// again and removed at its end.
fn what_users_of_a_guest_wrote_goes_with_rm(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let script = "cd /d && mkdir -p a/b/c none && touch a/file a/b/file none/file && \
                  chown -R 99:99 . && chmod 555 a/b && chmod 0 none a && chmod 700 . && \
                  touch done && exec sleep 1000";
    let run = ["run", "-d", "--rm", "--name", "one", "-v", "/d", "busybox"];
    bulkhead(&vm, &[&run[..], &["sh", "-c", script]].concat())?.code(0)?;
    let volumes = || -> Result<usize> { Ok(fs::read_dir(vm.root().join("volumes"))?.count()) };
    let look = ["exec", "one", "test", "-e", "/d/done"];
    crate::life::until("another user's volume", || {
        Ok((bulkhead(&vm, &look)?.code == 0).then_some(()))
    })?;
    bulkhead(&vm, &["restart", "-t", "0", "one"])?.code(0)?;
    assert_eq!(volumes()?, 1);
    bulkhead(&vm, &["stop", "-t", "0", "one"])?.code(0)?;
    assert_eq!(volumes()?, 0);
    before.no_leftovers(&vm)
}

/// Folders that nobody may read, and far more of them in each other than files may be open.
fn a_user_removes_whatever_the_guest_made(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    let before = vm.snapshot()?;
    tenant::give(&vm)?;
    let user = format!("setpriv --reuid={0} --regid={0} --clear-groups", tenant::ID);
    let script = "bulkhead volume create data && cd $BULKHEAD_ROOT/volumes/data/_data && \
                  perl -e 'for (1..3000) { mkdir \"d\"; chdir \"d\" or die }' && \
                  mkdir -p a/b none && touch a/file a/b/file none/file && \
                  chmod 555 a/b && chmod 0 none a && cd / && ulimit -n 100 && \
                  bulkhead volume rm data && ls -A $BULKHEAD_ROOT/volumes";
    let quoted = script.replace('\'', "'\\''");
    let out = vm
        .shell(&format!("exec {user} sh -c '{quoted}'"))
        .output()?;
    assert_eq!(out.only_stdout()?, "data\ndata\n");
    // What is somebody else's keeps the whole volume.
    let data = vm.root().join("volumes/kept/_data");
    let create = format!("exec {user} bulkhead volume create kept");
    vm.shell(&create).output()?.code(0)?;
    fs::create_dir_all(data.join("theirs"))?;
    fs::write(data.join("theirs/file"), "")?;
    fs::write(data.join("file"), "")?;
    let remove = format!("exec {user} bulkhead volume rm kept");
    let out = vm.shell(&remove).output()?.code(1)?;
    assert!(
        out.stderr.contains("belongs to user 0 and is not empty"),
        "{out}"
    );
    assert!(data.join("file").exists() && data.join("theirs/file").exists());
    // Root takes that away, and the rest is the user's to remove.
    fs::remove_dir_all(data.join("theirs"))?;
    vm.shell(&remove).output()?.code(0)?;
    before.no_leftovers(&vm)
}

fn a_user_owns_what_the_guest_makes(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    let share = folder(&vm, "share")?;
    fs::write(share.join("of-root"), "")?;
    fs::set_permissions(share.join("of-root"), Permissions::from_mode(0o666))?;
    tenant::give(&vm)?;
    chown(share.join("of-root"), Some(0), Some(0)).context("give a file back")?;
    let device = GroupsDevice::set()?;
    let user = format!(
        "setpriv --reuid={0} --regid={0} --groups={1}",
        tenant::ID,
        tenant::KVM_GROUP
    );
    let script = "stat -c '%u %n' /x/of-root /x; touch /x/made; mkdir /x/dir; \
                  chown 5 /x/made 2>/dev/null || echo refused; chown 0:0 /x/made && echo same; \
                  stat -c '%u:%g' /x/made";
    let run = |flags: &str, script: &str| {
        let share = share.display();
        let command = format!(
            "exec {user} bulkhead run --rm -v {share}:/x {flags} busybox sh -c \"{script}\""
        );
        let templates = vm.work().join("templates");
        vm.shell(&command)
            .env("BULKHEAD_TEMPLATES", templates)
            .output()
    };
    let out = run("", script)?;
    // The other's file is nobody's here.
    assert_eq!(
        out.only_stdout()?,
        "65534 /x/of-root\n0 /x\nrefused\nsame\n0:0\n"
    );
    for name in ["made", "dir"] {
        let metadata = fs::metadata(share.join(name))?;
        assert_eq!(
            (metadata.uid(), metadata.gid()),
            (tenant::ID, tenant::ID),
            "{name}"
        );
    }
    // A process that is not the guest's root writes where everyone may; its files are the user's.
    fs::set_permissions(&share, Permissions::from_mode(0o777))?;
    let out = run("-u 1000:1000", "touch /x/mine && stat -c %u /x/mine")?;
    assert_eq!(out.only_stdout()?, "0\n");
    assert_eq!(fs::metadata(share.join("mine"))?.uid(), tenant::ID);
    drop(device);
    Ok(())
}

/// What a process expects of files, in Perl, which the image has: a shared mapping, locks of both
/// kinds between two processes, inotify, holes.
const EXPECTATIONS: &str = r#"
use strict; use warnings; use Fcntl qw(:flock :seek F_SETLK F_WRLCK F_UNLCK); $| = 1; chdir '/x' or die;
my $lock = pack('s s x4 q q i x4', F_WRLCK, 0, 0, 0, 0);
open(my $f, '+>', 'mapped') or die; syswrite($f, 'a' x 8192);
my $at = syscall(9, 0, 8192, 3, 1, fileno($f), 0); die "mmap $!" if $at == -1;
open(my $g, '<', '/etc/debian_version') or die;
syscall(0, fileno($g), $at + 4096, 2) == 2 or die "write to the mapping: $!";
syscall(26, $at, 8192, 4) == 0 or die "msync $!";
print "mapped ", -s 'mapped', "\n";
flock($f, LOCK_EX) or die; my $pid = fork();
if (!$pid) { open(my $h, '+<', 'mapped') or die; my $a = flock($h, LOCK_EX | LOCK_NB) ? 'free' : 'held';
  my $b = fcntl($h, F_SETLK, $lock) ? 'free' : 'held';
  print "flock $a fcntl $b\n"; exit 0 }
waitpid($pid, 0); flock($f, LOCK_UN);
fcntl($f, F_SETLK, $lock) or die; $pid = fork();
if (!$pid) { open(my $h, '+<', 'mapped') or die;
  my $b = fcntl($h, F_SETLK, $lock) ? 'free' : 'held';
  print "fcntl $b\n"; exit 0 }
waitpid($pid, 0);
my $i = syscall(294, 0); my $dir = "."; syscall(254, $i, $dir, 0x100 | 0x40 | 0x80) > 0 or die "watch $!";
open(my $n, '>', 'new') or die; close $n; rename('new', 'old') or die; open(my $in, "<&=$i") or die;
sysread($in, my $events, 4096); my @names; while (length $events) { my ($w, $m, $c, $l) = unpack('i L L L', $events);
  push @names, unpack('Z*', substr($events, 16, $l)); $events = substr($events, 16 + $l) } print "saw @names\n";
open(my $s, '+>', 'sparse') or die; sysseek($s, 64 << 20, SEEK_SET); syswrite($s, 'end'); close $s;
my @st = stat('sparse'); print "sparse $st[7] ", $st[12] < 100 ? 'holes' : 'full', "\n";
open($s, '<', 'sparse'); print "data at ", syscall(8, fileno($s), 0, 3) >= (64 << 20) - 4096 ? 'its end' : 'its begin', "\n";
link('old', 'hard') or die; unlink('old') or die; my @h = stat('hard'); print "links $h[3]\n";
mkdir 'full' or die; mkdir 'full/x'; print "rmdir ", rmdir('full') ? 'did' : $!, "\n";
print "rename ", rename('full', 'mapped') ? 'did' : $!, "\n";
open(my $u, '+>', 'gone') or die; unlink 'gone'; syswrite($u, 'still'); sysseek($u, 0, 0); sysread($u, my $t, 9); print "gone $t\n";
"#;

fn a_process_finds_an_ordinary_file_system(world: &World) -> Result<()> {
    let vm = world.debian()?.copied()?;
    let share = folder(&vm, "share")?;
    let words = [
        "-v",
        &of(&share, "/x"),
        "debian:12",
        "perl",
        "-e",
        EXPECTATIONS,
    ];
    let out = vm.run(words)?;
    let wanted = "mapped 8192\nflock held fcntl free\nfcntl held\nsaw new new old\n\
                  sparse 67108867 holes\ndata at its end\nlinks 1\nrmdir Directory not empty\n\
                  rename Not a directory\ngone still\n";
    assert_eq!(out.only_stdout()?, wanted);
    // What was written to the mapping is in the file.
    let mapped = fs::read(share.join("mapped"))?;
    assert_eq!(
        (mapped.len(), mapped.get(4096..4098)),
        (8192, Some(b"12".as_slice()))
    );
    let sparse = fs::metadata(share.join("sparse"))?;
    assert_eq!(sparse.len(), (64 << 20) + 3);
    assert!(
        sparse.blocks() * 512 < 1 << 20,
        "{} blocks",
        sparse.blocks()
    );
    Ok(())
}

/// Few, because each call is emulated where these tests run: 10,000 take more than four minutes there.
const FILES: usize = 2000;

fn thousands_of_files_are_made_and_found(world: &World) -> Result<()> {
    let vm = world.own()?;
    let share = folder(&vm, "share")?;
    let script = format!(
        "cd /x; d=0; while [ $d -lt {} ]; do mkdir d$d; f=0; \
         while [ $f -lt 1000 ]; do : >d$d/f$f; f=$((f+1)); done; d=$((d+1)); done; \
         find . -type f | wc -l; ls -lR . | grep -c '^-'; rm -r d0; find . -type f | wc -l",
        FILES / 1000
    );
    let out = sh(&vm, &["-v", &of(&share, "/x")], &script)?;
    let wanted = format!("{FILES}\n{FILES}\n{}\n", FILES - 1000);
    assert_eq!(out.only_stdout()?, wanted);
    assert_eq!(fs::read_dir(share.join("d1"))?.count(), 1000);
    Ok(())
}

fn a_volume_may_be_mounted_twice(world: &World) -> Result<()> {
    let vm = world.own()?;
    let flags = ["run", "--rm", "-v", "twice:/etc", "-v", "twice:/b"];
    let script = ["busybox", "sh", "-c", "ls /b; echo x >/b/new; cat /etc/new"];
    let out = bulkhead(&vm, &[&flags[..], &script].concat())?.only_stdout()?;
    assert!(out.contains("passwd\n") && out.ends_with("x\n"), "{out}");
    Ok(())
}

fn only_what_nobody_named_goes_with_a_container(world: &World) -> Result<()> {
    let vm = world.own()?;
    let made = bulkhead(&vm, &["volume", "create"])?.only_stdout()?;
    let made = made.trim_end();
    let mount = format!("{made}:/d");
    bulkhead(&vm, &["run", "--rm", "-v", &mount, "busybox", "true"])?.code(0)?;
    assert_eq!(
        bulkhead(&vm, &["volume", "ls", "-q"])?
            .only_stdout()?
            .trim_end(),
        made
    );
    // What another container has stays when the one that it was made for goes.
    let script = "echo data >/d/file; until [ -e /d/go ]; do sleep 0.1; done";
    let first = ["run", "-d", "--rm", "--name", "one", "-v", "/d", "busybox"];
    bulkhead(&vm, &[&first[..], &["sh", "-c", script]].concat())?.code(0)?;
    let other = [
        "run",
        "-d",
        "--name",
        "two",
        "--volumes-from",
        "one",
        "busybox",
    ];
    bulkhead(&vm, &[&other[..], &["sleep", "1000"]].concat())?.code(0)?;
    bulkhead(&vm, &["stop", "-t", "0", "one"])?.code(0)?;
    bulkhead(&vm, &["volume", "ls"])?.code(0)?;
    let data = bulkhead(&vm, &["exec", "two", "cat", "/d/file"])?.only_stdout()?;
    assert_eq!(data, "data\n");
    bulkhead(&vm, &["rm", "-f", "-v", "two"])?.code(0)?;
    assert_eq!(
        bulkhead(&vm, &["volume", "ls", "-q"])?
            .only_stdout()?
            .trim_end(),
        made
    );
    Ok(())
}

/// The image's content comes once, and a source that is gone is made again when a container that runs
/// is restarted.
fn what_was_emptied_stays_empty(world: &World) -> Result<()> {
    let vm = world.own()?;
    let share = folder(&vm, "share")?;
    let run = ["run", "-d", "--name", "cc", "-v", "data:/etc", "-v"];
    let rest = ["busybox", "sleep", "1000"];
    let mount = of(&share, "/x");
    let words = run.into_iter().chain([mount.as_str()]).chain(rest);
    vm.bulkhead(words).output()?.code(0)?;
    let list = ["exec", "cc", "ls", "/etc"];
    assert!(bulkhead(&vm, &list)?.only_stdout()?.contains("passwd"));
    let empty = ["exec", "cc", "sh", "-c", "rm -rf /etc/*; chmod 700 /etc"];
    // What the container itself has mounted there stays.
    bulkhead(&vm, &empty)?;
    fs::remove_dir(&share)?;
    bulkhead(&vm, &["restart", "-t", "0", "cc"])?.code(0)?;
    assert!(!bulkhead(&vm, &list)?.only_stdout()?.contains("passwd"));
    let mode = bulkhead(&vm, &["exec", "cc", "stat", "-c", "%a", "/etc"])?;
    assert_eq!(mode.only_stdout()?, "700\n");
    assert!(share.is_dir());
    bulkhead(&vm, &["rm", "-f", "cc"])?.code(0)?;
    Ok(())
}

/// A name that the guest remembers, and that goes before it writes.
fn a_name_that_another_takes_away_is_made_again(world: &World) -> Result<()> {
    let vm = world.own()?;
    let share = folder(&vm, "share")?;
    // The look, the removal and the writing come within the second for which it is remembered.
    let script = "for n in 1 2 3 4 5 6 7 8; do echo old >/x/f; ls -l /x/f >/dev/null; echo $n; \
        read answer; echo new$n >/x/f; cat /x/f; read answer; done";
    let share = share.display();
    let host = format!(
        "coproc bulkhead run --rm -i -v {share}:/x busybox sh -c '{script}'
         for n in 1 2 3 4 5 6 7 8; do
             read -r asked <&${{COPROC[0]}}; rm {share}/f; echo >&${{COPROC[1]}}
             read -r said <&${{COPROC[0]}}; echo $asked $said $(cat {share}/f)
             echo >&${{COPROC[1]}}
         done"
    );
    let out = vm.shell("exec bash -s").stdin(host).output()?;
    let want: String = (1..=8).map(|n| format!("{n} new{n} new{n}\n")).collect();
    assert_eq!(out.only_stdout()?, want);
    Ok(())
}

/// Calls that few programs make: a file without a name, one that may only be appended to, a folder that
/// is emptied while it is read.
fn programs_use_files_as_they_may(world: &World) -> Result<()> {
    let vm = world.own()?;
    let share = folder(&vm, "share")?;
    fs::write(share.join("log"), "first\n")?;
    let log = fs::File::open(share.join("log"))?;
    let flags = ioctl_getflags(&log)?;
    // As chattr(1) does by `+a`.
    ioctl_setflags(&log, flags | IFlags::APPEND)?;
    let script = "echo second >>/x/log; mkdir /x/many; cd /x/many; seq 1000 | xargs touch; \
        cd /; rm -r /x/many && cat /x/log";
    let out = sh(&vm, &["-v", &of(&share, "/x")], script)?;
    assert_eq!(out.only_stdout()?, "first\nsecond\n");
    ioctl_setflags(&log, flags)?;
    Ok(())
}
