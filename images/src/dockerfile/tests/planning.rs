//! What instructions make of a config, ARGs, and the text of the history.

use super::*;

#[test]
fn the_environment_and_labels() {
    let config = made("ENV A=1 B=\"x  y\" C=$BASE D='$A' E=a\\ b F=$A");
    // All of one line see what was before it.
    assert_eq!(
        config.env,
        [
            "PATH=/bin",
            "BASE=b",
            "A=1",
            "B=x  y",
            "C=b",
            "D=$A",
            "E=a b",
            "F="
        ]
    );
    let config = made("ENV A=1\nENV A=2 PATH=$PATH:/x\nENV OLD a  \"b\" $A");
    assert_eq!(config.env, ["PATH=/bin:/x", "BASE=b", "A=2", "OLD=a  b 2"]);
    let config = made("LABEL a=b \"c d\"=\"e\\\nf\" g=$BASE\nLABEL a=$none\nLABEL h i j");
    let labels: Vec<_> = config
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(labels, ["a=", "c d=ef", "g=b", "h=i j"]);
}

#[test]
fn commands_have_two_forms() {
    for (text, entrypoint, cmd) in [
        ("CMD [\"a\", \"b c\"]", None, Some(vec!["a", "b c"])),
        (
            "CMD echo $A 'x'",
            None,
            Some(vec!["/bin/sh", "-c", "echo $A 'x'"]),
        ),
        ("CMD ['a']", None, Some(vec!["/bin/sh", "-c", "['a']"])),
        ("CMD [\"a\"", None, Some(vec!["/bin/sh", "-c", "[\"a\""])),
        ("CMD []", None, Some(vec![])),
        ("CMD", None, Some(vec![])),
        ("ENTRYPOINT [\"/e\"]", Some(vec!["/e"]), None),
        (
            "CMD x\nENTRYPOINT [\"/e\"]",
            Some(vec!["/e"]),
            Some(vec!["/bin/sh", "-c", "x"]),
        ),
        ("ENTRYPOINT []", None, None),
        (
            "SHELL [\"/bin/bash\", \"-ec\"]\nENTRYPOINT e",
            Some(vec!["/bin/bash", "-ec", "e"]),
            None,
        ),
    ] {
        let config = made(text);
        let owned = |list: Option<Vec<&str>>| {
            list.map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(
            (config.entrypoint, config.cmd),
            (owned(entrypoint), owned(cmd)),
            "{text}"
        );
    }
    // What another stage had of its own is inherited as an image's.
    let plan = planned("FROM a AS b\nCMD x\nFROM b\nENTRYPOINT [\"/e\"]");
    assert_eq!(target(&plan).steps[0].config.cmd, None);
}

#[test]
fn the_rest_of_the_config() {
    let config = made(
        "ENV P=\"8080 53/udp\" U=me\nEXPOSE $P 443 127.0.0.1:1-2:9000-9001/TCP\nVOLUME /b /a $U\nVOLUME [\"/c d\"]\nUSER $U:us\nSTOPSIGNAL SIGINT\nMAINTAINER me, myself",
    );
    assert_eq!(
        config.exposed_ports,
        ["443/tcp", "53/udp", "8080/tcp", "9000/tcp", "9001/tcp"]
    );
    assert_eq!(config.volumes, ["/a", "/b", "/c d", "me"]);
    assert_eq!(config.user, "me:us");
    assert_eq!(config.stop_signal, "SIGINT");
    assert_eq!(config.author, "me, myself");
    let config = made("ONBUILD RUN make $A\nonbuild  copy . .\nONBUILD RUN <<E\nx\nE");
    assert_eq!(
        config.on_build,
        ["RUN make $A", "copy . .", "RUN <<E\nx\nE"]
    );
}

#[test]
fn working_directories() {
    for (text, path) in [
        ("WORKDIR /a", "/a"),
        ("WORKDIR a", "/a"),
        ("WORKDIR /a\nWORKDIR b/../c/", "/a/c"),
        ("WORKDIR /a\nWORKDIR ../../..\nWORKDIR x y", "/x y"),
        ("ENV D=/d\nWORKDIR $D/\"e f\"", "/d/e f"),
    ] {
        let step = last(&format!("USER u\n{text}"));
        let Action::MakeDirectory(made) = &step.action else {
            panic!("{text}: {:?}", step.action);
        };
        assert_eq!((&*made.path, &*made.owner), (path, "u"), "{text}");
        assert_eq!(step.config.working_dir, path);
    }
    assert_eq!(last("WORKDIR /").action, Action::None);
}

#[test]
fn health_checks() {
    let check = |text: &str| made(text).healthcheck.unwrap();
    assert_eq!(check("HEALTHCHECK NONE").test, ["NONE"]);
    let full = check(
        "HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=1h --start-interval=100ms --retries=2 CMD curl $X",
    );
    assert_eq!(full.test, ["CMD-SHELL", "curl $X"]);
    assert_eq!(
        (
            full.interval,
            full.timeout,
            full.start_period,
            full.start_interval,
            full.retries
        ),
        (
            90_000_000_000,
            1_500_000_000,
            3_600_000_000_000,
            100_000_000,
            2
        )
    );
    assert_eq!(
        check("HEALTHCHECK --interval=0 cmd [\"a\",\"b\"]").test,
        ["CMD", "a", "b"]
    );
}

#[test]
fn history_is_as_the_classic_builder_writes_it() {
    for (text, want) in [
        ("ENV A=1 B=\"x y\"", "/bin/sh -c #(nop)  ENV A=1 B=x y"),
        ("ENV A 1", "/bin/sh -c #(nop)  ENV A=1"),
        ("LABEL a=b", "/bin/sh -c #(nop)  LABEL a=b"),
        ("MAINTAINER me", "/bin/sh -c #(nop)  MAINTAINER me"),
        ("CMD [\"a\", \"b\"]", "/bin/sh -c #(nop)  CMD [\"a\" \"b\"]"),
        (
            "CMD echo \"x\"",
            "/bin/sh -c #(nop)  CMD [\"/bin/sh\" \"-c\" \"echo \\\"x\\\"\"]",
        ),
        (
            "ENTRYPOINT [\"e\"]",
            "/bin/sh -c #(nop)  ENTRYPOINT [\"e\"]",
        ),
        ("EXPOSE 80 53/udp", "/bin/sh -c #(nop)  EXPOSE 53/udp 80"),
        ("VOLUME /b /a", "/bin/sh -c #(nop)  VOLUME [/b /a]"),
        ("USER u", "/bin/sh -c #(nop)  USER u"),
        ("WORKDIR /w", "/bin/sh -c #(nop) WORKDIR /w"),
        ("STOPSIGNAL 9", "/bin/sh -c #(nop)  STOPSIGNAL 9"),
        ("ONBUILD RUN x", "/bin/sh -c #(nop)  ONBUILD RUN x"),
        ("ARG a=1 b", "/bin/sh -c #(nop)  ARG a=1 b"),
        (
            "SHELL [\"/bin/bash\", \"-c\"]",
            "/bin/bash -c #(nop)  SHELL [/bin/bash -c]",
        ),
        (
            "SHELL [\"/bin/bash\", \"-c\"]\nUSER u",
            "/bin/bash -c #(nop)  USER u",
        ),
        (
            "HEALTHCHECK --interval=90s --retries=3 CMD x",
            "/bin/sh -c #(nop)  HEALTHCHECK &{[\"CMD-SHELL\" \"x\"] \"1m30s\" \"0s\" \"0s\" \"0s\" '\\x03'}",
        ),
        ("RUN a  b", "/bin/sh -c a  b"),
        ("RUN [\"a\", \"b c\"]", "a b c"),
        ("ARG z=1 y\nARG x=$z\nRUN a", "|2 x=1 z=1 /bin/sh -c a"),
        ("COPY a b /c/", "/bin/sh -c #(nop) COPY a b in /c/ "),
        (
            "WORKDIR /w\nADD --chown=u:g --chmod=640 a c",
            "/bin/sh -c #(nop) ADD --chown=u:g --chmod=640 a in c ",
        ),
    ] {
        assert_eq!(last(text).history(None).created_by, want, "{text}");
    }
    let step = last("COPY a /");
    let history = step.history(Some("file:12ab"));
    assert_eq!(history.created_by, "/bin/sh -c #(nop) COPY file:12ab in / ");
    assert!(!history.empty_layer);
    assert!(last("USER u").history(None).empty_layer);
    assert_eq!(last("MAINTAINER me\nUSER u").history(None).author, "me");
}

#[test]
fn durations_are_written_as_go_does() {
    for (flag, want) in [
        ("1ms", "1ms"),
        ("1500us", "1.5ms"),
        ("1s", "1s"),
        ("1.25s", "1.25s"),
        ("61s", "1m1s"),
        ("1h", "1h0m0s"),
        ("25h1m1.5s", "25h1m1.5s"),
    ] {
        let step = last(&format!("HEALTHCHECK --interval={flag} CMD x"));
        let text = step.history(None).created_by;
        assert!(text.contains(&format!("] \"{want}\" ")), "{text}");
    }
}

#[test]
fn arguments_have_their_scopes() {
    let env = |text: &str, args: &[(&str, Option<&str>)]| {
        let options = PlanOptions {
            build_args: build_args(args),
            ..options()
        };
        let plan = planned_with(text, &options);
        let env = target(&plan).steps.last().unwrap().config.env.clone();
        env.iter()
            .find_map(|text| text.strip_prefix("X=").map(str::to_owned))
            .unwrap()
    };
    for (text, args, want) in [
        ("FROM a\nARG v=1\nENV X=$v", &[][..], "1"),
        ("FROM a\nARG v=1\nENV X=$v", &[("v", Some("2"))], "2"),
        ("FROM a\nARG v\nENV X=$v", &[("v", Some("2"))], "2"),
        ("FROM a\nARG v\nENV X=[$v]", &[], "[]"),
        // A variable that the user's environment lacks is as if not given.
        ("FROM a\nARG v=1\nENV X=$v", &[("v", None)], "1"),
        // Not declared.
        ("FROM a\nENV X=[$v]", &[("v", Some("2"))], "[]"),
        ("ARG v=1\nFROM a\nENV X=[$v]", &[], "[]"),
        // From before the first FROM.
        ("ARG v=1\nFROM a\nARG v\nENV X=$v", &[], "1"),
        ("ARG v=1\nFROM a\nARG v=2\nENV X=$v", &[], "2"),
        ("ARG v=1\nFROM a\nARG v\nENV X=$v", &[("v", Some("3"))], "3"),
        ("ARG v=1\nARG w=${v}2\nFROM a\nARG w\nENV X=$w", &[], "12"),
        // An ARG ends with its stage, but not for those built on it.
        ("FROM a AS b\nARG v=1\nFROM a\nENV X=[$v]", &[], "[]"),
        ("FROM a AS b\nARG v=1\nFROM b\nENV X=[$v]", &[], "[1]"),
        // The later one of ENV and ARG counts.
        (
            "FROM a\nARG v=1\nENV v=2\nENV X=$v",
            &[("v", Some("3"))],
            "2",
        ),
        ("FROM a\nENV v=2\nARG v=1\nENV X=$v", &[], "1"),
        ("FROM a\nARG v=$BASE w=\"$v x\"\nENV X=$w", &[], "b x"),
        // What is not used may be wrong.
        (
            "FROM a\nARG v=${none:?no}\nENV X=$v",
            &[("v", Some("1"))],
            "1",
        ),
        // Platforms need no ARG before FROM.
        (
            "FROM a\nARG TARGETPLATFORM TARGETARCH\nENV X=$TARGETPLATFORM-$TARGETARCH",
            &[],
            "linux/amd64-amd64",
        ),
        ("FROM a\nENV X=[$TARGETPLATFORM]", &[], "[]"),
        (
            "FROM a AS last\nARG TARGETSTAGE\nENV X=$TARGETSTAGE",
            &[],
            "last",
        ),
        (
            "FROM a\nARG TARGETSTAGE\nENV X=$TARGETSTAGE",
            &[],
            "default",
        ),
    ] {
        assert_eq!(env(text, args), want, "{text} {args:?}");
    }
}

#[test]
fn from_sees_the_arguments_before_it() {
    let asked = |text: &str, args: &[(&str, Option<&str>)]| {
        let options = PlanOptions {
            build_args: build_args(args),
            ..options()
        };
        let mut asked = Vec::new();
        let plan = plan(&read(text), &options, &mut |request: &BaseRequest| {
            asked.push(format!(
                "{} {}",
                request.reference.familiar(),
                request.platform
            ));
            Ok::<_, Refused>(base())
        });
        plan.unwrap();
        asked.join(", ")
    };
    for (text, args, want) in [
        ("FROM a", &[][..], "a:latest linux/amd64"),
        ("ARG v=1\nFROM a:$v", &[], "a:1 linux/amd64"),
        (
            "ARG v=1\nFROM a:${v}-x",
            &[("v", Some("2"))],
            "a:2-x linux/amd64",
        ),
        ("ARG v\nFROM a:${v:-3}", &[], "a:3 linux/amd64"),
        (
            "FROM --platform=$TARGETPLATFORM a",
            &[],
            "a:latest linux/amd64",
        ),
        ("FROM --platform=linux/arm64 a", &[], "a:latest linux/arm64"),
        // Once for all stages.
        (
            "FROM a AS x\nFROM a\nCOPY --from=x b c\nCOPY --from=a b c",
            &[],
            "a:latest linux/amd64",
        ),
        ("FROM scratch", &[], ""),
    ] {
        assert_eq!(asked(text, args), want, "{text}");
    }
}

#[test]
fn arguments_that_nobody_takes_are_told() {
    let options = PlanOptions {
        build_args: build_args(&[
            ("used", Some("1")),
            ("global", Some("1")),
            ("zap", Some("1")),
            ("lost", None),
            ("http_proxy", Some("1")),
            ("TARGETARCH", Some("x")),
        ]),
        ..options()
    };
    let plan = planned_with("ARG global\nFROM a\nARG used", &options);
    assert_eq!(
        plan.warnings.last().unwrap().text,
        "One or more build-args [lost zap] were not consumed"
    );
    assert!(planned("FROM a").warnings.is_empty());
}

#[test]
fn an_image_of_nothing_has_a_path() {
    let plan = planned("FROM scratch\nUSER u");
    let config = &target(&plan).config;
    assert_eq!(
        config.env,
        ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    );
    assert_eq!((&*config.working_dir, &config.cmd), ("/", &None));
    let plan = plan_on("{}", "FROM a\nUSER u");
    assert!(target(&plan).steps[0].config.env[0].starts_with("PATH=/usr/local/sbin"));
}

/// A plan on an image of this config.
fn plan_on(json: &str, text: &str) -> Plan {
    plan(&read(text), &options(), &mut |_| {
        Ok::<_, Refused>(image(json))
    })
    .unwrap()
}

#[test]
fn labels_of_the_command_line_come_last() {
    let options = PlanOptions {
        labels: [("b", "$BASE"), ("a", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..options()
    };
    let plan = planned_with(
        "FROM a AS x\nLABEL a=0\nFROM a",
        &PlanOptions {
            target: Some("x".to_owned()),
            ..options
        },
    );
    let steps = &target(&plan).steps;
    let texts: Vec<_> = steps.iter().map(|step| &*step.text).collect();
    assert_eq!(texts, ["LABEL a=0", "LABEL a=1", "LABEL b=$BASE"]);
    let labels: Vec<_> = steps[2].config.labels.values().collect();
    assert_eq!(labels, ["1", "$BASE"]);
}

#[test]
fn what_a_config_may_hold_is_limited() {
    let large = format!(r#"{{"Env":["L={}"]}}"#, "x".repeat(3 << 20));
    let text = format!("FROM a\n{}", "USER u\n".repeat(100));
    let error = plan(&read(&text), &options(), &mut |_| {
        Ok::<_, Refused>(image(&large))
    });
    assert_eq!(
        error.unwrap_err().to_string(),
        "the steps take more than 268435456 bytes: their environments are too large"
    );
    let text = format!("FROM a\n{}", "USER u\n".repeat(1025));
    let error = plan(&read(&text), &options(), &mut |_| Ok::<_, Refused>(base()));
    assert_eq!(
        error.unwrap_err().to_string(),
        "the image has 1025 history records, above the limit of 1024"
    );
}

#[test]
fn what_is_much_takes_no_time() {
    let error = |text: &str| {
        let plan = plan(&read(text), &options(), &mut |_| Ok::<_, Refused>(base()));
        plan.unwrap_err().to_string()
    };
    let names: Vec<String> = (0..50_000).map(|number| format!("a{number}")).collect();
    assert_eq!(
        error(&format!("FROM a\nARG {}", names.join(" "))),
        "a stage has more than 10000 arguments"
    );
    let pairs: Vec<String> = names.iter().map(|name| format!("{name}=1")).collect();
    assert_eq!(
        error(&format!("FROM a\nENV {}", pairs.join(" "))),
        "the image config has 50002 entries in Env, above the limit of 10000"
    );
    let ports = "1-60000 ".repeat(10_000);
    assert!(error(&format!("FROM a\nEXPOSE {ports}")).ends_with("steps to replace variables"));
    let text = format!(
        "FROM a\nSHELL [\"{}\"]\n{}",
        "x".repeat(500_000),
        "COPY a b\n".repeat(1000)
    );
    assert!(error(&text).contains("the steps take more than"));
    let arguments = names[..10_000].join(" ");
    let text = format!("FROM a\nARG {arguments}\n{}", "RUN x\n".repeat(4000));
    assert!(error(&text).contains("the steps take more than"));
}
