//! `--cap-add`, `--cap-drop` and `--privileged`: the capabilities that the process has.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

/// Every capability of Linux 6.12, by its number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default set.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Which flag names a capability, for the message.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Add,
    Drop,
}

/// The set that the flags leave, sorted. ALL stands for every one; what is added by name wins over
/// `--cap-drop ALL`, what is dropped by name over `--cap-add ALL`.
///
/// # Errors
/// In Docker's words for a name that is none.
pub fn capabilities(add: &[String], drop: &[String], privileged: bool) -> Result<Vec<String>> {
    let add = normalized(add, Verb::Add)?;
    let drop = normalized(drop, Verb::Drop)?;
    let (all_added, all_dropped) = (add.contains("ALL"), drop.contains("ALL"));
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut set: BTreeSet<String> = match (privileged || all_added, all_dropped) {
        (true, _) => owned(&CAPABILITIES),
        (false, true) => BTreeSet::new(),
        (false, false) => owned(&DEFAULT_CAPABILITIES),
    };
    if !privileged {
        set.retain(|name| !drop.contains(name));
        set.extend(add.into_iter().filter(|name| name != "ALL"));
    }
    Ok(set.into_iter().collect())
}

/// Names in upper case and without `CAP_`.
fn normalized(names: &[String], verb: Verb) -> Result<BTreeSet<String>> {
    names
        .iter()
        .map(|text| {
            let upper = text.trim().to_ascii_uppercase();
            let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if name != "ALL" && !CAPABILITIES.contains(&name) {
                bail!("invalid Cap{verb:?}: unknown capability: \"CAP_{name}\"");
            }
            Ok(name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Vec<String> {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        capabilities(&owned(add), &owned(drop), false).unwrap()
    }

    #[test]
    fn capabilities_are_added_to_and_taken_from_dockers_default() {
        assert_eq!(set(&[], &[]), DEFAULT_CAPABILITIES);
        assert_eq!(set(&["net_admin"], &["ALL"]), ["NET_ADMIN"]);
        assert_eq!(set(&["Cap_Net_Admin"], &["all"]), ["NET_ADMIN"]);
        assert_eq!(set(&["ALL"], &["CAP_SYS_ADMIN"]).len(), 40);
        assert_eq!(set(&["ALL"], &[]).len(), 41);
        assert_eq!(set(&[], &["CHOWN", "kill"]).len(), 12);
        assert!(set(&[], &["ALL"]).is_empty());
        // What is dropped and added is there.
        assert!(set(&["CHOWN"], &["CHOWN"]).contains(&"CHOWN".to_owned()));
    }

    #[test]
    fn a_privileged_process_has_every_capability() {
        let all = capabilities(&[], &["ALL".to_owned()], true).unwrap();
        assert_eq!(all.len(), CAPABILITIES.len());
    }

    #[test]
    fn names_that_are_none_are_told_with_their_flag() {
        let fly = ["fly".to_owned()];
        let error = capabilities(&fly, &[], true).unwrap_err().to_string();
        assert_eq!(error, "invalid CapAdd: unknown capability: \"CAP_FLY\"");
        let error = capabilities(&[], &fly, false).unwrap_err().to_string();
        assert_eq!(error, "invalid CapDrop: unknown capability: \"CAP_FLY\"");
    }
}
