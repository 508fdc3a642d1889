//! On a host that is a temporary folder.

use super::*;
use crate::cli::policy::rules::Document;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn host(&self) -> Host {
        Host {
            systemd: self.path("booted"),
            units: self.path("units"),
            groups: self.path("groups"),
            record: self.path("record"),
        }
    }

    /// A slice as the kernel makes one.
    fn make_slice(&self, uid: u32) {
        let folder = self.path(&format!("groups/user.slice/user-{uid}.slice"));
        fs::create_dir_all(&folder).unwrap();
        let files = [
            ("memory.max", "max"),
            ("cpu.max", "max 100000"),
            ("pids.max", "max"),
        ];
        for (name, value) in files {
            fs::write(folder.join(name), format!("{value}\n")).unwrap();
        }
    }

    fn of_slice(&self, uid: u32) -> [String; 3] {
        let folder = self.path(&format!("groups/user.slice/user-{uid}.slice"));
        ["memory.max", "cpu.max", "pids.max"].map(|name| read(&folder.join(name)).unwrap().unwrap())
    }

    fn apply(&self, wanted: &Wanted) -> Vec<String> {
        let host = self.host();
        let keeper = host.keeper().unwrap();
        let changes = host.changes(keeper, wanted).unwrap();
        host.apply(keeper, wanted, &changes, &|_| Ok(())).unwrap();
        let place = format!("{}/", self.0.path().display());
        changes
            .iter()
            .map(|change| change.to_string().replace(&place, ""))
            .collect()
    }
}

fn limits(rules: &str) -> Limits {
    let document = Document::parse(&format!("[default]\n{rules}\n")).unwrap();
    Limits::of(&document.default_rules().unwrap())
}

fn wanted(of_all: &str, of_users: &[(u32, &str)]) -> Wanted {
    Wanted {
        of_all: limits(of_all),
        of_users: of_users
            .iter()
            .map(|(uid, rules)| (*uid, limits(rules)))
            .collect(),
    }
}

#[test]
fn with_neither_systemd_nor_slices_nobody_keeps_limits() {
    let place = Place::new();
    assert_eq!(place.host().keeper(), None);
    place.make_slice(1000);
    assert_eq!(place.host().keeper(), None, "not of cgroup v2");
    fs::write(place.path("groups/cgroup.controllers"), "memory\n").unwrap();
    assert_eq!(place.host().keeper(), Some(Keeper::Groups));
    fs::create_dir(place.path("booted")).unwrap();
    assert_eq!(place.host().keeper(), Some(Keeper::Systemd));
}

#[test]
fn drop_ins_are_of_all_of_one_and_none_of_root() {
    let place = Place::new();
    fs::create_dir(place.path("booted")).unwrap();
    let other = place.path("units/user-1001.slice.d/50-other.conf");
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    fs::write(&other, "[Slice]\nTasksMax=7\n").unwrap();
    let both = wanted(
        "memory = \"1m\"",
        &[(1000, "vcpus = 1"), (1001, "memory = \"1m\"")],
    );
    let name = "60-bulkhead-policy.conf";
    assert_eq!(
        place.apply(&both),
        [
            format!("write units/user-.slice.d/{name}: MemoryMax=1048576"),
            format!("write units/user-0.slice.d/{name}: no limit"),
            format!("write units/user-1000.slice.d/{name}: CPUQuota=100%"),
        ]
    );
    let file = place.path(&format!("units/user-1000.slice.d/{name}"));
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .ends_with("[Slice]\nCPUQuota=100%\n")
    );
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o644
    );
    assert_eq!(place.apply(&both), Vec::<String>::new());
    // What somebody has changed is set right.
    fs::write(&file, "[Slice]\n").unwrap();
    assert_eq!(place.apply(&both).len(), 1);
    let one = wanted("", &[(1001, "vms = 1")]);
    let mut done = place.apply(&one);
    done.sort();
    assert_eq!(
        done,
        [
            format!("remove units/user-.slice.d/{name}"),
            format!("remove units/user-0.slice.d/{name}"),
            format!("remove units/user-1000.slice.d/{name}"),
            format!("write units/user-1001.slice.d/{name}: TasksMax=2112"),
        ]
    );
    place.apply(&wanted("", &[]));
    let left: Vec<_> = fs::read_dir(place.path("units")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(fs::read_to_string(&other).unwrap(), "[Slice]\nTasksMax=7\n");
    assert_eq!(fs::read_dir(other.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn without_systemd_the_slices_that_are_there_are_limited() {
    let place = Place::new();
    for uid in [0, 1000, 1001] {
        place.make_slice(uid);
    }
    fs::write(place.path("groups/cgroup.controllers"), "memory\n").unwrap();
    let own = place.path("groups/user.slice/user-1001.slice/pids.max");
    fs::write(&own, "50\n").unwrap();
    let both = wanted("memory = \"1m\"", &[(1000, "vcpus = 1\nvms = 1")]);
    assert_eq!(
        place.apply(&both),
        [
            "set groups/user.slice/user-1000.slice/cpu.max: max 100000 -> 100000 100000",
            "set groups/user.slice/user-1000.slice/pids.max: max -> 2112",
            "set groups/user.slice/user-1001.slice/memory.max: max -> 1048576",
        ]
    );
    assert_eq!(place.of_slice(0), ["max", "max 100000", "max"]);
    assert_eq!(place.apply(&both), Vec::<String>::new());
    // What was the policy's is lifted with its rule; what was somebody else's stays.
    place.apply(&wanted("", &[(1000, "vms = 1")]));
    assert_eq!(place.of_slice(1000), ["max", "max 100000", "2112"]);
    assert_eq!(place.of_slice(1001), ["max", "max 100000", "50"]);
    place.apply(&wanted("", &[]));
    assert_eq!(place.of_slice(1000), ["max", "max 100000", "max"]);
    assert_eq!(place.of_slice(1001), ["max", "max 100000", "50"]);
}

#[test]
fn a_slice_that_can_not_be_limited_is_an_error() {
    let place = Place::new();
    place.make_slice(1000);
    fs::write(place.path("groups/cgroup.controllers"), "memory\n").unwrap();
    fs::remove_file(place.path("groups/user.slice/user-1000.slice/memory.max")).unwrap();
    let host = place.host();
    let wanted = wanted("memory = \"1m\"", &[]);
    let changes = host.changes(Keeper::Groups, &wanted).unwrap();
    let error = host
        .apply(Keeper::Groups, &wanted, &changes, &|_| Ok(()))
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("memory.max: nothing -> 1048576: No such file"),
        "{error}"
    );
}
