//! Other tools and the images of builds: what buildah made runs and is built upon; skopeo, umoci and
//! podman read what we built.

use std::fs;

use anyhow::{Context, Result, ensure};
use harness::{Invocation, Sandbox, images};

use crate::tenant;
use crate::world::World;

crate::tests![
    an_image_of_buildahs_is_run_and_built_upon,
    what_is_built_is_read_by_others,
];

/// A tool of Debian's, in the sandbox's folder and with a storage of its own.
fn tool(vm: &Sandbox, name: &str, words: &[&str]) -> Result<String> {
    let storage = vm.folder().join("storage");
    let tool = Invocation::new(format!("/usr/bin/{name}"))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", vm.home())
        .env("XDG_RUNTIME_DIR", vm.folder());
    let tool = match name {
        "buildah" | "podman" => tool
            .args(["--storage-driver=vfs", "--root"])
            .arg(storage.join("root"))
            .arg("--runroot")
            .arg(storage.join("run")),
        _ => tool,
    };
    let out = tool.args(words).current_dir(vm.work()).output()?;
    Ok(out.code(0)?.stdout)
}

/// Builds the context `c`, which has this Dockerfile alone, as `name`.
fn build(vm: &Sandbox, name: &str, dockerfile: &str) -> Result<()> {
    let context = vm.work().join("c");
    fs::create_dir_all(&context)?;
    fs::write(context.join("Dockerfile"), dockerfile)?;
    vm.bulkhead(["build", "-q", "-t", name, "c"])
        .output()?
        .code(0)?;
    Ok(())
}

fn an_image_of_buildahs_is_run_and_built_upon(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    let busybox = images::busybox()?;
    let busybox = busybox.to_str().context("a path")?;
    let from = tool(
        &vm,
        "buildah",
        &["from", &format!("docker-archive:{busybox}")],
    )?;
    let from = from.trim_end();
    fs::write(vm.work().join("theirs"), "of buildah\n")?;
    tool(
        &vm,
        "buildah",
        &["copy", "--chown=1000:50", from, "theirs", "/theirs"],
    )?;
    tool(
        &vm,
        "buildah",
        &["config", "--env=WHO=buildah", "--cmd=cat /theirs", from],
    )?;
    tool(
        &vm,
        "buildah",
        &["commit", from, "oci-archive:theirs.tar:theirs:1"],
    )?;
    vm.load(&vm.work().join("theirs.tar"))?;
    let name = vm.bulkhead(["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    let names = name.output()?.only_stdout()?;
    let name = names.lines().find(|line| line.contains("theirs"));
    let name = name.with_context(|| names.clone())?;
    assert_eq!(vm.run([name])?.only_stdout()?, "of buildah\n");
    build(
        &vm,
        "upon",
        &format!(
            "FROM {name}\nRUN stat -c %u:%g /theirs > /owner && echo $WHO > /who\n\
             CMD cat /theirs /owner /who\n"
        ),
    )?;
    assert_eq!(
        vm.run(["upon"])?.only_stdout()?,
        "of buildah\n1000:50\nbuildah\n"
    );
    Ok(())
}

fn what_is_built_is_read_by_others(world: &World) -> Result<()> {
    tenant::needs_root()?;
    let vm = world.own()?;
    build(
        &vm,
        "ours:1",
        "FROM busybox\n\
         RUN mkdir -m 750 /d && echo x > /d/f && chown -R 7:8 /d && ln /d/f /d/hard && rm /bin/vi\n\
         RUN echo ours > /ours\nLABEL made=here\nCMD [\"cat\", \"/ours\"]\n",
    )?;
    vm.bulkhead(["save", "-o", "ours.tar", "ours:1"])
        .output()?
        .code(0)?;
    let inspected = tool(&vm, "skopeo", &["inspect", "docker-archive:ours.tar"])?;
    ensure!(inspected.contains("\"made\": \"here\""), "{inspected}");
    tool(
        &vm,
        "skopeo",
        &["copy", "-q", "docker-archive:ours.tar", "oci:layout:ours"],
    )?;
    tool(
        &vm,
        "umoci",
        &["unpack", "--image", "layout:ours", "bundle"],
    )?;
    let list = Invocation::new("/usr/bin/find")
        .args([
            ".", "(", "-path", "./d*", "-o", "-name", "ours", "-o", "-name", "vi", ")",
        ])
        .args(["-not", "-path", "./dev*", "-printf", "%p %m %U:%G %n\n"])
        .current_dir(vm.work().join("bundle/rootfs"));
    let list = list.output()?.only_stdout()?;
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "./d 750 7:8 2",
            "./d/f 644 7:8 2",
            "./d/hard 644 7:8 2",
            "./ours 644 0:0 1",
        ]
    );
    tool(&vm, "podman", &["load", "-q", "-i", "ours.tar"])?;
    let said = tool(&vm, "podman", &["run", "--rm", "--network=none", "ours:1"])?;
    assert_eq!(said, "ours\n");
    Ok(())
}
