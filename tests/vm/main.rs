//! Tests that need KVM: the command from outside, on real images, with what each run leaves
//! behind. `cargo xtask test` compiles this and runs it where KVM works, with BULKHEAD naming the
//! command and BULKHEAD_FIXTURES the images. A file a topic; `world` is what they share.
//!
//! It has a main of its own because sandboxes are shared by tests and must be gone at the end.

mod bad_input;
mod confinement;
mod containers;
mod debian;
mod differential;
mod environment;
mod kills;
mod layers60;
mod limits;
mod process;
mod pulling;
mod store;
mod streams;
mod terminal;
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
    let arguments = Arguments::from_args();
    let world = Arc::new(World::default());
    let mut trials = Vec::new();
    // The long ones first, so that no thread is left with one at the end; the first file's share
    // has what needs the large images.
    for (share, tests) in [
        (0, layers60::tests()),
        (0, debian::tests()),
        (0, terminal::tests()),
        (0, streams::tests()),
        (0, kills::tests()),
        (1, bad_input::tests()),
        (1, pulling::tests()),
        (1, store::tests()),
        (1, containers::tests()),
        (1, limits::tests()),
        (1, confinement::tests()),
        (1, environment::tests()),
        (1, process::tests()),
    ] {
        for (name, test) in tests {
            let name = name.strip_prefix("vm::").unwrap_or(name);
            trials.push((share, trial(name.to_owned(), &world, test)));
        }
    }
    trials.extend((0..).zip(differential::trials(&world)));
    let (number, of) = share();
    let mut trials: Vec<Trial> = trials
        .into_iter()
        .filter_map(|(share, trial)| (share % of == number).then_some(trial))
        .collect();
    let passed = passed();
    trials.retain(|trial| !passed.contains(trial.name()));
    let conclusion: Conclusion = libtest_mimic::run(&arguments, trials);
    differential::summarize(&world);
    conclusion.exit_code()
}

/// Which of how many parts of the tests are to be run, as `0/2`; all of them when nothing is said.
fn share() -> (usize, usize) {
    let Ok(share) = std::env::var("BULKHEAD_TESTS_SHARE") else {
        return (0, 1);
    };
    let numbers = share.split_once('/').and_then(|(number, of)| {
        let (number, of) = (number.parse().ok()?, of.parse().ok()?);
        (number < of).then_some((number, of))
    });
    numbers.unwrap_or_else(|| panic!("BULKHEAD_TESTS_SHARE={share}: not of the form 0/2"))
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

fn trial(name: String, world: &Arc<World>, test: Test) -> Trial {
    let world = Arc::clone(world);
    Trial::test(name, move || {
        test(&world).map_err(|error| Failed::from(format!("{error:#}")))
    })
}
