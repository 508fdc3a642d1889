//! Every flag of `docker run`, as data: how it is written, whether it works here, and if not, why.
//!
//! `run` builds its parser from this table and refuses from it, so that no flag is parsed and
//! forgotten; documentation is made from it, too.

/// How a flag is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `--flag`, `--flag=false`.
    Switch,
    /// `--flag VALUE`; the last one counts. The word says what the value is, as Docker's help does.
    Value(&'static str),
    /// `--flag VALUE`, as often as one likes.
    List(&'static str),
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

const STATIC_ADDRESS: &str = "user specified IP address is supported on user defined networks only, which this version does not have; remove the flag";
const ALIAS: &str = "network-scoped aliases are only supported for user-defined networks, which this version does not have; remove the flag";
const OWN_KERNEL: &str =
    "the container runs on a kernel of its own, the host's is out of reach; remove the flag";
const BLOCK_IO: &str =
    "a disk of the host; held by the VM's control group there, and refused where that can't be";
const WINDOWS: &str = "it is for Windows containers; remove the flag";

/// A line of a table.
pub const fn flag(
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
    flag("add-host", None, List("list"), NETWORK, Works, "Add a line to /etc/hosts (host:ip)"),
    flag("annotation", None, List("map"), LIFE, Works, "Add an annotation (key=value), shown by inspect"),
    flag("attach", Some('a'), List("list"), PROCESS, Works, "Attach to stdin, stdout or stderr"),
    flag("blkio-weight", None, Value("uint16"), STORAGE, Differs(BLOCK_IO), "Block I/O weight"),
    flag("blkio-weight-device", None, List("list"), STORAGE, Differs(BLOCK_IO), "Block I/O weight of a device"),
    flag("cap-add", None, List("list"), SECURITY, Works, "Add Linux capabilities"),
    flag("cap-drop", None, List("list"), SECURITY, Works, "Drop Linux capabilities"),
    flag("cgroup-parent", None, Value("string"), LIMITS, Refused("the container's control group is inside its VM; limit the VM with --memory and --cpus"), "Parent control group"),
    flag("cgroupns", None, Value("string"), SECURITY, Only(&["", "private"], OWN_KERNEL), "Control group namespace"),
    flag("cidfile", None, Value("string"), LIFE, Works, "Write the container's id to a file"),
    flag("cpu-count", None, Value("int"), LIMITS, Refused(WINDOWS), "CPU count (Windows)"),
    flag("cpu-percent", None, Value("int"), LIMITS, Refused(WINDOWS), "CPU percent (Windows)"),
    flag("cpu-period", None, Value("int"), LIMITS, Works, "Length of a CPU quota's period in microseconds"),
    flag("cpu-quota", None, Value("int"), LIMITS, Works, "CPU time per period in microseconds"),
    flag("cpu-rt-period", None, Value("int"), LIMITS, Refused("a VM has no real-time share of its host; remove the flag"), "Real-time period"),
    flag("cpu-rt-runtime", None, Value("int"), LIMITS, Refused("a VM has no real-time share of its host; remove the flag"), "Real-time runtime"),
    flag("cpu-shares", Some('c'), Value("int"), LIMITS, Differs("counts inside the VM, and between VMs where these have control groups"), "CPU weight"),
    flag("cpus", None, Value("decimal"), LIMITS, Differs("vCPUs rounded up, at most 32, and a quota of just as much"), "Number of CPUs"),
    flag("cpuset-cpus", None, Value("string"), LIMITS, Differs("the VM's threads run on these CPUs, and it has as many vCPUs, at most 32"), "Host CPUs to run on"),
    flag("cpuset-mems", None, Value("string"), LIMITS, Only(&["", "0"], "binding a VM's memory to NUMA nodes is not supported; remove the flag"), "Memory nodes"),
    flag("detach", Some('d'), Switch, LIFE, Works, "Run in the background"),
    flag("detach-keys", None, Value("string"), PROCESS, Works, "Keys that detach from a terminal"),
    flag("device", None, List("list"), STORAGE, Differs("devices of the guest's kernel only, such as /dev/fuse"), "Add a device"),
    flag("device-cgroup-rule", None, List("list"), STORAGE, Refused("device rules are fixed inside the VM; use --device or --privileged"), "Device rule"),
    flag("device-read-bps", None, List("list"), STORAGE, Differs(BLOCK_IO), "Limit reads of a device (bytes a second)"),
    flag("device-read-iops", None, List("list"), STORAGE, Differs(BLOCK_IO), "Limit reads of a device (requests a second)"),
    flag("device-write-bps", None, List("list"), STORAGE, Differs(BLOCK_IO), "Limit writes to a device (bytes a second)"),
    flag("device-write-iops", None, List("list"), STORAGE, Differs(BLOCK_IO), "Limit writes to a device (requests a second)"),
    flag("disable-content-trust", None, Switch, LIFE, Only(&["true"], "image signatures of Docker Notary are not supported; remove the flag"), "Skip image verification"),
    flag("dns", None, List("list"), NETWORK, Works, "DNS server in resolv.conf"),
    flag("dns-option", None, List("list"), NETWORK, Works, "DNS option in resolv.conf"),
    flag("dns-search", None, List("list"), NETWORK, Works, "DNS search domain in resolv.conf"),
    flag("domainname", None, Value("string"), PROCESS, Works, "NIS domain name"),
    flag("entrypoint", None, Value("string"), PROCESS, Works, "Replace the image's ENTRYPOINT"),
    flag("env", Some('e'), List("list"), PROCESS, Works, "Set an environment variable"),
    flag("env-file", None, List("list"), PROCESS, Works, "Read environment variables from a file"),
    flag("expose", None, List("list"), NETWORK, Works, "Expose a port or a range of ports"),
    flag("gpus", None, Value("gpu-request"), STORAGE, Refused("a VM has no access to the host's GPUs; remove the flag"), "GPUs to add"),
    flag("group-add", None, List("list"), PROCESS, Works, "Add supplementary groups"),
    flag("health-cmd", None, Value("string"), LIFE, Works, "Command that checks health"),
    flag("health-interval", None, Value("duration"), LIFE, Works, "Time between checks"),
    flag("health-retries", None, Value("int"), LIFE, Works, "Failures to be unhealthy"),
    flag("health-start-interval", None, Value("duration"), LIFE, Works, "Time between checks at the start"),
    flag("health-start-period", None, Value("duration"), LIFE, Works, "Time at the start that does not count"),
    flag("health-timeout", None, Value("duration"), LIFE, Works, "Time for one check"),
    flag("help", None, Switch, LIFE, Works, "Print usage"),
    flag("hostname", Some('h'), Value("string"), PROCESS, Works, "Host name"),
    flag("init", None, Switch, PROCESS, Works, "Run an init that reaps and forwards signals"),
    flag("interactive", Some('i'), Switch, PROCESS, Works, "Keep stdin open"),
    flag("ip", None, Value("string"), NETWORK, Refused(STATIC_ADDRESS), "IPv4 address"),
    flag("ip6", None, Value("string"), NETWORK, Refused(STATIC_ADDRESS), "IPv6 address"),
    flag("ipc", None, Value("string"), SECURITY, Only(&["", "private", "shareable", "none"], OWN_KERNEL), "IPC mode"),
    flag("isolation", None, Value("string"), LIFE, Differs("vm, the default, or container: an OCI runtime's, on the host's kernel"), "Isolation technology"),
    flag("kernel-memory", None, Value("bytes"), LIMITS, Warns("the kernel has no limit of kernel memory; --kernel-memory is discarded"), "Kernel memory limit"),
    flag("label", Some('l'), List("list"), LIFE, Works, "Set metadata"),
    flag("label-file", None, List("list"), LIFE, Works, "Read labels from a file"),
    flag("link", None, List("list"), NETWORK, Refused("containers do not reach each other in this version; publish the other one's ports and use --add-host NAME:host-gateway"), "Link to another container"),
    flag("link-local-ip", None, List("list"), NETWORK, Refused("it is for user-defined networks, which this version does not have; remove the flag"), "Link-local addresses"),
    flag("log-driver", None, Value("string"), LIFE, Differs("json-file, local or none; at most two files of 64 MiB unless --log-opt says otherwise, and none in the foreground with --rm"), "Log driver"),
    flag("log-opt", None, List("list"), LIFE, Differs("max-size and max-file"), "Log options"),
    flag("mac-address", None, Value("string"), NETWORK, Works, "MAC address"),
    flag("memory", Some('m'), Value("bytes"), LIMITS, Differs("the VM has this and 64 MiB for its kernel, 128 MiB at least; without it 1 GiB"), "Memory limit"),
    flag("memory-reservation", None, Value("bytes"), LIMITS, Differs("memory.low inside the VM"), "Soft memory limit"),
    flag("memory-swap", None, Value("bytes"), LIMITS, Differs("as much as --memory, 0 or -1: a VM has no swap"), "Memory and swap"),
    flag("memory-swappiness", None, Value("int"), LIMITS, Only(&["-1"], "a VM has no swap; remove the flag"), "Swappiness"),
    flag("mount", None, List("mount"), STORAGE, Differs("bind, volume and tmpfs; no volume-opt, no volume-subpath, no shared or slave propagation"), "Attach a mount"),
    flag("name", None, Value("string"), LIFE, Works, "Name of the container"),
    flag("network", None, List("network"), NETWORK, Differs("bridge or none; each container is alone on its network"), "Connect to a network"),
    flag("network-alias", None, List("list"), NETWORK, Refused(ALIAS), "Alias on a network"),
    flag("no-healthcheck", None, Switch, LIFE, Works, "Disable the image's health check"),
    flag("oom-kill-disable", None, Switch, LIMITS, Warns("the OOM killer can't be disabled in cgroup v2; --oom-kill-disable is discarded"), "Disable the OOM killer"),
    flag("oom-score-adj", None, Value("int"), LIMITS, Works, "OOM preference, -1000 to 1000"),
    flag("pid", None, Value("string"), SECURITY, Only(&[""], OWN_KERNEL), "PID namespace"),
    flag("pids-limit", None, Value("int"), LIMITS, Works, "Number of processes"),
    flag("platform", None, Value("string"), LIFE, Differs("the host's architecture only, and 386 on amd64"), "Platform of the image"),
    flag("privileged", None, Switch, SECURITY, Differs("privileged inside the VM, never on the host"), "Give all privileges"),
    flag("publish", Some('p'), List("list"), NETWORK, Differs("tcp and udp"), "Publish a port"),
    flag("publish-all", Some('P'), Switch, NETWORK, Works, "Publish every exposed port"),
    flag("pull", None, Value("string"), LIFE, Works, "Pull the image: always, missing, never"),
    flag("quiet", Some('q'), Switch, LIFE, Works, "No pull progress"),
    flag("read-only", None, Switch, STORAGE, Works, "Read-only root file system"),
    flag("restart", None, Value("string"), LIFE, Differs("nothing is started after a reboot of the host"), "Restart policy: no, on-failure[:n], always, unless-stopped"),
    flag("rm", None, Switch, LIFE, Works, "Remove the container when it ends"),
    flag("runtime", None, Value("string"), LIFE, Only(&["", "bulkhead"], "unknown or invalid runtime name; --isolation says what a container is, remove the flag"), "Runtime"),
    flag("security-opt", None, List("list"), SECURITY, Differs("AppArmor and SELinux options are noted and have no effect: the guest kernel has neither"), "no-new-privileges, seccomp=unconfined|builtin|FILE, systempaths=unconfined, writable-cgroups=bool"),
    flag("shm-size", None, Value("bytes"), STORAGE, Works, "Size of /dev/shm"),
    flag("sig-proxy", None, Switch, PROCESS, Works, "Forward signals to the process (default true)"),
    flag("stop-signal", None, Value("string"), LIFE, Works, "Signal that stops the container"),
    flag("stop-timeout", None, Value("int"), LIFE, Works, "Seconds from that signal to SIGKILL"),
    flag("storage-opt", None, List("list"), STORAGE, Differs("only size=BYTES, the size of the writable layer"), "Options of the root file system"),
    flag("sysctl", None, List("map"), SECURITY, Differs("any, since the kernel is the container's own"), "Kernel parameter"),
    flag("tmpfs", None, List("list"), STORAGE, Works, "Mount a tmpfs"),
    flag("tty", Some('t'), Switch, PROCESS, Works, "Allocate a terminal"),
    flag("ulimit", None, List("ulimit"), LIMITS, Works, "Resource limit name=soft[:hard]"),
    flag("use-api-socket", None, Switch, SECURITY, Refused("there is no engine socket, and a guest would not get it; remove the flag"), "Bind the engine's socket"),
    flag("user", Some('u'), Value("string"), PROCESS, Works, "User name or id, and group"),
    flag("userns", None, Value("string"), SECURITY, Only(&["", "host"], "the VM's kernel is the container's own; remove the flag"), "User namespace"),
    flag("uts", None, Value("string"), SECURITY, Only(&[""], OWN_KERNEL), "UTS namespace"),
    flag("volume", Some('v'), List("list"), STORAGE, Differs("no shared or slave propagation; sockets, pipes and devices of the host are out of reach"), "Bind a volume"),
    flag("volume-driver", None, Value("string"), STORAGE, Only(&["", "local"], "only Docker's own driver, local, is there"), "Volume driver"),
    flag("volumes-from", None, List("list"), STORAGE, Works, "Mount another container's volumes"),
    flag("workdir", Some('w'), Value("string"), PROCESS, Works, "Working directory"),
    flag("io-maxbandwidth", None, Value("bytes"), STORAGE, Refused(WINDOWS), "I/O bandwidth (Windows)"),
    flag("io-maxiops", None, Value("uint"), STORAGE, Refused(WINDOWS), "I/O operations (Windows)"),
];

/// Members of an image's configuration, and what becomes of each.
#[rustfmt::skip]
pub const IMAGE: [(&str, Fate); 11] = [
    ("Cmd", Works),
    ("Entrypoint", Works),
    ("Env", Works),
    ("ExposedPorts", Works),
    ("Healthcheck", Works),
    ("Labels", Works),
    ("OnBuild", Differs("for builds only, as in Docker")),
    ("StopSignal", Works),
    ("User", Works),
    ("Volumes", Works),
    ("WorkingDir", Works),
];

/// Names that Docker takes for others.
pub const ALIASES: [(&str, &str); 3] = [
    ("network", "net"),
    ("network-alias", "net-alias"),
    ("dns-option", "dns-opt"),
];
