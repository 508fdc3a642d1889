//! Stages: which ones are built, in which order, on what; triggers of base images.

use super::*;
use crate::dockerfile::{Base, CopyFrom};

const FOUR: &str = "\
ARG g=1
FROM a AS one
RUN 1
FROM b AS two
RUN 2
FROM one AS three
RUN 3
FROM scratch
COPY --from=two /x /x
COPY --from=2 /y /y
";

fn for_target(text: &str, name: &str) -> Plan {
    planned_with(
        text,
        &PlanOptions {
            target: Some(name.to_owned()),
            ..options()
        },
    )
}

#[test]
fn only_what_is_needed_is_built() {
    for (name, want) in [
        ("", vec![0, 1, 2, 3]),
        ("one", vec![0]),
        ("TWO", vec![1]),
        ("three", vec![0, 2]),
        ("3", vec![0, 1, 2, 3]),
    ] {
        let plan = for_target(FOUR, name);
        let built: Vec<_> = plan.stages.iter().map(|stage| stage.index).collect();
        assert_eq!(built, want, "{name}");
        assert_eq!(plan.target, built.len() - 1);
    }
    let plan = planned(FOUR);
    let needs: Vec<_> = plan
        .stages
        .iter()
        .map(|stage| stage.needs.clone())
        .collect();
    assert_eq!(needs, [vec![], vec![], vec![0], vec![1, 2]]);
    assert_eq!(plan.stages[2].base, Base::Stage(0));
    assert_eq!(plan.stages[3].base, Base::Scratch);
    let Action::Copy(copy) = &plan.stages[3].steps[1].action else {
        panic!("no copy");
    };
    assert_eq!(copy.from, CopyFrom::Stage(2));
    let plan = for_target(FOUR, "three");
    assert_eq!(
        (plan.stages[1].base.clone(), &*plan.stages[1].needs),
        (Base::Stage(0), &[0][..])
    );
    // What is not needed is not asked for, and may be wrong in what its instructions mean.
    let text = "FROM nothing AS no\nCOPY --from=7 a b\nFROM a";
    let mut asked = 0;
    plan_asking(text, &mut asked).unwrap();
    assert_eq!(asked, 1);
}

fn plan_asking(text: &str, asked: &mut usize) -> Result<Plan, PlanError<Refused>> {
    plan(&read(text), &options(), &mut |request: &BaseRequest| {
        *asked += 1;
        match request.reference.familiar().as_str() {
            "nothing:latest" => Err(Refused),
            _ => Ok(base()),
        }
    })
}

#[test]
fn steps_have_their_texts_and_lines() {
    let plan = planned(FOUR);
    let steps = plan.stages.iter().flat_map(|stage| {
        let texts = stage.steps.iter().map(|step| step.text.clone());
        std::iter::once(stage.text.clone()).chain(texts)
    });
    let all: Vec<String> = steps.collect();
    assert_eq!(all, FOUR.lines().skip(1).collect::<Vec<_>>());
    assert_eq!(plan.stages[3].steps[0].lines, (9, 9));
}

#[test]
fn targets_that_are_not_there() {
    let error = |name: &str| {
        let options = PlanOptions {
            target: Some(name.to_owned()),
            ..options()
        };
        let plan = plan(&read(FOUR), &options, &mut |_| Ok::<_, Refused>(base()));
        plan.unwrap_err().to_string()
    };
    assert_eq!(
        error("thre"),
        "target stage \"thre\" could not be found (did you mean three?)"
    );
    assert_eq!(error("7"), "target stage \"7\" could not be found");
}

#[test]
fn images_that_can_not_be_had() {
    for (text, line) in [
        ("FROM nothing", 1),
        ("FROM a\n\nCOPY --from=nothing x y", 3),
        ("FROM a\nRUN --mount=from=nothing,target=/x y", 2),
    ] {
        match plan_asking(text, &mut 0).unwrap_err() {
            PlanError::Image {
                reference,
                line: at,
                source: Refused,
            } => {
                assert_eq!((&*reference, at), ("nothing:latest", line), "{text}");
            }
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn a_name_is_the_last_stage_before_that_has_it() {
    let plan = planned("FROM a AS x\nUSER 1\nFROM a AS x\nUSER 2\nFROM x\nRUN y\nFROM b AS x");
    // The last stage of the file is not built on another.
    assert_eq!(plan.stages.len(), 1);
    let plan = for_target(
        "FROM a AS x\nUSER 1\nFROM a AS x\nUSER 2\nFROM x AS y\nRUN z\nFROM b AS x",
        "y",
    );
    assert_eq!(plan.stages[1].config.user, "2");
    // A stage may be called as its image.
    let plan = planned("FROM a AS a\nUSER 1\nFROM a");
    assert_eq!(plan.stages[1].base, Base::Stage(0));
    assert_eq!(plan.stages[1].config.user, "1");
}

#[test]
fn an_arg_that_hides_a_variable_ends_with_its_stage() {
    let plan = planned(
        "FROM x AS a\nENV V=env\nARG V=arg\nARG W=arg\nRUN a\nFROM a\nENV B=$V C=$W\nRUN b",
    );
    let env = |stage: usize| match &plan.stages[stage].steps.last().unwrap().action {
        Action::Run(run) => run.env.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(env(0), ["PATH=/bin", "BASE=b", "V=arg", "W=arg"]);
    assert_eq!(
        env(1),
        ["PATH=/bin", "BASE=b", "V=env", "B=env", "C=arg", "W=arg"]
    );
}

fn plan_on(on_build: &[&str], text: &str) -> Result<Plan, PlanError<Refused>> {
    let mut image = base();
    image.config.on_build = on_build.iter().map(ToString::to_string).collect();
    plan(&read(text), &options(), &mut |request: &BaseRequest| {
        Ok(match request.reference.familiar().as_str() {
            "plain:latest" => base(),
            _ => image.clone(),
        })
    })
}

#[test]
fn triggers_run_first_and_once() {
    let triggers = [
        "ARG v=1",
        "RUN a $v",
        "COPY --from=other x y",
        "RUN <<E\nb\nE",
    ];
    let plan = plan_on(
        &triggers,
        "FROM plain AS other\nFROM a AS x\nUSER u\nFROM x\nRUN c",
    )
    .unwrap();
    let stage = &plan.stages[1];
    let steps: Vec<_> = stage
        .steps
        .iter()
        .map(|step| (&*step.text, step.lines))
        .collect();
    assert_eq!(
        steps,
        [
            ("ARG v=1", (2, 2)),
            ("RUN a $v", (2, 2)),
            ("COPY --from=other x y", (2, 2)),
            ("RUN <<E", (2, 2)),
            ("USER u", (3, 3)),
        ]
    );
    assert_eq!(stage.needs, [0]);
    let Action::Run(run) = &stage.steps[1].action else {
        panic!("no run");
    };
    assert!(run.env.contains(&"v=1".to_owned()));
    let Action::Run(run) = &stage.steps[3].action else {
        panic!("no run");
    };
    assert_eq!(run.args[2], "b\n");
    assert!(stage.config.on_build.is_empty());
    // They are not inherited.
    assert_eq!(plan.stages[2].steps.len(), 1);
    // Those of a stage run in what is built on it, and stay in it.
    let plan = planned("FROM a AS x\nONBUILD USER u\nFROM x\nRUN c");
    assert_eq!(plan.stages[0].steps[0].config.on_build, ["USER u"]);
    let steps: Vec<_> = plan.stages[1]
        .steps
        .iter()
        .map(|step| &*step.text)
        .collect();
    assert_eq!(steps, ["USER u", "RUN c"]);
    assert!(plan.stages[1].steps[1].config.on_build.is_empty());
}

#[test]
fn triggers_are_a_strangers() {
    for (trigger, want) in [
        (
            "FROM x",
            "the base image's ONBUILD FROM x: unknown instruction: FROM",
        ),
        (
            "ONBUILD RUN x",
            "the base image's ONBUILD ONBUILD RUN x: it isn't allowed as an ONBUILD trigger",
        ),
        (
            "MAINTAINER x",
            "the base image's ONBUILD MAINTAINER x: it isn't allowed as an ONBUILD trigger",
        ),
        (
            "RUN a\nRUN b",
            "the base image's ONBUILD RUN a\\nRUN b: onbuild trigger should be a single expression",
        ),
        (
            "",
            "the base image's ONBUILD : the Dockerfile cannot be empty",
        ),
        (
            "WHAT\u{1b}",
            "the base image's ONBUILD WHAT\\u{1b}: unknown instruction: WHAT\\u{1b}",
        ),
        ("COPY --from=9 a b", "invalid stage index 9"),
    ] {
        match plan_on(&[trigger], "FROM plain\nFROM a").unwrap_err() {
            PlanError::Dockerfile(error) => {
                assert_eq!(
                    (error.to_string(), error.lines()),
                    (want.to_owned(), Some((2, 2))),
                    "{trigger:?}"
                );
            }
            other => panic!("{other}"),
        }
    }
    let many = vec!["USER u"; 5000];
    let error = plan_on(&many, "FROM a").unwrap_err().to_string();
    assert_eq!(error, "a stage has more than 4096 instructions");
}

#[test]
fn stages_on_stages_are_no_recursion() {
    let mut text = String::from("FROM a AS s0\n");
    for index in 1..256 {
        text += &format!(
            "FROM s{} AS s{index}\nCOPY --from=s{} a b\n",
            index - 1,
            index - 1
        );
    }
    let plan = planned(&text);
    assert_eq!(plan.stages.len(), 256);
    assert_eq!(plan.stages[255].needs, [254]);
    // What triggers need is found one in the other.
    let mut text = String::from("FROM plain AS s0\n");
    for index in 1..40 {
        text += &format!("FROM i{index} AS s{index}\n");
    }
    let on_build = plan_with_triggers(&text);
    assert_eq!(
        on_build.unwrap_err().to_string(),
        "triggers of base images lead to others more than 16 deep"
    );
}

/// Every image `i7` has a trigger that copies from the stage before the seventh.
fn plan_with_triggers(text: &str) -> Result<Plan, PlanError<Refused>> {
    plan(&read(text), &options(), &mut |request: &BaseRequest| {
        let name = request.reference.familiar();
        let mut image = base();
        if let Some(number) = name
            .strip_prefix('i')
            .and_then(|rest| rest.split(':').next()?.parse::<usize>().ok())
        {
            image.config.on_build = vec![format!("COPY --from={} a b", number - 1)];
        }
        Ok(image)
    })
}
