//! Members of archives on their way into the store.

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn loads(store: &Store) -> usize {
    std::fs::read_dir(store.ingest()).unwrap().count()
}

#[test]
fn a_member_is_hashed_and_can_become_a_blob() {
    let (_dir, store) = store();
    let mut spool = store.spool().unwrap();
    let spooled = spool.copy(&mut &b"content"[..], 7).unwrap();
    assert_eq!((spooled.digest, spooled.size), (Digest::of(b"content"), 7));
    assert_eq!(spooled.read(7).unwrap(), b"content");
    assert_eq!(&spooled.magic().unwrap(), b"cont");
    assert!(matches!(
        spooled.read(6),
        Err(StoreError::TooLarge { limit: 6 })
    ));
    store.adopt(&spooled).unwrap();
    // A second image with the same layer finds it there.
    store.adopt(&spooled).unwrap();
    assert_eq!(
        store.document(&Digest::of(b"content"), 7).unwrap(),
        b"content"
    );
    drop(spool);
    assert_eq!(loads(&store), 0);
}

#[test]
fn too_long_a_member_leaves_nothing() {
    let (_dir, store) = store();
    let mut spool = store.spool().unwrap();
    let endless = spool.copy(&mut io::repeat(7), 1 << 20);
    assert!(matches!(
        endless,
        Err(StoreError::TooLarge { limit: 1_048_576 })
    ));
    assert_eq!(std::fs::read_dir(spool.dir.path()).unwrap().count(), 0);
    assert_eq!(
        &spool.copy(&mut &b"ab"[..], 2).unwrap().magic().unwrap(),
        b"ab\0\0"
    );
}

#[test]
fn only_directories_of_dead_loads_are_removed() {
    let (dir, store) = store();
    let live = store.spool().unwrap();
    std::fs::create_dir(store.ingest().join("load-dead")).unwrap();
    std::fs::write(store.ingest().join("load-dead/1"), "half").unwrap();
    Store::open(dir.path()).unwrap();
    assert!(live.dir.path().exists());
    assert_eq!(loads(&store), 1);
}
