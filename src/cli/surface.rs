//! Every flag of `docker run`, as data: how it is written, whether it works here, and if not, why.
//!
//! `run` builds its parser from this table and refuses from it, so that no flag is parsed and
//! forgotten; documentation is made from it, too.

/// How a flag is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `--flag`, `--flag=false`.
    Switch,
    /// `--flag VALUE`; the last one counts.
    Value,
    /// `--flag VALUE`, as often as one likes.
    List,
}

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// As in Docker.
    Works,
    /// It works, with a difference.
    Differs(&'static str),
    /// Only these values work; any other is refused with the sentence.
    Only(&'static [&'static str], &'static str),
    /// Accepted with a warning and without effect, as Docker does itself.
    Warns(&'static str),
    /// Refused with this sentence.
    Refused(&'static str),
}

/// One flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Long name without dashes.
    pub name: &'static str,
    /// One letter.
    pub short: Option<char>,
    /// How it is written.
    pub form: Form,
    /// Group in `--help`.
    pub group: &'static str,
    /// What becomes of it.
    pub fate: Fate,
    /// One line for `--help`.
    pub help: &'static str,
}

const LIFE: &str = "Lifecycle";
const PROCESS: &str = "Process";
const LIMITS: &str = "Limits";
const STORAGE: &str = "Storage and devices";
const NETWORK: &str = "Network";
const SECURITY: &str = "Security";

const NO_NETWORK: &str = "this version gives a VM no network card; use --network none";
const BACKGROUND: &str = "containers run in the foreground in this version";
const HEALTH: &str =
    "health checks belong to containers in the background, which this version does not have";
const VOLUMES: &str =
    "this version shares no files with a VM; bring them in the image or through stdin";
const OWN_KERNEL: &str =
    "the container runs on a kernel of its own, the host's is out of reach; remove the flag";
const BLOCK_IO: &str = "the host's block devices are unknown inside a VM; remove the flag";
const WINDOWS: &str = "it is for Windows containers; remove the flag";

const fn flag(
    name: &'static str,
    short: Option<char>,
    form: Form,
    group: &'static str,
    fate: Fate,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        short,
        form,
        group,
        fate,
        help,
    }
}

use Fate::{Differs, Only, Refused, Warns, Works};
use Form::{List, Switch, Value};

/// All of them, in the order of `docker run --help`: one line each, as a table is read.
#[rustfmt::skip]
pub const RUN: [Flag; 104] = [
    flag("add-host", None, List, NETWORK, Works, "Add a line to /etc/hosts (host:ip)"),
    flag("annotation", None, List, LIFE, Works, "Add an annotation (key=value), shown by inspect"),
    flag("attach", Some('a'), List, PROCESS, Works, "Attach to stdin, stdout or stderr"),
    flag("blkio-weight", None, Value, STORAGE, Only(&["0"], BLOCK_IO), "Block I/O weight"),
    flag("blkio-weight-device", None, List, STORAGE, Refused(BLOCK_IO), "Block I/O weight of a device"),
    flag("cap-add", None, List, SECURITY, Works, "Add Linux capabilities"),
    flag("cap-drop", None, List, SECURITY, Works, "Drop Linux capabilities"),
    flag("cgroup-parent", None, Value, LIMITS, Refused("the container's control group is in its VM; limit the VM with --memory and --cpus"), "Parent control group"),
    flag("cgroupns", None, Value, LIMITS, Only(&["private"], OWN_KERNEL), "Control group namespace (private)"),
    flag("cidfile", None, Value, LIFE, Works, "Write the container's id to a file"),
    flag("cpu-count", None, Value, LIMITS, Refused(WINDOWS), "CPU count (Windows)"),
    flag("cpu-percent", None, Value, LIMITS, Refused(WINDOWS), "CPU percent (Windows)"),
    flag("cpu-period", None, Value, LIMITS, Works, "Length of a CPU quota's period in microseconds"),
    flag("cpu-quota", None, Value, LIMITS, Works, "CPU time per period in microseconds"),
    flag("cpu-rt-period", None, Value, LIMITS, Refused("a VM has no real-time share of its host; remove the flag"), "Real-time period"),
    flag("cpu-rt-runtime", None, Value, LIMITS, Refused("a VM has no real-time share of its host; remove the flag"), "Real-time runtime"),
    flag("cpu-shares", Some('c'), Value, LIMITS, Differs("the weight counts inside the VM"), "CPU weight"),
    flag("cpus", None, Value, LIMITS, Differs("vCPUs rounded up, and a quota of just as much"), "Number of CPUs"),
    flag("cpuset-cpus", None, Value, LIMITS, Differs("the VM's threads run on these CPUs, and it has as many vCPUs"), "Host CPUs to run on"),
    flag("cpuset-mems", None, Value, LIMITS, Only(&["", "0"], "binding a VM's memory to NUMA nodes is not supported; remove the flag"), "Memory nodes"),
    flag("detach", Some('d'), Switch, LIFE, Refused(BACKGROUND), "Run in the background"),
    flag("detach-keys", None, Value, PROCESS, Works, "Keys that detach from a terminal"),
    flag("device", None, List, STORAGE, Differs("devices of the guest's kernel only, such as /dev/fuse"), "Add a device of the guest"),
    flag("device-cgroup-rule", None, List, STORAGE, Refused("device rules are fixed inside the VM; use --device or --privileged"), "Device rule"),
    flag("device-read-bps", None, List, STORAGE, Refused(BLOCK_IO), "Limit reads of a device"),
    flag("device-read-iops", None, List, STORAGE, Refused(BLOCK_IO), "Limit reads of a device"),
    flag("device-write-bps", None, List, STORAGE, Refused(BLOCK_IO), "Limit writes to a device"),
    flag("device-write-iops", None, List, STORAGE, Refused(BLOCK_IO), "Limit writes to a device"),
    flag("disable-content-trust", None, Switch, LIFE, Only(&["true"], "image signatures of Docker Notary are not supported; remove the flag"), "Skip image verification"),
    flag("dns", None, List, NETWORK, Works, "DNS server in resolv.conf"),
    flag("dns-option", None, List, NETWORK, Works, "DNS option in resolv.conf"),
    flag("dns-search", None, List, NETWORK, Works, "DNS search domain in resolv.conf"),
    flag("domainname", None, Value, PROCESS, Works, "NIS domain name"),
    flag("entrypoint", None, Value, PROCESS, Works, "Replace the image's ENTRYPOINT"),
    flag("env", Some('e'), List, PROCESS, Works, "Set an environment variable"),
    flag("env-file", None, List, PROCESS, Works, "Read environment variables from a file"),
    flag("expose", None, List, NETWORK, Refused(NO_NETWORK), "Expose a port"),
    flag("gpus", None, Value, STORAGE, Refused("a VM has no access to the host's GPUs; remove the flag"), "GPUs to add"),
    flag("group-add", None, List, PROCESS, Works, "Add supplementary groups"),
    flag("health-cmd", None, Value, LIFE, Refused(HEALTH), "Command that checks health"),
    flag("health-interval", None, Value, LIFE, Refused(HEALTH), "Time between checks"),
    flag("health-retries", None, Value, LIFE, Refused(HEALTH), "Failures to be unhealthy"),
    flag("health-start-interval", None, Value, LIFE, Refused(HEALTH), "Time between checks at the start"),
    flag("health-start-period", None, Value, LIFE, Refused(HEALTH), "Time at the start that does not count"),
    flag("health-timeout", None, Value, LIFE, Refused(HEALTH), "Time for one check"),
    flag("help", None, Switch, LIFE, Works, "Print usage"),
    flag("hostname", Some('h'), Value, PROCESS, Works, "Host name"),
    flag("init", None, Switch, PROCESS, Works, "Run an init that reaps and forwards signals"),
    flag("interactive", Some('i'), Switch, PROCESS, Works, "Keep stdin open"),
    flag("ip", None, Value, NETWORK, Refused(NO_NETWORK), "IPv4 address"),
    flag("ip6", None, Value, NETWORK, Refused(NO_NETWORK), "IPv6 address"),
    flag("ipc", None, Value, SECURITY, Only(&["private", "shareable", "none"], OWN_KERNEL), "IPC mode (private, none)"),
    flag("isolation", None, Value, LIFE, Only(&["", "default"], "every container is a VM; remove the flag"), "Isolation technology"),
    flag("kernel-memory", None, Value, LIMITS, Warns("kernel memory limits are discarded, as the kernel has none"), "Kernel memory limit"),
    flag("label", Some('l'), List, LIFE, Works, "Set metadata"),
    flag("label-file", None, List, LIFE, Works, "Read labels from a file"),
    flag("link", None, List, NETWORK, Refused(NO_NETWORK), "Link to another container"),
    flag("link-local-ip", None, List, NETWORK, Refused(NO_NETWORK), "Link-local addresses"),
    flag("log-driver", None, Value, LIFE, Only(&["none"], "a container in the foreground keeps no log; use --log-driver none or redirect its output"), "Log driver"),
    flag("log-opt", None, List, LIFE, Refused("a container in the foreground keeps no log; redirect its output"), "Log options"),
    flag("mac-address", None, Value, NETWORK, Refused(NO_NETWORK), "MAC address"),
    flag("memory", Some('m'), Value, LIMITS, Differs("the VM has this and 64 MiB for its kernel, 128 MiB at least; without it 1 GiB"), "Memory limit"),
    flag("memory-reservation", None, Value, LIMITS, Differs("protects this much inside the VM"), "Soft memory limit"),
    flag("memory-swap", None, Value, LIMITS, Differs("a VM has no swap: the same as --memory, 0 or -1"), "Memory and swap"),
    flag("memory-swappiness", None, Value, LIMITS, Only(&["-1"], "a VM has no swap; remove the flag"), "Swappiness"),
    flag("mount", None, List, STORAGE, Refused(VOLUMES), "Attach a mount"),
    flag("name", None, Value, LIFE, Works, "Name of the container"),
    flag("network", None, List, NETWORK, Only(&["none"], NO_NETWORK), "Network (none, which is also the default)"),
    flag("network-alias", None, List, NETWORK, Refused(NO_NETWORK), "Alias on a network"),
    flag("no-healthcheck", None, Switch, LIFE, Works, "No health check; there is none anyway"),
    flag("oom-kill-disable", None, Switch, LIMITS, Warns("the OOM killer can't be disabled, as in Docker with cgroup v2"), "Disable the OOM killer"),
    flag("oom-score-adj", None, Value, LIMITS, Works, "OOM preference, -1000 to 1000"),
    flag("pid", None, Value, SECURITY, Refused(OWN_KERNEL), "PID namespace"),
    flag("pids-limit", None, Value, LIMITS, Works, "Number of processes"),
    flag("platform", None, Value, LIFE, Differs("the host's architecture only"), "Platform of the image"),
    flag("privileged", None, Switch, SECURITY, Differs("privileged inside the VM, never on the host"), "All privileges inside the VM"),
    flag("publish", Some('p'), List, NETWORK, Refused(NO_NETWORK), "Publish a port"),
    flag("publish-all", Some('P'), Switch, NETWORK, Refused(NO_NETWORK), "Publish every exposed port"),
    flag("pull", None, Value, LIFE, Works, "Pull the image: always, missing, never"),
    flag("quiet", Some('q'), Switch, LIFE, Works, "No pull progress"),
    flag("read-only", None, Switch, STORAGE, Works, "Read-only root file system"),
    flag("restart", None, Value, LIFE, Only(&["no"], BACKGROUND), "Restart policy (no)"),
    flag("rm", None, Switch, LIFE, Works, "Remove the container when it ends"),
    flag("runtime", None, Value, LIFE, Only(&["bulkhead"], "unknown or invalid runtime name; every container is a VM, remove the flag"), "Runtime (bulkhead)"),
    flag("security-opt", None, List, SECURITY, Differs("AppArmor and SELinux options have no meaning in the VM and are refused"), "no-new-privileges, seccomp, systempaths"),
    flag("shm-size", None, Value, STORAGE, Works, "Size of /dev/shm"),
    flag("sig-proxy", None, Switch, PROCESS, Works, "Forward signals"),
    flag("stop-signal", None, Value, LIFE, Works, "Signal that stops the container"),
    flag("stop-timeout", None, Value, LIFE, Works, "Seconds from that signal to SIGKILL"),
    flag("storage-opt", None, List, STORAGE, Differs("size= only: the size of the writable layer"), "size=BYTES of the writable layer"),
    flag("sysctl", None, List, SECURITY, Differs("any sysctl, since the kernel is the container's own"), "Kernel parameter"),
    flag("tmpfs", None, List, STORAGE, Works, "Mount a tmpfs"),
    flag("tty", Some('t'), Switch, PROCESS, Works, "Allocate a terminal"),
    flag("ulimit", None, List, LIMITS, Works, "Resource limit name=soft[:hard]"),
    flag("use-api-socket", None, Switch, SECURITY, Refused("there is no engine socket, and a guest would not get it; remove the flag"), "Bind the engine's socket"),
    flag("user", Some('u'), Value, PROCESS, Works, "User name or id, and group"),
    flag("userns", None, Value, SECURITY, Only(&["", "host"], "the VM's kernel is the container's own; remove the flag"), "User namespace"),
    flag("uts", None, Value, SECURITY, Refused(OWN_KERNEL), "UTS namespace"),
    flag("volume", Some('v'), List, STORAGE, Refused(VOLUMES), "Bind a volume"),
    flag("volume-driver", None, Value, STORAGE, Refused(VOLUMES), "Volume driver"),
    flag("volumes-from", None, List, STORAGE, Refused(VOLUMES), "Mount another container's volumes"),
    flag("workdir", Some('w'), Value, PROCESS, Works, "Working directory"),
    flag("io-maxbandwidth", None, Value, STORAGE, Refused(WINDOWS), "I/O bandwidth (Windows)"),
    flag("io-maxiops", None, Value, STORAGE, Refused(WINDOWS), "I/O operations (Windows)"),
];

/// Names that Docker takes for others.
pub const ALIASES: [(&str, &str); 3] = [
    ("network", "net"),
    ("network-alias", "net-alias"),
    ("dns-option", "dns-opt"),
];
