//! The cache of layer disks: who makes a disk, and what remains when that goes wrong.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::mpsc;

use super::*;

fn key(name: &[u8]) -> LayerKey {
    LayerKey {
        diff_id: Digest::of(name),
        blob: Digest::of(b"blob"),
    }
}

fn pending(disks: &LayerDisks, key: &LayerKey) -> PendingDisk {
    match disks.begin(key).unwrap() {
        Begin::Pending(pending) => pending,
        Begin::Ready(_) => panic!("it is there already"),
    }
}

fn make(disks: &LayerDisks, key: &LayerKey, content: &[u8]) -> LayerDisk {
    let pending = pending(disks, key);
    pending.file().write_all_at(content, 0).unwrap();
    pending.file().set_len(1 << 20).unwrap();
    pending.commit(8192).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_disk_is_made_once_and_then_found() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LayerDisks::open(dir.path()).unwrap();
    assert!(disks.get(&key(b"a")).unwrap().is_none());
    let made = make(&disks, &key(b"a"), b"content");
    assert_eq!(made.len, 8192);
    let found = disks.get(&key(b"a")).unwrap().expect("a disk");
    let mut start = [0; 7];
    found.file.read_exact_at(&mut start, 0).unwrap();
    assert_eq!((found.len, &start), (8192, b"content"));
    assert!(matches!(disks.begin(&key(b"a")).unwrap(), Begin::Ready(disk) if disk.len == 8192));
    assert_eq!(names(dir.path()), [key(b"a").file_name()]);
}

#[test]
fn a_finished_disk_is_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LayerDisks::open(dir.path()).unwrap();
    let made = make(&disks, &key(b"a"), b"x");
    assert_eq!(
        made.file.metadata().unwrap().permissions().mode() & 0o777,
        0o444
    );
    assert!(made.file.write_all_at(b"y", 0).is_err());
    assert!(made.file.set_len(0).is_err());
}

#[test]
fn both_digests_make_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LayerDisks::open(dir.path()).unwrap();
    make(&disks, &key(b"a"), b"hostile");
    let honest = LayerKey {
        diff_id: Digest::of(b"a"),
        blob: Digest::of(b"another blob"),
    };
    assert!(disks.get(&honest).unwrap().is_none());
}

#[test]
fn impossible_lengths_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LayerDisks::open(dir.path()).unwrap();
    for len in [
        0,
        1,
        4095,
        4097,
        (1 << 20) + 4096,
        DISK_BYTES + 4096,
        u64::MAX,
    ] {
        let pending = pending(&disks, &key(b"a"));
        pending.file().set_len(1 << 20).unwrap();
        assert!(
            matches!(pending.commit(len), Err(LayerError::Length { .. })),
            "{len}"
        );
        assert_eq!(names(dir.path()), Vec::<String>::new(), "{len}");
    }
}

#[test]
fn a_dropped_disk_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LayerDisks::open(dir.path()).unwrap();
    let unfinished = pending(&disks, &key(b"a"));
    unfinished.file().set_len(1 << 30).unwrap();
    drop(unfinished);
    assert_eq!(names(dir.path()), Vec::<String>::new());
    assert!(disks.get(&key(b"a")).unwrap().is_none());
}

#[test]
fn what_a_dead_converter_left_is_removed_and_what_a_live_one_writes_stays() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LayerDisks::open(dir.path()).unwrap();
    std::fs::write(disks.temporary(&key(b"dead")), "half").unwrap();
    let live = pending(&disks, &key(b"live"));
    LayerDisks::open(dir.path()).unwrap();
    assert_eq!(names(dir.path()), [key(b"live").file_name() + TEMPORARY]);
    drop(live);
    std::fs::write(disks.temporary(&key(b"dead")), "half").unwrap();
    assert_eq!(
        pending(&disks, &key(b"dead"))
            .file()
            .metadata()
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn a_damaged_disk_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LayerDisks::open(dir.path()).unwrap();
    std::fs::write(disks.path(&key(b"a")), "not a block").unwrap();
    assert!(disks.get(&key(b"a")).unwrap().is_none());
    make(&disks, &key(b"a"), b"new");
    assert_eq!(disks.get(&key(b"a")).unwrap().expect("a disk").len, 8192);
}

#[test]
fn a_second_converter_waits_and_gets_the_firsts_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LayerDisks::open(dir.path()).unwrap();
    let first = pending(&disks, &key(b"a"));
    first.file().set_len(4096).unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let other = disks.clone();
        scope.spawn(move || sender.send(matches!(other.begin(&key(b"a")), Ok(Begin::Ready(_)))));
        // The other layers are free meanwhile.
        drop(pending(&disks, &key(b"b")));
        first.commit(4096).unwrap();
        assert!(receiver.recv().unwrap());
    });
}

#[test]
fn a_second_converter_takes_over_when_the_first_gives_up() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LayerDisks::open(dir.path()).unwrap();
    let first = pending(&disks, &key(b"a"));
    std::thread::scope(|scope| {
        let second = scope.spawn(|| make(&disks, &key(b"a"), b"second").len);
        drop(first);
        assert_eq!(second.join().unwrap(), 8192);
    });
    assert_eq!(names(dir.path()), [key(b"a").file_name()]);
}

#[test]
fn unused_disks_are_removed_but_open_ones_stay_readable() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LayerDisks::open(dir.path()).unwrap();
    make(&disks, &key(b"used"), b"1");
    let unused = make(&disks, &key(b"unused"), b"2");
    std::fs::write(dir.path().join("README"), "someone else's").unwrap();
    let freed = disks.remove_unused(&HashSet::from([key(b"used")])).unwrap();
    assert!(freed > 0);
    assert_eq!(
        names(dir.path()),
        ["README".to_owned(), key(b"used").file_name()]
    );
    let mut start = [0; 1];
    unused.file.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(&start, b"2");
}

#[test]
fn a_symlink_is_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LayerDisks::open(dir.path()).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", disks.path(&key(b"a"))).unwrap();
    assert!(disks.get(&key(b"a")).is_err());
}
