//! Memory, CPUs and processes: what the VM is given, and what its control group allows.

use anyhow::{Result, bail};
use protocol::spec::Resources;
use vmm::builder::VCPUS_MAX;

use super::Caller;
use crate::cli::flags::Flags;
use crate::cli::values::{block_io, number};
use crate::sandbox::block_io::BlockIo;

/// Docker's smallest memory limit and reservation in bytes.
const MEMORY_MIN: u64 = 6 << 20;

/// Period of a CPU quota in microseconds when none is given.
const CPU_PERIOD_US: u64 = 100_000;

/// Shortest period and quota in microseconds that the kernel takes.
const CPU_TIME_MIN_US: i64 = 1000;

/// Longest period in microseconds.
const CPU_PERIOD_MAX_US: i64 = 1_000_000;

/// Docker's CPU shares, as cgroup v1 has them: 2 to 262144, 1024 being normal.
const SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;

/// Thousandths of a CPU that Docker names as the least.
const CPUS_MIN: u64 = 10;

/// Sizes and quotas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Limits of the container's control group.
    pub resources: Resources,
    /// Number of vCPUs: the quota rounded up, the size of the CPU set, or every CPU of the host as
    /// far as a VM can have so many.
    pub vcpu_count: usize,
    /// Host CPUs the VM may run on; empty for all.
    pub host_cpus: Vec<usize>,
    /// Limits of the host's disks.
    pub block_io: BlockIo,
}

impl Limits {
    /// Reads the flags.
    ///
    /// # Errors
    /// Docker's sentence for the first value that is wrong.
    pub fn parse(flags: &Flags, caller: &Caller) -> Result<Self> {
        Self::over(flags, caller, None)
    }

    /// Reads the flags of a container that has limits already. What they do not name is absent.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn over(flags: &Flags, caller: &Caller, set: Option<&Resources>) -> Result<Self> {
        let (memory_max, memory_low) = memory(flags, set)?;
        let cpus = cpus(flags, caller)?;
        let (cpu_quota_us, cpu_period_us) = quota(flags, cpus)?;
        let host_cpus = cpu_set(flags, caller)?;
        let vcpu_count = vcpu_count(flags, caller, cpus, &host_cpus)?;
        Ok(Self {
            resources: Resources {
                memory_max,
                memory_low,
                swap_max: None,
                cpu_quota_us,
                cpu_period_us,
                cpu_weight: weight(flags)?,
                // 0 and below are no limit.
                pids_max: flags
                    .one("pids-limit", number::integer)?
                    .and_then(|limit| u64::try_from(limit).ok())
                    .filter(|limit| *limit > 0),
            },
            vcpu_count,
            host_cpus,
            block_io: block_io_of(flags)?,
        })
    }
}

fn block_io_of(flags: &Flags) -> Result<BlockIo> {
    Ok(BlockIo {
        weight: flags
            .one("blkio-weight", block_io::weight)?
            .filter(|weight| *weight > 0),
        weights: flags.each("blkio-weight-device", block_io::device_weight)?,
        read_bps: flags.each("device-read-bps", block_io::bytes_of_device)?,
        write_bps: flags.each("device-write-bps", block_io::bytes_of_device)?,
        read_iops: flags.each("device-read-iops", block_io::requests_of_device)?,
        write_iops: flags.each("device-write-iops", block_io::requests_of_device)?,
    })
}

/// How many vCPUs are asked for: what a flag says is given or refused, never cut. Without one it is
/// what the host has and a VM can have.
fn vcpu_count(
    flags: &Flags,
    caller: &Caller,
    cpus: Option<u64>,
    host_cpus: &[usize],
) -> Result<usize> {
    let most = usize::from(VCPUS_MAX);
    let by_quota = cpus
        .map(|thousandths| usize::try_from(thousandths.div_ceil(1000)))
        .transpose()?;
    let by_set = Some(host_cpus.len()).filter(|count| *count > 0);
    let given = |name| flags.text(name).unwrap_or_default();
    match (by_quota, by_set) {
        (None, None) => Ok(caller.cpu_count.clamp(1, most)),
        (Some(quota), None) if quota > most => bail!(
            "--cpus={} is not supported: a VM has at most {most} CPUs; ask for fewer",
            given("cpus")
        ),
        (quota, Some(set)) if quota.unwrap_or(set).min(set) > most => bail!(
            "--cpuset-cpus={} is not supported: it has {set} CPUs and a VM at most {most}; name fewer",
            given("cpuset-cpus")
        ),
        (Some(quota), None) => Ok(quota.min(caller.cpu_count)),
        (quota, Some(set)) => Ok(quota.unwrap_or(set).min(set)),
    }
}

/// Limit and reservation in bytes.
fn memory(flags: &Flags, set: Option<&Resources>) -> Result<(Option<u64>, Option<u64>)> {
    let size = |name| -> Result<Option<u64>> {
        let bytes = flags.one(name, number::bytes)?;
        Ok(bytes.filter(|bytes| *bytes > 0))
    };
    let (max, low) = (size("memory")?, size("memory-reservation")?);
    // Without effect, and yet read: a script's mistake is told as it is by Docker.
    size("kernel-memory")?;
    if max.is_some_and(|bytes| bytes < MEMORY_MIN) {
        bail!("Minimum memory limit allowed is 6MB");
    }
    if low.is_some_and(|bytes| bytes < MEMORY_MIN) {
        bail!("Minimum memory reservation allowed is 6MB");
    }
    let whole = max.or(set.and_then(|set| set.memory_max));
    if let (Some(low), Some(max)) = (low.or(set.and_then(|set| set.memory_low)), whole)
        && low > max
    {
        bail!("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    let swap = flags.one("memory-swap", |text| match text {
        "-1" => Ok(0),
        _ => number::bytes(text),
    })?;
    match (swap.filter(|bytes| *bytes > 0), whole) {
        (None, _) => {}
        (Some(_), None) => {
            bail!("You should always set the Memory limit when using Memoryswap limit, see usage")
        }
        (Some(swap), Some(max)) if swap < max => {
            bail!("Minimum memoryswap limit should be larger than memory limit, see usage")
        }
        (Some(swap), Some(max)) if swap > max => {
            bail!(
                "--memory-swap is not supported above --memory: a VM has no swap; use the value of --memory, 0 or -1"
            )
        }
        (Some(_), Some(_)) => {}
    }
    Ok((max, low))
}

/// `--cpus` in thousandths.
fn cpus(flags: &Flags, caller: &Caller) -> Result<Option<u64>> {
    let Some(thousandths) = flags.one("cpus", number::cpus)?.filter(|n| *n > 0) else {
        return Ok(None);
    };
    let count = caller.cpu_count;
    if thousandths < CPUS_MIN || thousandths > u64::try_from(count)?.saturating_mul(1000) {
        bail!("range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available");
    }
    Ok(Some(thousandths))
}

/// Quota and period in microseconds.
fn quota(flags: &Flags, cpus: Option<u64>) -> Result<(Option<u64>, Option<u64>)> {
    let period = flags
        .one("cpu-period", number::integer)?
        .filter(|n| *n != 0);
    let quota = flags.one("cpu-quota", number::integer)?.filter(|n| *n > 0);
    if period.is_some_and(|n| !(CPU_TIME_MIN_US..=CPU_PERIOD_MAX_US).contains(&n)) {
        bail!(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        );
    }
    if quota.is_some_and(|n| n < CPU_TIME_MIN_US) {
        bail!("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    let Some(thousandths) = cpus else {
        let unsigned = |n: Option<i64>| n.map(u64::try_from).transpose();
        return Ok((unsigned(quota)?, unsigned(period)?));
    };
    if period.is_some() {
        bail!("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if quota.is_some() {
        bail!("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    Ok((
        Some(thousandths * (CPU_PERIOD_US / 1000)),
        Some(CPU_PERIOD_US),
    ))
}

/// `--cpu-shares` as cgroup v2's weight (1 to 10000), by the OCI runtimes' formula.
fn weight(flags: &Flags) -> Result<Option<u64>> {
    let Some(shares) = flags
        .one("cpu-shares", number::integer)?
        .filter(|shares| *shares != 0)
    else {
        return Ok(None);
    };
    if shares < 0 {
        bail!("invalid CPU shares ({shares}): value must be a positive integer");
    }
    let shares = u64::try_from(shares.clamp(*SHARES.start(), *SHARES.end()))?;
    Ok(Some(1 + (shares - 2) * 9999 / 262_142))
}

/// `--cpuset-cpus`, checked against the CPUs that are online.
fn cpu_set(flags: &Flags, caller: &Caller) -> Result<Vec<usize>> {
    let Some(text) = flags.text("cpuset-cpus") else {
        return Ok(Vec::new());
    };
    let set = match number::cpu_set(&text) {
        Ok(set) => set,
        Err(error) => bail!("Invalid value {text} for cpuset cpus: {error}"),
    };
    let online = number::cpu_set(caller.cpus_online)?;
    if set.iter().any(|cpu| !online.contains(cpu)) {
        bail!(
            "Requested CPUs are not available - requested {text}, available: {}",
            caller.cpus_online
        );
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::run_command as command;
    use crate::cli::options::tests::{options, options_on};

    fn limits(args: &[&str]) -> Limits {
        options(args).unwrap().limits
    }

    #[test]
    fn cpus_are_vcpus_rounded_up_and_a_quota() {
        let some = limits(&["--cpus", "1.5"]);
        assert_eq!(some.vcpu_count, 2);
        assert_eq!(some.resources.cpu_quota_us, Some(150_000));
        assert_eq!(some.resources.cpu_period_us, Some(100_000));
        assert_eq!(
            limits(&["--cpus", "0.01"]).resources.cpu_quota_us,
            Some(1000)
        );
        assert_eq!(limits(&["--cpus", "4"]).vcpu_count, 4);
        let none = limits(&["--cpus", "0"]);
        assert_eq!((none.vcpu_count, none.resources.cpu_quota_us), (4, None));
        assert_eq!(limits(&[]).resources, Resources::default());
    }

    #[test]
    fn a_cpu_set_counts_and_so_does_a_quota_below_it() {
        let some = limits(&["--cpuset-cpus", "3,1"]);
        assert_eq!(
            (some.host_cpus.as_slice(), some.vcpu_count),
            (&[1, 3][..], 2)
        );
        assert_eq!(
            limits(&["--cpuset-cpus", "0-3", "--cpus", "0.5"]).vcpu_count,
            1
        );
    }

    #[test]
    fn a_large_host_gives_a_vm_what_it_can_have_and_refuses_more() {
        let count = |args: &[&str]| options_on(48, args).map(|some| some.limits.vcpu_count);
        assert_eq!(count(&[]).unwrap(), 32);
        for (args, vcpus) in [
            (&["--cpus", "32"][..], 32),
            (&["--cpus", "31.5"], 32),
            (&["--cpuset-cpus", "8-39"], 32),
            (&["--cpuset-cpus", "0-39", "--cpus", "3"], 3),
            (&["--cpuset-cpus", "0-3", "--cpus", "40"], 4),
        ] {
            assert_eq!(count(args).unwrap(), vcpus, "{args:?}");
        }
        for (args, want) in [
            (
                &["--cpus", "32.5"][..],
                "--cpus=32.5 is not supported: a VM has at most 32 CPUs; ask for fewer",
            ),
            (
                &["--cpuset-cpus", "0-39"],
                "--cpuset-cpus=0-39 is not supported: it has 40 CPUs and a VM at most 32; name fewer",
            ),
            (
                &["--cpuset-cpus", "0-39", "--cpus", "36"],
                "--cpuset-cpus=0-39 is not supported: it has 40 CPUs and a VM at most 32; name fewer",
            ),
        ] {
            assert_eq!(count(args).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn the_help_names_the_most_vcpus_there_are() {
        let most = format!("at most {VCPUS_MAX}");
        for name in ["cpus", "cpuset-cpus"] {
            let command = command();
            let arg = command.get_arguments().find(|arg| arg.get_id() == name);
            let help = arg.unwrap().get_help().unwrap().to_string();
            assert!(help.contains(&most), "{help}");
        }
    }

    #[test]
    fn period_and_quota_stand_as_given_and_a_negative_quota_is_none() {
        let some = limits(&["--cpu-period", "50000", "--cpu-quota", "25000"]).resources;
        assert_eq!(
            (some.cpu_quota_us, some.cpu_period_us),
            (Some(25_000), Some(50_000))
        );
        assert_eq!(limits(&["--cpu-quota", "-1"]).resources.cpu_quota_us, None);
    }

    #[test]
    fn shares_become_a_weight() {
        for (shares, weight) in [
            ("2", Some(1)),
            ("1", Some(1)),
            ("1024", Some(39)),
            ("262144", Some(10_000)),
            ("999999", Some(10_000)),
            ("0", None),
        ] {
            assert_eq!(limits(&["-c", shares]).resources.cpu_weight, weight);
        }
    }

    #[test]
    fn memory_and_processes_are_limited() {
        let some = limits(&[
            "-m",
            "64m",
            "--memory-reservation",
            "32m",
            "--pids-limit",
            "9",
        ]);
        assert_eq!(some.resources.memory_max, Some(64 << 20));
        assert_eq!(some.resources.memory_low, Some(32 << 20));
        assert_eq!(some.resources.pids_max, Some(9));
        for none in ["0", "-1", "-5"] {
            assert_eq!(limits(&["--pids-limit", none]).resources.pids_max, None);
        }
        for swap in ["64m", "0", "-1"] {
            let some = limits(&["-m", "64m", "--memory-swap", swap]);
            assert_eq!(some.resources.memory_max, Some(64 << 20), "{swap}");
        }
    }

    #[test]
    fn wrong_limits_are_refused_with_dockers_sentences() {
        for (args, want) in [
            (&["-m", "5m"][..], "Minimum memory limit allowed is 6MB"),
            (
                &["-m", "x"],
                "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'",
            ),
            (
                &["--kernel-memory", "junk"],
                "invalid argument \"junk\" for \"--kernel-memory\" flag: invalid size: 'junk'",
            ),
            (
                &["--memory-reservation", "1m"],
                "Minimum memory reservation allowed is 6MB",
            ),
            (
                &["-m", "10m", "--memory-reservation", "20m"],
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            ),
            (
                &["--memory-swap", "1g"],
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ),
            (
                &["-m", "100m", "--memory-swap", "50m"],
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                &["-m", "1g", "--memory-swap", "2g"],
                "--memory-swap is not supported above --memory: a VM has no swap; use the value \
                 of --memory, 0 or -1",
            ),
            (
                &["--cpus", "5"],
                "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available",
            ),
            (
                &["--cpus", "0.001"],
                "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available",
            ),
            (
                &["--cpus", "x"],
                "invalid argument \"x\" for \"--cpus\" flag: failed to parse x as a rational number",
            ),
            (
                &["--cpu-period", "999"],
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            ),
            (
                &["--cpu-quota", "999"],
                "CPU cfs quota can not be less than 1ms (i.e. 1000)",
            ),
            (
                &["--cpus", "1", "--cpu-quota", "5000"],
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
            ),
            (
                &["--cpus", "1", "--cpu-period", "5000"],
                "Conflicting options: Nano CPUs and CPU Period cannot both be set",
            ),
            (
                &["--cpuset-cpus", "x"],
                "Invalid value x for cpuset cpus: invalid format: x",
            ),
            (
                &["--cpuset-cpus", "4"],
                "Requested CPUs are not available - requested 4, available: 0-3",
            ),
            (
                &["--cpu-shares", "-1"],
                "invalid CPU shares (-1): value must be a positive integer",
            ),
            (
                &["--pids-limit", "many"],
                "invalid argument \"many\" for \"--pids-limit\" flag: not a whole number",
            ),
        ] {
            let error = format!("{:#}", options(args).unwrap_err());
            assert_eq!(error, want, "{args:?}");
        }
    }
}
