//! What is shared is found, and what somebody else may have made is not used.

use std::os::unix::fs::{FileExt, symlink};

use super::*;

fn own() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn key(name: &[u8]) -> LayerKey {
    LayerKey {
        diff_id: Digest::of(name),
        blob: Digest::of(b"blob"),
    }
}

fn disk(content: &[u8]) -> LayerDisk {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.set_len(4096).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    LayerDisk { file, len: 4096 }
}

fn image(name: &str, layers: &[&[u8]]) -> SharedImage {
    SharedImage {
        id: Digest::of(name.as_bytes()),
        names: vec![name.to_owned()],
        layers: layers.iter().map(|layer| key(layer)).collect(),
    }
}

fn shared(temp: &tempfile::TempDir) -> SharedDisks {
    SharedDisks::at(&temp.path().join("shared"), own())
}

#[test]
fn what_is_shared_is_found_until_it_is_not_shared_any_more() {
    let temp = tempfile::tempdir().unwrap();
    let shared = shared(&temp);
    assert!(shared.get(&key(b"a")).unwrap().is_none());
    assert_eq!(shared.images().unwrap(), []);
    shared
        .add(&image("one", &[b"a", b"b"]), &[disk(b"1"), disk(b"2")])
        .unwrap();
    shared
        .add(&image("two", &[b"a", b"c"]), &[disk(b"no"), disk(b"3")])
        .unwrap();
    let begins = |name: &[u8]| {
        let found = shared.get(&key(name)).unwrap().unwrap();
        let mut start = [0; 1];
        found.file.read_exact_at(&mut start, 0).unwrap();
        (start, found.len)
    };
    // What is there stays as it is: others have it open.
    assert_eq!(begins(b"a"), (*b"1", 4096));
    assert_eq!(begins(b"c"), (*b"3", 4096));
    let names: Vec<_> = shared
        .images()
        .unwrap()
        .into_iter()
        .flat_map(|(image, _)| image.names)
        .collect();
    assert_eq!(
        HashSet::from_iter(names),
        HashSet::from(["one".to_owned(), "two".to_owned()])
    );
    let open = shared.get(&key(b"b")).unwrap().unwrap();
    assert!(shared.remove("one").unwrap() > 0);
    assert!(shared.get(&key(b"b")).unwrap().is_none());
    assert_eq!(begins(b"a"), (*b"1", 4096));
    let mut start = [0; 1];
    open.file.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(&start, b"2");
    let short = image("two", &[])
        .id
        .hex()
        .chars()
        .take(12)
        .collect::<String>();
    shared.remove(&short).unwrap();
    assert_eq!(
        std::fs::read_dir(temp.path().join("shared"))
            .unwrap()
            .count(),
        0
    );
    for text in ["two", "", "sha256:"] {
        let error = shared.remove(text).unwrap_err().to_string();
        assert_eq!(error, format!("no shared image: {text}"));
    }
}

#[test]
fn a_short_id_of_several_removes_none_and_a_name_goes_first() {
    let temp = tempfile::tempdir().unwrap();
    let shared = shared(&temp);
    // Of seventeen ids two begin with the same digit.
    let mut digits = std::collections::HashMap::new();
    for number in 0..17 {
        let image = image(&format!("image-{number}"), &[]);
        shared.add(&image, &[]).unwrap();
        *digits.entry(image.id.hex().remove(0)).or_insert(0) += 1;
    }
    let digit = digits.iter().find(|(_, count)| **count > 1).unwrap().0;
    let digit = digit.to_string();
    assert_eq!(
        shared.remove(&digit).unwrap_err().to_string(),
        format!("image id {digit} is ambiguous: several shared images begin with it")
    );
    assert_eq!(shared.images().unwrap().len(), 17);
    shared.add(&image(&digit, &[]), &[]).unwrap();
    shared.remove(&digit).unwrap();
    assert_eq!(shared.images().unwrap().len(), 17);
}

#[test]
fn no_more_are_shared_than_the_limit_and_whatever_there_is_can_be_unshared() {
    let temp = tempfile::tempdir().unwrap();
    let shared = shared(&temp);
    let numbered = |number: usize| image(&format!("image-{number}"), &[]);
    // As nobody else is writing: each write is brought to the disk otherwise.
    let record_of = |image: &SharedImage| {
        let text = serde_json::to_vec(image).unwrap();
        std::fs::write(shared.folder().join(record(&image.id)), text).unwrap();
    };
    shared.add(&numbered(0), &[]).unwrap();
    (1..SHARED_IMAGES).for_each(|number| record_of(&numbered(number)));
    let one_more = numbered(SHARED_IMAGES);
    let error = shared.add(&one_more, &[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "1000 images are shared, the limit: unshare one first"
    );
    // One that is shared may be so again.
    shared.add(&numbered(0), &[]).unwrap();
    // As an older version has left it.
    record_of(&one_more);
    assert_eq!(shared.images().unwrap().len(), SHARED_IMAGES + 1);
    shared.remove("image-7").unwrap();
    shared.add(&numbered(7), &[]).unwrap_err();
    shared.remove("image-8").unwrap();
    shared.add(&numbered(7), &[]).unwrap();
    assert_eq!(shared.images().unwrap().len(), SHARED_IMAGES);
}

#[test]
fn a_lock_that_any_user_may_hold_keeps_nobody_waiting() {
    let temp = tempfile::tempdir().unwrap();
    let shared = shared(&temp);
    shared.add(&image("one", &[b"a"]), &[disk(b"1")]).unwrap();
    let folder = temp.path().join("shared");
    let open = File::open(&folder).unwrap();
    let _held = lock::try_lock(open).unwrap().expect("free");
    let (done, removed) = std::sync::mpsc::channel();
    let other = shared.clone();
    std::thread::spawn(move || done.send(other.remove("one")));
    let removed = removed.recv_timeout(std::time::Duration::from_secs(20));
    assert!(removed.expect("it waits for nobody").is_ok());

    let alone = shared.lock().unwrap().expect("the folder is there");
    let path = folder.join(LOCK);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert!(lock::try_open_locked(&path).unwrap().is_none());
    drop(alone);
    assert!(!path.exists());
}

#[test]
fn all_may_read_it_whatever_the_umask() {
    let temp = tempfile::tempdir().unwrap();
    let shared = shared(&temp);
    shared.add(&image("one", &[b"a"]), &[disk(b"1")]).unwrap();
    let folder = temp.path().join("shared");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&folder), 0o755);
    for entry in std::fs::read_dir(&folder).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o444);
    }
}

#[test]
fn what_somebody_else_may_have_made_is_not_used() {
    let temp = tempfile::tempdir().unwrap();
    let shared = shared(&temp);
    shared.add(&image("one", &[b"a"]), &[disk(b"1")]).unwrap();
    let folder = temp.path().join("shared");
    let path = folder.join(key(b"a").file_name());
    let why = |shared: &SharedDisks| match shared.get(&key(b"a")) {
        Err(SharedError::Untrusted { path, why }) => (path.file_name().unwrap().to_owned(), why),
        other => panic!("{other:?}"),
    };
    let set =
        |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let name = path.file_name().unwrap().to_owned();
    for mode in [0o464, 0o446] {
        set(&path, mode);
        assert_eq!(
            why(&shared),
            (name.clone(), "others than root may write it")
        );
    }
    set(&path, 0o444);
    for mode in [0o775, 0o757, 0o1777] {
        set(&folder, mode);
        let of_folder = (
            std::ffi::OsString::from("shared"),
            "others than root may write it",
        );
        assert_eq!(why(&shared), of_folder);
        assert!(shared.add(&image("x", &[]), &[]).is_err());
        assert!(shared.remove("one").is_err());
    }
    set(&folder, 0o755);
    let others = SharedDisks::at(&folder, own() + 1);
    assert_eq!(why(&others).1, "it is not root's");
    std::fs::rename(&path, folder.join("elsewhere")).unwrap();
    symlink("elsewhere", &path).unwrap();
    assert_eq!(why(&shared), (name.clone(), "it is a link"));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(why(&shared), (name.clone(), "it is no regular file"));
    std::fs::remove_dir(&path).unwrap();
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    assert_eq!(why(&shared), (name.clone(), "it is no regular file"));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "short").unwrap();
    set(&path, 0o444);
    assert_eq!(
        why(&shared),
        (name, "its length is none that a disk can have")
    );
    let link = temp.path().join("link");
    symlink(&folder, &link).unwrap();
    assert!(SharedDisks::at(&link, own()).get(&key(b"a")).is_err());
}

#[test]
fn what_nobody_finished_goes_and_damage_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let shared = shared(&temp);
    shared.add(&image("one", &[b"a"]), &[disk(b"1")]).unwrap();
    let folder = temp.path().join("shared");
    std::fs::write(folder.join(".new-x"), "half").unwrap();
    // It says that it is longer than it is.
    let cut = LayerDisk {
        len: 8192,
        ..disk(b"2")
    };
    assert!(shared.add(&image("two", &[b"b"]), &[cut]).is_err());
    assert!(shared.get(&key(b"b")).unwrap().is_none());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    let damaged = folder.join(record(&Digest::of(b"three")));
    std::fs::write(&damaged, "{").unwrap();
    std::fs::set_permissions(&damaged, Permissions::from_mode(0o444)).unwrap();
    let error = shared.images().unwrap_err().to_string();
    assert!(
        error.ends_with("is not used: it is no record of an image"),
        "{error}"
    );
}
