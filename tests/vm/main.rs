//! Tests that need KVM: the command from outside, on real images, with what each run leaves
//! behind. `cargo xtask test` compiles this and runs it where KVM works, with BULKHEAD naming the
//! command and BULKHEAD_FIXTURES the images. A file a topic; `world` is what they share.
//!
//! It has a main of its own because sandboxes are shared by tests and must be gone at the end.

mod agents;
mod archives;
mod bad_input;
mod bare;
mod build;
mod builds;
mod confinement;
mod containers;
mod contrast;
mod debian;
mod differential;
mod engines;
mod environment;
mod faults;
mod flags;
mod guests;
mod held;
mod hostile;
mod hosts;
mod jail;
mod kills;
mod lab;
mod layers60;
mod life;
mod limits;
mod lists;
mod network;
mod past;
mod peers;
mod plain;
mod policy;
mod process;
mod pulling;
mod races;
mod smp;
mod store;
mod streams;
mod templates;
mod tenant;
mod tenants;
mod terminal;
mod volumes;
mod world;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

use world::World;

/// A test: passes, or says what is wrong.
type Test = fn(&World) -> anyhow::Result<()>;

/// The tests of a file, by name.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The tests of this file.
        pub(crate) fn tests() -> Vec<(&'static str, crate::Test)> {
            vec![$((concat!(module_path!(), "::", stringify!($name)), $name as crate::Test)),*]
        }
    };
}
pub(crate) use tests;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, verb, kernel, initramfs, vcpus] = arguments.as_slice()
        && verb == guests::BOOT
    {
        return match guests::boot(kernel, initramfs, vcpus) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if let [_, verb, words @ ..] = arguments.as_slice()
        && verb == hostile::verbs::MEASURE
    {
        return match hostile::verbs::measure(words) {
            Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::from_args();
    let world = Arc::new(World::default());
    let part = part();
    let mut trials = Vec::new();
    if part.has_one_cpu() {
        // The long ones first, so that no thread is left with one at the end; the first file's
        // share has what needs the large images.
        for (share, tests) in [
            (1, lab::tests()),
            (0, layers60::tests()),
            (0, debian::tests()),
            (0, terminal::tests()),
            (0, streams::tests()),
            (0, kills::tests()),
            (1, life::tests()),
            (0, held::tests()),
            (0, races::tests()),
            (1, faults::tests()),
            (1, lists::tests()),
            (1, archives::tests()),
            (0, build::tests()),
            (0, peers::tests()),
            (1, engines::tests()),
            (0, hosts::tests()),
            (1, bad_input::tests()),
            (1, guests::tests()),
            (0, bare::tests()),
            (1, bare::others()),
            (1, agents::tests()),
            (0, agents::verbs::tests()),
            (0, past::tests()),
            (1, templates::tests()),
            (0, pulling::tests()),
            (1, store::tests()),
            (1, containers::tests()),
            (0, network::tests()),
            (1, limits::tests()),
            (1, confinement::tests()),
            (1, environment::tests()),
            (1, flags::tests()),
            (1, contrast::tests()),
            (1, plain::tests()),
            (1, policy::all()),
            (1, tenant::tests()),
            (0, tenants::tests()),
            (1, tenants::sharing::tests()),
            (1, jail::tests()),
            (1, volumes::tests()),
            (1, process::tests()),
        ] {
            if part.has(share) {
                trials.extend(self::trials(&world, tests));
            }
        }
        let differential = (0..).zip(differential::trials(&world));
        trials.extend(differential.filter_map(|(share, trial)| part.has(share).then_some(trial)));
        let is_alone = part.is_one_after_the_other(&arguments);
        let hostile = hostile::trials(&world, arguments.filter.as_deref(), is_alone);
        let hostile = (0..).zip(hostile);
        trials.extend(hostile.filter_map(|(share, trial)| part.has(share).then_some(trial)));
        let builds = (0..).zip(builds::trials(&world, arguments.filter.is_some()));
        trials.extend(builds.filter_map(|(share, trial)| part.has(share).then_some(trial)));
    }
    if part.has_several_cpus() {
        trials.extend(self::trials(&world, smp::tests()));
        trials.extend(self::trials(&world, bare::of_several_cpus()));
    }
    let passed = passed();
    trials.retain(|trial| !passed.contains(trial.name()));
    let conclusion: Conclusion = libtest_mimic::run(&arguments, trials);
    differential::summarize(&world);
    conclusion.exit_code()
}

/// What of the tests is to be run.
#[derive(Clone, Copy)]
enum Part {
    All,
    /// Share 0 to `of` - 1 of those that need one CPU only.
    Share {
        number: usize,
        of: usize,
    },
    /// Those that need a host with several CPUs.
    SeveralCpus,
}

impl Part {
    fn has_one_cpu(self) -> bool {
        !matches!(self, Self::SeveralCpus)
    }

    fn has_several_cpus(self) -> bool {
        !matches!(self, Self::Share { .. })
    }

    /// Whether no test runs beside another, nor anything else: an emulated host's share with one CPU.
    fn is_one_after_the_other(self, arguments: &Arguments) -> bool {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        matches!(self, Self::Share { .. }) && arguments.test_threads.unwrap_or(cpus) == 1
    }

    fn has(self, share: usize) -> bool {
        match self {
            Self::All => true,
            Self::Share { number, of } => share % of == number,
            Self::SeveralCpus => false,
        }
    }
}

/// The variable says `0/2` or `several-cpus`; all of them when nothing is said.
fn part() -> Part {
    let Ok(text) = std::env::var("BULKHEAD_TESTS_PART") else {
        return Part::All;
    };
    if text == "several-cpus" {
        return Part::SeveralCpus;
    }
    let share = text.split_once('/').and_then(|(number, of)| {
        let (number, of) = (number.parse().ok()?, of.parse().ok()?);
        (number < of).then_some(Part::Share { number, of })
    });
    share.unwrap_or_else(|| panic!("BULKHEAD_TESTS_PART={text}: neither 0/2 nor several-cpus"))
}

/// Tests that passed in a host that went away, one a line of the file that the variable names.
fn passed() -> BTreeSet<String> {
    let Some(list) = std::env::var_os("BULKHEAD_TESTS_PASSED") else {
        return BTreeSet::new();
    };
    let list = std::fs::read_to_string(&list)
        .unwrap_or_else(|error| panic!("read {}: {error}", list.display()));
    list.lines().map(str::to_owned).collect()
}

fn trials(world: &Arc<World>, tests: Vec<(&'static str, Test)>) -> impl Iterator<Item = Trial> {
    tests.into_iter().map(|(name, test)| {
        let world = Arc::clone(world);
        let name = name.strip_prefix("vm::").unwrap_or(name);
        Trial::test(name, move || {
            // These see to it themselves.
            let is_alone = name.starts_with(tenants::sharing::NAME);
            let _beside = (!is_alone).then(|| world.beside_others());
            test(&world).map_err(|error| Failed::from(format!("{error:#}")))
        })
    })
}
