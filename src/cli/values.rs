//! Values of flags: text to checked values, as Docker reads them, and with its words where scripts
//! look for them. [`super::options`] calls it. Pure: nothing is opened or looked up.

pub mod block_io;
pub mod capability;
pub mod device;
pub mod keys;
pub mod lines;
pub mod mount;
pub mod name;
pub mod network;
pub mod number;
pub mod ports;
pub mod rlimit;
pub mod security;
pub mod signal;
pub mod time;

pub use capability::capabilities;
pub use device::device;
pub use keys::detach_keys;
pub use name::container_name;
pub use rlimit::ulimit;
pub use signal::signal;
