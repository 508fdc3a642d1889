//! Pulls over HTTP from a registry in the test itself.

mod client;
mod hostile;
mod login;
mod pull;
mod resume;
#[path = "../../src/sample.rs"]
#[allow(dead_code)]
mod sample;
mod server;
mod tls;
