//! Other tools and images: what buildah made runs and is built upon; skopeo, umoci and podman read what
//! was built here. The tools are Debian's, with storage of their own.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{Invocation, Sandbox};

use crate::world::World;

crate::tests![
    an_image_of_buildahs_is_run_and_built_upon,
    what_is_built_is_read_by_others,
];

/// Two stages, files that are removed again, a folder that is replaced, links, an owner, an entry point.
const DOCKERFILE: &str = "\
FROM busybox AS made
RUN mkdir -p /out/sub && echo made > /out/f && ln /out/f /out/hard && ln -s f /out/soft \\
    && chmod 750 /out/sub && chown 7:8 /out/sub
FROM busybox
COPY --from=made /out /d
RUN rm /bin/vi && rm -r /home && mkdir /home && echo new > /home/new
RUN rm /d/hard && echo more > /d/sub/more
LABEL made=here
ENV WHO=world
WORKDIR /d
ENTRYPOINT [\"cat\"]
CMD [\"f\"]
";

/// Paths below the root, their modes, owners and numbers of links, as `find` prints them.
const FILES: [&str; 7] = [
    "./d 755 0:0",
    "./d/f 644 0:0",
    "./d/soft 777 0:0",
    "./d/sub 750 7:8",
    "./d/sub/more 644 0:0",
    "./home 755 0:0",
    "./home/new 644 0:0",
];

/// A tool in the sandbox's folder.
fn tool(vm: &Sandbox, name: &str, words: &[&str]) -> Result<String> {
    // Short: podman's sockets are in it.
    let storage = vm.folder().join("storage");
    fs::create_dir_all(&storage)?;
    let tool = Invocation::new(format!("/usr/bin/{name}"))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", vm.home())
        .env("XDG_RUNTIME_DIR", &storage)
        .env("BUILDAH_ISOLATION", "chroot");
    let tool = match name {
        "buildah" | "podman" => tool
            .args(["--storage-driver=vfs", "--root"])
            .arg(storage.join("root"))
            .arg("--runroot")
            .arg(storage.join("run")),
        "skopeo" => tool.arg("--insecure-policy"),
        _ => tool,
    };
    let tool = match name {
        "podman" => tool.args([
            "--runtime=crun",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
        ]),
        _ => tool,
    };
    let out = tool.args(words).current_dir(vm.work()).output()?;
    Ok(out.code(0)?.stdout)
}

/// Builds a context that has this Dockerfile alone.
fn build(vm: &Sandbox, name: &str, dockerfile: &str) -> Result<()> {
    vm.bulkhead(["build", "-q", "-t", name, "-"])
        .stdin(dockerfile)
        .output()?
        .code(0)?;
    Ok(())
}

fn an_image_of_buildahs_is_run_and_built_upon(world: &World) -> Result<()> {
    let vm = world.own()?;
    let context = vm.work().join("theirs");
    fs::create_dir(&context)?;
    fs::write(context.join("file"), "of buildah\n")?;
    // An image of its own, as it knows none: busybox alone, under the names that are needed.
    fs::copy("/bin/busybox", context.join("busybox")).context("copy busybox")?;
    fs::write(
        context.join("Dockerfile"),
        "FROM scratch AS base\n\
         COPY busybox /bin/busybox\n\
         RUN [\"/bin/busybox\", \"ln\", \"-s\", \"busybox\", \"/bin/sh\"]\n\
         FROM base\n\
         COPY --chown=1000:50 file /theirs\n\
         RUN /bin/busybox rm /bin/sh && /bin/busybox ln /bin/busybox /bin/sh\n\
         ENV WHO=buildah\n\
         CMD [\"/bin/busybox\", \"cat\", \"/theirs\"]\n",
    )?;
    tool(
        &vm,
        "buildah",
        &["bud", "--layers", "-q", "-t", "theirs:1", "theirs"],
    )?;
    let target = "oci-archive:theirs.tar:theirs:1";
    tool(&vm, "buildah", &["push", "-q", "theirs:1", target])?;
    vm.load(&vm.work().join("theirs.tar"))?;
    let names = vm.bulkhead(["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    let names = names.output()?.only_stdout()?;
    let name = names.lines().find(|line| line.contains("theirs"));
    let name = name.with_context(|| names.clone())?;
    assert_eq!(vm.run([name])?.only_stdout()?, "of buildah\n");
    build(
        &vm,
        "upon",
        &format!(
            "FROM {name}\n\
             RUN /bin/busybox stat -c '%u:%g' /theirs > /owner && echo $WHO > /who\n\
             CMD [\"/bin/busybox\", \"cat\", \"/theirs\", \"/owner\", \"/who\"]\n"
        ),
    )?;
    assert_eq!(
        vm.run(["upon"])?.only_stdout()?,
        "of buildah\n1000:50\nbuildah\n"
    );
    Ok(())
}

fn what_is_built_is_read_by_others(world: &World) -> Result<()> {
    let vm = world.own()?;
    build(&vm, "ours:1", DOCKERFILE)?;
    assert_eq!(vm.run(["ours:1"])?.only_stdout()?, "made\n");
    // One archive that is both of the forms.
    vm.bulkhead(["save", "-o", "ours.tar", "ours:1"])
        .output()?
        .code(0)?;
    for form in ["docker-archive", "oci-archive"] {
        let source = format!("{form}:ours.tar");
        let inspected = tool(&vm, "skopeo", &["inspect", &source])?;
        ensure!(inspected.contains("\"made\": \"here\""), "{inspected}");
        let layout = format!("oci:{form}:ours");
        tool(&vm, "skopeo", &["copy", "-q", &source, &layout])?;
        let bundle = format!("{form}-bundle");
        let image = format!("{form}:ours");
        tool(&vm, "umoci", &["unpack", "--image", &image, &bundle])?;
        assert_eq!(
            files(&vm.work().join(&bundle).join("rootfs"))?,
            FILES,
            "{form}"
        );
        tool(&vm, "podman", &["pull", "-q", &source])?;
        let run = ["run", "--rm", "--network=none", "--cgroups=disabled"];
        let said = tool(&vm, "podman", &[&run[..], &["ours:1"]].concat())?;
        assert_eq!(said, "made\n", "{form}");
        let script = "test ! -e /bin/vi && test ! -e /d/hard && pwd && echo $WHO";
        let shell = ["--entrypoint=sh", "ours:1", "-c", script];
        let said = tool(&vm, "podman", &[&run[..], &shell].concat())?;
        assert_eq!(said, "/d\nworld\n", "{form}");
        tool(&vm, "podman", &["rmi", "-f", "ours:1"])?;
    }
    tool(&vm, "podman", &["load", "-q", "-i", "ours.tar"])?;
    tool(&vm, "podman", &["image", "exists", "ours:1"])?;
    Ok(())
}

/// What of [`FILES`] there is.
fn files(root: &Path) -> Result<Vec<String>> {
    ensure!(!root.join("bin/vi").exists(), "a removed file is there");
    let list = Invocation::new("/usr/bin/find")
        .args(["./d", "./home", "-printf", "%p %m %U:%G\n"])
        .current_dir(root)
        .output()?
        .only_stdout()?;
    let mut lines: Vec<String> = list.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    Ok(lines)
}
