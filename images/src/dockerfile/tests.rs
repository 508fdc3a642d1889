//! What Dockerfiles mean, in tables.

use std::collections::BTreeMap;

use super::{
    Action, BaseImage, BaseRequest, Dockerfile, Plan, PlanError, PlanOptions, PlannedStage, Step,
    parse, plan,
};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::platform::Platform;

mod changing;
mod copying;
mod expanding;
mod instructions;
mod planning;
mod reading;
mod running;
mod staging;

/// An image that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("no such image")]
struct Refused;

fn config(json: &str) -> ImageConfig {
    let json = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"config":{json}}}"#
    );
    ImageConfig::parse(json.as_bytes()).unwrap()
}

/// An image as `FROM` finds it.
fn image(json: &str) -> BaseImage {
    BaseImage {
        config: config(json),
        manifest: Digest::of(json.as_bytes()),
    }
}

fn base() -> BaseImage {
    image(r#"{"Env":["PATH=/bin","BASE=b"],"Cmd":["sh"]}"#)
}

fn options() -> PlanOptions {
    PlanOptions {
        build_args: BTreeMap::new(),
        target: None,
        labels: BTreeMap::new(),
        platform: Platform::new("linux", "amd64", None),
    }
}

fn read(text: &str) -> Dockerfile {
    parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A plan on images that are all as [`base`].
fn planned_with(text: &str, options: &PlanOptions) -> Plan {
    let plan = plan(&read(text), options, &mut |_| Ok::<_, Refused>(base()));
    plan.unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn planned(text: &str) -> Plan {
    planned_with(text, &options())
}

/// The image's stage.
fn target(plan: &Plan) -> &PlannedStage {
    &plan.stages[plan.target]
}

/// The last step of a file that begins `FROM a`.
fn last(text: &str) -> Step {
    let plan = planned(&format!("FROM a\n{text}"));
    target(&plan).steps.last().cloned().unwrap()
}

/// The config that instructions make of [`base`].
fn made(text: &str) -> ImageConfig {
    (*last(text).config).clone()
}

fn build_args(list: &[(&str, Option<&str>)]) -> BTreeMap<String, Option<String>> {
    let owned =
        |(name, value): &(&str, Option<&str>)| ((*name).to_owned(), value.map(str::to_owned));
    list.iter().map(owned).collect()
}
