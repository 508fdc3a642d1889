//! Hostile images: a table of what each one tries and what must come of it, by the classes of attack that
//! docs/hostile.md names. The unpacker's tests run its layers, those of registries and archives its
//! documents, and the VM tests all of it through every verb. It writes bytes itself, so that anything in
//! them can be wrong, and must not know the program under test.

pub mod cases;
pub mod classes;
pub mod image;
pub mod limits;
pub mod listing;
pub mod tarball;
pub mod turns;

pub use cases::{Case, Content, Expected, NotStarted, Seen, Verbs, cases};
pub use classes::{CLASSES, Class};
pub use image::{Base, Draft, Image, Layer};

/// A folder of the host that images aim at: it must stay as it is.
pub const CANARY: &str = "/tmp/bulkhead-canary";

/// How every file begins that must not be on the host.
pub const PWNED: &str = "pwned";
