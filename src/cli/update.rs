//! `bulkhead update`: other limits and another restart policy for containers that exist, also while
//! they run.
//!
//! A VM keeps the memory and the vCPUs that it has begun with; within them, what its control group
//! allows changes at once. The rest counts from the next start on.

use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use protocol::spec::Resources;

use super::each::{done, each};
use super::flags::{Flags, OF_UPDATE, WORDS_OF_UPDATE};
use super::options::{Caller, Limits};
use super::policy::Policy;
use super::values::number;
use super::{given, output, run};
use crate::sandbox::given::Given;
use crate::sandbox::launch::{Isolation, memory_mib};
use crate::sandbox::paths;
use crate::sandbox::restart::RestartPolicy;
use crate::sandbox::state::ContainerConfig;
use crate::sandbox::wire::{NewLimits, ToSupervisor};
use crate::sandbox::{client, containers, events};

/// Changes containers.
///
/// # Errors
/// The last that could not be changed.
pub fn run(matches: ArgMatches) -> Result<()> {
    let names: Vec<String> = matches
        .get_many::<String>(WORDS_OF_UPDATE)
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    let flags = Flags::check(matches)?;
    let given = |name: &&&str| !flags.list(name).is_empty();
    if OF_UPDATE.iter().filter(given).count() == 0 {
        bail!("you must provide one or more flags when using this command");
    }
    for warning in flags.warnings() {
        output::note(&format!("WARNING: {warning}"));
    }
    run::with_caller(|caller| {
        // What is wrong whatever the container is, is told once; --memory-swap alone is measured by the
        // container's memory.
        if flags.text("memory-swap").is_none() || flags.text("memory").is_some() {
            Limits::over(&flags, caller, Some(&Resources::default()))?;
        }
        let policy = policy(&flags)?;
        each(&names, |root, name| {
            let (folder, _) = containers::find(root, name)?;
            // One after the other: each starts from what the last has made of it.
            let _alone = paths::lock(folder.path())?;
            let config = folder.config()?;
            let cannot = || format!("Cannot update container {}", config.id);
            let mut wanted = config.clone();
            change(&mut wanted, &flags, caller, policy).with_context(cannot)?;
            // One that does not run is looked at when it is started.
            let grows = wanted.launch.vcpu_count > config.launch.vcpu_count
                || wanted.launch.memory_mib > config.launch.memory_mib;
            if grows && folder.is_locked()? {
                Policy::of_user()?
                    .check_room(root, &wanted, None)
                    .with_context(cannot)?;
            }
            let limits = limits_of(&wanted);
            // Its supervisor looks for another policy when it has use for one.
            if limits != limits_of(&config) {
                let request = ToSupervisor::Update(Box::new(limits));
                if let Some(answer) = client::ask(&folder, &request)? {
                    done(answer).with_context(cannot)?;
                }
            }
            containers::update(root, &config.id, |config| {
                change(config, &flags, caller, policy)
            })?;
            events::of_container(&folder, &config, "update", &[]);
            Ok(name.to_owned())
        })
    })
}

/// What a container that runs is to be told.
fn limits_of(config: &ContainerConfig) -> NewLimits {
    let launch = &config.launch;
    NewLimits {
        resources: launch.run.resources,
        blkio_weight: launch.block_io.weight,
        vcpu_count: launch.vcpu_count,
        host_cpus: launch.host_cpus.clone(),
    }
}

fn policy(flags: &Flags) -> Result<Option<RestartPolicy>> {
    let text = flags.text("restart");
    text.map(|text| RestartPolicy::parse(&text)).transpose()
}

/// What the flags make of a container.
fn change(
    config: &mut ContainerConfig,
    flags: &Flags,
    caller: &Caller,
    policy: Option<RestartPolicy>,
) -> Result<()> {
    let launch = &mut config.launch;
    if let Some(policy) = policy {
        if launch.auto_remove && policy != RestartPolicy::No {
            bail!(
                "Restart policy cannot be updated because AutoRemove is enabled for the container"
            );
        }
        launch.restart = policy;
    }
    let old = launch.run.resources;
    let limits = Limits::over(flags, caller, Some(&old))?;
    launch.run.resources = resources(&old, flags, &limits.resources, &config.given)?;
    launch.memory_mib = memory_mib(launch.run.resources.memory_max);
    given::limits(flags, &mut config.given)?;
    // 0 leaves it as it is.
    launch.block_io.weight = limits.block_io.weight.or(launch.block_io.weight);
    if flags.text("cpuset-cpus").is_some() && launch.isolation == Isolation::Container {
        bail!("--cpuset-cpus is not supported with --isolation=container");
    }
    if flags.text("cpuset-cpus").is_some() {
        launch.host_cpus = limits.host_cpus;
    }
    if flags.text("cpus").is_some() || flags.text("cpuset-cpus").is_some() {
        let quota = config.given.nano_cpus.div_ceil(NANOS);
        let quota = usize::try_from(quota)?.min(caller.cpu_count);
        let count = match (quota, launch.host_cpus.len()) {
            (0, set) => set,
            (quota, 0) => quota,
            (quota, set) => quota.min(set),
        };
        if count > 0 {
            launch.vcpu_count = u8::try_from(count)?;
        }
    }
    Ok(())
}

/// Billionths of a CPU.
const NANOS: u64 = 1_000_000_000;

/// The old ones with those that the flags name. As in Docker, 0 leaves a limit as it is; for
/// processes it takes the limit away.
fn resources(old: &Resources, flags: &Flags, new: &Resources, given: &Given) -> Result<Resources> {
    let number = |name: &str| flags.one(name, number::integer);
    let is_quota = |name: &str| Ok::<_, anyhow::Error>(number(name)?.is_some_and(|n| n != 0));
    let of_cpus = flags.one("cpus", number::cpus)?.is_some_and(|n| n > 0);
    let (period, quota) = (is_quota("cpu-period")?, is_quota("cpu-quota")?);
    if given.nano_cpus > 0 && (period || quota) {
        let name = if period { "Period" } else { "Quota" };
        bail!("Conflicting options: CPU {name} cannot be updated as NanoCPUs has already been set");
    }
    if of_cpus && given.nano_cpus == 0 {
        let set = [("Quota", old.cpu_quota_us), ("Period", old.cpu_period_us)];
        if let Some((name, _)) = set.iter().find(|(_, value)| value.is_some()) {
            bail!(
                "Conflicting options: Nano CPUs cannot be updated as CPU {name} has already been set"
            );
        }
    }
    let pids = match number("pids-limit")? {
        Some(_) => new.pids_max,
        None => old.pids_max,
    };
    Ok(Resources {
        memory_max: new.memory_max.or(old.memory_max),
        memory_low: new.memory_low.or(old.memory_low),
        swap_max: old.swap_max,
        cpu_quota_us: match of_cpus || quota {
            true => new.cpu_quota_us,
            false => old.cpu_quota_us,
        },
        cpu_period_us: new.cpu_period_us.or(old.cpu_period_us),
        cpu_weight: new.cpu_weight.or(old.cpu_weight),
        pids_max: pids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::update_command;
    use crate::sandbox::containers::tests::config;

    const CALLER: Caller = Caller {
        variable: &|_| Ok(None),
        read: &|path| bail!("open {path}"),
        variables: &[],
        detach_keys: "",
        cpu_count: 4,
        cpus_online: "0-3",
    };

    fn changed(config: &ContainerConfig, args: &[&str]) -> Result<ContainerConfig> {
        let words = [&["update"], args, &["x"]].concat();
        let flags = Flags::check(update_command().try_get_matches_from(words)?)?;
        let mut config = config.clone();
        change(&mut config, &flags, &CALLER, policy(&flags)?)?;
        Ok(config)
    }

    #[test]
    fn what_a_flag_names_changes_and_the_rest_stays() {
        let config = changed(
            &config('a', "x", false),
            &["-m", "64m", "--pids-limit", "9", "--blkio-weight", "300"],
        );
        let config = config.unwrap();
        assert_eq!(config.launch.block_io.weight, Some(300));
        assert_eq!(config.launch.run.resources.memory_max, Some(64 << 20));
        assert_eq!(config.launch.memory_mib, 128);
        let next = changed(
            &config,
            &[
                "--cpus",
                "1.5",
                "--restart",
                "always",
                "-m",
                "0",
                "--blkio-weight",
                "0",
            ],
        )
        .unwrap();
        assert_eq!(next.launch.block_io.weight, Some(300));
        let resources = next.launch.run.resources;
        assert_eq!(resources.memory_max, Some(64 << 20));
        assert_eq!(resources.pids_max, Some(9));
        assert_eq!(resources.cpu_quota_us, Some(150_000));
        assert_eq!(
            (next.launch.vcpu_count, next.given.nano_cpus),
            (2, 1_500_000_000)
        );
        assert_eq!(next.launch.restart, RestartPolicy::Always);
        let next = changed(
            &next,
            &["--cpuset-cpus", "3", "--pids-limit", "-1", "-m", "1g"],
        );
        let next = next.unwrap();
        assert_eq!(
            (next.launch.vcpu_count, next.launch.host_cpus),
            (1, vec![3])
        );
        assert_eq!(next.launch.run.resources.pids_max, None);
        assert_eq!(next.launch.memory_mib, 1088);
    }

    #[test]
    fn a_limit_without_effect_is_warned_of() {
        let words = ["update", "--kernel-memory", "80m", "x"];
        let matches = update_command().try_get_matches_from(words).unwrap();
        let flags = Flags::check(matches).unwrap();
        let [warning] = flags.warnings()[..] else {
            panic!("{:?}", flags.warnings());
        };
        assert!(
            warning.contains("--kernel-memory is discarded"),
            "{warning}"
        );
        let config = changed(&config('a', "x", false), &words[1..3]).unwrap();
        assert_eq!(config.launch.run.resources.memory_max, None);
    }

    #[test]
    fn what_conflicts_with_what_is_set_is_refused_in_dockers_words() {
        let plain = config('a', "x", false);
        let cpus = changed(&plain, &["--cpus", "1"]).unwrap();
        let quota = changed(&plain, &["--cpu-quota", "5000"]).unwrap();
        let memory = changed(&plain, &["-m", "64m"]).unwrap();
        for (config, args, want) in [
            (
                &cpus,
                &["--cpu-quota", "5000"][..],
                "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
            ),
            (
                &quota,
                &["--cpus", "1"],
                "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
            ),
            (
                &memory,
                &["--memory-reservation", "65m"],
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            ),
            (&plain, &["-m", "1m"], "Minimum memory limit allowed is 6MB"),
            (
                &config('a', "x", true),
                &["--restart", "always"],
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ),
            (
                &plain,
                &["--cpus", "5"],
                "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available",
            ),
        ] {
            assert_eq!(
                changed(config, args).unwrap_err().to_string(),
                want,
                "{args:?}"
            );
        }
        changed(&memory, &["--memory-swap", "64m"]).unwrap();
        let none = changed(&quota, &["--cpu-quota", "-1"]).unwrap();
        assert_eq!(none.launch.run.resources.cpu_quota_us, None);
    }
}
