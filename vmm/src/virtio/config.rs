//! A device's configuration space (virtio 1.2 section 2.5): bytes that the driver reads on a vCPU
//! thread and the device changes on the thread that serves it. It is no part of the data path, so a lock is
//! good enough.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of one device's configuration space.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: Mutex<Vec<u8>>,
    /// Offsets the driver may write, everything else ignores writes.
    writable: Range<usize>,
    generation: AtomicU32,
}

impl ConfigSpace {
    /// A space of these bytes, of which the driver may write `writable`.
    #[must_use]
    pub fn new(bytes: Vec<u8>, writable: Range<usize>) -> Self {
        Self {
            bytes: Mutex::new(bytes),
            writable,
            generation: AtomicU32::new(0),
        }
    }

    /// Fills `out` from `offset`; what lies outside reads as zero.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        let bytes = self
            .bytes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Ok(offset) = usize::try_from(offset) else {
            return;
        };
        for (index, byte) in out.iter_mut().enumerate() {
            if let Some(found) = offset.checked_add(index).and_then(|at| bytes.get(at)) {
                *byte = *found;
            }
        }
    }

    /// Takes a driver's write; bytes outside the writable range are dropped.
    pub fn write_from_driver(&self, offset: u64, data: &[u8]) {
        let mut bytes = self
            .bytes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Ok(offset) = usize::try_from(offset) else {
            return;
        };
        for (index, byte) in data.iter().enumerate() {
            let Some(at) = offset.checked_add(index) else {
                return;
            };
            if self.writable.contains(&at)
                && let Some(slot) = bytes.get_mut(at)
            {
                *slot = *byte;
            }
        }
    }

    /// A copy of all of them.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Changes the bytes from the device's side; the caller raises the configuration interrupt.
    pub fn update(&self, change: impl FnOnce(&mut [u8])) {
        let mut bytes = self
            .bytes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut bytes);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// `ConfigGeneration`: changes with every [`Self::update`].
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_writable_range_takes_a_drivers_write() {
        let space = ConfigSpace::new(vec![1, 2, 3, 4], 2..3);
        space.write_from_driver(1, &[9, 9, 9]);
        space.write_from_driver(u64::MAX, &[9, 9]);
        let mut out = [0xff; 6];
        space.read(0, &mut out);
        assert_eq!(out, [1, 2, 9, 4, 0, 0]);
    }

    #[test]
    fn an_update_is_told_by_the_generation() {
        let space = ConfigSpace::new(vec![0; 4], 0..0);
        let before = space.generation();
        space.update(|bytes| bytes.copy_from_slice(&7_u32.to_le_bytes()));
        assert_ne!(space.generation(), before);
        let mut out = [0; 4];
        space.read(0, &mut out);
        assert_eq!(out, [7, 0, 0, 0]);
    }
}
