//! `cargo xtask lab`: runs a command where KVM works: here where the hardware has it, else in an
//! emulated host. main.rs calls it; `test`, `demo` and `bench` start it as a command of its own
//! ([`command`]). It knows nothing of what the command is.

mod client;
mod emulator;
pub(crate) mod host_kernel;
mod initramfs;
mod kvm;
mod parked;
mod process;
pub(crate) mod server;
mod session;
mod spawn;
mod stream;
mod terminal;
mod wire;

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use self::client::Signals;
use self::emulator::Options;
use self::kvm::Kvm;
use self::session::Session;
use self::spawn::Lifetime;
use crate::packages::{self, Package};
use crate::paths;
use crate::progress::{Audience, Step};

/// Exit code when it is the lab that failed, as Docker's 125.
pub(crate) const OWN_FAILURE: u8 = 125;

const DEFAULT_MEMORY_MIB: u32 = 4096;

/// More do not make an emulation faster.
const MAX_DEFAULT_CPUS: usize = 8;

/// Run a command where KVM works: here, or in an emulated host
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "BULKHEAD_LAB_KERNEL=FOLDER: the emulated host's kernel is in boot and lib/modules of this folder"
)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Start an emulated host that stays up
    Start(Place),
    /// Run a command in the emulated host that is up
    Exec(What),
    /// Stop the emulated host that is up
    Stop,
    /// Say whether one is up
    Status,
}

/// The emulated host.
#[derive(Args, Debug, Clone)]
pub(crate) struct Place {
    /// Folder that the command can write to and that outlives it [default: target/lab/out]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Memory of the emulated host
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_MEMORY_MIB)]
    pub(crate) memory: u32,
    /// CPUs of the emulated host [default: this machine's, at most 8]
    #[arg(long, value_name = "N")]
    pub(crate) smp: Option<u32>,
}

/// The command.
#[derive(Args, Debug, Clone)]
pub(crate) struct What {
    /// Set a variable for the command (PATH, HOME and TERM are passed)
    #[arg(long = "env", value_name = "K=V")]
    pub(crate) variables: Vec<OsString>,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// Exit code for a command whose end nobody saw, as Docker's for what is not the command's doing.
pub(crate) const LAB_FAILED: u8 = 125;

impl Place {
    fn options(&self, lifetime: Lifetime) -> Result<Options> {
        let cpus = match self.smp {
            Some(cpus) => cpus,
            None => u32::try_from(
                thread::available_parallelism()
                    .map_or(1, usize::from)
                    .min(MAX_DEFAULT_CPUS),
            )?,
        };
        let out = self.out.clone().unwrap_or_else(|| paths::lab().join("out"));
        let out =
            std::path::absolute(&out).with_context(|| format!("resolve {}", out.display()))?;
        Ok(Options {
            memory_mib: self.memory,
            cpus,
            out,
            lifetime,
        })
    }
}

/// The verb.
///
/// # Errors
///
/// The lab itself failed; a command that fails is its exit code.
pub(crate) fn main(arguments: &LabArgs) -> Result<ExitCode> {
    match &arguments.verb {
        None => run(&arguments.place, &arguments.what),
        Some(Verb::Start(place)) => {
            if kvm::detect() == Kvm::Hardware {
                println!("KVM works here: `lab exec` runs commands directly");
                return Ok(ExitCode::SUCCESS);
            }
            packages::ensure(emulator::PACKAGES)?;
            let step = Step::begin("start the emulated host");
            let session = session::start(&place.options(Lifetime::Detached)?)?;
            step.done_with(session.describe());
            Ok(ExitCode::SUCCESS)
        }
        Some(Verb::Exec(what)) => {
            if kvm::detect() == Kvm::Hardware {
                return run_here(what);
            }
            let signals = Signals::take_over()?;
            let Some(session) = Session::current()? else {
                bail!("no emulated host is up; start one with `cargo xtask lab start`");
            };
            let command = client::describe(&what.command, &what.variables, &paths::artifacts())?;
            Ok(client::run(&session.address(), command, &signals)?.into())
        }
        Some(Verb::Stop) => {
            println!(
                "{}",
                if session::stop()? {
                    "stopped"
                } else {
                    "none was up"
                }
            );
            Ok(ExitCode::SUCCESS)
        }
        Some(Verb::Status) => {
            match kvm::detect() {
                Kvm::Hardware => println!("KVM works here, no emulated host is needed"),
                Kvm::None(why) => println!("no hardware KVM here: {why}"),
            }
            println!(
                "emulated host: {}",
                Session::current()?.map_or("none is up".into(), |up| up.describe())
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a command where KVM works, in a host of its own if it has to be emulated. When that host
/// goes away in the middle, the exit code is [`LAB_FAILED`].
///
/// # Errors
///
/// The lab can't be made.
pub(crate) fn run(place: &Place, what: &What) -> Result<ExitCode> {
    if what.command.is_empty() {
        bail!("no command was given; say `cargo xtask lab -- CMD ARG...`");
    }
    let options = place.options(Lifetime::OfCaller)?;
    if kvm::detect() == Kvm::Hardware {
        std::fs::create_dir_all(&options.out)
            .with_context(|| format!("create {}", options.out.display()))?;
        return run_here(what);
    }
    packages::ensure(emulator::PACKAGES)?;
    let command = client::describe(&what.command, &what.variables, &paths::artifacts())?;
    let signals = Signals::take_over()?;
    let step = Step::begin_for(Audience::Terminal, "start an emulated host");
    let mut machine = emulator::start(&options)?;
    step.done();
    Ok(match client::run(&machine.address, command, &signals) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}: {}", machine.obituary());
            LAB_FAILED
        }
    }
    .into())
}

/// What running containers needs on this machine.
pub(crate) fn needs() -> Vec<Package> {
    let mut needs = vec![Package::PASST];
    if let Kvm::None(_) = kvm::detect() {
        needs.extend(emulator::PACKAGES);
    }
    needs
}

/// The command `cargo xtask lab`, for verbs that want to see what comes of it.
///
/// # Errors
///
/// This executable is gone.
pub(crate) fn command() -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("find this executable")?);
    command.current_dir(paths::workspace()).arg("lab");
    Ok(command)
}

/// Why commands run in an emulated host here; `None` where they don't.
pub(crate) fn why_emulated() -> Option<&'static str> {
    match kvm::detect() {
        Kvm::Hardware => None,
        Kvm::None(why) => Some(why),
    }
}

/// Becomes the command.
fn run_here(what: &What) -> Result<ExitCode> {
    let Some((program, arguments)) = what.command.split_first() else {
        bail!("no command was given");
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PATH", path_with(&paths::artifacts()));
    for variable in &what.variables {
        let (name, value) = client::split_variable(variable)?;
        command.env(OsString::from_vec(name), OsString::from_vec(value));
    }
    let error = command.exec();
    eprintln!("lab: {}: {error}", program.to_string_lossy());
    Ok(ExitCode::from(
        if error.kind() == std::io::ErrorKind::NotFound {
            127
        } else {
            126
        },
    ))
}

fn path_with(first: &Path) -> OsString {
    let mut path = first.as_os_str().to_owned();
    if let Some(inherited) = env::var_os("PATH") {
        path.push(":");
        path.push(inherited);
    }
    path
}
