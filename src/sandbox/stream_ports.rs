//! vsock ports of the streams of what is started while a container runs.
//!
//! A port answers whoever in the guest connects first. One that could be guessed would be taken by a
//! workload that may open vsock sockets: what a command types or reads would be its. Called by
//! [`super::supervisor`].

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

/// vsock port of a process's stdin, stdout, and stderr that are there before anything runs.
pub const MAIN_PORTS: [u32; 3] = [
    protocol::FIRST_STREAM_PORT,
    protocol::FIRST_STREAM_PORT + 1,
    protocol::FIRST_STREAM_PORT + 2,
];

/// `VMADDR_PORT_ANY` of `linux/vm_sockets.h`, which names none.
const ANY: u32 = u32::MAX;

/// So many that were drawn last are not drawn again: as many as can wait in a VMM at once.
const UNDER_WAY_MAX: usize = vmm::virtio::vsock::MAX_OFFERED_PORTS;

/// Draws them.
#[derive(Debug, Default)]
pub struct StreamPorts {
    drawn: VecDeque<u32>,
}

impl StreamPorts {
    /// A port that nobody can guess and nobody else is about to use.
    ///
    /// # Errors
    /// When the host has no random bytes.
    pub fn draw(&mut self) -> Result<u32> {
        let mut random = File::open("/dev/urandom").context("open /dev/urandom")?;
        self.draw_from(|| {
            let mut bytes = [0; 4];
            random.read_exact(&mut bytes).context("read /dev/urandom")?;
            Ok(u32::from_le_bytes(bytes))
        })
    }

    fn draw_from(&mut self, mut random: impl FnMut() -> Result<u32>) -> Result<u32> {
        let [_, _, last] = MAIN_PORTS;
        let port = loop {
            let port = random()?;
            if port > last && port != ANY && !self.drawn.contains(&port) {
                break port;
            }
        };
        self.drawn.truncate(UNDER_WAY_MAX - 1);
        self.drawn.push_front(port);
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_ports_and_those_under_way_are_not_drawn() {
        let mut ports = StreamPorts::default();
        let mut random = [0, protocol::CONTROL_PORT, 1025, 1027, ANY, 1028, 1028, 7777].into_iter();
        let mut draw = || ports.draw_from(|| random.next().context("no more"));
        assert_eq!(draw().unwrap(), 1028);
        assert_eq!(draw().unwrap(), 7777);
        draw().unwrap_err();
    }

    #[test]
    fn what_is_remembered_has_a_limit_and_no_two_are_alike() {
        let mut ports = StreamPorts::default();
        let first = ports.draw_from(|| Ok(5000)).unwrap();
        for _ in 0..UNDER_WAY_MAX {
            let port = ports.draw().unwrap();
            assert_ne!(Some(&port), ports.drawn.get(1));
        }
        assert_eq!(ports.drawn.len(), UNDER_WAY_MAX);
        assert!(!ports.drawn.contains(&first));
    }
}
