//! Names of images that an archive may not give.

use super::*;

#[test]
fn bad_names_of_images_are_refused() {
    for name in ["../../x", "UPPER", "x:\x1b[2J", "sha256:"] {
        let error = refused(&Sample::new(&[b"one"]).docker_archive(&[name]));
        assert!(matches!(error, ArchiveError::Name { .. }), "{name:?}");
        assert!(!error.to_string().contains('\x1b'));
    }
    let error = refused(&Sample::new(&[b"one"]).oci_archive(Some("h.io/../x:1")));
    assert!(matches!(error, ArchiveError::Name { .. }));
}

#[test]
fn a_digest_names_its_own_content_only() {
    let sample = Sample::new(&[b"one"]);
    let (own, other) = (sha(&sample.manifest), sha(b"another image"));
    for digest in [&own, &other] {
        for name in [format!("x@{digest}"), format!("x:1@{digest}")] {
            let error = refused(&sample.docker_archive(&[&name]));
            assert_eq!(
                error.to_string(),
                "refusing to create a tag with a digest reference"
            );
        }
    }
    let name = format!("h.io/x@{other}");
    let error = refused(&sample.oci_archive(Some(&name)));
    assert!(
        matches!(error, ArchiveError::Store(StoreError::TagWithDigest)),
        "{error}"
    );
    // A layout has the very manifest that the registry has, and it is hashed.
    let (_dir, store) = store();
    let name = format!("h.io/x@{own}");
    load_bytes(&store, &sample.oci_archive(Some(&name))).unwrap();
    assert_eq!(store.resolve(&name).unwrap().id.to_string(), sample.id());
}
