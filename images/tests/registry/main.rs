//! Pulls and pushes over HTTP from and to a registry in the test itself.

mod client;
mod hostile;
mod inbox;
mod login;
mod pull;
mod push;
mod push_faults;
mod resume;
#[path = "../../src/sample.rs"]
#[allow(dead_code)]
mod sample;
mod server;
mod tls;
