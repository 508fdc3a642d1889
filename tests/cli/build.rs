//! `bulkhead build`: what is told before anything is built.

use std::fs;

use crate::{User, assert_refused};

/// Flags that are refused, as one writes them, and the sentences.
const REFUSED: [(&str, &str); 26] = [
    (
        "--allow=network.host",
        "--allow is not supported: a step is alone in its VM and has what it needs; remove the flag",
    ),
    (
        "--annotation=a=b",
        "--annotation is not supported: annotations of the manifest are not written; use --label",
    ),
    (
        "--attest=type=sbom",
        "--attest is not supported: no attestations are made; remove the flag",
    ),
    (
        "--build-context=x=y",
        "--build-context is not supported: there is one build context; copy from an image or a \
         stage instead",
    ),
    (
        "--builder=x",
        "--builder is not supported: every build has VMs of its own and there is no builder to \
         choose; remove the flag",
    ),
    (
        "--cache-from=x",
        "--cache-from is not supported: the build cache is in the image store and knows every \
         step; remove the flag",
    ),
    (
        "--cache-to=x",
        "--cache-to is not supported: the build cache is in the image store and knows every step; \
         remove the flag",
    ),
    (
        "--call=check",
        "--call=check is not supported: the other methods belong to buildx; remove the flag",
    ),
    (
        "--cgroup-parent=x",
        "--cgroup-parent is not supported: a step's control group is inside its VM; limit the VM \
         with --memory",
    ),
    (
        "--check",
        "--check is not supported: a file is checked by building it, which tells what is wrong and \
         warns by some of BuildKit's rules",
    ),
    (
        "--cpuset-mems=1",
        "--cpuset-mems=1 is not supported: a VM's memory is not bound to nodes of the host; \
         remove the flag",
    ),
    (
        "-D",
        "--debug=true is not supported: there is no log to turn up; remove the flag",
    ),
    (
        "--disable-content-trust=false",
        "--disable-content-trust=false is not supported: signatures are not checked; remove the \
         flag",
    ),
    (
        "--isolation=hyperv",
        "--isolation=hyperv is not supported: it is for Windows containers; remove the flag",
    ),
    (
        "--metadata-file=x",
        "--metadata-file is not supported: use --iidfile, or inspect",
    ),
    (
        "--no-cache-filter=x",
        "--no-cache-filter is not supported: use --no-cache",
    ),
    (
        "--output=x",
        "--output is not supported: the image goes to the store; use save or export to get files \
         of it",
    ),
    (
        "--provenance=true",
        "--provenance=true is not supported: no attestations are made; remove the flag",
    ),
    (
        "--push",
        "--push is not supported: use push when the build is done",
    ),
    (
        "--sbom=true",
        "--sbom=true is not supported: no attestations are made; remove the flag",
    ),
    (
        "--security-opt=x",
        "--security-opt is not supported: a step is as confined as a container and alone in its \
         VM; remove the flag",
    ),
    (
        "--squash",
        "--squash is not supported: layers are kept, as they are shared and cached; remove the \
         flag",
    ),
    (
        "--ssh=default",
        "--ssh is not supported: no agent is forwarded into a VM; use --secret",
    ),
    (
        "--stream",
        "--stream is not supported: it is gone from Docker; remove the flag",
    ),
    (
        "--userns=x",
        "--userns=x is not supported: the VM's kernel is the step's own; remove the flag",
    ),
    (
        "--uts=host",
        "--uts=host is not supported: the VM's kernel is the step's own; remove the flag",
    ),
];

/// A user with a build context.
fn with_context(dockerfile: &str) -> User {
    let user = User::new();
    let context = user.work().join("context");
    fs::create_dir(&context).expect("create a context");
    fs::write(context.join("Dockerfile"), dockerfile).expect("write a Dockerfile");
    user
}

#[test]
fn what_is_not_supported_is_refused_with_one_sentence() {
    let user = with_context("FROM scratch\n");
    for (flag, sentence) in REFUSED {
        assert_refused(&user.run(&["build", flag, "context"]), 1, sentence);
    }
    // By its other names, too.
    for name in [&["image", "build"][..], &["builder", "build"]] {
        let out = user.run(&[name, &["--push", "context"]].concat());
        assert_refused(
            &out,
            1,
            "--push is not supported: use push when the build is done",
        );
    }
}

#[test]
fn values_that_are_none_are_told() {
    let user = with_context("FROM scratch\n");
    for (flags, sentence) in [
        (
            &["-t", "UPPER"][..],
            "invalid argument \"UPPER\" for \"-t, --tag\" flag: invalid reference format: \
             repository name (library/UPPER) must be lowercase",
        ),
        (
            &[
                "-t",
                "x@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ],
            "invalid argument \
             \"x@sha256:0000000000000000000000000000000000000000000000000000000000000000\" for \
             \"-t, --tag\" flag: refusing to create a tag with a digest reference",
        ),
        (
            &["--network=host"],
            "--network=host is not supported: a step has a VM of its own, whose network is not \
             the host's; use default",
        ),
        (
            &["--network=mine"],
            "--network=mine is not supported: use default or none",
        ),
        (
            &["--progress=rawjson"],
            "--progress=rawjson is not supported: use plain",
        ),
        (
            &["--platform=linux/arm64"],
            "cannot build for linux/arm64: a VM emulates no other CPU than this host's",
        ),
        (
            &["--secret=nonsense"],
            "invalid secret \"nonsense\": unexpected \"nonsense\"",
        ),
        (
            &["--secret=src=x"],
            "invalid secret \"src=x\": it has no id",
        ),
        (
            &["--secret=id=x,env=NOT_THERE"],
            "secret x: there is no variable NOT_THERE",
        ),
        (
            &["--secret=id=x,src=missing"],
            "secret x: read missing: No such file or directory (os error 2)",
        ),
    ] {
        let words = [&["build"], flags, &["context"]].concat();
        assert_refused(&user.run(&words), 1, sentence);
    }
    let out = user.bulkhead(["build", "context"]);
    let out = out.env("SOURCE_DATE_EPOCH", "soon").output().expect("run");
    assert_refused(
        &out,
        1,
        "SOURCE_DATE_EPOCH=soon is no number of seconds since 1970",
    );
}

#[test]
fn what_is_to_be_built_must_be_there() {
    let user = with_context("FROM scratch\n");
    let work = user.work();
    fs::create_dir(work.join("empty")).expect("create a folder");
    let missing = |name: &str| {
        format!(
            "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {}: \
             no such file or directory",
            work.join(name).display()
        )
    };
    for (words, sentence) in [
        (
            &["missing"][..],
            "unable to prepare context: path \"missing\" not found".to_owned(),
        ),
        (
            &["context/Dockerfile"],
            "unable to prepare context: context must be a directory: context/Dockerfile".to_owned(),
        ),
        (&["empty"], missing("empty/Dockerfile")),
        (&["-f", "other", "context"], missing("other")),
        (
            &["-f", "-", "-"],
            "invalid argument: can't use stdin for both build context and dockerfile".to_owned(),
        ),
        (
            &["one", "two"],
            "'bulkhead build' requires 1 argument".to_owned(),
        ),
        (
            &[],
            "'bulkhead build' requires at least 1 argument".to_owned(),
        ),
        (
            &["https://example.org/x.git"],
            "https://example.org/x.git is not fetched: clone or download it, and build the folder \
             or pass the archive on standard input"
                .to_owned(),
        ),
    ] {
        let words = [&["build"], words].concat();
        assert_refused(&user.run(&words), 1, &sentence);
    }
}

#[test]
fn a_dockerfile_with_an_error_is_shown() {
    let user = with_context("FROM busybox\n\nRUM echo\nRUN true\n");
    let out = user.run(&["build", "context"]);
    assert_eq!((out.code, out.stdout.as_str()), (1, ""), "{out}");
    assert_eq!(
        out.stderr,
        "Dockerfile:3\n\
         --------------------\n   \
            1 |     FROM busybox\n   \
            2 |\n   \
            3 | >>> RUM echo\n     \
              |     ^^^\n   \
            4 |     RUN true\n\
         --------------------\n\
         bulkhead: dockerfile parse error on line 3: unknown instruction: RUM (did you mean RUN?)\n"
    );
    let out = user.bulkhead(["build", "-"]).stdin("RUN true\n").output();
    let out = out.expect("run");
    assert_eq!(out.code, 1, "{out}");
    assert!(
        out.stderr.contains("no build stage in current context"),
        "{out}"
    );
}
