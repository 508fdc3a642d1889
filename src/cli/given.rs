//! What `run` and `create` were given, for `inspect`: the flags' texts beside what was made of them.

use std::collections::BTreeSet;

use anyhow::Result;
use images::ImageConfig;

use super::flags::Flags;
use super::options::RunOptions;
use super::values::number;
use crate::sandbox::given::Given;
use crate::sandbox::volumes::{MountKind, Origin};

/// Flags whose texts are kept.
const LISTS: [&str; 10] = [
    "add-host",
    "cap-add",
    "cap-drop",
    "dns",
    "dns-option",
    "dns-search",
    "group-add",
    "security-opt",
    "storage-opt",
    "volumes-from",
];

/// Billionths of a CPU in a thousandth.
const NANOS: u64 = 1_000_000;

/// Puts it together; the options have been read from the same flags.
///
/// # Errors
/// A value that is none.
pub fn given(flags: &Flags, options: &RunOptions, image: &ImageConfig) -> Result<Given> {
    let (process, container) = (&options.process, &options.container);
    // As the arguments are made, see merge.rs.
    let (entrypoint, image_cmd) = match process.entrypoint.as_deref() {
        None => (image.entrypoint.clone(), image.cmd.clone()),
        Some("") => (None, None),
        Some(program) => (Some(vec![program.to_owned()]), None),
    };
    let cmd = match process.args.is_empty() {
        true => image_cmd,
        false => Some(process.args.clone()),
    };
    let is_attached = !container.detach;
    let text = |name: &str| flags.text(name).unwrap_or_default();
    let mut given = Given {
        entrypoint,
        cmd,
        attach_stdin: is_attached && container.streams.stdin,
        attach_stdout: is_attached && container.streams.stdout,
        attach_stderr: is_attached && container.streams.stderr,
        oom_score_adj: process.oom_score_adj.map_or(0, i64::from),
        lists: LISTS
            .iter()
            .map(|name| ((*name).to_owned(), flags.list(name)))
            .filter(|(_, list)| !list.is_empty())
            .collect(),
        ulimits: process.rlimits.clone(),
        ipc: text("ipc"),
        userns: text("userns"),
        cidfile: text("cidfile"),
        publish_all: options.network.publish_all,
        volumes: volumes(options, image),
        on_build: image.on_build.clone(),
        ..Given::default()
    };
    for name in ["cap-add", "cap-drop"] {
        if let Some(list) = given.lists.get_mut(name) {
            for text in list {
                *text = capability(text);
            }
        }
    }
    limits(flags, &mut given)?;
    Ok(given)
}

/// Folders that the image calls volumes, and those of `-v` without a source.
fn volumes(options: &RunOptions, image: &ImageConfig) -> Vec<String> {
    let wanted = options.storage.mounts.wanted.iter();
    let asked = wanted.filter(|wanted| {
        wanted.kind == MountKind::Volume
            && wanted.source.is_empty()
            && wanted.origin == Origin::Other
    });
    let all = image
        .volumes
        .iter()
        .chain(asked.map(|wanted| &wanted.target));
    let all: BTreeSet<&String> = all.collect();
    all.into_iter().cloned().collect()
}

/// As Docker shows it: `CAP_NET_ADMIN`.
fn capability(text: &str) -> String {
    let upper = text.trim().to_ascii_uppercase();
    match upper.as_str() {
        "ALL" => upper,
        name if name.starts_with("CAP_") => upper,
        name => format!("CAP_{name}"),
    }
}

/// The limits that these flags name; the others stay.
///
/// # Errors
/// A value that is none.
pub fn limits(flags: &Flags, given: &mut Given) -> Result<()> {
    if let Some(thousandths) = flags.one("cpus", number::cpus)?.filter(|n| *n > 0) {
        given.nano_cpus = thousandths.saturating_mul(NANOS);
    }
    if let Some(shares) = flags.one("cpu-shares", number::integer)?.filter(|n| *n > 0) {
        given.cpu_shares = shares;
    }
    if let Some(set) = flags.text("cpuset-cpus") {
        given.cpuset_cpus = set;
    }
    let swap = flags.one("memory-swap", |text| match text {
        "-1" => Ok(-1),
        _ => Ok(i64::try_from(number::bytes(text)?)?),
    })?;
    if let Some(swap) = swap.filter(|swap| *swap != 0) {
        given.memory_swap = swap;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::run_command;
    use crate::cli::options::tests::options_of;

    fn of(args: &[&str]) -> Given {
        let image = r#"{"architecture":"amd64","os":"linux",
            "rootfs":{"type":"layers","diff_ids":[]},
            "config":{"Entrypoint":["/entry"],"Cmd":["a"],"Volumes":{"/data":{}}}}"#;
        let image = ImageConfig::parse(image.as_bytes()).unwrap();
        let words = std::iter::once(&"run").chain(args);
        let flags = Flags::check(run_command().try_get_matches_from(words).unwrap()).unwrap();
        given(&flags, &options_of(args).unwrap(), &image).unwrap()
    }

    #[test]
    fn entry_point_and_command_stay_apart() {
        let words = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect());
        for (args, entrypoint, cmd) in [
            (&["i"][..], words(&["/entry"]), words(&["a"])),
            (&["i", "x", "y"], words(&["/entry"]), words(&["x", "y"])),
            (&["--entrypoint", "/e", "i"], words(&["/e"]), None),
            (&["--entrypoint", "", "i", "x"], None, words(&["x"])),
        ] {
            let given = of(args);
            assert_eq!((given.entrypoint, given.cmd), (entrypoint, cmd), "{args:?}");
        }
        assert_eq!(of(&["i"]).volumes, ["/data"]);
    }

    #[test]
    fn a_volume_without_a_source_is_one_of_the_containers() {
        for (args, want) in [
            (&["-v", "/more", "i"][..], &["/data", "/more"][..]),
            (&["-v", "/data", "i"], &["/data"]),
            (&["-v", "named:/more", "-v", "/etc:/x", "i"], &["/data"]),
            (&["--mount", "type=volume,target=/more", "i"], &["/data"]),
        ] {
            assert_eq!(of(args).volumes, want, "{args:?}");
        }
    }

    #[test]
    fn flags_stand_as_they_were_given() {
        let given = of(&[
            "--cpus=1.5",
            "--cpu-shares=512",
            "--cpuset-cpus=0-2",
            "-m64m",
            "--memory-swap=-1",
            "--cap-add=net_admin",
            "--cap-drop=ALL",
            "--dns=192.0.2.1",
            "--security-opt=no-new-privileges",
            "i",
        ]);
        assert_eq!(given.nano_cpus, 1_500_000_000);
        assert_eq!((given.cpu_shares, given.cpuset_cpus.as_str()), (512, "0-2"));
        assert_eq!(given.memory_swap, -1);
        assert_eq!(given.list("cap-add"), ["CAP_NET_ADMIN"]);
        assert_eq!(given.list("cap-drop"), ["ALL"]);
        assert_eq!(given.list("dns"), ["192.0.2.1"]);
        assert_eq!(given.list("security-opt"), ["no-new-privileges"]);
        assert_eq!(given.list("add-host"), [""; 0]);
    }

    #[test]
    fn streams_are_attached_unless_it_is_detached() {
        let streams = |args: &[&str]| {
            let given = of(args);
            [given.attach_stdin, given.attach_stdout, given.attach_stderr]
        };
        assert_eq!(streams(&["i"]), [false, true, true]);
        assert_eq!(streams(&["-i", "i"]), [true, true, true]);
        assert_eq!(streams(&["-di", "i"]), [false, false, false]);
        assert_eq!(streams(&["-a", "stderr", "i"]), [false, false, true]);
    }
}
