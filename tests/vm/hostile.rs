//! Every image of the table of hostile images (`tests/hostile`), through every verb: pulled from a
//! registry, loaded from an archive, run, entered, copied out of and into, exported, committed, built upon.
//! After each the host is as it was, and the container next to it goes on. A test a family.

mod host;
pub(crate) mod verbs;

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use harness::{ByteRegistry, Sandbox, Snapshot};
use hostile_images::{Base, Case, Expected};
use libtest_mimic::{Failed, Trial};

use crate::life::text;
use crate::world::World;

/// The tests: which classes each has.
const FAMILIES: [(&str, &[u8]); 14] = [
    ("paths", &[1]),
    ("symbolic_links", &[2]),
    ("hard_links_and_parents", &[3, 4]),
    ("special_names", &[5]),
    ("devices", &[6]),
    ("attributes", &[7]),
    ("numbers", &[8]),
    ("whiteouts", &[9]),
    ("order", &[10, 25]),
    ("headers", &[11]),
    ("compression", &[13, 14, 23]),
    ("digests_and_names", &[15, 19, 21]),
    ("manifests", &[16, 17]),
    ("configs", &[20, 22]),
];

/// Every so many-th image that runs has all verbs when nobody asks for its family: in an emulated host they
/// take some ten seconds each. The others are pulled, loaded, run and entered.
const ONE_OF: usize = 6;

/// What the cases of a family share.
struct Bench<'a> {
    vm: &'a Sandbox,
    registry: &'a ByteRegistry,
    base: &'a Base,
    before: Snapshot,
    host: host::Host,
}

/// A test for each family. All verbs are for all that run where the filter names a family.
pub(crate) fn trials(world: &Arc<World>, filter: Option<&str>) -> Vec<Trial> {
    let is_named = |name: &str| filter.is_some_and(|filter| filter.contains(name));
    let all = FAMILIES.iter().any(|(name, _)| is_named(name));
    if !all {
        println!(
            "hostile: all verbs for one of {ONE_OF} images that run; for all with a family as filter, such as `cargo xtask test hostile::{}`",
            FAMILIES[0].0
        );
    }
    FAMILIES
        .iter()
        .map(|(name, classes)| {
            let world = Arc::clone(world);
            Trial::test(format!("hostile::{name}"), move || {
                family(&world, classes, all).map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .collect()
}

fn family(world: &World, classes: &[u8], all: bool) -> Result<()> {
    let vm = world.own()?;
    let base = Base {
        tar: verbs::base_layer()?,
    };
    let registry = ByteRegistry::start()?;
    let script = "n=0; while :; do n=$((n+1)); echo $n >/count; sleep 1; done";
    let words = [
        "run",
        "-d",
        "--name",
        "neighbour",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    text(&vm, &words)?;
    let bench = Bench {
        vm: &vm,
        registry: &registry,
        base: &base,
        before: Snapshot::with_what_runs(&vm)?,
        host: host::Host::look(&vm)?,
    };
    let started = state_of_neighbour(&vm)?;
    let cases = hostile_images::cases();
    let cases = cases.iter().filter(|case| classes.contains(&case.class));
    let mut wrong = Vec::new();
    let (mut count, mut running) = (0, 0);
    for case in cases {
        count += 1;
        if matches!(case.expected, Expected::Runs { .. }) {
            running += 1;
        }
        let all_verbs = all || running % ONE_OF == 1;
        if let Err(error) = one(&bench, case, all_verbs) {
            eprintln!("hostile: e{} {}: {error:#}", case.class, case.name);
            wrong.push(format!("e{} {}: {error:#}", case.class, case.name));
            verbs::clear(&vm)?;
        }
    }
    ensure!(count > 0, "there is no such case");
    // It is the one that was started, and it has gone on meanwhile.
    ensure!(
        state_of_neighbour(&vm)? == started,
        "the neighbour is another"
    );
    let counted = counted_by_neighbour(&vm)?;
    crate::life::until("the neighbour to go on", || {
        Ok((counted_by_neighbour(&vm)? > counted).then_some(()))
    })?;
    text(&vm, &["rm", "-f", "neighbour"])?;
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"))
}

fn one(bench: &Bench, case: &Case, all_verbs: bool) -> Result<()> {
    verbs::run(bench, case, all_verbs)?;
    bench.host.is_as_it_was(bench.vm)?;
    bench.before.no_leftovers(bench.vm)
}

fn state_of_neighbour(vm: &Sandbox) -> Result<String> {
    let format = "{{.Id}} {{.State.Running}} {{.State.StartedAt}} {{.State.Pid}} {{.RestartCount}}";
    let state = text(vm, &["inspect", "-f", format, "neighbour"])?;
    ensure!(
        state.contains(" true "),
        "the neighbour does not run: {state}"
    );
    Ok(state)
}

fn counted_by_neighbour(vm: &Sandbox) -> Result<u64> {
    let count = text(vm, &["exec", "neighbour", "cat", "/count"])?;
    count.trim().parse().with_context(|| format!("{count:?}"))
}

/// The names of entries are unique, so each can be a tag.
fn tag(case: &Case) -> &str {
    case.name
}
