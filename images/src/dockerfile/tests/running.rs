//! RUN: forms, here-documents, environment, mounts, and what a cache's key is made of.

use super::*;
use crate::dockerfile::{CacheSharing, CopyFrom, Mount, MountKind, Network, Run};

fn run_of(step: &Step) -> Run {
    match &step.action {
        Action::Run(run) => (**run).clone(),
        other => panic!("{other:?}"),
    }
}

fn run(text: &str) -> Run {
    run_of(&last(text))
}

#[test]
fn forms() {
    for (text, want) in [
        ("RUN a $b 'c'", vec!["/bin/sh", "-c", "a $b 'c'"]),
        ("RUN [\"a\", \"$b\"]", vec!["a", "$b"]),
        ("RUN ['a']", vec!["/bin/sh", "-c", "['a']"]),
        (
            "RUN a \\\n  b \\\n# c\n d",
            vec!["/bin/sh", "-c", "a   b  d"],
        ),
        (
            "SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN a",
            vec!["/bin/bash", "-o", "pipefail", "-c", "a"],
        ),
        ("RUN <<E\na\n\tb\nE", vec!["/bin/sh", "-c", "a\n\tb\n"]),
        ("RUN <<-E\n\ta\n\tE", vec!["/bin/sh", "-c", "a\n"]),
        ("RUN <<E\nE", vec!["/bin/sh", "-c", ""]),
        (
            "RUN cat <<E >x && y\n$a\nE",
            vec!["/bin/sh", "-c", "cat <<E >x && y\n$a\nE"],
        ),
        (
            "RUN a <<A <<-B\n1\nA\n\t2\n\tB",
            vec!["/bin/sh", "-c", "a <<A <<-B\n1\nA\n\t2\nB"],
        ),
        (
            "RUN <<E\n#!/bin/py\na\nE",
            vec!["/bin/sh", "-c", "/dev/pipes/E"],
        ),
        ("RUN --network=none -- a", vec!["/bin/sh", "-c", "a"]),
    ] {
        assert_eq!(run(text).args, want, "{text}");
    }
    let script = run("RUN <<-E\n\t#!/bin/py\n\ta\n\tE").script.unwrap();
    assert_eq!(
        (&*script.path, &*script.content),
        ("/dev/pipes/E", "#!/bin/py\na\n")
    );
    assert_eq!(run("RUN <<E\na\nE").script, None);
}

#[test]
fn what_a_command_sees() {
    let options = PlanOptions {
        build_args: build_args(&[
            ("HTTPS_PROXY", Some("p")),
            ("no_proxy", Some("n")),
            ("NO_PROXY", Some("other")),
            ("v", Some("2")),
        ]),
        ..options()
    };
    let plan = planned_with(
        "FROM a\nARG v none BASE=x NO_PROXY\nENV E=1\nUSER u\nWORKDIR /w\nRUN --network=none a",
        &options,
    );
    let run = run_of(target(&plan).steps.last().unwrap());
    assert_eq!(
        run.env,
        ["PATH=/bin", "BASE=x", "E=1", "NO_PROXY=other", "v=2"]
    );
    assert_eq!(
        run.proxies,
        ["HTTPS_PROXY=p", "https_proxy=p", "no_proxy=n"]
    );
    assert_eq!(
        (&*run.user, &*run.working_dir, run.network),
        ("u", "/w", Network::None)
    );
    // They are no part of the image.
    assert_eq!(
        target(&plan).steps.last().unwrap().config.env,
        ["PATH=/bin", "BASE=b", "E=1"]
    );
    let run = super::running::run("RUN a");
    assert_eq!(
        (&*run.user, &*run.working_dir, run.network),
        ("", "/", Network::Default)
    );
}

fn mounts(text: &str) -> Vec<Mount> {
    run(text).mounts
}

#[test]
fn mounts_are_of_four_kinds() {
    let bind = |source: &str, writable| MountKind::Bind {
        from: CopyFrom::Context,
        source: source.to_owned(),
        writable,
    };
    let cache = |id: &str| MountKind::Cache {
        id: id.to_owned(),
        sharing: CacheSharing::Shared,
        mode: 0o755,
        uid: 0,
        gid: 0,
        read_only: false,
    };
    let secret = |id: &str, env: Option<&str>| MountKind::Secret {
        id: id.to_owned(),
        env: env.map(str::to_owned),
        required: false,
        mode: 0o400,
        uid: 0,
        gid: 0,
    };
    for (mount, target, kind) in [
        ("target=/a", Some("/a"), bind("/", false)),
        (
            "type=bind,source=x/../y,dst=b/c/,rw",
            Some("/w/b/c"),
            bind("/y", true),
        ),
        (
            "src=/s,destination=/a,ro=false",
            Some("/a"),
            bind("/s", true),
        ),
        ("TYPE=BIND,target=$v", Some("/w/value"), bind("/", false)),
        ("type=cache,target=/c/", Some("/c"), cache("/c")),
        ("type=cache,target=c", Some("/w/c"), cache("c")),
        (
            "type=cache,id=$v,target=/c,from=scratch",
            Some("/c"),
            cache("value"),
        ),
        (
            "type=cache,target=/c,sharing=locked,mode=0700,uid=1,gid=2,ro",
            Some("/c"),
            MountKind::Cache {
                id: "/c".to_owned(),
                sharing: CacheSharing::Locked,
                mode: 0o700,
                uid: 1,
                gid: 2,
                read_only: true,
            },
        ),
        (
            "type=tmpfs,target=/t",
            Some("/t"),
            MountKind::Tmpfs { size: None },
        ),
        (
            "type=tmpfs,target=/t,size=1.5m",
            Some("/t"),
            MountKind::Tmpfs {
                size: Some(3 << 19),
            },
        ),
        (
            "type=tmpfs,target=/t,size=2GiB",
            Some("/t"),
            MountKind::Tmpfs {
                size: Some(2 << 30),
            },
        ),
        (
            "type=secret,id=a",
            Some("/run/secrets/a"),
            secret("a", None),
        ),
        (
            "type=secret,source=x/a",
            Some("/run/secrets/a"),
            secret("x/a", None),
        ),
        ("type=secret,target=/s/k", Some("/s/k"), secret("k", None)),
        ("type=secret,id=a,target=k", Some("/w/k"), secret("a", None)),
        ("type=secret,id=a,env=A", None, secret("a", Some("A"))),
        ("type=secret,id=a,env=", None, secret("a", Some("a"))),
        (
            "type=secret,id=a,env=A,target=/k",
            Some("/k"),
            secret("a", Some("A")),
        ),
        (
            "\"type=secret\",id=a,required,mode=0444,uid=5,gid=6",
            Some("/run/secrets/a"),
            MountKind::Secret {
                id: "a".to_owned(),
                env: None,
                required: true,
                mode: 0o444,
                uid: 5,
                gid: 6,
            },
        ),
    ] {
        let found = mounts(&format!("ARG v=value\nWORKDIR /w\nRUN --mount='{mount}' x"));
        let want = Mount {
            target: target.map(str::to_owned),
            kind,
        };
        assert_eq!(found, [want], "{mount}");
    }
    let two = mounts("RUN --mount=target=/b --mount=type=tmpfs,target=/a x");
    assert_eq!(two[0].target.as_deref(), Some("/b"));
    assert_eq!(two[1].target.as_deref(), Some("/a"));
}

#[test]
fn mounts_are_from_stages_and_images() {
    let plan = planned(
        "FROM a AS unused\nFROM a AS x\nFROM b\nRUN --mount=from=X,target=/a --mount=from=1,target=/b --mount=from=c:1,target=/c y",
    );
    let run = run_of(&target(&plan).steps[0]);
    let froms: Vec<_> = run
        .mounts
        .iter()
        .map(|mount| match &mount.kind {
            MountKind::Bind { from, .. } => from.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(froms[0], CopyFrom::Stage(0));
    assert_eq!(froms[1], CopyFrom::Stage(0));
    assert!(matches!(&froms[2], CopyFrom::Image(image) if image.reference.familiar() == "c:1"));
    assert_eq!(target(&plan).needs, [0]);
}

#[test]
fn a_key_is_of_the_work_alone() {
    let key = |text: &str| String::from_utf8(last(text).action.cache_input()).unwrap();
    assert_eq!(
        key("RUN --mount=type=secret,id=a,env=A x"),
        concat!(
            "{\"run\":{\"args\":[\"/bin/sh\",\"-c\",\"x\"],\"env\":[\"PATH=/bin\",\"BASE=b\"],",
            "\"mounts\":[{\"kind\":{\"secret\":{\"env\":\"A\",\"gid\":0,\"id\":\"a\",\"mode\":256,",
            "\"required\":false,\"uid\":0}},\"target\":null}],\"network\":\"default\",\"script\":null,",
            "\"user\":\"\",\"working_dir\":\"/\"}}"
        )
    );
    // Where it is and how it is written does not matter.
    assert_eq!(key("RUN x"), key("# c\n\nrun   x"));
    assert_eq!(key("LABEL a=1\nRUN x"), key("RUN x"));
    for (one, other) in [
        ("RUN x", "RUN  x y"),
        ("RUN x", "ENV A=1\nRUN x"),
        ("ARG v=1\nRUN x", "ARG v=2\nRUN x"),
        ("RUN x", "USER u\nRUN x"),
        ("RUN x", "WORKDIR /w\nRUN x"),
        ("RUN x", "RUN --network=none x"),
        ("RUN <<E\n#!a\nE", "RUN <<E\n#!b\nE"),
        ("COPY a b", "COPY --link a b"),
        ("COPY a b", "COPY a b/"),
        ("COPY <<a b\n1\na", "COPY <<a b\n2\na"),
    ] {
        assert_ne!(key(one), key(other), "{one:?} {other:?}");
    }
    // An ARG that is not declared yet does not matter, nor does a proxy.
    assert_eq!(
        key("RUN x\nARG v=1\n"),
        key("USER root\nUSER\u{20}u\nUSER w")
    );
    let with = |args: &[(&str, Option<&str>)]| {
        let options = PlanOptions {
            build_args: build_args(args),
            ..options()
        };
        let plan = planned_with("FROM a\nRUN x", &options);
        target(&plan).steps[0].action.cache_input()
    };
    assert_eq!(
        with(&[]),
        with(&[("http_proxy", Some("secret")), ("v", Some("1"))])
    );
}
