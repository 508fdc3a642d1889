//! What each instruction refuses, and how.

use super::{Refused, base, options};
use crate::dockerfile::{PlanError, parse, plan};

/// The error of a file with one instruction in it, without where it is.
fn refused(instruction: &str) -> String {
    let text =
        format!("ARG g=0\nFROM a AS first\nARG v=value empty\n{instruction}\nFROM b AS later");
    let options = crate::dockerfile::PlanOptions {
        target: Some("first".to_owned()),
        ..options()
    };
    let dockerfile = match parse(text.as_bytes()) {
        Ok(dockerfile) => dockerfile,
        Err(error) => {
            let text = error.to_string();
            let (start, rest) = text.split_at("dockerfile parse error on line 4: ".len());
            assert_eq!(start, "dockerfile parse error on line 4: ", "{instruction}");
            return rest.to_owned();
        }
    };
    let planned = plan(&dockerfile, &options, &mut |_| Ok::<_, Refused>(base()));
    match planned {
        Err(PlanError::Dockerfile(error)) => {
            assert_eq!(
                error.lines().map(|(first, _)| first),
                Some(4),
                "{instruction}"
            );
            error.to_string()
        }
        other => panic!("{instruction}: {other:?}"),
    }
}

/// The same for many; a row has the instruction and the error.
fn table(rows: &[(&str, &str)]) {
    for (instruction, want) in rows {
        assert_eq!(refused(instruction), *want, "{instruction}");
    }
}

#[test]
fn names() {
    table(&[
        ("FORM a", "unknown instruction: FORM (did you mean FROM?)"),
        ("rum x", "unknown instruction: rum (did you mean RUN?)"),
        (
            "ENTRYPOINTT x",
            "unknown instruction: ENTRYPOINTT (did you mean ENTRYPOINT?)",
        ),
        ("WHATEVER x", "unknown instruction: WHATEVER"),
        ("\u{1b}[2J x", "unknown instruction: \\u{1b}[2J"),
    ]);
}

#[test]
fn from() {
    table(&[
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM a b", "FROM requires either one or three arguments"),
        ("FROM a as", "FROM requires either one or three arguments"),
        (
            "FROM a AS 1x",
            "invalid name for build stage: \"1x\", name can't start with a number or contain symbols",
        ),
        ("FROM --plat=x a", "unknown flag: --plat"),
        (
            "FROM --platfrom=x a",
            "unknown flag: --platfrom (did you mean platform?)",
        ),
        ("FROM --platform a", "missing a value on flag: --platform"),
        ("FROM $none", "base name ($none) should not be blank"),
        (
            "FROM ${a",
            "failed to process \"${a\": syntax error: missing '}'",
        ),
        (
            "FROM --platform=$none a",
            "empty platform value from expression $none",
        ),
        (
            "FROM --platform=windows/amd64 a",
            "failed to parse platform windows/amd64: platform \"windows/amd64\" is not supported: only linux images can run",
        ),
    ]);
}

#[test]
fn variables_and_labels() {
    table(&[
        ("ARG", "ARG requires at least one argument"),
        ("ARG =x", "ARG names can not be blank"),
        ("ARG --x a", "unknown flag: --x"),
        (
            "ARG a=${v",
            "failed to process \"${v\": syntax error: missing '}'",
        ),
        ("ENV", "ENV requires at least one argument"),
        ("ENV a", "ENV must have two arguments"),
        ("ENV =x", "ENV names can not be blank"),
        ("ENV $empty=x", "ENV names can not be blank"),
        (
            "ENV a=1 b",
            "Syntax error - can't find = in \"b\". Must be of the form: name=value",
        ),
        (
            "ENV a='x",
            "failed to process \"'x\": unexpected end of statement while looking for matching single-quote",
        ),
        ("LABEL", "LABEL requires at least one argument"),
        ("LABEL a", "LABEL must have two arguments"),
        ("LABEL =x", "LABEL names can not be blank"),
        (
            "LABEL a=${v:?} b=${empty:?no}",
            "failed to process \"${empty:?no}\": empty: no",
        ),
        ("MAINTAINER", "MAINTAINER requires exactly one argument"),
    ]);
}

#[test]
fn commands() {
    let strings = "when using JSON array syntax, arrays must be comprised of strings only";
    table(&[
        ("CMD [1]", strings),
        ("CMD --x a", "unknown flag: --x"),
        ("ENTRYPOINT [null]", strings),
        (
            "ENTRYPOINT [\"a\\u0000\"]",
            "there is a NUL byte in an argument",
        ),
        ("SHELL", "SHELL requires at least one argument"),
        ("SHELL []", "SHELL requires at least one argument"),
        (
            "SHELL bash -c",
            "SHELL requires the arguments to be in JSON form",
        ),
        ("RUN", "RUN requires at least one argument"),
        ("RUN []", "RUN requires at least one argument"),
        ("RUN [[\"a\"]]", strings),
        (
            "RUN --mout=x a",
            "unknown flag: --mout (did you mean mount?)",
        ),
        (
            "RUN --network=none --network=none a",
            "duplicate flag specified: --network",
        ),
        ("RUN --network=bridge a", "invalid network mode \"bridge\""),
        (
            "RUN --network=host a",
            "--network=host is not supported: a build step runs in a VM with a network of its own",
        ),
        (
            "RUN --security=insecure a",
            "--security=insecure is not supported: a build step runs as a container without more rights",
        ),
        ("RUN --security=x a", "security \"x\" is not valid"),
        (
            "RUN --device=x a",
            "--device is not supported: a build step's VM has no devices of the host",
        ),
        (
            "RUN <<a/b\n#!/bin/sh\na/b",
            "\"a/b\" can't be a file's name",
        ),
    ]);
}

#[test]
fn mounts() {
    for (mount, want) in [
        ("type=what", "unsupported mount type \"what\""),
        (
            "type=bnd",
            "unsupported mount type \"bnd\" (did you mean bind?)",
        ),
        (
            "type=ssh",
            "--mount=type=ssh is not supported: a build step's VM has no way to an SSH agent",
        ),
        ("target", "invalid field 'target' must be a key=value pair"),
        (
            "tagret=/a",
            "unexpected key 'tagret' in 'tagret=/a' (did you mean target?)",
        ),
        (
            "'a\"b'",
            "failed to parse csv mounts: a quote is not where one can be",
        ),
        (
            "from=$v,target=/a",
            "'from' doesn't support variable expansion, define alias stage instead",
        ),
        (
            "type=bind,target=/a,ro=maybe",
            "invalid value for ro: maybe",
        ),
        (
            "target=/a,size=1",
            "unexpected key 'size' for mount type 'bind'",
        ),
        ("type=tmpfs,target=/a,size=x", "invalid value for size: x"),
        (
            "type=tmpfs,target=/a,ro",
            "readonly not allowed for \"tmpfs\" type mounts",
        ),
        (
            "type=tmpfs,target=/a,from=b",
            "from and source not allowed for \"tmpfs\" type mounts",
        ),
        (
            "target=/a,required",
            "unexpected key 'required' for mount type 'bind'",
        ),
        (
            "target=/a,mode=0700",
            "mode not allowed for \"bind\" type mounts",
        ),
        (
            "type=tmpfs,target=/a,uid=1",
            "uid not allowed for \"tmpfs\" type mounts",
        ),
        (
            "target=/a,gid=1",
            "gid not allowed for \"bind\" type mounts",
        ),
        ("target=/a,id=1", "id not allowed for \"bind\" type mounts"),
        (
            "target=/a,env=A",
            "env not allowed for \"bind\" type mounts",
        ),
        (
            "type=cache,target=/a,sharing=some",
            "unsupported sharing value \"some\"",
        ),
        (
            "target=/a,sharing=shared",
            "invalid cache sharing set for bind mount",
        ),
        ("type=cache,target=/a,mode=8", "invalid value 8 for mode"),
        (
            "type=cache,target=/a,mode=10000",
            "invalid value 10000 for mode",
        ),
        ("type=cache,target=/a,uid=-1", "invalid value -1 for uid"),
        (
            "type=secret",
            "invalid secret mount. one of source, target required",
        ),
        (
            "type=secret,id=a,source=b",
            "both source and id can't be set",
        ),
        (
            "type=secret,id=a,from=b",
            "secret mount should not have a from",
        ),
        (
            "type=secret,id=a,sharing=locked",
            "secret mount should not define sharing",
        ),
        ("target=/", "invalid mount target \"/\""),
        ("target=/a/..", "invalid mount target \"/\""),
        (
            "from=later,target=/a",
            "cannot mount from stage \"later\", it needs to be defined before current stage \"first\"",
        ),
        (
            "from=scratch,target=/a",
            "cannot mount from \"scratch\": there is nothing in it",
        ),
        ("type=$v,target=/a", "unsupported mount type \"value\""),
        ("type=cache,target=/a,uid=$v", "invalid value value for uid"),
    ] {
        assert_eq!(refused(&format!("RUN --mount={mount} a")), want, "{mount}");
    }
}

#[test]
fn copies() {
    let two = |name: &str| {
        format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        )
    };
    table(&[
        ("COPY", &two("COPY")),
        ("COPY a", &two("COPY")),
        ("ADD [\"a\"]", &two("ADD")),
        (
            "COPY [1, 2]",
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        (
            "COPY --chonw=a b c",
            "unknown flag: --chonw (did you mean chown?)",
        ),
        ("COPY --checksum=a b c", "unknown flag: --checksum"),
        ("COPY --unpack a b", "unknown flag: --unpack"),
        ("ADD --from=a b c", "unknown flag: --from"),
        ("ADD --parents a b", "unknown flag: --parents"),
        (
            "COPY --link=no a b",
            "expecting boolean value for flag --link, not: no",
        ),
        ("COPY --link= a b", "missing a value on flag: --link"),
        ("COPY --exclude a b", "missing a value on flag: --exclude"),
        (
            "COPY --chmod=999 a b",
            "invalid chmod parameter: '999'. it should be octal string and between 0 and 07777, or symbolic as u+x",
        ),
        (
            "COPY --chmod=$v a b",
            "invalid chmod parameter: 'value'. it should be octal string and between 0 and 07777, or symbolic as u+x",
        ),
        ("COPY a[ b", "syntax error in pattern: a["),
        ("COPY --exclude=![ a b", "syntax error in pattern: ["),
        (
            "COPY --from=$v a b",
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
        ),
        ("COPY --from=7 a b", "invalid stage index 7"),
        ("COPY --from=-1 a b", "invalid stage index -1"),
        (
            "COPY --from=0 a b",
            "circular dependency detected on stage: 0",
        ),
        (
            "COPY --from=First a b",
            "circular dependency detected on stage: First",
        ),
        (
            "COPY --from=later a b",
            "cannot copy from stage \"later\", it needs to be defined before current stage \"first\"",
        ),
        (
            "COPY --from=1 a b",
            "cannot copy from stage \"1\", it needs to be defined before current stage \"first\"",
        ),
        (
            "COPY --from=scratch a b",
            "cannot copy from \"scratch\": there is nothing in it",
        ),
        (
            "COPY --from=UP a b",
            "failed to parse stage name \"UP\": invalid reference format: repository name (library/UP) must be lowercase",
        ),
        ("COPY https://x/y b", "source can't be a URL for COPY"),
        ("COPY git@x:y.git b", "source can't be a git ref for COPY"),
        (
            "ADD https://x/y.git#main b",
            "git sources are not supported: clone it and ADD the folder, or RUN git clone",
        ),
        (
            "ADD --keep-git-dir a b",
            "--keep-git-dir is not supported: there are no git sources",
        ),
        (
            "ADD --checksum=sha256:00 a b",
            "checksum requires HTTP(S) or Git sources",
        ),
        (
            "ADD --checksum=sha256:00 https://x a b/",
            "checksum can't be specified for multiple sources",
        ),
        (
            "COPY a <<E\nE",
            "COPY cannot accept a heredoc as a destination",
        ),
        ("COPY <<a/b /c\na/b", "\"a/b\" can't be a file's name"),
        ("COPY <<.. /c\n..", "\"..\" can't be a file's name"),
        (
            "COPY <<E /c\n${v\nE",
            "failed to process \"${v\\n\": unsupported modifier (\\n) in substitution",
        ),
    ]);
}

#[test]
fn the_config() {
    table(&[
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("EXPOSE x", "invalid containerPort: x"),
        (
            "EXPOSE 80/what",
            "invalid port: \"80/what\": invalid proto: what",
        ),
        ("EXPOSE /tcp", "invalid port: \"/tcp\": no port specified"),
        ("EXPOSE 70000", "invalid containerPort: 70000"),
        ("EXPOSE 90-80", "invalid containerPort: 90-80"),
        ("EXPOSE x:80", "invalid hostPort: x"),
        ("EXPOSE host:80:80", "invalid IP address: host"),
        (
            "EXPOSE 1-3:4-5",
            "invalid ranges specified for container and host Ports: 4-5 and 1-3",
        ),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("STOPSIGNAL $v", "invalid signal: value"),
        ("STOPSIGNAL 65", "invalid signal: 65"),
        ("USER", "USER requires exactly one argument"),
        ("USER --x a", "unknown flag: --x"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        (
            "WORKDIR ${v",
            "failed to process \"${v\": syntax error: missing '}'",
        ),
        ("VOLUME", "VOLUME requires at least one argument"),
        ("VOLUME []", "VOLUME requires at least one argument"),
        (
            "VOLUME [\" \"]",
            "VOLUME specified can not be an empty string",
        ),
        (
            "VOLUME $empty",
            "VOLUME specified can not be an empty string",
        ),
        (
            "VOLUME [1]",
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        (
            "ONBUILD onbuild RUN x",
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("ONBUILD from x", "FROM isn't allowed as an ONBUILD trigger"),
        (
            "ONBUILD MAINTAINER x",
            "MAINTAINER isn't allowed as an ONBUILD trigger",
        ),
        (
            "ONBUILD CPOY x y",
            "unknown instruction: CPOY (did you mean COPY?)",
        ),
        ("ONBUILD --x RUN y", "unknown flag: --x"),
    ]);
}

#[test]
fn health_checks() {
    table(&[
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        (
            "HEALTHCHECK what",
            "Unknown type \"WHAT\" in HEALTHCHECK (try CMD)",
        ),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        (
            "HEALTHCHECK CMD []",
            "Missing command after HEALTHCHECK CMD",
        ),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        (
            "HEALTHCHECK --interval=1s NONE",
            "HEALTHCHECK NONE takes no flags",
        ),
        (
            "HEALTHCHECK --intervall=1s CMD x",
            "unknown flag: --intervall (did you mean interval?)",
        ),
        (
            "HEALTHCHECK --interval CMD x",
            "missing a value on flag: --interval",
        ),
        (
            "HEALTHCHECK --interval=5 CMD x",
            "time: invalid duration \"5\"",
        ),
        (
            "HEALTHCHECK --timeout=1us CMD x",
            "Interval \"timeout\" cannot be less than 1ms",
        ),
        (
            "HEALTHCHECK --start-period=-1s CMD x",
            "Interval \"start-period\" cannot be less than 1ms",
        ),
        (
            "HEALTHCHECK --retries=x CMD x",
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
        (
            "HEALTHCHECK --retries=-1 CMD x",
            "--retries cannot be negative (-1)",
        ),
    ]);
}
