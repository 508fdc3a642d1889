//! Developer commands, `cargo xtask VERB`: dispatch and exit codes. One file per verb.
//! Nothing here is part of what users run.

mod answers;
mod artifacts;
mod bench;
mod cargo;
mod ci;
mod cpio;
mod demo;
mod elf;
mod fixtures;
mod fuzz;
mod guide;
mod hostile;
mod install;
mod kernel;
mod lab;
mod packages;
mod page;
mod paths;
mod progress;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Developer commands of bulkhead
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Xtask {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Take what Docker answered in earlier runs of the tests into the tree
    Answers,
    Artifacts(artifacts::ArtifactsArgs),
    Bench(bench::BenchArgs),
    /// Run all checks and tests that a change must pass
    Ci,
    /// Set everything up and run an image, side by side with its host
    Demo,
    Fixtures(fixtures::FixturesArgs),
    Fuzz(fuzz::FuzzArgs),
    /// Write the table of docs/guide/docker.md
    Guide,
    Install(install::InstallArgs),
    Kernel(kernel::KernelArgs),
    Lab(lab::LabArgs),
    Page(page::PageArgs),
    Test(test::TestArgs),
    /// First process and exec server of the emulated host
    #[command(hide = true)]
    LabServer,
}

fn main() -> ExitCode {
    let verb = Xtask::parse().verb;
    let failure = match verb {
        Verb::Lab(_) => lab::OWN_FAILURE,
        _ => 1,
    };
    match run(verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(failure)
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Answers => answers::main().map(|()| ExitCode::SUCCESS),
        Verb::Artifacts(arguments) => artifacts::provide(&arguments).map(|_| ExitCode::SUCCESS),
        Verb::Bench(arguments) => bench::main(&arguments),
        Verb::Ci => ci::main(),
        Verb::Demo => demo::main().map(|()| ExitCode::SUCCESS),
        Verb::Fixtures(arguments) => fixtures::main(&arguments).map(|()| ExitCode::SUCCESS),
        Verb::Fuzz(arguments) => fuzz::main(&arguments),
        Verb::Guide => guide::main().map(|()| ExitCode::SUCCESS),
        Verb::Page(arguments) => page::main(&arguments).map(|()| ExitCode::SUCCESS),
        Verb::Install(arguments) => install::main(&arguments).map(|()| ExitCode::SUCCESS),
        Verb::Kernel(arguments) => kernel::main(&arguments).map(|()| ExitCode::SUCCESS),
        Verb::Lab(arguments) => lab::main(&arguments),
        Verb::Test(arguments) => test::main(&arguments),
        Verb::LabServer => lab::server::main().map(|()| ExitCode::SUCCESS),
    }
}
