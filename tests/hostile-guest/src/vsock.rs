//! vsock packets no driver would send (virtio 1.2 section 5.10), and bytes on the control port that
//! are no agent's.

use crate::machine::{Random, SCRATCH, fill, put, read, write};
use crate::say;
use crate::virtio::{Device, Queue, VSOCK};

const RINGS: u64 = SCRATCH;
const HEADER: u64 = SCRATCH + (1 << 20);
const PAYLOAD: u64 = SCRATCH + (2 << 20);
const BUFFERS: u64 = SCRATCH + (4 << 20);

/// Length of a packet's header, and of each buffer for what is received.
const HEADER_LEN: u32 = 44;
const BUFFER_LEN: u32 = 4096;

const GUEST: u64 = 3;
const HOST: u64 = 2;
const CONTROL: u32 = 1024;

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;

#[derive(Clone, Copy)]
struct Packet {
    from: u64,
    to: u64,
    from_port: u32,
    to_port: u32,
    len: u32,
    kind: u16,
    operation: u16,
    flags: u32,
    room: u32,
    taken: u32,
}

impl Packet {
    fn of(port: u32, operation: u16, len: u32) -> Self {
        Self {
            from: GUEST,
            to: HOST,
            from_port: 5000,
            to_port: port,
            len,
            kind: 1,
            operation,
            flags: 0,
            room: 256 << 10,
            taken: 0,
        }
    }

    fn write(&self) {
        write(HEADER, 8, self.from);
        write(HEADER + 8, 8, self.to);
        write(HEADER + 16, 4, u64::from(self.from_port));
        write(HEADER + 20, 4, u64::from(self.to_port));
        write(HEADER + 24, 4, u64::from(self.len));
        write(HEADER + 28, 2, u64::from(self.kind));
        write(HEADER + 30, 2, u64::from(self.operation));
        write(HEADER + 32, 4, u64::from(self.flags));
        write(HEADER + 36, 4, u64::from(self.room));
        write(HEADER + 40, 4, u64::from(self.taken));
    }
}

struct Socket {
    device: Device,
    receive: Queue,
    transmit: Queue,
    /// Buffers that the device filled and has again.
    returned: u16,
    /// Looks for an answer to a packet.
    patience: u32,
}

impl Socket {
    fn open(patience: u32) -> Option<Self> {
        let device = Device::all().find(|device| device.kind == VSOCK)?;
        let [Some(receive), Some(transmit), ..] = device.bring_up(RINGS) else {
            return None;
        };
        let mut socket = Self {
            device,
            receive,
            transmit,
            returned: 0,
            patience,
        };
        socket.give_buffers();
        Some(socket)
    }

    fn give_buffers(&mut self) {
        for index in 0..self.receive.size {
            let at = BUFFERS + u64::from(index) * u64::from(BUFFER_LEN);
            self.receive.chain_at(index, &[(at, BUFFER_LEN, true)]);
            self.receive.offer(index);
        }
        self.receive.kick();
    }

    /// Gives those back that the device filled, whatever is in them.
    fn return_buffers(&mut self) {
        let used = read(self.receive.used + 2, 2) as u16;
        while self.returned != used {
            self.receive.offer(self.returned % self.receive.size);
            self.returned = self.returned.wrapping_add(1);
        }
        self.receive.kick();
    }

    /// Sends a packet with so many bytes of payload in its chain.
    fn send(&mut self, packet: &Packet, payload: u32) -> bool {
        packet.write();
        if payload == 0 {
            self.transmit.chain(&[(HEADER, HEADER_LEN, false)]);
        } else {
            let chain = [(HEADER, HEADER_LEN, false), (PAYLOAD, payload, false)];
            self.transmit.chain(&chain);
        }
        self.transmit.offer(0);
        self.transmit.kick();
        let taken = self.transmit.wait_for(self.patience);
        if !taken && let Some(fresh) = Self::open(self.patience) {
            *self = fresh;
        }
        taken
    }

    /// Bytes that the host has room for, by what it said last (virtio 1.2 section 5.10.6.3).
    fn credit(&self, sent: u32) -> u32 {
        let used = read(self.receive.used + 2, 2);
        let last = used.wrapping_sub(1) % u64::from(self.receive.size);
        let buffer = BUFFERS + read(self.receive.used + 4 + last * 8, 4) * u64::from(BUFFER_LEN);
        let (room, taken) = (read(buffer + 36, 4) as u32, read(buffer + 40, 4) as u32);
        room.saturating_sub(sent.wrapping_sub(taken))
    }

    /// Connects to the control port; whether the host said so.
    fn connect(&mut self) -> bool {
        self.send(&Packet::of(CONTROL, REQUEST, 0), 0);
        self.receive.wait_for(self.patience);
        read(BUFFERS + 30, 2) as u16 == RESPONSE
    }
}

/// Packets of all kinds of wrong, then connections to more ports than there are, then credit that
/// is not the guest's to give.
pub fn bad_packets(random: &Random, count: u64) {
    let Some(mut socket) = Socket::open(400) else {
        say!("hostile: no vsock");
        return;
    };
    for round in 0..count {
        let len = random.of(&[0, 1, 44, 4096, 65_536, 65_537, 1 << 20, u32::MAX]);
        let mut packet = Packet::of(
            random.of(&[CONTROL, 1025, 1026, 0, 22, u32::MAX, random.next() as u32]),
            random.of(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 0x7fff, 0xffff]),
            len,
        );
        packet.from_port = random.of(&[5000, 5001, 0, u32::MAX, round as u32]);
        packet.room = random.of(&[0, 1, 4096, 0x7fff_ffff, 0x8000_0000, u32::MAX]);
        packet.taken = random.of(&[0, 1, 0x8000_0000, u32::MAX, random.next() as u32]);
        packet.flags = random.of(&[0, 1, 2, 3, u32::MAX]);
        match random.below(16) {
            0 => packet.from = random.of(&[0, 1, 2, u64::MAX]),
            1 => packet.to = random.of(&[0, 1, 3, 4, u64::MAX]),
            2 => packet.kind = random.of(&[0, 2, 3, u16::MAX]),
            _ => {}
        }
        // The payload that is there, or another length.
        let payload = if random.below(3) == 0 {
            random.of(&[0, 1, 65_536, 1 << 20])
        } else {
            len.min(1 << 20)
        };
        // A control connection that ends, or has no frames of an agent, ends the VM: there is none
        // before the last round, and `bad_frames` has those.
        if packet.to_port == CONTROL && packet.operation == REQUEST {
            packet.operation = RESPONSE;
        }
        socket.send(&packet, payload);
        if round % 16 == 0 {
            socket.return_buffers();
        }
    }
    for port in 0..3000 {
        let mut packet = Packet::of(port, REQUEST, 0);
        packet.from_port = 6000 + port;
        packet.room = u32::MAX;
        socket.send(&packet, 0);
        socket.return_buffers();
    }
    let mut credit = Packet::of(CONTROL, CREDIT_UPDATE, 0);
    credit.from_port = 6000 + CONTROL;
    for room in [0, u32::MAX, 1 << 31] {
        (credit.room, credit.taken) = (room, room.wrapping_neg());
        socket.send(&credit, 0);
    }
    socket.device.reset();
    say!("hostile: {count} packets");
}

/// Connects as the agent does and says what no agent says: `count` chooses.
pub fn bad_frames(random: &Random, count: u64) {
    let Some(mut socket) = Socket::open(100_000) else {
        return;
    };
    assert!(socket.connect(), "the control port takes no connection");
    fill(PAYLOAD, 65_536, b'{');
    match count {
        // A frame that is longer than any.
        0 => put(PAYLOAD, &u32::MAX.to_le_bytes()),
        // Random bytes, as a frame of 64 bytes.
        1 => {
            for at in (0..64).step_by(8) {
                write(PAYLOAD + 4 + at, 8, random.next());
            }
            put(PAYLOAD, &64_u32.to_le_bytes());
        }
        // A frame of 1 MiB of which all but the end comes, again and again: JSON that is deep.
        _ => put(PAYLOAD, &(1_u32 << 20).to_le_bytes()),
    }
    const PIECE: u32 = 16_384;
    for sent in (0..65).map(|piece| piece * PIECE) {
        // What there is no credit for would end the connection, and no frame would be read.
        while socket.credit(sent) < PIECE {
            socket.device.status();
        }
        socket.send(&Packet::of(CONTROL, RW, PIECE), PIECE);
    }
    // The host ends the VM, when it has come to read.
    loop {
        socket.device.status();
    }
}
