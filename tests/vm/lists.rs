//! What looks at and tidies many containers at once, the journal of what is done to them, and limits
//! that change while they run.

use anyhow::{Context, Result};
use harness::Sandbox;
use serde_json::Value;

use crate::world::World;

crate::tests![
    filters_and_sizes_of_containers,
    the_journal_tells_a_life,
    events_are_followed,
    prunes_leave_what_is_used,
    limits_change_while_it_runs,
    what_was_given_is_inspected,
];

/// The output of a command that must succeed.
fn text(vm: &Sandbox, arguments: &[&str]) -> Result<String> {
    let out = vm.bulkhead(arguments).output()?.code(0)?;
    Ok(out.stdout)
}

/// What a command that must fail says.
fn refused(vm: &Sandbox, arguments: &[&str]) -> Result<String> {
    let out = vm.bulkhead(arguments).output()?.code(1)?;
    Ok(out.stderr)
}

/// A container in the background that does nothing until it is killed.
fn begin(vm: &Sandbox, name: &str, flags: &[&str]) -> Result<()> {
    let run = ["run", "-d", "--name", name];
    let sleeps = ["busybox", "sleep", "10000"];
    text(vm, &[&run, flags, &sleeps].concat())?;
    Ok(())
}

fn filters_and_sizes_of_containers(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "one", &["--label", "tier=web", "--expose", "80"])?;
    text(&vm, &["create", "--name", "two", "busybox", "true"])?;
    vm.bulkhead(["run", "--name", "three", "busybox", "sh", "-c", "exit 3"])
        .output()?
        .code(3)?;
    let names = |arguments: &[&str]| -> Result<Vec<String>> {
        let all = [&["ps", "--format", "{{.Names}}"], arguments].concat();
        Ok(text(&vm, &all)?.lines().map(str::to_owned).collect())
    };
    for (arguments, want) in [
        (&[][..], &["one"][..]),
        (&["-a"], &["three", "two", "one"]),
        (&["-l"], &["three"]),
        (&["-n", "2"], &["three", "two"]),
        (&["-f", "status=created"], &["two"]),
        (&["-a", "-f", "exited=3"], &["three"]),
        (&["-a", "-f", "name=^o", "-f", "name=two"], &["two", "one"]),
        (&["-a", "-f", "before=two"], &["one"]),
        (&["-a", "-f", "since=two"], &["three"]),
        (&["-f", "label=tier=web"], &["one"]),
        (&["-f", "expose=80/tcp", "-f", "health=none"], &["one"]),
        (&["-a", "-f", "ancestor=busybox"], &["three", "two", "one"]),
        (&["-a", "-f", "ancestor=variant:stop"], &[]),
    ] {
        assert_eq!(names(arguments)?, want, "{arguments:?}");
    }
    // The writable disk of one that ran takes space, that of one that did not is not there.
    let sizes = text(&vm, &["ps", "-as", "--format", "{{.Names}} {{.Size}}"])?;
    for line in sizes.lines() {
        let (name, size) = line.split_once(' ').context("no size")?;
        assert_eq!(size.starts_with("0B (virtual "), name == "two", "{sizes}");
    }
    let format = "{{.SizeRw}} {{.SizeRootFs}}";
    let sizes = text(&vm, &["inspect", "-s", "-f", format, "one"])?;
    let (own, whole) = sizes.trim_end().split_once(' ').context("no sizes")?;
    assert!(
        own.parse::<u64>()? > 0 && whole.parse::<u64>()? > own.parse()?,
        "{sizes}"
    );
    text(&vm, &["rm", "-f", "one"])?;
    Ok(())
}

fn the_journal_tells_a_life(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "xx", &["--label", "tier=web"])?;
    text(&vm, &["pause", "xx"])?;
    text(&vm, &["unpause", "xx"])?;
    vm.bulkhead(["exec", "xx", "sh", "-c", "exit 5"])
        .output()?
        .code(5)?;
    text(&vm, &["rename", "xx", "yy"])?;
    text(&vm, &["kill", "yy"])?;
    text(&vm, &["start", "yy"])?;
    text(&vm, &["stop", "-t", "0", "yy"])?;
    text(&vm, &["rm", "yy"])?;
    text(&vm, &["run", "--rm", "--name", "zz", "busybox", "true"])?;
    let of = |name: &str, format: &str| -> Result<Vec<String>> {
        let name = format!("container={name}");
        let filter = ["-f", "type=container", "-f", &name];
        let all = [
            &["events", "--until", "0s", "--format", format][..],
            &filter,
        ]
        .concat();
        Ok(text(&vm, &all)?.lines().map(str::to_owned).collect())
    };
    let actions = of("xx", "{{.Action}}")?;
    let want = [
        "create",
        "start",
        "pause",
        "unpause",
        "exec_create: sh -c exit 5",
        "exec_start: sh -c exit 5",
        "exec_die",
    ];
    assert_eq!(actions, want);
    let actions = of(
        "yy",
        "{{.Action}} {{.Actor.Attributes.image}} {{.Actor.Attributes.tier}}",
    )?;
    let want = [
        "rename", "kill", "die", "start", "kill", "kill", "die", "stop", "destroy",
    ];
    assert_eq!(actions, want.map(|action| format!("{action} busybox web")));
    let codes = of("yy", "{{.Action}} {{json .Actor.Attributes.exitCode}}")?;
    assert!(codes.contains(&"die \"137\"".to_owned()), "{codes:?}");
    let actions = of("zz", "{{.Action}}")?;
    assert_eq!(actions, ["create", "attach", "start", "die", "destroy"]);
    text(&vm, &["volume", "create", "vv"])?;
    text(&vm, &["run", "--rm", "-v", "vv:/v:ro", "busybox", "true"])?;
    text(&vm, &["volume", "rm", "vv"])?;
    let format = "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.destination}} \
                  {{index .Actor.Attributes \"read/write\"}}";
    let volume = [
        "events",
        "--until",
        "0s",
        "-f",
        "type=volume",
        "--format",
        format,
    ];
    assert_eq!(
        text(&vm, &volume)?,
        "create vv <no value> \nmount vv /v false\nunmount vv <no value> \ndestroy vv <no value> \n"
    );
    Ok(())
}

fn events_are_followed(world: &World) -> Result<()> {
    let vm = world.own()?;
    text(&vm, &["create", "--name", "followed", "busybox", "true"])?;
    let filter = [
        "-f",
        "event=create",
        "-f",
        "event=die",
        "-f",
        "container=followed",
        "--since",
        "1h",
    ];
    let mut events = vm
        .bulkhead(
            [
                &[
                    "events",
                    "--format",
                    "{{.Action}} {{.Actor.Attributes.name}}",
                ],
                &filter[..],
            ]
            .concat(),
        )
        .spawn()?;
    events.wait_for_stdout("create followed\n")?;
    text(&vm, &["start", "-a", "followed"])?;
    events.wait_for_stdout("die followed\n")?;
    assert!(!events.has_ended()?);
    assert_eq!(events.stdout_so_far(), "create followed\ndie followed\n");
    events.signal(rustix::process::Signal::KILL)?;
    Ok(())
}

fn prunes_leave_what_is_used(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "runs", &[])?;
    let ended = ["run", "--name", "ended", "-l", "keep=no", "busybox", "true"];
    text(&vm, &ended)?;
    let id = text(&vm, &["inspect", "-f", "{{.Id}}", "ended"])?;
    let out = text(
        &vm,
        &["container", "prune", "-f", "--filter", "label!=keep"],
    )?;
    assert_eq!(out, "Total reclaimed space: 0B\n");
    let df = text(
        &vm,
        &[
            "system",
            "df",
            "--format",
            "{{.Type}} {{.TotalCount}} {{.Active}}",
        ],
    )?;
    assert!(df.contains("Containers 2 1\n"), "{df}");
    let out = text(&vm, &["container", "prune", "-f"])?;
    let want = format!("Deleted Containers:\n{id}\nTotal reclaimed space: ");
    assert!(out.starts_with(&want) && !out.ends_with(" 0B\n"), "{out}");
    let out = text(&vm, &["system", "prune", "-af"])?;
    assert!(
        !out.contains("Deleted Containers") && out.contains("untagged: variant:stop"),
        "{out}"
    );
    assert_eq!(
        text(&vm, &["ps", "-a", "--format", "{{.Names}}"])?,
        "runs\n"
    );
    assert_eq!(
        text(&vm, &["images", "--format", "{{.Repository}}"])?,
        "busybox\n"
    );
    // Its layers are still there.
    text(&vm, &["restart", "-t", "0", "runs"])?;
    text(&vm, &["rm", "-f", "runs"])?;
    Ok(())
}

fn limits_change_while_it_runs(world: &World) -> Result<()> {
    let vm = world.own()?;
    begin(&vm, "xx", &["-m", "128m", "--pids-limit", "50"])?;
    let limit = |file: &str| -> Result<String> {
        let path = format!("/sys/fs/cgroup/{file}");
        let value = text(&vm, &["exec", "xx", "cat", &path])?;
        Ok(value.trim_end().to_owned())
    };
    assert_eq!(limit("memory.max")?, (128_u64 << 20).to_string());
    let flags = ["-m", "96m", "--memory-reservation", "32m", "--cpus", "0.5"];
    assert_eq!(
        text(&vm, &[&["update"], &flags[..], &["xx"]].concat())?,
        "xx\n"
    );
    assert_eq!(limit("memory.max")?, (96_u64 << 20).to_string());
    assert_eq!(limit("memory.low")?, (32_u64 << 20).to_string());
    assert_eq!(limit("cpu.max")?, "50000 100000");
    assert_eq!(limit("pids.max")?, "50");
    text(
        &vm,
        &[
            "update",
            "--pids-limit",
            "-1",
            "--restart",
            "on-failure:2",
            "xx",
        ],
    )?;
    assert_eq!(limit("pids.max")?, "max");
    let format = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.CpuQuota}} \
                  {{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(
        text(&vm, &["inspect", "-f", format, "xx"])?,
        format!("{} 500000000 0 on-failure\n", 96 << 20)
    );
    let error = refused(&vm, &["update", "-m", "200m", "xx"])?;
    assert!(
        error.contains(
            "its VM has 192 MiB as long as it runs, of which a container can have 128: stop"
        ),
        "{error}"
    );
    assert_eq!(limit("memory.max")?, (96_u64 << 20).to_string());
    text(&vm, &["stop", "-t", "0", "xx"])?;
    assert_eq!(text(&vm, &["update", "-m", "200m", "xx"])?, "xx\n");
    text(&vm, &["start", "xx"])?;
    assert_eq!(limit("memory.max")?, (200_u64 << 20).to_string());
    assert_eq!(limit("cpu.max")?, "50000 100000");
    let format = "{{.Action}}";
    let events = [
        "events",
        "--until",
        "0s",
        "-f",
        "event=update",
        "--format",
        format,
    ];
    assert_eq!(text(&vm, &events)?, "update\n".repeat(3));
    // The swap is measured by the container's own memory.
    assert_eq!(
        text(&vm, &["update", "--memory-swap", "200m", "xx"])?,
        "xx\n"
    );
    let error = refused(&vm, &["update", "--memory-swap", "100m", "xx"])?;
    assert!(
        error.contains("should be larger than memory limit"),
        "{error}"
    );
    // Of two at once, both hold.
    let both = [["--pids-limit", "77"], ["--restart", "always"]]
        .map(|flags| vm.bulkhead(["update"]).args(flags).args(["xx"]).spawn());
    for update in both {
        update?.wait()?.code(0)?;
    }
    assert_eq!(limit("pids.max")?, "77");
    let format = "{{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(text(&vm, &["inspect", "-f", format, "xx"])?, "77 always\n");
    text(&vm, &["rm", "-f", "xx"])?;
    Ok(())
}

fn what_was_given_is_inspected(world: &World) -> Result<()> {
    let vm = world.own()?;
    let flags = [
        "create",
        "-i",
        "--name",
        "xx",
        "--entrypoint",
        "sh",
        "--cap-add",
        "net_admin",
        "--cap-drop",
        "chown",
        "--dns",
        "192.0.2.1",
        "--add-host",
        "h:192.0.2.2",
        "--ulimit",
        "nofile=10:20",
        "--security-opt",
        "no-new-privileges",
        "--group-add",
        "5",
        "--oom-score-adj",
        "7",
        "--cpu-shares",
        "512",
        "--ipc",
        "none",
        "busybox",
        "-c",
        "exit 0",
    ];
    text(&vm, &flags)?;
    let all: Value = serde_json::from_str(&text(&vm, &["inspect", "xx"])?)?;
    for (pointer, want) in [
        ("/0/Path", r#""sh""#),
        ("/0/Args", r#"["-c","exit 0"]"#),
        ("/0/Config/Entrypoint", r#"["sh"]"#),
        ("/0/Config/Cmd", r#"["-c","exit 0"]"#),
        ("/0/Config/AttachStdin", "true"),
        ("/0/HostConfig/CapAdd", r#"["CAP_NET_ADMIN"]"#),
        ("/0/HostConfig/CapDrop", r#"["CAP_CHOWN"]"#),
        ("/0/HostConfig/Dns", r#"["192.0.2.1"]"#),
        ("/0/HostConfig/ExtraHosts", r#"["h:192.0.2.2"]"#),
        ("/0/HostConfig/Ulimits/0/Hard", "20"),
        ("/0/HostConfig/SecurityOpt", r#"["no-new-privileges"]"#),
        ("/0/HostConfig/GroupAdd", r#"["5"]"#),
        ("/0/HostConfig/OomScoreAdj", "7"),
        ("/0/HostConfig/CpuShares", "512"),
        ("/0/HostConfig/IpcMode", r#""none""#),
    ] {
        let found = all.pointer(pointer).map(Value::to_string);
        assert_eq!(found.as_deref(), Some(want), "{pointer}");
    }
    Ok(())
}
