//! A full Debian: its interpreter, its tools, its file capabilities.

use anyhow::Result;

use crate::world::World;

crate::tests![
    python_runs,
    ping_works_as_a_user_by_its_file_capability,
    its_tools_see_a_machine_of_their_own,
];

fn python_runs(world: &World) -> Result<()> {
    let vm = world.debian()?;
    let script = "import hashlib, multiprocessing, platform, sqlite3, ssl, threading\n\
        with multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, -2, -3]))\n\
        print(sqlite3.connect(':memory:').execute('select 6 * 7').fetchone()[0])\n\
        print(hashlib.sha256(b'abc').hexdigest()[:16], platform.system())";
    let out = vm.run(["debian:12", "python3", "-c", script])?;
    assert_eq!(
        out.only_stdout()?,
        "[1, 2, 3]\n42\nba7816bf8f01cfea Linux\n"
    );
    Ok(())
}

fn ping_works_as_a_user_by_its_file_capability(world: &World) -> Result<()> {
    let vm = world.debian()?;
    // No group may open the sockets that need no capability.
    let run = |flags: &[&str]| {
        vm.bulkhead([
            "run",
            "--rm",
            "-u",
            "nobody",
            "--sysctl",
            "net.ipv4.ping_group_range=1 0",
        ])
        .args(flags)
        .args(["debian:12", "ping", "-c", "1", "-W", "60", "127.0.0.1"])
        .output()
    };
    let out = run(&[])?.code(0)?;
    assert!(out.stdout.contains("1 received"), "{out}");
    let out = run(&["--cap-drop", "NET_RAW"])?;
    assert_ne!(out.code, 0, "{out}");
    Ok(())
}

fn its_tools_see_a_machine_of_their_own(world: &World) -> Result<()> {
    let vm = world.debian()?;
    let script =
        ". /etc/os-release; echo $ID $VERSION_ID; uname -s; ps -e --no-headers | wc -l; id -un
        su nobody -s /bin/sh -c 'id -un'
        dpkg --verify base-files | grep -v ' /usr/share/doc'; echo verified";
    let out = vm.run(["debian:12", "bash", "-c", script])?;
    assert_eq!(
        out.only_stdout()?,
        // Documentation is left out of the image.
        "debian 12\nLinux\n3\nroot\nnobody\nverified\n"
    );
    Ok(())
}
