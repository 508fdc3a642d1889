//! The vsock packet header (virtio 1.2 section 5.10.6): bytes to a header and back.
//!
//! Used by the device and its connections. It knows no queue, no guest memory and no state: what
//! a field may mean is the connection's business.

/// Bytes of `struct virtio_vsock_hdr`, packed.
pub(super) const HEADER_BYTES: usize = 44;

/// The host's context id (section 5.10.4).
pub(super) const HOST_CID: u64 = 2;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the only type this device carries.
pub(super) const TYPE_STREAM: u16 = 1;

/// Bits of `flags` in a shutdown packet (section 5.10.6.5).
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// As [`SHUTDOWN_RECEIVE`]: the sender of the packet will send no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both directions.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// `op` of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Operation {
    /// Opens a connection.
    Request = 1,
    /// Accepts one.
    Response = 2,
    /// Refuses or ends one.
    Reset = 3,
    /// Says which directions are over.
    Shutdown = 4,
    /// Carries bytes of the stream.
    ReadWrite = 5,
    /// Tells how much room there is.
    CreditUpdate = 6,
    /// Asks for a credit update.
    CreditRequest = 7,
}

impl Operation {
    /// The operation with this number, or `None`: 0 is invalid, the rest is unknown.
    pub(super) fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::ReadWrite,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// The two ports that name a connection, as both ends have one context id each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ports {
    /// The guest's, any number.
    pub(super) guest: u32,
    /// The host's: the one that was offered.
    pub(super) host: u32,
}

/// A header with the numbers as they came or will go; nothing in it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Bytes of payload behind the header.
    pub(super) len: u32,
    /// `type`.
    pub(super) kind: u16,
    /// `op`, see [`Operation::from_wire`].
    pub(super) operation: u16,
    pub(super) flags: u32,
    /// Bytes that the sender's receive buffer holds in all.
    pub(super) buf_alloc: u32,
    /// Bytes that left the sender's receive buffer so far, modulo 2^32.
    pub(super) fwd_cnt: u32,
}

/// The `N` bytes at `at`; callers name constants with `at + N <= HEADER_BYTES`.
fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl Header {
    /// A header of `len` payload bytes from the host to the guest's end of `ports`, without
    /// credit.
    pub(super) fn to_guest(guest_cid: u64, ports: Ports, operation: Operation, len: u32) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: ports.host,
            dst_port: ports.guest,
            len,
            kind: TYPE_STREAM,
            operation: operation as u16,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }

    /// The reset that answers this packet. It repeats the packet's type, as a driver takes a
    /// reset of another type for a stranger's.
    pub(super) fn reset_reply(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            kind: self.kind,
            operation: Operation::Reset as u16,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }

    /// Reads the little-endian fields.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        Self {
            src_cid: u64::from_le_bytes(field(bytes, 0)),
            dst_cid: u64::from_le_bytes(field(bytes, 8)),
            src_port: u32::from_le_bytes(field(bytes, 16)),
            dst_port: u32::from_le_bytes(field(bytes, 20)),
            len: u32::from_le_bytes(field(bytes, 24)),
            kind: u16::from_le_bytes(field(bytes, 28)),
            operation: u16::from_le_bytes(field(bytes, 30)),
            flags: u32::from_le_bytes(field(bytes, 32)),
            buf_alloc: u32::from_le_bytes(field(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(field(bytes, 40)),
        }
    }

    /// Writes the little-endian fields.
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.operation.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_laid_out_as_the_specification_has_it() {
        let header = Header {
            src_cid: 0x0807_0605_0403_0201,
            dst_cid: 0x100f_0e0d_0c0b_0a09,
            src_port: 0x1413_1211,
            dst_port: 0x1817_1615,
            len: 0x1c1b_1a19,
            kind: 0x1e1d,
            operation: 0x201f,
            flags: 0x2423_2221,
            buf_alloc: 0x2827_2625,
            fwd_cnt: 0x2c2b_2a29,
        };
        let expected: Vec<u8> = (1..=44).collect();
        assert_eq!(header.to_bytes().as_slice(), expected);
        assert_eq!(Header::from_bytes(&header.to_bytes()), header);
    }

    #[test]
    fn only_the_seven_operations_are_known() {
        for number in 0..=u16::MAX {
            let known = Operation::from_wire(number);
            assert_eq!(known.is_some(), (1..=7).contains(&number), "{number}");
            if let Some(operation) = known {
                assert_eq!(operation as u16, number);
            }
        }
    }

    #[test]
    fn a_reset_goes_back_the_way_the_packet_came() {
        let mut packet = Header::to_guest(3, Ports { guest: 7, host: 9 }, Operation::ReadWrite, 5);
        packet.kind = 2;
        let reply = packet.reset_reply();
        assert_eq!(
            (
                reply.src_cid,
                reply.dst_cid,
                reply.src_port,
                reply.dst_port,
                reply.kind,
                reply.operation,
                reply.len
            ),
            (3, 2, 7, 9, 2, 3, 0)
        );
    }
}
