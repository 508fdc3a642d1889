//! What Landlock takes away, asked of the kernel. It holds for the thread that asks for it.

use std::fs::File;
use std::io::ErrorKind;

use bulkhead_jail::landlock::{Enforcement, restrict};

#[test]
fn a_restricted_thread_opens_nothing_where_the_kernel_can_deny_it() {
    let asked = std::thread::spawn(|| {
        let before = File::open("/dev/null").is_ok();
        let enforced = restrict().unwrap();
        let after = File::open("/dev/null").map_err(|error| error.kind());
        (before, enforced, after.err())
    });
    let (before, enforced, refused) = asked.join().unwrap();
    assert!(before, "it opens before");
    if enforced == Enforcement::None {
        assert_eq!(refused, None, "the kernel has no Landlock");
    } else {
        assert_eq!(refused, Some(ErrorKind::PermissionDenied), "{enforced:?}");
    }
    assert!(File::open("/dev/null").is_ok(), "others are not restricted");
}
