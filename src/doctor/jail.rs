//! Whether a VMM can be shut in: user namespaces, without which there is no VM, and Landlock, which is
//! taken as the kernel has it (docs/security.md). Called by [`super`].

use std::os::unix::fs::MetadataExt;

use ::jail::landlock::{self, Enforcement};
use nix::unistd::geteuid;

use super::{Finding, Host, Level};
use crate::sandbox::vmm_jail;

/// Settings that deny user namespaces, and what they must be for that.
const ORDINARY: [(&str, &str); 2] = [
    ("proc/sys/kernel/unprivileged_userns_clone", "0"),
    (APPARMOR, "1"),
];
/// Of those that no profile confines.
const APPARMOR: &str = "proc/sys/kernel/apparmor_restrict_unprivileged_userns";
const MOST: &str = "proc/sys/user/max_user_namespaces";

/// Whether this user may have namespaces.
pub fn namespaces(host: &Host) -> Finding {
    judge(host, geteuid().is_root())
}

fn judge(host: &Host, is_root: bool) -> Finding {
    let denies = |(path, value): &(&str, &str)| host.read(path) == *value;
    let ordinary = ORDINARY
        .iter()
        .filter(|(path, _)| !is_root && (*path != APPARMOR || !has_profile(host)))
        .find(|one| denies(one));
    let found = ordinary
        .copied()
        .or((host.read(MOST) == "0").then_some((MOST, "0")));
    match found {
        None => Finding::ok("user namespaces, in which VMMs are shut in"),
        Some((path, value)) => {
            let name = path.trim_start_matches("proc/sys/").replace('/', ".");
            let or = match path {
                APPARMOR => "load an AppArmor profile that allows them (docs/guide/docker.md)",
                MOST => "ask who administers this host",
                _ => "run bulkhead as root",
            };
            Finding::fail(
                format!(
                    "user namespaces are denied ({name}={value}), and there is no VM outside of a jail"
                ),
                format!("set {name} to another value by `sudo sysctl -w`, or {or}"),
            )
        }
    }
}

/// Whether a process can be shut in as VMMs are. What keeps it from that may be no setting: filters and
/// profiles of a container around this process. Nothing where a setting denies it.
pub fn tried(host: &Host) -> Option<Finding> {
    if namespaces(host).level != Level::Ok {
        return None;
    }
    Some(match vmm_jail::tried() {
        Ok(()) => Finding::ok("a process was shut in as VMMs are"),
        Err(error) => Finding::fail(
            format!(
                "no process can be shut in as VMMs are, and there is no VM outside of a jail: {error:#}"
            ),
            hint(host),
        ),
    })
}

/// What may keep a process from being shut in.
fn hint(host: &Host) -> &'static str {
    let status = host.read("proc/self/status");
    let filters = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    if filters.map(str::trim) == Some("2") || profile(host).ends_with("(enforce)") {
        "a seccomp filter or an AppArmor profile is around this process, as in a container of another engine: \
         start that with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined` \
         (docs/guide/docker.md)"
    } else if is_in_chroot(host) {
        "a process in a chroot may make no user namespace (user_namespaces(7)): change the root by \
         pivot_root(2), as `bwrap` and containers do"
    } else {
        "`sudo dmesg | tail` may say what denied it"
    }
}

/// Whether the first process has another root than this one. Who may not look is told nothing.
fn is_in_chroot(host: &Host) -> bool {
    let root = |path| {
        let metadata = std::fs::metadata(host.path(path)).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    matches!((root("."), root("proc/1/root")), (Some(own), Some(first)) if own != first)
}

/// Whether this process is under an AppArmor profile: what that allows, a start shows.
fn has_profile(host: &Host) -> bool {
    !matches!(profile(host).as_str(), "" | "unconfined")
}

/// Its name and mode; empty where there is no AppArmor.
fn profile(host: &Host) -> String {
    host.read("proc/self/attr/apparmor/current")
}

/// How much of Landlock there is. Asked of a thread that ends with the question.
pub fn landlock() -> Finding {
    let thread = std::thread::Builder::new().spawn(landlock::restrict);
    let asked = thread.ok().and_then(|thread| thread.join().ok());
    match asked {
        Some(Ok(Enforcement::Full)) => Finding::ok("Landlock: files, network, other processes"),
        Some(Ok(Enforcement::Partial)) if !landlock::knows_moves() => {
            Finding::ok("Landlock: what this kernel has of it, and none for file servers")
        }
        Some(Ok(Enforcement::Partial)) => Finding::ok("Landlock: what this kernel has of it"),
        Some(Ok(Enforcement::None)) => Finding::warn(
            "no Landlock: VMMs have their empty root and their filters only",
            "use a kernel with CONFIG_SECURITY_LANDLOCK, and `landlock` in its lsm= list",
        ),
        Some(Err(error)) => Finding::fail(
            format!("Landlock is refused, and there is no VM outside of a jail: {error}"),
            "`sudo dmesg | grep landlock` may say why",
        ),
        None => Finding::warn(
            "Landlock can't be asked for",
            "see whether a thread can be started (`ulimit -u`), else report this, please",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake;
    use super::*;

    #[test]
    fn a_filter_around_this_process_is_pointed_to() {
        let of = |status: &str, profile: &str| {
            let status = ("proc/self/status", status);
            let profile = ("proc/self/attr/apparmor/current", profile);
            let (_folder, host) = fake::host(&[status, profile]);
            hint(&host)
        };
        let filtered = "NoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let free = "NoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n";
        assert!(of(filtered, "unconfined\n").contains("seccomp=unconfined"));
        assert!(of(free, "docker-default (enforce)\n").contains("apparmor=unconfined"));
        assert!(of(free, "unconfined\n").contains("dmesg"));
        // The guide's own.
        assert!(of(free, "bulkhead (unconfined)\n").contains("dmesg"));
        assert!(of("", "").contains("dmesg"));
        let (folder, host) = fake::host(&[("proc/1/comm", "init")]);
        let first = folder.path().join("proc/1/root");
        std::fs::create_dir(&first).unwrap();
        assert!(hint(&host).contains("chroot"));
        std::fs::remove_dir(&first).unwrap();
        std::os::unix::fs::symlink(folder.path(), &first).unwrap();
        assert!(hint(&host).contains("dmesg"));
    }

    #[test]
    fn nothing_is_tried_where_a_setting_denies_it() {
        let (_folder, host) = fake::host(&[(MOST, "0\n")]);
        assert_eq!(tried(&host), None);
    }

    #[test]
    fn what_denies_namespaces_is_named() {
        for (file, value, denied_to_root) in [
            ("proc/sys/kernel/unprivileged_userns_clone", "0\n", false),
            (
                "proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1\n",
                false,
            ),
            ("proc/sys/user/max_user_namespaces", "0\n", true),
        ] {
            let (_folder, host) = fake::host(&[(file, value)]);
            let found = judge(&host, false);
            assert_eq!(found.level, Level::Fail, "{file}");
            let name = file.trim_start_matches("proc/sys/").replace('/', ".");
            assert!(found.text.contains(&name), "{}", found.text);
            assert_eq!(
                judge(&host, true).level == Level::Fail,
                denied_to_root,
                "{file}"
            );
        }
        let restricted = (APPARMOR, "1\n");
        for (current, level) in [
            ("unconfined\n", Level::Fail),
            ("bulkhead (unconfined)\n", Level::Ok),
            ("bulkhead (enforce)\n", Level::Ok),
        ] {
            let (_folder, host) =
                fake::host(&[restricted, ("proc/self/attr/apparmor/current", current)]);
            assert_eq!(judge(&host, false).level, level, "{current}");
        }
        let (_folder, host) = fake::host(&[("proc/sys/user/max_user_namespaces", "15000\n")]);
        assert_eq!(judge(&host, false).level, Level::Ok);
    }
}
