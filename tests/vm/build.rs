//! `bulkhead build`: the cache, contexts, secrets, mounts, and builds that fail or are killed. What
//! instructions mean is `builds`' to compare.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{Invocation, Output, Sandbox, web};
use rustix::process::Signal;

use crate::network::Server;
use crate::tenant;
use crate::world::World;

crate::tests![
    what_is_cached_needs_no_vm_and_is_the_same_image,
    a_date_makes_builds_the_same_everywhere,
    names_labels_and_files_of_the_id,
    secrets_are_nowhere_afterwards,
    cache_mounts_live_on_and_are_locked,
    a_locked_cache_is_given_on_by_whoever_is_done_with_it,
    who_fails_with_a_locked_cache_leaves_it_to_others,
    a_step_without_a_network_has_loopback_alone,
    a_stage_that_fails_ends_the_build,
    contexts_of_all_kinds,
    files_of_the_web_are_added,
    a_step_that_fails_is_shown_and_leaves_nothing,
    a_build_that_is_killed_leaves_nothing,
    what_a_copy_refuses_late_is_told,
    nothing_of_the_host_is_reached,
    a_user_of_the_group_builds,
    what_is_built_runs_is_saved_and_built_upon,
];

/// Writes a build context; its folder is called `name`.
fn context(vm: &Sandbox, name: &str, files: &[(&str, &str)]) -> Result<()> {
    for (path, content) in files {
        let path = vm.work().join(name).join(path);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(path, content)?;
    }
    Ok(())
}

/// Builds the context `c`, which has this Dockerfile alone.
fn build(vm: &Sandbox, dockerfile: &str, flags: &[&str]) -> Result<Output> {
    context(vm, "c", &[("Dockerfile", dockerfile)])?;
    vm.bulkhead(["build", "--progress=plain"])
        .args(flags)
        .arg("c")
        .output()
}

/// The id of the image that is built.
fn id(vm: &Sandbox, flags: &[&str]) -> Result<String> {
    let out = vm.bulkhead(["build", "-q"]).args(flags).arg("c").output()?;
    Ok(out.only_stdout()?.trim_end().to_owned())
}

/// Member of an image's description.
fn inspect(vm: &Sandbox, image: &str, format: &str) -> Result<String> {
    let out = vm.bulkhead(["image", "inspect", "-f", format, image]);
    Ok(out.output()?.only_stdout()?.trim_end().to_owned())
}

/// What a script prints in a container of an image.
fn prints(vm: &Sandbox, image: &str, script: &str) -> Result<String> {
    vm.run([image, "sh", "-c", script])?.only_stdout()
}

fn what_is_cached_needs_no_vm_and_is_the_same_image(world: &World) -> Result<()> {
    let vm = world.own()?;
    let dockerfile = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /stamp\nENV A=1\n";
    context(&vm, "c", &[("Dockerfile", dockerfile)])?;
    let first = id(&vm, &[])?;
    ensure!(first.starts_with("sha256:") && first.len() == 71, "{first}");
    let before = vm.snapshot()?;
    // From here on no VM can begin.
    let kernel = vm.guest().join("vmlinux");
    let kept = fs::read(&kernel)?;
    fs::remove_file(&kernel)?;
    fs::write(&kernel, "no kernel")?;
    let templates = vm.work().join("templates");
    let without = |flags: &[&str]| {
        vm.bulkhead(["build", "-q"])
            .args(flags)
            .arg("c")
            .env("BULKHEAD_TEMPLATES", &templates)
            .output()
    };
    assert_eq!(without(&[])?.only_stdout()?.trim_end(), first);
    let out = without(&["--no-cache"])?;
    ensure!(out.code == 1, "{out}");
    fs::remove_file(&kernel)?;
    fs::write(&kernel, kept)?;
    before.no_leftovers(&vm)?;
    let second = id(&vm, &["--no-cache"])?;
    ensure!(first != second, "the step was not run again");
    // The last result counts.
    assert_eq!(id(&vm, &[])?, second);
    // There is no registry to ask: what is here does not count.
    let out = build(&vm, dockerfile, &["--pull"])?.code(1)?;
    ensure!(out.stderr.contains("busybox"), "{out}");
    Ok(())
}

fn a_date_makes_builds_the_same_everywhere(world: &World) -> Result<()> {
    let dockerfile = "FROM busybox AS one\nRUN echo x > /x; mkdir /d; ln /x /d/hard; touch /d/y\n\
                      FROM busybox\nCOPY . /c\nCOPY --from=one /d /d\nWORKDIR /w\nRUN rm /bin/vi\n";
    let mut built = BTreeSet::new();
    for _ in 0..2 {
        let vm = world.own()?;
        context(
            &vm,
            "c",
            &[("Dockerfile", dockerfile), ("a", "a"), ("b/c", "c")],
        )?;
        let out = vm
            .bulkhead(["build", "-q", "-t", "x", "c"])
            .env("SOURCE_DATE_EPOCH", "1000000000")
            .output()?;
        let id = out.only_stdout()?;
        let layers = inspect(&vm, "x", "{{json .RootFS.Layers}}")?;
        let created = inspect(&vm, "x", "{{.Created}}")?;
        assert_eq!(created, "2001-09-09T01:46:40Z");
        built.insert((id, layers));
    }
    ensure!(built.len() == 1, "{built:#?}");
    Ok(())
}

fn names_labels_and_files_of_the_id(world: &World) -> Result<()> {
    let vm = world.own()?;
    let dockerfile = "FROM busybox AS one\nENV A=1\nFROM one\nENV A=2\n";
    let flags = [
        "--iidfile",
        "id",
        "-t",
        "first",
        "-t",
        "reg.example/second:x",
        "--label",
        "a=b",
    ];
    build(&vm, dockerfile, &flags)?.code(0)?;
    let id = fs::read_to_string(vm.work().join("id"))?;
    for name in ["first:latest", "reg.example/second:x"] {
        assert_eq!(
            inspect(&vm, name, "{{.Id}} {{.Config.Labels.a}}")?,
            format!("{id} b")
        );
    }
    assert_eq!(inspect(&vm, "first", "{{index .Config.Env 1}}")?, "A=2");
    build(&vm, dockerfile, &["--target=one", "-t", "first"])?.code(0)?;
    assert_eq!(inspect(&vm, "first", "{{index .Config.Env 1}}")?, "A=1");
    Ok(())
}

/// Whether bytes are in any file below a folder.
fn is_anywhere(folder: &Path, needle: &str) -> Result<bool> {
    let out = Invocation::new("/bin/grep")
        .args(["-r", "-l", "-a", "--", needle])
        .arg(folder)
        .output()?;
    Ok(out.code == 0)
}

fn secrets_are_nowhere_afterwards(world: &World) -> Result<()> {
    let vm = world.own()?;
    // Not as one piece in this program's own files either.
    let secret = format!("{}{}", "squeamish", "ossifrage");
    fs::write(vm.work().join("secret"), &secret)?;
    let dockerfile = "FROM busybox\n\
                      RUN --mount=type=secret,id=s wc -c < /run/secrets/s > /len\n\
                      RUN --mount=type=secret,id=s,env=S test -n \"$S\"\n\
                      RUN test ! -e /run/secrets/s && test -z \"$S\"\n";
    build(&vm, dockerfile, &["-t", "x", "--secret", "id=s,src=secret"])?.code(0)?;
    assert_eq!(prints(&vm, "x", "cat /len")?, "18\n");
    // Layers are there as plain archives, besides configs, records of the cache and manifests.
    let store = vm.root().join("images");
    ensure!(!is_anywhere(&store, &secret)?, "a secret was kept");
    ensure!(is_anywhere(&store, "id=s,env=S")?, "nothing is looked at");
    // Another secret is no other step.
    fs::write(vm.work().join("secret"), "another")?;
    let out = build(&vm, dockerfile, &["-t", "x", "--secret", "id=s,src=secret"])?.code(0)?;
    assert_eq!(out.stderr.matches("CACHED").count(), 3, "{out}");
    Ok(())
}

fn cache_mounts_live_on_and_are_locked(world: &World) -> Result<()> {
    let vm = world.own()?;
    let dockerfile = "FROM busybox\nARG N\n\
                      RUN --mount=type=cache,target=/c,sharing=locked \
                      test ! -e /c/busy && touch /c/busy && sleep 2 && rm /c/busy && \
                      echo $N >> /c/all && cp /c/all /all\n";
    context(&vm, "c", &[("Dockerfile", dockerfile)])?;
    let one = |number: &str| {
        vm.bulkhead(["build", "-t", number, "--build-arg"])
            .arg(format!("N={number}"))
            .arg("c")
            .spawn()
    };
    let (first, second) = (one("1")?, one("2")?);
    first.wait()?.code(0)?;
    second.wait()?.code(0)?;
    one("3")?.wait()?.code(0)?;
    let text = prints(&vm, "3", "cat /all")?;
    let lines: BTreeSet<&str> = text.lines().collect();
    assert_eq!(lines, BTreeSet::from(["1", "2", "3"]), "{text}");
    vm.bulkhead(["builder", "prune", "-af"]).output()?.code(0)?;
    one("4")?.wait()?.code(0)?;
    assert_eq!(prints(&vm, "4", "cat /all")?, "4\n");
    Ok(())
}

/// A step that has the cache to itself, and what it does with it.
fn alone(script: &str) -> String {
    format!("RUN --mount=type=cache,target=/c,sharing=locked {script}\n")
}

fn a_locked_cache_is_given_on_by_whoever_is_done_with_it(world: &World) -> Result<()> {
    let vm = world.own()?;
    // One step that makes no layer, one that does, and one behind them.
    let steps = |last: &str| {
        let first =
            alone("test ! -e /c/busy && touch /c/busy && sleep 1 && rm /c/busy && echo >> /c/all");
        let second = alone("test ! -e /c/busy && echo >> /c/all && cp /c/all /all");
        let third = alone(&format!(
            "test ! -e /c/busy && echo >> /c/all && echo {last} > /last"
        ));
        format!("FROM busybox\n{first}{second}{third}")
    };
    build(&vm, &steps("1"), &["-t", "x"])?.code(0)?;
    assert_eq!(prints(&vm, "x", "wc -l < /all; cat /last")?, "2\n1\n");
    // What is known takes no lock for good: the step behind it has it, and another build at the same time.
    context(&vm, "c", &[("Dockerfile", &steps("2"))])?;
    let begin = |flags: &[&str]| {
        let words = ["build", "--progress=plain"];
        vm.bulkhead(words).args(flags).arg("c").spawn()
    };
    let (known, anew) = (
        begin(&["-t", "known"])?,
        begin(&["-t", "anew", "--no-cache"])?,
    );
    let known = known.wait()?.code(0)?;
    assert_eq!(known.stderr.matches("CACHED").count(), 2, "{known}");
    anew.wait()?.code(0)?;
    assert_eq!(prints(&vm, "known", "cat /last")?, "2\n");
    // Each step that was done was done once.
    build(
        &vm,
        &format!("FROM busybox\n{}", alone("cp /c/all /all")),
        &["-t", "sum"],
    )?
    .code(0)?;
    assert_eq!(prints(&vm, "sum", "wc -l < /all")?, "7\n");
    Ok(())
}

fn who_fails_with_a_locked_cache_leaves_it_to_others(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    // Both stages want it, and one fails with it.
    let dockerfile = two_stages(&alone("sleep 1; exit 7"), &alone("sleep 1"));
    build(&vm, &dockerfile, &[])?.code(7)?;
    // Who has it is killed.
    let dockerfile = format!("FROM busybox\n{}", alone("echo got it; sleep 1000"));
    context(&vm, "c", &[("Dockerfile", &dockerfile)])?;
    let words = ["build", "--progress=plain", "c"];
    let mut held = vm.bulkhead(words).spawn()?;
    held.wait_for_stderr(" got it\n")?;
    held.signal(Signal::KILL)?;
    held.wait()?;
    let dockerfile = format!("FROM busybox\n{}", alone("echo free > /free"));
    build(&vm, &dockerfile, &["-t", "x"])?.code(0)?;
    assert_eq!(prints(&vm, "x", "cat /free")?, "free\n");
    vm.bulkhead(["rmi", "x"]).output()?.code(0)?;
    before_but_for_the_cache(&vm, &before)
}

fn a_step_without_a_network_has_loopback_alone(world: &World) -> Result<()> {
    let vm = world.own()?;
    let dockerfile = "FROM busybox\nRUN --network=none ls /sys/class/net > /none\n\
                      RUN ls /sys/class/net > /default\n";
    build(&vm, dockerfile, &["-t", "x"])?.code(0)?;
    assert_eq!(prints(&vm, "x", "cat /none")?, "lo\n");
    assert_eq!(prints(&vm, "x", "cat /default")?, "eth0\nlo\n");
    build(
        &vm,
        dockerfile,
        &["-t", "x", "--no-cache", "--network=none"],
    )?
    .code(0)?;
    assert_eq!(prints(&vm, "x", "cat /default")?, "lo\n");
    Ok(())
}

/// Two stages, and one that takes of both.
fn two_stages(one: &str, two: &str) -> String {
    format!(
        "FROM busybox AS one\n{one}FROM busybox AS two\n{two}\
         FROM busybox\nCOPY --from=one /etc/passwd /1\nCOPY --from=two /etc/passwd /2\n"
    )
}

const ENDLESS: &str = "RUN while :; do sleep 0.1; done\n";
const FAILS: &str = "RUN exit 7\n";

fn a_stage_that_fails_ends_the_build(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let out = build(&vm, &two_stages(FAILS, ENDLESS), &[])?.code(7)?;
    ensure!(out.stderr.contains("exit code: 7"), "{out}");
    before_but_for_the_cache(&vm, &before)
}

/// Needs several CPUs: `smp` has it among its tests.
pub(crate) fn stages_run_side_by_side_and_end_together(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    // One alone would wait for ever: they meet in a cache mount.
    let meet = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/c touch /c/{own}; \
             until test -e /c/{other}; do sleep 0.1; done\n"
        )
    };
    let dockerfile = two_stages(&meet("a", "b"), &meet("b", "a"));
    build(&vm, &dockerfile, &["-t", "x"])?.code(0)?;
    vm.bulkhead(["rmi", "x"]).output()?.code(0)?;
    let out = build(&vm, &two_stages(ENDLESS, FAILS), &[])?.code(7)?;
    ensure!(out.stderr.contains("exit code: 7"), "{out}");
    before_but_for_the_cache(&vm, &before)
}

/// Checks that nothing is left but what builds keep on purpose.
fn before_but_for_the_cache(vm: &Sandbox, before: &harness::Snapshot) -> Result<()> {
    vm.bulkhead(["builder", "prune", "-af"]).output()?.code(0)?;
    for name in ["build-mounts", "build-contexts", "images/build-cache"] {
        let folder = vm.root().join(name);
        if folder.exists() {
            fs::remove_dir(&folder).with_context(|| format!("{name} is not empty"))?;
        }
    }
    before.no_leftovers(vm)
}

fn files_of_the_web_are_added(world: &World) -> Result<()> {
    let vm = world.own()?;
    let served = vm.work().join("served");
    fs::create_dir(&served)?;
    fs::write(served.join("file.txt"), "of the web")?;
    let port = web::serve(served.clone())?;
    let url = format!("http://{}:{port}/file.txt", web::host_address()?);
    let dockerfile = format!("FROM busybox\nADD {url} /in/\nADD --chmod=644 {url} /named\n");
    let first = build(&vm, &dockerfile, &["-t", "x"])?.code(0)?;
    ensure!(!first.stderr.contains("CACHED"), "{first}");
    let script = "cat /in/file.txt /named; stat -c ' %a %u %Y' /in/file.txt /named";
    assert_eq!(
        prints(&vm, "x", script)?,
        "of the webof the web 600 0 1704067200\n 644 0 1704067200\n"
    );
    // It is asked for each time, and what it has counts.
    let same = build(&vm, &dockerfile, &["-t", "x"])?.code(0)?;
    assert_eq!(same.stderr.matches("CACHED").count(), 2, "{same}");
    fs::write(served.join("file.txt"), "another")?;
    let changed = build(&vm, &dockerfile, &["-t", "x"])?.code(0)?;
    ensure!(!changed.stderr.contains("CACHED"), "{changed}");
    let checked = format!(
        "FROM busybox\nADD --checksum=sha256:{} {url} /\n",
        "0".repeat(64)
    );
    let out = build(&vm, &checked, &[])?.code(1)?;
    ensure!(out.stderr.contains("digest mismatch"), "{out}");
    let missing = format!("FROM busybox\nADD {url}.not /\n");
    let out = build(&vm, &missing, &[])?.code(1)?;
    ensure!(out.stderr.contains("with status 404"), "{out}");
    // The host asks for it, and not what only the host reaches.
    let server = Server::at(Ipv4Addr::UNSPECIFIED.into())?;
    let address = |host: &str| format!("FROM busybox\nADD http://{host}:{}/f /\n", server.port);
    let reach = "is out of a build's reach";
    for (host, sentence) in [
        ("127.0.0.1", reach),
        ("0.0.0.0", reach),
        ("[::ffff:127.0.0.1]", reach),
        ("169.254.169.254", reach),
        ("localhost", "the name leads to an address that"),
    ] {
        let out = build(&vm, &address(host), &[])?.code(1)?;
        ensure!(out.stderr.contains(sentence), "{host}: {out}");
    }
    assert_eq!(server.visitors(), 0);
    // That it could have come is seen by the host's own.
    let host = web::host_address()?.to_string();
    build(&vm, &address(&host), &[])?.code(0)?;
    assert!(server.visitors() > 0);
    Ok(())
}

fn contexts_of_all_kinds(world: &World) -> Result<()> {
    let vm = world.own()?;
    let dockerfile = "FROM busybox\nCOPY f /f\n";
    context(
        &vm,
        "c",
        &[
            ("Dockerfile", dockerfile),
            ("f", "of the folder"),
            ("sub/Other", dockerfile),
            ("sub/f", "of sub"),
        ],
    )?;
    let script = |script: &str| vm.shell(script).output()?.code(0);
    let content = || prints(&vm, "x", "cat /f");
    script("tar -C c -cf - . | bulkhead build -t x -")?;
    assert_eq!(content()?, "of the folder");
    script("tar -C c -cf - . | bulkhead build -t x -f sub/Other -")?;
    assert_eq!(content()?, "of the folder");
    script("bulkhead build -t x -f c/sub/Other c/sub")?;
    assert_eq!(content()?, "of sub");
    script("printf 'FROM busybox\\nCOPY sub/f /f\\n' | bulkhead build -t x -f - c")?;
    assert_eq!(content()?, "of sub");
    script("printf 'FROM busybox\\nRUN echo none > /f\\n' | bulkhead build -t x -")?;
    assert_eq!(content()?, "none\n");
    let out = vm.shell("printf 'FROM busybox\\nCOPY f /f\\n' | bulkhead build -");
    let out = out.output()?.code(1)?;
    ensure!(
        out.stderr.contains("\"/f\": not found") || out.stderr.contains("f: "),
        "{out}"
    );
    script(
        "export GIT_CONFIG_GLOBAL=/dev/null; cd c && git init -q . && git add . && \
         git -c user.name=x -c user.email=x@example.org commit -qm one && git tag first && \
         echo later > f && git -c user.name=x -c user.email=x@example.org commit -qam two",
    )?;
    for (word, wanted) in [
        ("c#first", "of the folder"),
        ("c#", "later\n"),
        ("c#first:sub", "of sub"),
    ] {
        let file = if word.ends_with("sub") {
            "Other"
        } else {
            "Dockerfile"
        };
        vm.bulkhead(["build", "-t", "x", "-f", file, word])
            .output()?
            .code(0)?;
        assert_eq!(content()?, wanted, "{word}");
    }
    let out = vm.bulkhead(["build", "c#nothing"]).output()?.code(1)?;
    ensure!(out.stderr.contains("nothing"), "{out}");
    Ok(())
}

fn a_step_that_fails_is_shown_and_leaves_nothing(world: &World) -> Result<()> {
    let vm = world.own()?;
    let dockerfile = "FROM busybox\nRUN echo kept > /kept\n\nRUN echo why >&2; \\\n  exit 42\n";
    let before = vm.snapshot()?;
    let out = build(&vm, dockerfile, &["-t", "x"])?.code(42)?;
    for text in [
        "why\n",
        "Dockerfile:4\n",
        "   4 | >>> RUN echo why >&2; \\\n   5 | >>>   exit 42\n",
        "did not complete successfully: exit code: 42",
    ] {
        ensure!(out.stderr.contains(text), "{text:?} is not in {out}");
    }
    assert_eq!(out.stdout, "");
    ensure!(vm.bulkhead(["image", "inspect", "x"]).output()?.code == 1);
    // What was done is known, and nothing runs any more.
    vm.wait_for_no_process()?;
    ensure!(
        fs::read_dir(vm.root().join("images/ingest"))?
            .next()
            .is_none()
    );
    let out = build(&vm, &dockerfile.replace("exit 42", "true"), &["-t", "x"])?.code(0)?;
    assert_eq!(out.stderr.matches("CACHED").count(), 1, "{out}");
    vm.bulkhead(["rmi", "x"]).output()?.code(0)?;
    before_but_for_the_cache(&vm, &before)
}

fn a_build_that_is_killed_leaves_nothing(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let dockerfile = "FROM busybox\nRUN echo kept > /kept\nRUN echo underway; sleep 1000\n";
    context(&vm, "c", &[("Dockerfile", dockerfile)])?;
    let words = ["build", "--progress=plain", "-t", "x", "c"];
    for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
        let mut running = vm.bulkhead(words).spawn()?;
        running.wait_for_stderr(" underway\n")?;
        running.signal(signal)?;
        running.wait()?;
        vm.wait_for_no_process()?;
    }
    // A context that came as an archive was kept meanwhile.
    vm.shell("tar -C c -cf c.tar .").output()?.code(0)?;
    let archive = File::open(vm.work().join("c.tar"))?;
    let mut running = vm
        .bulkhead(["build", "--progress=plain", "-"])
        .stdin_from(archive)
        .spawn()?;
    running.wait_for_stderr(" underway\n")?;
    running.signal(Signal::KILL)?;
    running.wait()?;
    vm.wait_for_no_process()?;
    let dockerfile = dockerfile.replace("sleep 1000", "true");
    let out = build(&vm, &dockerfile, &["-t", "x"])?.code(0)?;
    assert_eq!(out.stderr.matches("CACHED").count(), 1, "{out}");
    vm.bulkhead(["rmi", "x"]).output()?.code(0)?;
    before_but_for_the_cache(&vm, &before)
}

/// The guest finds out that there is no such user while the files are still on their way to it.
fn what_a_copy_refuses_late_is_told(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let dockerfile = "FROM busybox\nCOPY --chown=nobody-of-that-name large /\n";
    context(&vm, "c", &[("large", &"0123456789".repeat(1 << 20))])?;
    let out = build(&vm, dockerfile, &[])?.code(1)?;
    ensure!(out.stderr.contains("nobody-of-that-name"), "{out}");
    ensure!(!out.stderr.contains("pipe"), "{out}");
    before_but_for_the_cache(&vm, &before)
}

fn nothing_of_the_host_is_reached(world: &World) -> Result<()> {
    let vm = world.own()?;
    let mark = "a file of the host";
    let outside = vm.folder().join("outside");
    fs::create_dir(&outside)?;
    fs::write(outside.join("file"), mark)?;
    let c = vm.work().join("c");
    context(&vm, "c", &[("real/x", "x")])?;
    symlink(&outside, c.join("absolute"))?;
    symlink("../../outside", c.join("relative"))?;
    symlink(outside.join("file"), c.join("file"))?;
    symlink("/proc/self/root", c.join("magic"))?;
    let deep = outside.display().to_string();
    for source in [
        "absolute/file",
        "relative/file",
        "file",
        "../outside/file",
        "real/../../../outside/file",
        "/absolute/file",
        "*/file",
        &format!("magic{deep}/file"),
        &format!("{deep}/file"),
        "file:///etc/shadow",
        "/proc/self/environ",
    ] {
        for word in ["COPY", "ADD"] {
            let out = build(&vm, &format!("FROM busybox\n{word} {source} /got\n"), &[])?;
            ensure!(out.code == 1, "{word} {source}: {out}");
            ensure!(!out.stderr.contains(mark), "{out}");
        }
    }
    // As a whole the folder is copied, links as links.
    build(&vm, "FROM busybox\nCOPY . /all\n", &["-t", "x"])?.code(0)?;
    assert_eq!(
        prints(
            &vm,
            "x",
            "readlink /all/relative; cat /all/file 2>/dev/null || echo none"
        )?,
        "../../outside\nnone\n"
    );
    mounts_reach_nothing(&vm, &deep)?;
    // An archive on standard input whose links lead out.
    let script = format!(
        "mkdir t && cd t && ln -s {deep}/file Dockerfile && ln -s {deep} d && \
         tar -cf - Dockerfile d | bulkhead build -"
    );
    let out = vm.shell(&script).output()?;
    ensure!(out.code == 1 && !out.stderr.contains(mark), "{out}");
    let script = format!(
        "mkdir u && cd u && ln -s {deep} d && tar -cf ../u.tar d && rm d && mkdir d && \
         echo planted > d/planted && tar -rf ../u.tar d/planted && \
         printf 'FROM busybox\\nCOPY d/ /d/\\n' > Dockerfile && tar -rf ../u.tar Dockerfile && \
         bulkhead build - < ../u.tar"
    );
    let out = vm.shell(&script).output()?;
    let refusal = "d/planted is below a symbolic link or a file, and nothing is written through it";
    ensure!(out.code == 1 && out.stderr.contains(refusal), "{out}");
    ensure!(
        !outside.join("planted").exists(),
        "a file of the host was made"
    );
    Ok(())
}

/// Mounts whose words lead out of the context, of a stage or of where caches are: each is refused with
/// its sentence, or shows what is the build's own.
fn mounts_reach_nothing(vm: &Sandbox, deep: &str) -> Result<()> {
    let files = || -> Result<String> {
        let script = "cd .. && find outside work/c ! -name Dockerfile \
            -printf '%p %y %m %U %s %T@ %l\n' -type f -exec sha256sum {} ';' | sort";
        vm.shell(script).output()?.only_stdout()
    };
    let before = files()?;
    let (empty, real) = (Ok(" saw:\n"), Ok(" saw: x\n"));
    let outside = Err("forbidden path outside the build context: /");
    let nothing = Err("file not found in build context or excluded by .dockerignore: stat /");
    let not_there = Err("outside: not found");
    let mut wrong = Vec::new();
    for (mount, target, expected) in [
        ("type=cache,id=../../outside", "/m", empty),
        ("type=cache,id={deep}", "/m", empty),
        ("type=cache,sharing=private,id=../..", "/m", empty),
        // A link of the image's to such a folder.
        ("type=cache", "/l", empty),
        ("type=cache", "/l/below", empty),
        ("type=tmpfs", "/l", empty),
        ("type=bind,rw,source=real", "/l", real),
        ("type=bind,rw,source=real", "/m", real),
        ("type=bind,source=absolute", "/m", outside),
        ("type=bind,source=relative/file", "/m", outside),
        ("type=bind,source=file", "/m", outside),
        ("type=bind,source=magic{deep}", "/m", outside),
        ("type=bind,source=../outside", "/m", nothing),
        ("type=bind,source=real/../../../outside", "/m", nothing),
        ("type=bind,source={deep}", "/m", nothing),
        (
            "type=bind,from=made,source=/l",
            "/m",
            Err(": /l: not found"),
        ),
        (
            "type=bind,from=made,source=/l/file",
            "/m",
            Err(": /l/file: not found"),
        ),
        ("type=bind,from=made,source=../../..{deep}", "/m", not_there),
        (
            "type=bind,from=made,source=/proc/1/root{deep}",
            "/m",
            not_there,
        ),
        (
            "type=bind,from={deep}",
            "/m",
            Err("failed to parse stage name"),
        ),
        (
            "type=bind,from=../outside",
            "/m",
            Err("failed to parse stage name"),
        ),
        (
            "type=cache,from=made,source=/l",
            "/m",
            Err("is not supported"),
        ),
        (
            "type=secret,required,id=../../outside/file",
            "/m",
            Err("secret ../../outside/file: not found"),
        ),
    ] {
        let mount = mount.replace("{deep}", deep);
        let dockerfile = format!(
            "FROM busybox AS made\nRUN ln -s {deep} /l\nFROM made\n\
             RUN --mount={mount},target={target} echo saw: $(ls {target}) && touch {target}/planted\n"
        );
        let out = build(vm, &dockerfile, &["--no-cache"])?;
        let is_so = match expected {
            Ok(seen) => out.code == 0 && out.stderr.contains(seen),
            Err(sentence) => out.code == 1 && out.stderr.contains(sentence),
        };
        if !is_so || out.stderr.contains("a file of the host") || files()? != before {
            wrong.push(format!("{mount}: {out}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn a_user_of_the_group_builds(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    let dockerfile = "FROM busybox\nCOPY f /f\nCOPY --chown=app f /g\n\
                      RUN --mount=type=cache,target=/c touch /c/x && chown app /etc/group\n\
                      USER app\nWORKDIR /home/app/w\nRUN touch h\n";
    context(&vm, "c", &[("Dockerfile", dockerfile), ("f", "f")])?;
    tenant::give(&vm)?;
    let device = tenant::GroupsDevice::set()?;
    let user = format!(
        "setpriv --reuid={0} --regid={0} --groups={1}",
        tenant::ID,
        tenant::KVM_GROUP
    );
    let run = |command: &str| -> Result<Output> {
        vm.shell(&format!("exec {user} {command}"))
            .env("BULKHEAD_TEMPLATES", vm.work().join("templates"))
            .output()
    };
    run("bulkhead build -q -t x c")?.code(0)?;
    let files = "/f /g /etc/group /home/app/w /home/app/w/h";
    let out = run(&format!("bulkhead run --rm x stat -c %U:%G {files}"))?;
    drop(device);
    assert_eq!(
        out.only_stdout()?,
        "root:root\napp:app\napp:root\napp:app\napp:app\n"
    );
    Ok(())
}

fn what_is_built_runs_is_saved_and_built_upon(world: &World) -> Result<()> {
    let vm = world.own()?;
    let dockerfile = "FROM busybox\nRUN echo one > /one && rm /bin/vi\nCMD [\"cat\", \"/one\"]\n";
    build(&vm, dockerfile, &["-t", "one"])?.code(0)?;
    assert_eq!(vm.run(["one"])?.only_stdout()?, "one\n");
    build(&vm, "FROM one\nRUN cp /one /two\n", &["-t", "two"])?.code(0)?;
    let history = vm.bulkhead(["history", "--no-trunc", "--format", "{{.CreatedBy}}", "two"]);
    let history = history.output()?.only_stdout()?;
    ensure!(
        history.starts_with(
            "/bin/sh -c cp /one /two\n/bin/sh -c #(nop)  CMD [\"cat\" \"/one\"]\n\
             /bin/sh -c echo one > /one && rm /bin/vi\n"
        ),
        "{history}"
    );
    // A copy of it, elsewhere, is the same.
    vm.bulkhead(["save", "-o", "two.tar", "two"])
        .output()?
        .code(0)?;
    let other = Sandbox::empty()?;
    other.load(&vm.work().join("two.tar"))?;
    let of = |vm: &Sandbox| inspect(vm, "two", "{{json .RootFS.Layers}} {{json .Config}}");
    assert_eq!(of(&vm)?, of(&other)?);
    let mut archive = fs::File::open(vm.work().join("two.tar"))?;
    let mut head = [0; 512];
    archive.read_exact(&mut head)?;
    let out = other.run([
        "two",
        "sh",
        "-c",
        "cat /two; test ! -e /bin/vi && echo gone",
    ])?;
    assert_eq!(out.only_stdout()?, "one\ngone\n");
    // What the cache and an image have is kept by either of them.
    for words in [&["rmi", "one", "two"][..], &["image", "prune", "-af"]] {
        vm.bulkhead(words).output()?.code(0)?;
    }
    Ok(())
}
