//! What a process finds around itself: user, groups, folder, variables, names, devices.

use std::fs;

use anyhow::Result;

use crate::world::World;

crate::tests![
    users_and_groups_are_looked_up_in_the_image,
    unknown_users_are_refused,
    the_folder_is_the_images_or_the_flags_and_made_if_missing,
    variables_come_from_image_files_and_flags,
    proxies_of_dockers_config_are_variables,
    names_are_set,
    the_root_file_system_is_writable_and_others_are_not,
    devices_are_dockers,
];

fn users_and_groups_are_looked_up_in_the_image(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    for (flags, expected) in [
        (
            &["-u", "app"][..],
            "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra),2001(more)",
        ),
        (
            &["-u", "app:staff"],
            "uid=1000(app) gid=50(staff) groups=50(staff)",
        ),
        (&["-u", "4242"], "uid=4242 gid=0(root) groups=0(root)"),
        (
            &["-u", "4242:77", "--group-add", "staff", "--group-add", "99"],
            "uid=4242 gid=77 groups=50(staff),77,99",
        ),
    ] {
        let out = vm
            .bulkhead(["run", "--rm"])
            .args(flags)
            .args(["busybox", "id"])
            .output()?;
        let text = out.only_stdout()?;
        assert_eq!(sorted_groups(&text), expected, "{flags:?}");
    }
    Ok(())
}

/// The order of groups is the kernel's; what there is counts.
fn sorted_groups(id: &str) -> String {
    let Some((head, groups)) = id.trim_end().split_once("groups=") else {
        return id.to_owned();
    };
    let mut groups: Vec<_> = groups.split(',').collect();
    groups.sort_by_key(|group| {
        let digits: String = group.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().unwrap_or(u32::MAX)
    });
    format!("{head}groups={}", groups.join(","))
}

fn unknown_users_are_refused(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    vm.run(["-u", "stranger", "busybox", "id"])?
        .refusal("unable to find user stranger: no matching entries in passwd file")?;
    vm.run(["-u", "app:strangers", "busybox", "id"])?
        .refusal("unable to find group strangers: no matching entries in group file")?;
    vm.run(["variant:unknown-user"])?
        .refusal("unable to find user stranger")?;
    before.no_leftovers(&vm)
}

fn the_folder_is_the_images_or_the_flags_and_made_if_missing(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    for (words, expected) in [
        (&["busybox", "pwd"][..], "/\n"),
        (&["variant:workdir"], "/made/for/it\n"),
        (&["-w", "/new/one", "variant:workdir"], "/new/one\n"),
    ] {
        assert_eq!(vm.run(words)?.only_stdout()?, expected, "{words:?}");
    }
    vm.run(["-w", "relative", "busybox", "pwd"])?
        .refusal("the working directory 'relative' is invalid, it needs to be an absolute path")?;
    Ok(())
}

fn variables_come_from_image_files_and_flags(world: &World) -> Result<()> {
    let vm = world.own()?;
    std::fs::write(
        vm.work().join("list"),
        "# comment\nFROM_FILE=in file \nBOTH=file\nCALLERS\n\n",
    )?;
    let text = vm
        .bulkhead([
            "run",
            "--rm",
            "--env-file",
            "list",
            "-e",
            "BOTH=flag",
            "-e",
            "CALLERS_TOO",
        ])
        .args([
            "-e",
            "ABSENT",
            "-e",
            "EMPTY_FLAG=",
            "-h",
            "named",
            "variant:env",
        ])
        .env("CALLERS", "of file")
        .env("CALLERS_TOO", "of flag")
        .output()?
        .only_stdout()?;
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "BOTH=flag",
            "CALLERS=of file",
            "CALLERS_TOO=of flag",
            "EMPTY=",
            "EMPTY_FLAG=",
            "FROM_FILE=in file ",
            "GREETING=hello world",
            "HOME=/elsewhere",
            "HOSTNAME=named",
            "PATH=/bin",
        ]
    );
    Ok(())
}

fn proxies_of_dockers_config_are_variables(world: &World) -> Result<()> {
    let vm = world.own()?;
    let folder = vm.home().join(".docker");
    fs::create_dir_all(&folder)?;
    let config = r#"{"proxies": {"default": {"httpProxy": "http://p:1", "noProxy": ".test"}}}"#;
    fs::write(folder.join("config.json"), config)?;
    let script = "env | grep -i proxy | sort";
    let run = [
        "run",
        "--rm",
        "-e",
        "no_proxy=mine",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    assert_eq!(
        vm.bulkhead(run).output()?.only_stdout()?,
        "HTTP_PROXY=http://p:1\nNO_PROXY=.test\nhttp_proxy=http://p:1\nno_proxy=mine\n"
    );
    // A build's steps see them, and the image keeps none.
    let dockerfile = "FROM busybox\nRUN echo $http_proxy > /seen\nCMD cat /seen; env\n";
    fs::write(vm.work().join("Dockerfile"), dockerfile)?;
    vm.bulkhead(["build", "-q", "-t", "x", "."])
        .output()?
        .code(0)?;
    fs::remove_file(folder.join("config.json"))?;
    let text = vm.run(["x"])?.only_stdout()?;
    assert!(text.starts_with("http://p:1\n"), "{text}");
    assert!(!text.to_lowercase().contains("proxy="), "{text}");
    Ok(())
}

fn names_are_set(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "hostname; cat /etc/hostname; cat /etc/hosts; cat /etc/resolv.conf";
    let text = vm
        .run([
            "--network",
            "none",
            "-h",
            "box",
            "--domainname",
            "example.org",
            "--add-host",
            "other:10.1.2.3",
            "--dns",
            "10.9.8.7",
            "--dns-search",
            "search.example",
            "--dns-option",
            "ndots:3",
            "busybox",
            "sh",
            "-c",
            script,
        ])?
        .only_stdout()?;
    assert!(text.starts_with("box\nbox\n"), "{text}");
    for line in [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "10.1.2.3\tother",
        "nameserver 10.9.8.7",
        "search search.example",
        "options ndots:3",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line:?} in {text}"
        );
    }
    // Without a flag the host name is the beginning of the container's id.
    let text = vm.run(["busybox", "hostname"])?.only_stdout()?;
    let name = text.trim_end();
    assert!(
        name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{text}"
    );
    Ok(())
}

fn the_root_file_system_is_writable_and_others_are_not(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "
        try() { if echo x 2>/dev/null >$1; then echo $1 writable; else echo $1 not; fi; }
        try /file; try /etc/hosts; try /dev/shm/file; try /tmp/file; try /proc/sys/kernel/domainname
        try /sys/kernel/file; try /proc/sysrq-trigger";
    let text = vm.run(["busybox", "sh", "-c", script])?.only_stdout()?;
    assert_eq!(
        text,
        "/file writable\n/etc/hosts writable\n/dev/shm/file writable\n/tmp/file writable\n\
         /proc/sys/kernel/domainname not\n/sys/kernel/file not\n/proc/sysrq-trigger not\n"
    );
    let text = vm
        .run([
            "--read-only",
            "--tmpfs",
            "/tmp",
            "busybox",
            "sh",
            "-c",
            script,
        ])?
        .only_stdout()?;
    assert_eq!(
        text,
        "/file not\n/etc/hosts not\n/dev/shm/file writable\n/tmp/file writable\n\
         /proc/sys/kernel/domainname not\n/sys/kernel/file not\n/proc/sysrq-trigger not\n"
    );
    Ok(())
}

fn devices_are_dockers(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "ls /dev; head -c 16 /dev/urandom | wc -c; head -c 3 /dev/zero | wc -c
        echo x >/dev/null; echo x >/dev/full || echo full; cat /dev/vda 2>&1 || echo no disk";
    let out = vm.run(["busybox", "sh", "-c", script])?.code(0)?;
    let text = &out.stdout;
    let listed: Vec<_> = text.lines().take_while(|line| *line != "16").collect();
    assert_eq!(
        listed,
        [
            "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr",
            "stdin", "stdout", "tty", "urandom", "zero"
        ]
    );
    assert!(text.contains("16\n3\nfull\n"), "{out}");
    assert!(text.ends_with("no disk\n"), "{out}");
    Ok(())
}
