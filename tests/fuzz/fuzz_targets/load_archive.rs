//! What `load` makes of any outer archive. Its reader gives no more than there is, a name leads
//! somewhere or nowhere but never in circles, a refused archive leaves the store as it was, and a
//! loaded image is there and whole.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};

use bulkhead_fuzz::Input;
use bulkhead_fuzz::archive::archive;
use bulkhead_fuzz::words::assert_printable;
use images::archive::{ArchiveError, MemberKind, Table, read_members};
use images::limits::ARCHIVE_NAME_BYTES;
use images::{Loaded, Platform, Store, load_stream};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const NAMES: [&[u8]; 12] = [
    b"manifest.json",
    b"index.json",
    b"oci-layout",
    b"blobs",
    b"sha256",
    b"c.json",
    b"l",
    b"d",
    b"..",
    b".",
    b"",
    // The digest of nothing.
    b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
];

/// Reads the archive without a store.
fn read(bytes: &[u8]) {
    let mut table = Table::default();
    let mut names = Vec::new();
    let mut total = 0;
    let result = read_members(bytes, |member, content| {
        assert!(member.name.len() as u64 <= ARCHIVE_NAME_BYTES);
        assert!(member.link.len() as u64 <= ARCHIVE_NAME_BYTES);
        match member.kind {
            MemberKind::File => {
                let mut content_bytes = Vec::new();
                if content.read_to_end(&mut content_bytes).is_err() {
                    // As `load` does: the archive ends where its member does.
                    return Ok(());
                }
                total += content_bytes.len();
                if let Some(name) = member.name() {
                    table
                        .insert_content(name, content_bytes.len())
                        .map_err(ArchiveError::Table)?;
                }
            }
            MemberKind::Symlink | MemberKind::Hardlink => {
                table.insert_link(member).map_err(ArchiveError::Table)?
            }
            MemberKind::Other => {}
        }
        names.extend(member.name().map(str::to_owned));
        Ok(())
    });
    if let Err(error) = result {
        assert_printable(&error);
    }
    assert!(total <= bytes.len());
    for name in names {
        if let Err(error) = table.get(&name) {
            assert_printable(&error);
        }
    }
}

struct Place {
    folder: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        // In memory, since a store syncs each of its files.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("a store");
        Self { folder, store }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join("store").join(below)
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).expect("list a folder").count()
}

fn check_loaded(place: &Place, loaded: &[Loaded]) {
    assert!(!loaded.is_empty());
    let listing = place.store.list().expect("a list");
    assert!(listing.damaged.is_empty());
    for one in loaded {
        let image = place.store.resolve(&one.id.to_string()).expect("an image");
        assert_eq!(image.id, one.id);
        assert!(listing.images.iter().any(|listed| listed.id == one.id));
        for layer in &image.layers {
            let blob = place.store.blob(&layer.blob).expect("a layer");
            assert_eq!(blob.metadata().expect("ask a file").len(), layer.size);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = archive(&mut Input::new(bytes), &NAMES);
    read(&bytes);
    let place = Place::new();
    let platform = Platform::new("linux", "amd64", None);
    match load_stream(&place.store, bytes.as_slice(), &platform) {
        Ok(loaded) => {
            check_loaded(&place, &loaded);
            let again = load_stream(&place.store, bytes.as_slice(), &platform);
            assert_eq!(again.expect("what was loaded can be loaded"), loaded);
        }
        Err(error) => {
            assert_printable(&error);
            assert_eq!(count(&place.path("blobs/sha256")), 0);
            let listing = place.store.list().expect("a list");
            assert!(listing.images.is_empty() && listing.damaged.is_empty());
        }
    }
    assert_eq!(count(&place.path("ingest")), 0);
    assert_eq!(count(place.folder.path()), 1);
});
