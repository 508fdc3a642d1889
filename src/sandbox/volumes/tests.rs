//! Volumes as folders: names, use, removal, and which of them is to be filled.

use super::*;

fn root() -> (tempfile::TempDir, Root) {
    let temp = tempfile::tempdir().unwrap();
    let root = Root::at(temp.path().to_owned());
    fs::create_dir(root.containers()).unwrap();
    (temp, root)
}

fn no_labels() -> BTreeMap<String, String> {
    BTreeMap::new()
}

fn wanted(kind: MountKind, source: &str) -> Wanted {
    Wanted {
        kind,
        source: source.to_owned(),
        target: "/data".to_owned(),
        read_only: false,
        mode: String::new(),
        copy_up: true,
        labels: no_labels(),
        origin: Origin::Bind,
    }
}

fn files(root: &Root) -> Vec<String> {
    let entries = fs::read_dir(root.volumes()).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The one mount that is wanted.
fn mount(volumes: &Volumes, wanted: Wanted) -> Mount {
    volumes.resolve(&[wanted], None).unwrap().remove(0)
}

#[test]
fn names_are_dockers() {
    for good in ["ab", "a1", "A.b_c-d", "0_"] {
        check_name(good).unwrap();
    }
    let long = "x".repeat(300);
    for bad in [
        "..", ".x", "-x", "_x", "a/b", "../a", "a b", "é1", "a\0b", &long,
    ] {
        let error = check_name(bad).unwrap_err().to_string();
        assert!(error.contains("includes invalid characters"), "{error}");
    }
    for short in ["", "a"] {
        let error = check_name(short).unwrap_err().to_string();
        assert!(error.contains("is too short"), "{error}");
    }
}

#[test]
fn a_volume_is_made_once_and_keeps_its_labels() {
    let (_temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    let labels: BTreeMap<_, _> = [("k".to_owned(), "v".to_owned())].into();
    let made = volumes.create("data", &labels).unwrap();
    assert_eq!(volumes.create("data", &no_labels()).unwrap(), made);
    assert_eq!(volumes.get("data").unwrap().labels, labels);
    assert!(volumes.data("data").is_dir());
    let error = volumes.get("other").unwrap_err().to_string();
    assert_eq!(error, "get other: no such volume");
    let error = volumes.get("../x").unwrap_err().to_string();
    assert_eq!(error, "get ../x: no such volume");
    volumes.remove("data").unwrap();
    assert_eq!(files(&root), Vec::<String>::new());
}

#[test]
fn volumes_without_a_name_have_one_of_their_own() {
    let (_temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    let first = volumes.create_anonymous(&no_labels(), None).unwrap();
    let second = volumes.create_anonymous(&no_labels(), None).unwrap();
    assert_ne!(first.name, second.name);
    assert_eq!(first.name.len(), 64);
    assert!(first.is_anonymous());
    let mounts = volumes
        .resolve(
            &[
                wanted(MountKind::Volume, "named"),
                wanted(MountKind::Volume, ""),
            ],
            None,
        )
        .unwrap();
    volumes.remove_anonymous_of(&mounts).unwrap();
    let mut left = vec![first.name, second.name, "named".to_owned()];
    left.sort();
    assert_eq!(files(&root), left);
}

#[test]
fn what_killed_commands_left_goes() {
    let (_temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    let gone = "a".repeat(64);
    let lives = "b".repeat(64);
    fs::create_dir(root.containers().join(&lives)).unwrap();
    let of = |id: &str| {
        volumes
            .create_anonymous(&no_labels(), Some(id))
            .unwrap()
            .name
    };
    let (_, kept) = (of(&gone), of(&lives));
    for name in [".new-x", ".old-y"] {
        fs::create_dir(root.volumes().join(name)).unwrap();
    }
    drop(volumes);
    drop(Volumes::lock(&root).unwrap());
    assert_eq!(files(&root), [kept]);
}

#[test]
fn paths_of_the_host_are_checked() {
    let (temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    let path = |name: &str| temp.path().join(name).display().to_string();
    let missing = Wanted {
        origin: Origin::Mount,
        ..wanted(MountKind::Bind, &path("missing"))
    };
    let anonymous = wanted(MountKind::Volume, "");
    let error = volumes.resolve(&[anonymous, missing], None).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            path("missing")
        )
    );
    // And what was made for nothing has gone.
    assert_eq!(files(&root), Vec::<String>::new());
    let made = wanted(MountKind::Bind, &path("a/b"));
    volumes.resolve(&[made], None).unwrap();
    assert!(temp.path().join("a/b").is_dir());
    let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    for (source, is) in [
        (path("socket"), "a socket"),
        ("/dev/null".to_owned(), "a device"),
    ] {
        let error = volumes
            .resolve(&[wanted(MountKind::Bind, &source)], None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("is not supported: it is {is}")),
            "{error}"
        );
    }
}

#[test]
fn paths_of_the_host_are_looked_at_before_each_start() {
    let (temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    let source = temp.path().join("source");
    for (origin, is_made) in [
        (Origin::Bind, true),
        (Origin::Other, true),
        (Origin::Mount, false),
    ] {
        fs::create_dir_all(&source).unwrap();
        let wanted = wanted(MountKind::Bind, &source.display().to_string());
        let mut mount = mount(&volumes, wanted);
        mount.origin = origin;
        mount.check_source().unwrap();
        fs::remove_dir(&source).unwrap();
        assert_eq!(mount.check_source().is_ok(), is_made, "{origin:?}");
        assert_eq!(source.is_dir(), is_made, "{origin:?}");
    }
    let _listener = std::os::unix::net::UnixListener::bind(&source).unwrap();
    let other = wanted(MountKind::Bind, "/");
    let mut mount = mount(&volumes, other);
    mount.resolved = source;
    let error = mount.check_source().unwrap_err().to_string();
    assert!(error.contains("it is a socket"), "{error}");
}

#[test]
fn no_link_is_followed_that_came_after_the_container() {
    let (temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    let path = |name: &str| temp.path().canonicalize().unwrap().join(name);
    fs::create_dir_all(path("real/inner")).unwrap();
    std::os::unix::fs::symlink(path("real"), path("link")).unwrap();
    let wanted = wanted(MountKind::Bind, &path("link/inner").display().to_string());
    let mount = mount(&volumes, wanted);
    assert_eq!(mount.source, path("link/inner"));
    assert_eq!(mount.resolved, path("real/inner"));
    mount.check_source().unwrap();
    // One on the way, at its end, and one that leads nowhere.
    for (gone, target) in [("real", "/etc"), ("real/inner", "/etc"), ("real", "/none")] {
        fs::rename(path(gone), path("away")).unwrap();
        std::os::unix::fs::symlink(target, path(gone)).unwrap();
        let error = mount.check_source().unwrap_err().to_string();
        let told = format!(
            "bind source {} leads through a symbolic link that was not there when the container \
             was made: {}",
            path("link/inner").display(),
            path(gone).display()
        );
        assert_eq!(error, told);
        assert!(wanted::make_without_links(&path("real/inner/more")).is_err());
        fs::remove_file(path(gone)).unwrap();
        fs::rename(path("away"), path(gone)).unwrap();
    }
    fs::remove_dir(path("real/inner")).unwrap();
    mount.check_source().unwrap();
    assert!(path("real/inner").is_dir());
}

#[test]
fn what_can_not_be_removed_is_whole_and_what_was_left_goes() {
    let (_temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    volumes.create("data", &no_labels()).unwrap();
    // What a killed command left of another, in the way of nobody.
    let old = root.volumes().join(".old-data");
    fs::create_dir_all(old.join("_data/a/b")).unwrap();
    volumes.remove("data").unwrap();
    assert_eq!(files(&root), [".old-data"]);
    drop(volumes);
    drop(Volumes::lock(&root).unwrap());
    assert_eq!(files(&root), Vec::<String>::new());
}

#[test]
fn an_empty_volume_is_filled_once() {
    let (_temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    let mount = mount(&volumes, wanted(MountKind::Volume, "data"));
    let Fill::Empty(mut filling) = Fill::begin(&mount, true).unwrap() else {
        panic!("it is empty");
    };
    filling.begun();
    // Half of it is there when its container is killed.
    fs::write(mount.source.join("half"), "").unwrap();
    drop(filling);
    let Fill::Again(filling) = Fill::begin(&mount, true).unwrap() else {
        panic!("it is not whole");
    };
    assert!(matches!(Fill::begin(&mount, true).unwrap(), Fill::Busy));
    // One that does not come to fill it leaves it half.
    drop(filling);
    let Fill::Again(filling) = Fill::begin(&mount, true).unwrap() else {
        panic!("it is not whole");
    };
    filling.done().unwrap();
    assert!(matches!(Fill::begin(&mount, true).unwrap(), Fill::No));
}

#[test]
fn who_does_not_come_to_fill_a_volume_leaves_it_as_it_was() {
    let (_temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    let mount = mount(&volumes, wanted(MountKind::Volume, "data"));
    let marker = mount.source.with_file_name("copying");
    // One that was left before anything was written, too.
    for left in [false, true] {
        if left {
            fs::write(&marker, "").unwrap();
        }
        let Fill::Empty(filling) = Fill::begin(&mount, true).unwrap() else {
            panic!("it is empty");
        };
        assert!(marker.exists());
        drop(filling);
        assert!(!marker.exists());
    }
    // What somebody puts there now stays.
    fs::write(mount.source.join("mine"), "").unwrap();
    assert!(matches!(Fill::begin(&mount, true).unwrap(), Fill::No));
}

#[test]
fn what_was_emptied_stays_empty_in_later_lives() {
    let (_temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    let mount = mount(&volumes, wanted(MountKind::Volume, "data"));
    assert!(matches!(Fill::begin(&mount, false).unwrap(), Fill::No));
    // Unless the first one did not come to its end.
    fs::write(mount.source.with_file_name("copying"), "").unwrap();
    fs::write(mount.source.join("half"), "").unwrap();
    assert!(matches!(
        Fill::begin(&mount, false).unwrap(),
        Fill::Again(_)
    ));
}

#[test]
fn who_may_not_write_to_a_volume_leaves_its_marker() {
    let (_temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    let read_only = Wanted {
        read_only: true,
        ..wanted(MountKind::Volume, "data")
    };
    let mount = mount(&volumes, read_only);
    let marker = mount.source.with_file_name("copying");
    fs::write(&marker, "").unwrap();
    assert!(matches!(Fill::begin(&mount, true).unwrap(), Fill::No));
    assert!(marker.exists());
    fs::write(mount.source.join("half"), "").unwrap();
    let error = Fill::begin(&mount, true).unwrap_err().to_string();
    assert!(error.contains("was not filled to its end"), "{error}");
}

#[test]
fn who_wants_no_content_fills_nothing() {
    let (_temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    let plain = Wanted {
        copy_up: false,
        ..wanted(MountKind::Volume, "plain")
    };
    let read_only = Wanted {
        read_only: true,
        ..wanted(MountKind::Volume, "plain")
    };
    for wanted in [plain, read_only] {
        let mount = mount(&volumes, wanted);
        assert!(matches!(Fill::begin(&mount, true).unwrap(), Fill::No));
        assert!(!mount.source.with_file_name("copying").exists());
    }
}

#[test]
fn what_lies_beside_the_data_leads_to_no_other_folder() {
    let (temp, root) = root();
    let volumes = Volumes::lock(&root).unwrap();
    for name in ["mine", "others"] {
        volumes.create(name, &no_labels()).unwrap();
    }
    let folder = root.volumes().join("mine");
    let resolve = |name| {
        let mounts = volumes.resolve(&[wanted(MountKind::Volume, name)], None);
        mounts.map_err(|error| error.to_string())
    };
    let place = resolve("mine").unwrap().remove(0).resolved;
    assert_eq!(place, folder.join("_data").canonicalize().unwrap());
    // A record that names another volume, or a path in this one, is none.
    let record = fs::read_to_string(folder.join("volume.json")).unwrap();
    for name in ["others", "mine/_data/x", "../.."] {
        let text = record.replace("mine", name);
        fs::write(folder.join("volume.json"), text).unwrap();
        let error = volumes.get("mine").unwrap_err().to_string();
        assert!(error.ends_with("is of another volume"), "{error}");
        resolve("mine").unwrap_err();
        let listed: Vec<_> = volumes.list().unwrap();
        assert_eq!(listed.len(), 1, "{listed:?}");
    }
    fs::write(folder.join("volume.json"), record).unwrap();
    // A link in place of the data is not mounted.
    fs::rename(folder.join("_data"), temp.path().join("data")).unwrap();
    std::os::unix::fs::symlink("/", folder.join("_data")).unwrap();
    let error = resolve("mine").unwrap_err();
    assert!(error.ends_with("leads through a symbolic link"), "{error}");
}

#[test]
fn bytes_on_disk_are_counted_without_following_links() {
    let temp = tempfile::tempdir().unwrap();
    let (inside, outside) = (temp.path().join("in"), temp.path().join("out"));
    for folder in [&inside, &outside] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(outside.join("large"), vec![1; 1 << 20]).unwrap();
    fs::write(inside.join("small"), vec![1; 4096]).unwrap();
    std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
    let bytes = disk_bytes(&inside);
    assert!((4096..1 << 20).contains(&bytes), "{bytes}");
}
