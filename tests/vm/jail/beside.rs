//! What the two programs beside a VMM may do: its file server and its passt.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use harness::Sandbox;

use super::Seen;

const NO_CAPABILITY: &str = "0000000000000000";

/// What the file server keeps for its guest's users (`file-server/src/jail.rs`).
const OF_FILES: &str = "00000000800000db";

/// The file server: the process that waits, and its child in namespaces of its own.
pub(super) fn check_files(vm: &Sandbox, user: Option<u32>) -> Result<()> {
    let all = vm.processes()?;
    let ids = all.iter().filter(|process| process.has_verb("__files"));
    let mut both: Vec<Seen> = ids.map(|process| Seen::at(process.id)).collect();
    both.sort_by_key(|process| process.own_namespaces().map_or(0, |own| own.len()));
    let [waiter, server] = both.as_slice() else {
        anyhow::bail!("not two processes of a file server: {all:?}");
    };
    if user.is_none() {
        waiter.is_powerless()?;
    }
    for process in [waiter, server] {
        for thread in process.names("task")? {
            process.is_filtered(&thread)?;
        }
    }
    let threads = server.names("task")?;
    assert_eq!(threads.len(), 5, "{threads:?}");
    for thread in threads {
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(server.status(&thread, set)?, OF_FILES, "{set}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(server.status(&thread, set)?, NO_CAPABILITY, "{set}");
        }
    }
    let own = server.own_namespaces()?;
    let wanted: &[&str] = match user {
        Some(_) => &["user", "mnt", "pid", "net", "ipc", "uts"],
        None => &["mnt", "pid", "net", "ipc", "uts"],
    };
    assert_eq!(own, wanted);
    let mut root = server.names("root")?;
    root.sort();
    assert_eq!(root, ["fd", "shares"]);
    let mounts = mounts(server)?;
    let targets: Vec<&str> = mounts.keys().map(String::as_str).collect();
    assert_eq!(targets, ["/", "/fd", "/shares/0", "/shares/1"]);
    for (target, access) in [("/", "ro"), ("/shares/0", "rw"), ("/shares/1", "ro")] {
        for option in [access, "nosuid", "nodev", "noexec"] {
            let options = &mounts[target];
            assert!(
                options.iter().any(|one| one == option),
                "{target} {option}: {options:?}"
            );
        }
    }
    assert_eq!(fs::metadata(server.0.join("fd"))?.uid(), 0);
    assert_eq!(server.limit("Max core file size")?, "0 0");
    for process in [waiter, server] {
        assert_eq!(process.read("environ")?, "");
    }
    Ok(())
}

/// Its mounts and the options of each, which are not those of the file system.
fn mounts(process: &Seen) -> Result<BTreeMap<String, Vec<String>>> {
    let text = process.read("mountinfo")?;
    let lines = text.lines().map(|line| {
        let mut words = line.split(' ').skip(4);
        let target = words.next().context("a target")?.to_owned();
        let options = words.next().context("options")?.split(',');
        Ok((target, options.map(str::to_owned).collect()))
    });
    lines.collect()
}

/// passt, which shuts itself in, of root or this user.
pub(super) fn check_passt(vm: &Sandbox, user: Option<u32>) -> Result<()> {
    let supervisor = vm.wait_for_process("__supervisor")?.id;
    let passts = crate::network::passts(supervisor)?;
    ensure!(passts.len() == 1, "{passts:?}");
    let passt = Seen::at(passts[0]);
    for thread in passt.names("task")? {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(passt.status(&thread, set)?, NO_CAPABILITY, "{set}");
        }
        passt.is_filtered(&thread)?;
        for field in ["Uid", "Gid"] {
            let ids = passt.status(&thread, field)?;
            match user {
                Some(id) => assert_eq!(ids, format!("{id} {id} {id} {id}"), "{field}"),
                // Root's is nobody's, by whatever number.
                None => assert!(ids.split(' ').all(|id| id != "0"), "{field}: {ids}"),
            }
        }
        let groups = passt.status(&thread, "Groups")?;
        assert!(groups.split(' ').all(|id| id != "0"), "{groups}");
    }
    assert_eq!(passt.read("environ")?, "");
    let own = passt.own_namespaces()?;
    for name in ["user", "mnt", "ipc", "uts"] {
        assert!(own.contains(&name), "{name}: {own:?}");
    }
    assert_eq!(passt.names("root")?, Vec::<String>::new());
    Ok(())
}
