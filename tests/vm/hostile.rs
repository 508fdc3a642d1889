//! Every image of the table of hostile images (`tests/hostile`): pulled from a registry, loaded from an
//! archive, run, entered; one of some, or all where that is asked for ([`Depth`]), also copied out of and
//! into, exported, committed, built upon. After each the host is as it was; at the end of a family all of
//! an emulated host is, and the container next to it has gone on. A test a family.
//!
//! Which of the images have their turn goes by a number ([`turn`]), another one each day.

mod cost;
mod host;
mod machine;
pub(crate) mod verbs;

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use harness::{ByteRegistry, Sandbox, Snapshot};
use hostile_images::turns::{CASES_ONE_OF, Depth};
use hostile_images::{Base, Case};
use libtest_mimic::{Failed, Trial};

use crate::life::text;
use crate::world::World;

/// The tests: which classes each has, and which share of their cases.
const FAMILIES: [(&str, &[u8], (usize, usize)); 18] = [
    ("devices", &[6], (0, 1)),
    ("whiteouts", &[9], (0, 1)),
    ("digests", &[15, 25], (0, 1)),
    ("manifests", &[16, 17], (0, 1)),
    ("archives", &[19, 21], (0, 1)),
    ("exports", &[22], (0, 1)),
    ("order", &[10], (0, 1)),
    ("attributes", &[7], (0, 1)),
    ("compression", &[13, 14, 23], (0, 1)),
    ("numbers", &[8], (0, 1)),
    ("headers", &[11], (0, 2)),
    ("more_headers", &[11], (1, 2)),
    ("special_names", &[5], (0, 2)),
    ("configs", &[20], (0, 2)),
    ("more_special_names", &[5], (1, 2)),
    ("more_configs", &[20], (1, 2)),
    ("links", &[2, 3, 4], (0, 1)),
    ("paths", &[1], (0, 1)),
];

/// Names the number, see [`turn`].
const TURN_VARIABLE: &str = "BULKHEAD_HOSTILE_TURN";

/// In a filter and in the names of tests: [`Depth::EveryVerb`].
const EVERY_VERB: &str = "every_verb";

/// What the cases of a family share.
struct Bench<'a> {
    vm: &'a Sandbox,
    registry: &'a ByteRegistry,
    base: &'a Base,
    before: Snapshot,
    host: host::Host,
    /// Where nothing else runs.
    machine: Option<machine::Machine>,
    space: cost::Space,
}

/// What of a family is done.
#[derive(Clone, Copy)]
struct Extent {
    depth: Depth,
    seed: usize,
    /// Nothing else runs on this host: it is compared as a whole.
    is_alone: bool,
}

/// The number that chooses the cases, also those of `builds`: what the variable says (`cargo xtask test`
/// hands it on), else the day.
pub(crate) fn turn() -> usize {
    const DAY_S: u64 = 24 * 60 * 60;
    let Ok(text) = std::env::var(TURN_VARIABLE) else {
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        return usize::try_from(since_1970.as_secs() / DAY_S).unwrap_or_default();
    };
    text.parse()
        .unwrap_or_else(|_| panic!("{TURN_VARIABLE}={text}: no number"))
}

/// A test for each family. `is_alone` where one test runs after the other, and nothing else.
pub(crate) fn trials(world: &Arc<World>, filter: Option<&str>, is_alone: bool) -> Vec<Trial> {
    let depth = match filter {
        None => Depth::Some,
        Some(filter) if filter.contains(EVERY_VERB) => Depth::EveryVerb,
        Some(_) => Depth::All,
    };
    let of = match depth {
        Depth::EveryVerb => format!("hostile::{EVERY_VERB}"),
        Depth::All | Depth::Some => "hostile".to_owned(),
    };
    let extent = Extent {
        depth,
        seed: turn(),
        is_alone,
    };
    println!("hostile: chosen by {TURN_VARIABLE}={}", extent.seed);
    if depth == Depth::Some {
        println!(
            "hostile: one of {CASES_ONE_OF} images; all of them with a filter, `cargo xtask test hostile::`, and each through every verb with `hostile::{EVERY_VERB}`"
        );
    }
    if !is_alone {
        println!(
            "hostile: others run on this host, so that of it only what images aim at is compared"
        );
    }
    let trial = |(name, classes, share)| {
        let world = Arc::clone(world);
        Trial::test(format!("{of}::{name}"), move || {
            let _beside = world.beside_others();
            family(&world, classes, share, extent)
                .map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    FAMILIES.into_iter().map(trial).collect()
}

fn family(
    world: &World,
    classes: &[u8],
    (share, of): (usize, usize),
    extent: Extent,
) -> Result<()> {
    let vm = world.own()?;
    let base = Base {
        tar: verbs::base_layer()?,
    };
    let registry = ByteRegistry::start()?;
    // Who reads it finds a whole number, always.
    let script = "n=0; while :; do n=$((n+1)); echo $n >/next; mv /next /count; sleep 1; done";
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
    // What nobody uses goes now, and not with the first image.
    text(&vm, &["image", "prune", "-f"])?;
    let started = state_of_neighbour(&vm)?;
    let host = host::Host::look()?;
    let bench = Bench {
        vm: &vm,
        registry: &registry,
        base: &base,
        before: Snapshot::with_what_runs(&vm)?,
        host,
        machine: extent
            .is_alone
            .then(machine::Machine::look)
            .transpose()
            .context("look at the host")?,
        space: cost::Space::look(&vm)?,
    };
    let cases = hostile_images::cases();
    let cases = cases.iter().filter(|case| classes.contains(&case.class));
    let mut wrong = Vec::new();
    let mut count = 0;
    for (index, case) in cases.skip(share).step_by(of).enumerate() {
        let Some(all_verbs) = extent.depth.turn(extent.seed, index) else {
            continue;
        };
        count += 1;
        if let Err(error) = one(&bench, case, all_verbs) {
            eprintln!("hostile: e{} {}: {error:#}", case.class, case.name);
            wrong.push(format!("e{} {}: {error:#}", case.class, case.name));
            verbs::clear(&vm)?;
        }
    }
    ensure!(count > 0, "there is no such case");
    println!("hostile: {count} images: {}", cost::most());
    if let Some(machine) = &bench.machine
        && let Err(error) = machine.is_as_it_was()
    {
        wrong.push(format!("{error:#}"));
    }
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
    if let Some(machine) = &bench.machine {
        machine.runs_the_same()?;
    }
    bench.before.no_change(bench.vm)
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
