//! VMs from inside a container of another engine, as where CI runs in one, and by root of a user
//! namespace. The engine is Debian's docker.io.

use anyhow::Result;
use harness::{Docker, Invocation, Sandbox, images};

use crate::world::World;

crate::tests![
    a_container_of_dockers_without_its_filter_has_vms,
    root_of_a_user_namespace_has_vms,
];

/// A share's owner and what is written into it, and a network.
const SCRIPT: &str = "set -e
mkdir shared; echo from outside > shared/in; chown 7:8 shared/in
bulkhead run --rm --network none -v \"$PWD/shared:/m\" busybox sh -c \
    'cat /m/in; stat -c %u:%g /m/in; echo from the VM > /m/out'
cat shared/out
bulkhead run --rm -p 8080:80 busybox cat /proc/net/dev | grep -c eth0
";

/// What [`SCRIPT`] prints.
const PRINTS: &str = "from outside\n7:8\nfrom the VM\n1\n";

fn a_container_of_dockers_without_its_filter_has_vms(world: &World) -> Result<()> {
    let vm = world.own()?;
    let docker = Docker::start()?;
    docker.load(&images::busybox()?)?;
    let inside = |flags: &[&str], words: &[&str]| {
        let folder = vm.folder().display();
        let mut run = docker.docker(["run", "--rm", "--network=none"]);
        for bind in [
            "/usr:/usr:ro".to_owned(),
            "/usr/lib:/lib:ro".to_owned(),
            "/usr/lib64:/lib64:ro".to_owned(),
            format!("{folder}:{folder}"),
        ] {
            run = run.args(["-v", &bind]);
        }
        for variable in [
            format!("BULKHEAD_ROOT={folder}/root"),
            format!("BULKHEAD_GUEST={folder}/guest"),
            format!("PATH={folder}/bin:/usr/sbin:/usr/bin:/bin"),
        ] {
            run = run.args(["-e", &variable]);
        }
        run.args(["--device=/dev/kvm", "--device=/dev/net/tun"])
            .args(["-w", &format!("{folder}/work")])
            .args(flags)
            .arg("busybox")
            .args(words)
            .output()
    };

    let denied = inside(&[], &["bulkhead", "doctor"])?.code(1)?;
    assert!(
        denied.stdout.contains("seccomp=unconfined"),
        "{}",
        denied.stdout
    );
    let said = inside(&[], &["bulkhead", "run", "--rm", "busybox", "true"])?
        .code(125)?
        .stderr;
    assert!(said.contains("hint: `bulkhead doctor` says"), "{said}");

    let unconfined = ["--security-opt=seccomp=unconfined"];
    inside(&unconfined, &["bulkhead", "doctor"])?.code(0)?;
    let printed = inside(&unconfined, &["sh", "-c", SCRIPT])?.only_stdout()?;
    assert_eq!(printed, PRINTS);
    vm.wait_for_no_process()
}

fn root_of_a_user_namespace_has_vms(world: &World) -> Result<()> {
    let vm = world.own()?;
    let root = |script: &str| as_root_of_a_namespace(&vm, script).output();
    root("bulkhead doctor")?.code(0)?;
    // It has no other user to give a file to.
    let script = SCRIPT.replace("chown 7:8", "chown 0:0");
    let printed = root(&script)?.only_stdout()?;
    assert_eq!(printed, PRINTS.replace("7:8", "0:0"));
    vm.wait_for_no_process()
}

fn as_root_of_a_namespace(vm: &Sandbox, script: &str) -> Invocation {
    let unshare = Invocation::new("/usr/bin/unshare");
    vm.equipped(unshare.args(["--map-root-user", "sh", "-c", script]))
}
