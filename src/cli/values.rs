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

/// What a flag says. As in Docker, nothing is as good as no flag.
pub fn given(flag: &Option<String>) -> Option<&str> {
    flag.as_deref().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_says_nothing_is_none() {
        assert_eq!(given(&None), None);
        assert_eq!(given(&Some(String::new())), None);
        assert_eq!(given(&Some("x".to_owned())), Some("x"));
    }
}
