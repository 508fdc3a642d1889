//! Every flag of `docker build`, as data: how it is written, whether it works here, and if not, why.

use crate::cli::surface::Fate::{Differs, Only, Refused, Works};
use crate::cli::surface::Form::{List, Switch, Value};
use crate::cli::surface::{Flag, flag};

const INPUT: &str = "Input";
const OUTPUT: &str = "Output";
const CACHE: &str = "Cache";
const VM: &str = "Builder VM";

const CACHES: &str = "the build cache is in the image store and knows every step; remove the flag";
const ATTESTATIONS: &str = "no attestations are made; remove the flag";
const BUILDERS: &str =
    "every build has VMs of its own and there is no builder to choose; remove the flag";

/// The flags.
#[rustfmt::skip]
pub const BUILD: [Flag; 54] = [
    flag("add-host", None, List("list"), VM, Works, "Add a line to /etc/hosts of each step (host:ip)"),
    flag("allow", None, List("list"), VM, Refused("a step is alone in its VM and has what it needs; remove the flag"), "Allow extra privileges"),
    flag("annotation", None, List("list"), OUTPUT, Refused("annotations of the manifest are not written; use --label"), "Add an annotation"),
    flag("attest", None, List("list"), OUTPUT, Refused(ATTESTATIONS), "Attestations"),
    flag("build-arg", None, List("list"), INPUT, Works, "Value of an ARG (name=value, or name for the environment's)"),
    flag("build-context", None, List("list"), INPUT, Refused("there is one build context; copy from an image or a stage instead"), "Another build context"),
    flag("builder", None, Value("string"), VM, Refused(BUILDERS), "Builder instance"),
    flag("cache-from", None, List("list"), CACHE, Refused(CACHES), "Images to take steps from"),
    flag("cache-to", None, List("list"), CACHE, Refused(CACHES), "Where the cache goes"),
    flag("call", None, Value("string"), OUTPUT, Only(&["", "build"], "the other methods belong to buildx; remove the flag"), "Method"),
    flag("cgroup-parent", None, Value("string"), VM, Refused("a step's control group is inside its VM; limit the VM with --memory"), "Parent control group"),
    flag("check", None, Switch, OUTPUT, Refused("a file is checked by building it, which tells what is wrong and warns by some of BuildKit's rules"), "Check the Dockerfile"),
    flag("compress", None, Switch, INPUT, Differs("without effect: the context does not travel"), "Compress the build context"),
    flag("cpu-period", None, Value("int"), VM, Works, "Period of the CPU quota in microseconds"),
    flag("cpu-quota", None, Value("int"), VM, Works, "CPU quota in microseconds"),
    flag("cpu-shares", Some('c'), Value("int"), VM, Differs("counts inside the VM, and between VMs where these have control groups"), "CPU weight"),
    flag("cpuset-cpus", None, Value("string"), VM, Differs("the VM's threads run on these CPUs, and it has as many vCPUs, at most 32"), "CPUs of the host"),
    flag("cpuset-mems", None, Value("string"), VM, Only(&["", "0"], "a VM's memory is not bound to nodes of the host; remove the flag"), "Memory nodes"),
    flag("debug", Some('D'), Switch, OUTPUT, Only(&["false"], "there is no log to turn up; remove the flag"), "Debug log"),
    flag("disable-content-trust", None, Switch, INPUT, Only(&["true"], "signatures are not checked; remove the flag"), "Skip the check of signatures"),
    flag("file", Some('f'), Value("string"), INPUT, Works, "Name of the Dockerfile (default PATH/Dockerfile)"),
    flag("force-rm", None, Switch, VM, Differs("without effect: nothing is left of a step in any case"), "Always remove containers of steps"),
    flag("help", None, Switch, OUTPUT, Works, "Print this text"),
    flag("iidfile", None, Value("string"), OUTPUT, Works, "Write the image's id to this file"),
    flag("isolation", None, Value("string"), VM, Only(&["", "default"], "it is for Windows containers; remove the flag"), "Isolation"),
    flag("label", None, List("list"), OUTPUT, Works, "Give the image a label (key=value)"),
    flag("load", None, Switch, OUTPUT, Differs("always so: the image is in the store at once"), "Load the image"),
    flag("memory", Some('m'), Value("bytes"), VM, Differs("the VM has this and 64 MiB for its kernel, 128 MiB at least; without it 1 GiB"), "Memory limit of a step"),
    flag("memory-swap", None, Value("bytes"), VM, Differs("as much as --memory, 0 or -1: a VM has no swap"), "Memory and swap"),
    flag("metadata-file", None, Value("string"), OUTPUT, Refused("use --iidfile, or inspect"), "Write the build's result to this file"),
    flag("network", None, Value("network"), VM, Differs("default, bridge or none; each builder VM is alone on its network"), "Network of RUN steps"),
    flag("no-cache", None, Switch, CACHE, Works, "Run every step"),
    flag("no-cache-filter", None, List("list"), CACHE, Refused("use --no-cache"), "Stages whose steps are run"),
    flag("output", Some('o'), List("list"), OUTPUT, Refused("the image goes to the store; use save or export to get files of it"), "Destination"),
    flag("platform", None, List("list"), INPUT, Differs("one, of the host's architecture, or 386 on amd64"), "Platform of the image"),
    flag("policy", None, List("list"), INPUT, Refused("there are no build policies; remove the flag"), "Policies"),
    flag("progress", None, Value("string"), OUTPUT, Differs("auto, plain, tty or quiet; no rawjson"), "How progress is shown"),
    flag("provenance", None, Value("string"), OUTPUT, Only(&["", "false"], ATTESTATIONS), "Provenance attestation"),
    flag("pull", None, Switch, INPUT, Works, "Ask the registry for newer base images"),
    flag("push", None, Switch, OUTPUT, Refused("use push when the build is done"), "Push the image"),
    flag("quiet", Some('q'), Switch, OUTPUT, Works, "Print nothing but the image's id"),
    flag("rm", None, Switch, VM, Differs("without effect: nothing is left of a step in any case"), "Remove containers of steps"),
    flag("sbom", None, Value("string"), OUTPUT, Only(&["", "false"], ATTESTATIONS), "SBOM attestation"),
    flag("secret", None, List("list"), INPUT, Works, "A secret for RUN --mount=type=secret (id=name[,src=file|,env=variable])"),
    flag("security-opt", None, List("list"), VM, Refused("a step is as confined as a container and alone in its VM; remove the flag"), "Security options"),
    flag("shm-size", None, Value("bytes"), VM, Works, "Size of /dev/shm"),
    flag("squash", None, Switch, OUTPUT, Refused("layers are kept, as they are shared and cached; remove the flag"), "Make one layer of all"),
    flag("ssh", None, List("list"), INPUT, Refused("no agent is forwarded into a VM; use --secret"), "SSH agent"),
    flag("stream", None, Switch, INPUT, Refused("it is gone from Docker; remove the flag"), "Stream the context"),
    flag("tag", Some('t'), List("list"), OUTPUT, Works, "Name of the image (name:tag), as often as you like"),
    flag("target", None, Value("string"), INPUT, Works, "Stage to build"),
    flag("ulimit", None, List("ulimit"), VM, Works, "Resource limit name=soft[:hard]"),
    flag("userns", None, Value("string"), VM, Only(&["", "host"], "the VM's kernel is the step's own; remove the flag"), "User namespace"),
    flag("uts", None, Value("string"), VM, Only(&[""], "the VM's kernel is the step's own; remove the flag"), "UTS namespace"),
];
