//! Credit of one connection, both ways (virtio 1.2 section 5.10.6.3): how much each end may send
//! before the other made room.
//!
//! Used by a connection. Counters run modulo 2^32; it knows no bytes, only how many.

use super::packet::Header;

/// Bytes that one connection holds for a host that reads slowly, which is the credit the guest
/// has. Linux sends packets of 64 KiB at most, so that four are under way before it must wait.
pub(super) const BUFFER_BYTES: u32 = 256 << 10;

/// Bytes of room that the guest was not told of yet and that are worth a packet: a quarter, so
/// that a guest that sends without pause always has three quarters in hand.
const UPDATE_BYTES: u32 = BUFFER_BYTES / 4;

/// The counters. They are all that a connection's flow depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Credit {
    /// Payload bytes sent to the guest so far (`tx_cnt`).
    sent: u32,
    /// What the guest said last: its whole buffer, and what left it.
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    /// Payload bytes from the guest that went on to the host or were discarded (`fwd_cnt`).
    forwarded: u32,
    /// `forwarded` as the guest was told last.
    told: u32,
}

impl Credit {
    /// Takes what a packet says of the guest's buffer. A `fwd_cnt` that goes backwards (packets
    /// of two guest threads may overtake each other) or claims more than was sent changes
    /// nothing, so a lie never buys more than `buf_alloc` bytes under way.
    pub(super) fn learn(&mut self, packet: &Header) {
        self.peer_buf_alloc = packet.buf_alloc;
        let advance = packet.fwd_cnt.wrapping_sub(self.peer_fwd_cnt);
        if advance <= self.under_way() {
            self.peer_fwd_cnt = packet.fwd_cnt;
        }
    }

    /// Bytes sent to the guest that it did not take out of its buffer yet.
    fn under_way(&self) -> u32 {
        self.sent.wrapping_sub(self.peer_fwd_cnt)
    }

    /// Bytes that may be sent to the guest now.
    pub(super) fn available(&self) -> u32 {
        self.peer_buf_alloc.saturating_sub(self.under_way())
    }

    /// Counts bytes sent to the guest, at most [`Self::available`].
    pub(super) fn spend(&mut self, bytes: u32) {
        debug_assert!(bytes <= self.available());
        self.sent = self.sent.wrapping_add(bytes);
    }

    /// Counts bytes from the guest that left the buffer.
    pub(super) fn forward(&mut self, bytes: u32) {
        self.forwarded = self.forwarded.wrapping_add(bytes);
    }

    /// Whether the guest should hear of the room it gained.
    pub(super) fn update_due(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= UPDATE_BYTES
    }

    /// Writes our side's credit into a packet that goes out now.
    pub(super) fn stamp(&mut self, packet: &mut Header) {
        packet.buf_alloc = BUFFER_BYTES;
        packet.fwd_cnt = self.forwarded;
        self.told = self.forwarded;
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::{Operation, Ports};
    use super::*;

    fn says(buf_alloc: u32, fwd_cnt: u32) -> Header {
        let ports = Ports { guest: 1, host: 1 };
        let mut packet = Header::to_guest(3, ports, Operation::CreditUpdate, 0);
        packet.buf_alloc = buf_alloc;
        packet.fwd_cnt = fwd_cnt;
        packet
    }

    #[test]
    fn what_is_sent_comes_back_with_the_count() {
        let mut credit = Credit::default();
        assert_eq!(credit.available(), 0);
        credit.learn(&says(100, 0));
        credit.spend(60);
        assert_eq!(credit.available(), 40);
        credit.learn(&says(100, 50));
        assert_eq!(credit.available(), 90);
    }

    #[test]
    fn counters_wrap() {
        let near = u32::MAX - 9;
        let mut credit = Credit {
            sent: near,
            peer_fwd_cnt: near,
            peer_buf_alloc: 100,
            forwarded: u32::MAX,
            told: u32::MAX,
        };
        credit.spend(30);
        assert_eq!((credit.sent, credit.available()), (20, 70));
        credit.learn(&says(100, 20));
        assert_eq!(credit.available(), 100);
        credit.forward(UPDATE_BYTES);
        assert!(credit.update_due());
        let mut packet = says(0, 0);
        credit.stamp(&mut packet);
        assert_eq!(
            (packet.buf_alloc, packet.fwd_cnt),
            (BUFFER_BYTES, UPDATE_BYTES - 1)
        );
        assert!(!credit.update_due());
    }

    #[test]
    fn a_count_that_lies_changes_nothing() {
        let mut credit = Credit::default();
        credit.learn(&says(100, 0));
        credit.spend(80);
        credit.learn(&says(100, 50));
        for lie in [49, 0, 81, u32::MAX, 50_u32.wrapping_sub(1 << 31)] {
            credit.learn(&says(100, lie));
            assert_eq!(credit.available(), 70, "fwd_cnt {lie}");
        }
    }

    #[test]
    fn a_buffer_that_shrinks_leaves_no_credit() {
        let mut credit = Credit::default();
        credit.learn(&says(u32::MAX, 0));
        credit.spend(500);
        credit.learn(&says(100, 0));
        assert_eq!(credit.available(), 0);
        credit.learn(&says(100, 450));
        assert_eq!(credit.available(), 50);
    }

    /// Counters and claims at each border of their 32 bits: a lie buys no more than `buf_alloc` bytes
    /// under way, and nothing overflows.
    #[test]
    fn no_claim_buys_more_than_the_buffer() {
        const BORDERS: [u32; 11] = [
            0,
            1,
            2,
            255,
            256,
            257,
            0x7fff_ffff,
            0x8000_0000,
            0x8000_0001,
            u32::MAX - 1,
            u32::MAX,
        ];
        for sent in BORDERS {
            for peer_fwd_cnt in BORDERS {
                for buf_alloc in BORDERS {
                    for claimed in BORDERS {
                        let mut credit = Credit {
                            sent,
                            peer_fwd_cnt,
                            ..Credit::default()
                        };
                        let before = credit.under_way();
                        credit.learn(&says(buf_alloc, claimed));
                        assert!(credit.under_way() <= before);
                        let under_way = u64::from(credit.under_way());
                        let in_all = under_way + u64::from(credit.available());
                        assert!(in_all <= u64::from(buf_alloc).max(under_way));
                        credit.spend(credit.available());
                        assert_eq!(credit.available(), 0);
                    }
                }
            }
        }
    }
}
