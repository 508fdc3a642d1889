//! What a vCPU reaches by port and memory-mapped I/O: the register block of each virtio device, the
//! early serial port and the reset line. Everything else behaves as empty hardware: reads give all
//! ones, writes go nowhere, so a guest that gropes around only spends its own time.
//!
//! The set is fixed before the first vCPU runs; finding a device takes no lock.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};

use crate::memory::MMIO_START;
use crate::virtio::mmio::{REGION_LEN, Transport};

/// Ports of the first serial port and of the keyboard controller.
const SERIAL: std::ops::Range<u16> = 0x3f8..0x400;
const I8042_COMMAND: u16 = 0x64;
/// Keyboard controller command: pulse the CPU's reset line.
const I8042_RESET: u8 = 0xfe;

/// Bytes of console output that are kept: a boot that goes wrong prints some KiB, and a guest that
/// prints for ever must not fill the host's disk.
const CONSOLE_BYTES_MAX: usize = 256 << 10;

/// A writer that takes [`CONSOLE_BYTES_MAX`] bytes and drops the rest.
struct Console {
    out: Box<dyn Write + Send>,
    left: usize,
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let take = bytes.len().min(self.left);
        self.left -= take;
        if let Some(kept) = bytes.get(..take)
            && take > 0
        {
            // A console that nobody reads is no reason to stop the guest.
            let _ = self.out.write_all(kept);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The serial port's interrupt goes nowhere: it is polled, by the early console only.
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        Ok(())
    }
}

/// The machine's I/O space.
pub(crate) struct Bus {
    /// Register block `i` lies at `MMIO_START + i * REGION_LEN`.
    transports: Vec<Transport>,
    serial: Mutex<Serial<NoInterrupt, NoEvents, Console>>,
    reset: AtomicBool,
}

impl Bus {
    /// A bus of these devices; the serial port prints to `console`.
    pub(crate) fn new(transports: Vec<Transport>, console: Box<dyn Write + Send>) -> Self {
        let console = Console {
            out: console,
            left: CONSOLE_BYTES_MAX,
        };
        Self {
            transports,
            serial: Mutex::new(Serial::new(NoInterrupt, console)),
            reset: AtomicBool::new(false),
        }
    }

    /// The devices' registers, in the guest's order.
    pub(crate) fn transports(&self) -> &[Transport] {
        &self.transports
    }

    /// Whether the guest asked for a reset.
    pub(crate) fn reset_requested(&self) -> bool {
        self.reset.load(Ordering::Acquire)
    }

    fn transport(&self, address: u64) -> Option<(&Transport, u64)> {
        let offset = address.checked_sub(MMIO_START)?;
        let index = usize::try_from(offset / REGION_LEN).ok()?;
        Some((self.transports.get(index)?, offset % REGION_LEN))
    }

    pub(crate) fn mmio_read(&self, address: u64, data: &mut [u8]) {
        match self.transport(address) {
            Some((transport, offset)) => transport.read(offset, data),
            None => data.fill(0xff),
        }
    }

    pub(crate) fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((transport, offset)) = self.transport(address) {
            transport.write(offset, data);
        }
    }

    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let [byte] = data else { return };
        if SERIAL.contains(&port) {
            *byte = self.serial().read(serial_register(port));
        } else if port == I8042_COMMAND {
            // Input buffer empty: the controller takes commands.
            *byte = 0;
        }
    }

    pub(crate) fn port_write(&self, port: u16, data: &[u8]) {
        let [byte] = data else { return };
        if SERIAL.contains(&port) {
            // Fails only where its interrupt or its output does, and neither can.
            let _ = self.serial().write(serial_register(port), *byte);
        } else if port == I8042_COMMAND && *byte == I8042_RESET {
            self.reset.store(true, Ordering::Release);
        }
    }

    fn serial(&self) -> std::sync::MutexGuard<'_, Serial<NoInterrupt, NoEvents, Console>> {
        self.serial
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn serial_register(port: u16) -> u8 {
    u8::try_from(port - SERIAL.start).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_serial_port_prints_up_to_its_limit() {
        let out = Shared::default();
        let bus = Bus::new(Vec::new(), Box::new(out.clone()));
        for _ in 0..CONSOLE_BYTES_MAX + 10 {
            bus.port_write(0x3f8, b"x");
        }
        assert_eq!(out.0.lock().unwrap().len(), CONSOLE_BYTES_MAX);
    }

    #[test]
    fn empty_places_read_as_all_ones_in_every_width() {
        let bus = Bus::new(Vec::new(), Box::new(std::io::sink()));
        for address in [0, MMIO_START - 1, MMIO_START, MMIO_START + 77, u64::MAX] {
            for width in 0..=8 {
                let mut data = vec![0x5a; width];
                bus.mmio_read(address, &mut data);
                assert_eq!(data, vec![0xff; width]);
                bus.mmio_write(address, &data);
            }
        }
        for port in 0..=u16::MAX {
            let mut word = [0; 4];
            bus.port_read(port, &mut word);
            assert_eq!(word, [0xff; 4], "port {port:#x}");
        }
        assert!(!bus.reset_requested());
    }

    #[test]
    fn only_the_reset_command_resets() {
        let bus = Bus::new(Vec::new(), Box::new(std::io::sink()));
        for value in 0..=u8::MAX {
            if value != I8042_RESET {
                bus.port_write(I8042_COMMAND, &[value]);
            }
        }
        assert!(!bus.reset_requested());
        bus.port_write(I8042_COMMAND, &[I8042_RESET]);
        assert!(bus.reset_requested());
    }
}
