//! What is made of any text as an image's name. What is taken is fit for a URL and a terminal, within
//! the grammar's limits, and means the same in each of its forms.
#![no_main]

use bulkhead_fuzz::words::assert_printable;
use images::limits::{NAME_BYTES, TAG_BYTES};
use images::{Digest, Reference};
use libfuzzer_sys::fuzz_target;

fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:[]@".contains(&byte);
    text.bytes().all(plain)
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Digest::parse(text) {
        Ok(digest) => assert_eq!(digest.to_string(), text),
        Err(error) => assert_printable(&error),
    }
    let reference = match Reference::parse(text) {
        Ok(reference) => reference,
        Err(error) => return assert_printable(&error),
    };
    let canonical = reference.to_string();
    assert!(is_plain(&canonical), "{canonical:?}");
    assert!(reference.repository().len() <= NAME_BYTES);
    assert!(reference.tag().is_none_or(|tag| tag.len() <= TAG_BYTES));
    assert!(reference.tag().is_some() || reference.digest().is_some());
    let has_dots = |part: &str| part.is_empty() || part.starts_with('.');
    assert!(!reference.path().split('/').any(has_dots), "{canonical:?}");
    for form in [canonical, reference.familiar()] {
        let again = Reference::parse(&form);
        assert_eq!(again.as_ref(), Ok(&reference), "{form:?}");
    }
    let by_digest = reference.with_digest(Digest::of(bytes));
    assert_eq!(Reference::parse(&by_digest.to_string()), Ok(by_digest));
});
