//! What is made of any bytes as a Dockerfile, and of any text as what its base image's ONBUILD says.
//! A plan comes soon or not at all, is the same twice, and all that runs from it is checked: paths are
//! absolute and clean, nothing has a NUL byte, stages need only those before them. What is said of the
//! rest is fit for a terminal.
//!
//! ```text
//! input = Dockerfile [NUL trigger [NUL target]]
//! ```
#![no_main]

use std::collections::BTreeMap;

use bulkhead_fuzz::words::{assert_printable, assert_text_printable};
use images::dockerfile::{
    Action, Base, BaseImage, CopyFrom, Mount, MountKind, Plan, PlanError, PlanOptions, Source,
    Step, parse, plan,
};
use images::limits::{HISTORY, INSTRUCTIONS, STAGES};
use images::{Digest, ImageConfig, Platform};
use libfuzzer_sys::fuzz_target;

/// An image that can't be had.
#[derive(Debug)]
struct Missing;

impl std::fmt::Display for Missing {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("no such image")
    }
}

impl std::error::Error for Missing {}

fn assert_clean(path: &str) {
    assert!(path.starts_with('/'), "{path:?}");
    let parts = path.split('/').skip(1);
    let is_clean = |part: &str| !matches!(part, "" | "." | "..");
    assert!(path == "/" || parts.into_iter().all(is_clean), "{path:?}");
}

fn assert_text(text: &str) {
    assert!(!text.contains('\0'), "{text:?}");
}

fn assert_from(from: &CopyFrom, index: usize) {
    if let CopyFrom::Stage(from) = from {
        assert!(*from < index);
    }
}

fn check_mount(mount: &Mount, index: usize) {
    if let Some(target) = &mount.target {
        assert_clean(target);
        assert_ne!(target, "/");
    }
    match &mount.kind {
        MountKind::Bind { from, source, .. } => {
            assert_clean(source);
            assert_from(from, index);
        }
        MountKind::Cache { .. } | MountKind::Tmpfs { .. } => {}
        MountKind::Secret { id, env, .. } => {
            assert!(mount.target.is_some() || env.is_some());
            assert_text(id);
        }
    }
}

fn check_step(step: &Step, index: usize) {
    assert!(!step.action.cache_input().is_empty());
    assert!(step.lines.0 <= step.lines.1);
    assert_text(&step.history(None).created_by);
    match &step.action {
        Action::None => {}
        Action::MakeDirectory(made) => {
            assert_clean(&made.path);
            assert_text(&made.owner);
        }
        Action::Run(run) => {
            assert!(!run.args.is_empty());
            assert_clean(&run.working_dir);
            run.args
                .iter()
                .chain(&run.env)
                .chain(&run.proxies)
                .for_each(|text| assert_text(text));
            assert!(run.env.iter().all(|text| text.contains('=')));
            run.mounts
                .iter()
                .for_each(|mount| check_mount(mount, index));
            if let Some(script) = &run.script {
                assert_clean(&script.path);
                assert!(script.path.starts_with("/dev/pipes/") && script.content.starts_with("#!"));
            }
        }
        Action::Copy(copy) => {
            assert_from(&copy.from, index);
            assert!(!copy.sources.is_empty());
            assert_clean(&copy.destination.path);
            for source in &copy.sources {
                if let Source::Inline { name, .. } = source {
                    assert!(!name.contains('/') && !matches!(&**name, "" | "." | ".."));
                }
            }
        }
    }
}

fn check_plan(plan: &Plan) {
    assert!(plan.target < plan.stages.len() && plan.stages.len() <= STAGES);
    for (index, stage) in plan.stages.iter().enumerate() {
        assert!(stage.needs.iter().all(|needed| *needed < index));
        if let Base::Stage(base) = stage.base {
            assert!(stage.needs.contains(&base));
        }
        assert!(stage.steps.len() <= INSTRUCTIONS);
        for step in &stage.steps {
            check_step(step, index);
        }
        let config = stage
            .steps
            .last()
            .map_or(&stage.config, |step| &step.config);
        assert!(stage.config.on_build.is_empty());
        assert!(config.env.iter().any(|text| text.starts_with("PATH=")));
    }
    assert!(plan.stages[plan.target].steps.len() <= HISTORY);
    plan.warnings
        .iter()
        .for_each(|warning| assert_text_printable(&warning.text));
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let file = parts.next().unwrap_or_default();
    let trigger = parts.next().map(String::from_utf8_lossy);
    let target = parts.next().map(String::from_utf8_lossy);
    let dockerfile = match parse(file) {
        Ok(dockerfile) => dockerfile,
        Err(error) => {
            error
                .snippet("Dockerfile")
                .lines()
                .for_each(assert_text_printable);
            return assert_printable(&error);
        }
    };
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
        "config":{"Env":["A=1 2","B=/a/b.c.d","C="],"WorkingDir":"w","User":"u"}}"#;
    let mut config = ImageConfig::parse(config).expect("a config");
    config
        .on_build
        .extend(trigger.map(|text| text.replace('\0', "")));
    let build_args = [("D", Some("$A*?")), ("http_proxy", Some("p")), ("E", None)];
    let build_args = build_args.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
    let options = PlanOptions {
        build_args: BTreeMap::from(build_args),
        target: target.map(|text| text.into_owned()),
        labels: BTreeMap::from([("label".to_owned(), "$A".to_owned())]),
        platform: Platform::new("linux", "amd64", None),
    };
    let make = || {
        plan(&dockerfile, &options, &mut |request| match request
            .reference
            .familiar()
            .contains("missing")
        {
            true => Err(Missing),
            false => Ok(BaseImage {
                config: config.clone(),
                manifest: Digest::of(b""),
            }),
        })
    };
    match make() {
        Ok(plan) => {
            check_plan(&plan);
            assert_eq!(
                format!("{plan:?}"),
                format!("{:?}", make().expect("the same again"))
            );
        }
        Err(error) => {
            if let PlanError::Dockerfile(error) = &error {
                error
                    .snippet("Dockerfile")
                    .lines()
                    .for_each(assert_text_printable);
            }
            assert_printable(&error);
        }
    }
});
