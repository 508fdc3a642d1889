//! Writing blobs: resumed, wrong, too long, from two writers.

use std::time::Duration;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn writer(store: &Store, content: &[u8]) -> Box<BlobWriter> {
    match store.begin(&Digest::of(content), len(content)).unwrap() {
        Begin::Writer(writer) => writer,
        other => panic!("{other:?}"),
    }
}

fn len(content: &[u8]) -> u64 {
    content.len().try_into().unwrap()
}

fn ingest(store: &Store) -> usize {
    std::fs::read_dir(store.ingest()).unwrap().count()
}

#[test]
fn a_blob_appears_whole_and_read_only() {
    let (_dir, store) = store();
    let mut writer = writer(&store, b"content");
    writer.write(b"con").unwrap();
    assert!(matches!(
        store.blob(&Digest::of(b"content")),
        Err(StoreError::NoBlob(_))
    ));
    writer.write(b"tent").unwrap();
    writer.commit().unwrap();
    let mut read = String::new();
    let mut blob = store.blob(&Digest::of(b"content")).unwrap();
    blob.read_to_string(&mut read).unwrap();
    assert_eq!(read, "content");
    assert!(blob.write_all(b"x").is_err());
    assert!(blob.metadata().unwrap().permissions().readonly());
    assert_eq!(ingest(&store), 0);
    assert!(matches!(
        store.begin(&Digest::of(b"content"), 7),
        Ok(Begin::Present)
    ));
}

#[test]
fn a_partial_blob_is_resumed() {
    let (_dir, store) = store();
    let mut first = writer(&store, b"content");
    first.write(b"con").unwrap();
    drop(first);
    let mut second = writer(&store, b"content");
    assert_eq!((second.offset(), second.is_resumed()), (3, true));
    second.write(b"tent").unwrap();
    second.commit().unwrap();
    assert!(store.blob(&Digest::of(b"content")).is_ok());
}

#[test]
fn wrong_partial_content_is_found_at_the_end_and_removed() {
    let (_dir, store) = store();
    let mut poisoned = writer(&store, b"content");
    poisoned.write(b"evil").unwrap();
    drop(poisoned);
    let mut writer = writer(&store, b"content");
    writer.write(b"ent").unwrap();
    assert!(matches!(
        writer.commit(),
        Err(StoreError::DigestMismatch { .. })
    ));
    assert_eq!(ingest(&store), 0);
    assert!(matches!(
        store.blob(&Digest::of(b"content")),
        Err(StoreError::NoBlob(_))
    ));
}

#[test]
fn a_writer_can_start_over() {
    let (_dir, store) = store();
    let mut writer = writer(&store, b"content");
    writer.write(b"wrong").unwrap();
    writer.restart().unwrap();
    assert_eq!((writer.offset(), writer.is_resumed()), (0, false));
    writer.write(b"content").unwrap();
    writer.commit().unwrap();
}

#[test]
fn too_much_is_refused_and_too_little_is_kept() {
    let (_dir, store) = store();
    let mut writer = writer(&store, b"content");
    assert!(matches!(
        writer.write(b"content!"),
        Err(StoreError::Overlong { .. })
    ));
    assert_eq!(writer.offset(), 0);
    writer.write(b"cont").unwrap();
    let error = writer.commit().unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::SizeMismatch {
                expected: 7,
                actual: 4,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(ingest(&store), 1);
    assert_eq!(self::writer(&store, b"content").offset(), 4);
}

#[test]
fn a_partial_file_longer_than_the_blob_is_dropped() {
    let (_dir, store) = store();
    let path = store.ingest().join(Digest::of(b"content").hex());
    std::fs::write(&path, "much longer than the content").unwrap();
    assert_eq!(writer(&store, b"content").offset(), 0);
}

#[test]
fn one_writer_at_a_time() {
    let (_dir, store) = store();
    let first = writer(&store, b"content");
    assert!(matches!(
        store.begin(&Digest::of(b"content"), 7),
        Ok(Begin::Busy)
    ));
    assert!(matches!(
        store.begin(&Digest::of(b"other"), 5),
        Ok(Begin::Writer(_))
    ));
    drop(first);
    assert!(matches!(
        store.begin(&Digest::of(b"content"), 7),
        Ok(Begin::Writer(_))
    ));
}

#[test]
fn a_waiting_writer_finds_what_the_other_wrote() {
    let (_dir, store) = store();
    let mut first = writer(&store, b"content");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| store.begin_waiting(&Digest::of(b"content"), 7));
        first.write(b"content").unwrap();
        first.commit().unwrap();
        assert!(matches!(second.join().unwrap(), Ok(Begin::Present)));
    });
    assert_eq!(ingest(&store), 0);
}

#[test]
fn a_wrong_size_is_told_from_a_damaged_blob() {
    let (_dir, store) = store();
    store.put(b"content").unwrap();
    let digest = Digest::of(b"content");
    assert!(matches!(
        store.begin(&digest, 8),
        Err(StoreError::SizeMismatch { .. })
    ));
    std::fs::remove_file(store.blob_path(&digest)).unwrap();
    std::fs::write(store.blob_path(&digest), "cont").unwrap();
    assert!(matches!(store.begin(&digest, 7), Ok(Begin::Writer(_))));
}

#[test]
fn an_empty_blob_needs_no_bytes() {
    let (_dir, store) = store();
    writer(&store, b"").commit().unwrap();
    assert_eq!(
        store
            .blob(&Digest::of(b""))
            .unwrap()
            .metadata()
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn only_old_partials_that_nobody_writes_are_removed() {
    let (_dir, store) = store();
    for content in [&b"old"[..], b"held"] {
        let mut writer = writer(&store, content);
        writer.write(b"x").unwrap();
    }
    let held = writer(&store, b"held");
    store.remove_old_partials(SystemTime::now()).unwrap();
    assert_eq!(ingest(&store), 2);
    let later = SystemTime::now() + PARTIAL_AGE + Duration::from_secs(60);
    store.remove_old_partials(later).unwrap();
    assert_eq!(ingest(&store), 1);
    drop(held);
    store.remove_old_partials(later).unwrap();
    assert_eq!(ingest(&store), 0);
}
