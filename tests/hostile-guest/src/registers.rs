//! Registers and ports: each in each state of the device, and any at random.

use crate::machine::{
    MMIO_START, RAM_END, REGION_LEN, RESET_PORT, Random, SCRATCH, SCRATCH_LEN, port_read,
    port_strings, port_write, read, resets, write,
};
use crate::say;
use crate::virtio::{ACKNOWLEDGE, DRIVER, Device, SLOTS};

const WIDTHS: [u8; 4] = [1, 2, 4, 8];

/// Values at which comparisons and shifts go wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    2,
    3,
    255,
    256,
    1023,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    u64::MAX,
];

/// Offsets between and beyond registers.
const ODD_OFFSETS: [u64; 8] = [1, 2, 3, 0x4e, 0x71, 0xff, 0xffc, 0xfff];

/// States that a driver can bring a device to.
const STATES: [&str; 7] = [
    "reset",
    "acknowledged",
    "driver",
    "features",
    "running",
    "broken",
    "failed",
];

/// Counts what was done, and says so now and then: a VM that is ended meanwhile has its count told.
struct Count(u64);

impl Count {
    fn add(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(10_000) {
            say!("hostile: {} accesses", self.0);
        }
    }
}

/// Brings a device to a state.
fn enter(device: Device, state: &str) {
    device.reset();
    match state {
        "acknowledged" => device.set(0x70, ACKNOWLEDGE),
        "driver" => {
            device.set(0x70, ACKNOWLEDGE);
            device.set(0x70, ACKNOWLEDGE | DRIVER);
        }
        "features" => {
            device.negotiate(0);
        }
        "running" => {
            device.bring_up(SCRATCH);
        }
        "broken" => {
            // A queue outside of memory.
            device.negotiate(0);
            device.place_queue(0, 8, [u64::MAX << 12, RAM_END, RAM_END]);
            device.start();
        }
        "failed" => {
            device.set(0x70, ACKNOWLEDGE);
            device.set(0x70, ACKNOWLEDGE | 128);
        }
        _ => {}
    }
}

/// Each register and some of the configuration space, each width, reads and edges, in each state.
pub fn every_one_in_every_state() {
    let mut count = Count(0);
    for device in Device::all() {
        let before = count.0;
        for state in STATES {
            enter(device, state);
            let mut entered = device.status();
            for offset in (0..0x140_u64).step_by(4).chain(ODD_OFFSETS) {
                for width in WIDTHS {
                    read(device.base + offset, width);
                    count.add();
                    // Registers are words: the other widths have the first edges only.
                    let edges = if width == 4 { EDGES.len() } else { 2 };
                    for value in &EDGES[EDGES.len() - edges..] {
                        write(device.base + offset, width, *value);
                        count.add();
                    }
                }
                if offset % 64 == 60 {
                    // With what was written there, all queues are kicked.
                    device.start();
                    for queue in 0..4 {
                        device.set(0x50, queue);
                        count.add();
                    }
                }
                if device.status() != entered {
                    enter(device, state);
                    entered = device.status();
                }
            }
        }
        device.reset();
        assert!(device.status() == 0, "a device that does not reset");
        let these = count.0 - before;
        say!("hostile: device {} had {these} of them", device.kind);
    }
    say!("hostile: {} accesses", count.0);
}

/// An address that devices may write to, or that is none.
fn some_address(random: &Random) -> u64 {
    match random.below(8) {
        0 => RAM_END - random.below(64),
        1 => RAM_END + random.below(1 << 20),
        2 => MMIO_START + random.below(REGION_LEN * SLOTS),
        3 => random.next() | 1 << 40,
        _ => SCRATCH + (random.below(SCRATCH_LEN / 2) & !0xf),
    }
}

fn some_value(random: &Random) -> u64 {
    match random.below(4) {
        0 => random.next(),
        1 => random.below(256),
        _ => random.of(&EDGES),
    }
}

/// So many accesses to any port, register, width and value.
pub fn at_random(random: &Random, count: u64) {
    // Descriptors as bad as the rest.
    for at in (SCRATCH..SCRATCH + (1 << 20)).step_by(16) {
        write(at, 8, some_address(random));
        write(at + 8, 8, random.next());
    }
    let mut done = Count(0);
    while done.0 < count {
        match random.below(64) {
            0 => {
                // On to where registers matter more.
                if let Some(device) = Device::at(random.below(SLOTS)) {
                    enter(device, random.of(&STATES));
                }
            }
            1 => {
                let port = some_port(random);
                if !is_serial(port) && port != RESET_PORT {
                    port_strings(port, 1 + random.below(64) as u32);
                }
            }
            2..16 => {
                let (port, width) = (some_port(random), random.of(&[1, 2, 4]));
                let value = some_value(random) as u32;
                if random.below(2) == 0 {
                    port_read(port, width);
                } else if !resets(port, width, value) && !is_serial(port) {
                    port_write(port, width, value);
                }
            }
            16..20 => {
                // No RAM and no device, below and above.
                let address = RAM_END + random.below((MMIO_START - RAM_END) * 10 / 9);
                let width = random.of(&WIDTHS);
                if random.below(2) == 0 {
                    read(address, width);
                } else if address < MMIO_START {
                    write(address, width, random.next());
                }
            }
            _ => register_access(random),
        }
        done.add();
    }
    say!("hostile: {} accesses", done.0);
}

fn register_access(random: &Random) {
    let base = MMIO_START + random.below(SLOTS + 1) * REGION_LEN;
    let offset = match random.below(8) {
        0 => random.below(REGION_LEN),
        1 => 0x100 + random.below(0x60),
        _ => random.below(0x40) * 4,
    };
    let width = if random.below(4) == 0 {
        random.of(&WIDTHS)
    } else {
        4
    };
    if random.below(3) == 0 {
        read(base + offset, width);
        return;
    }
    let value = match offset {
        // Places of rings: scratch memory or none, never the program. The high halves too.
        0x7d..0xb0 if offset & 4 == 0 && width == 4 => some_address(random),
        0x7d..0xb0 if width == 4 => random.of(&[0, 0, 0, 1, u64::MAX]),
        0x7d..0xb0 => return,
        0x70 => random.of(&[0, 1, 3, 11, 15, 15, 15, 0x80, 0xff, u64::MAX]),
        0x50 | 0x30 => random.below(5),
        _ => some_value(random),
    };
    write(base + offset, width, value);
}

fn some_port(random: &Random) -> u16 {
    match random.below(4) {
        0 => random.of(&[
            0x3f8, 0x3f9, 0x3fb, 0x3fd, 0x64, 0x60, 0xcf8, 0xcfc, 0x70, 0x71,
        ]),
        1 => random.next() as u16,
        _ => random.below(0x1000) as u16,
    }
}

/// The serial port keeps its room for what is said.
fn is_serial(port: u16) -> bool {
    (0x3f8..0x400).contains(&port)
}
