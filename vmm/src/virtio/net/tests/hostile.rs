//! Drivers that break the rules, and a passt that does.

use super::*;
use crate::virtio::mock::{Descriptor, Flags, REGION_BYTES};

fn refused(queue: usize, offer: impl FnOnce(&mut Net)) -> String {
    let mut net = Net::new(MRG_RXBUF);
    net.arrive(&some(60));
    offer(&mut net);
    let error = match net.driver.run(queue) {
        Err(error) => error,
        Ok(()) => net.driver.poll(0).unwrap_err(),
    };
    // A reset makes good.
    net.driver.reset();
    net.driver.activate(VERSION_1 | MRG_RXBUF).unwrap();
    net.send(&some(80));
    assert_eq!(net.sent(), [some(80)]);
    net.arrive(&some(70));
    net.give(8, 2048);
    net.poll();
    assert_eq!(net.take().unwrap().1, some(60), "{error}");
    assert_eq!(net.take().unwrap().1, some(70), "{error}");
    error.to_string()
}

#[test]
fn chains_that_can_not_be_frames_stop_the_device() {
    let offer = |queue: usize, buffers: &'static [Buffer<'static>]| {
        refused(queue, move |net| {
            net.driver.rings[queue].offer(buffers).unwrap();
        })
    };
    assert_eq!(
        offer(TX, &[Buffer::Readable(&[0; 12]), Buffer::Writable(9)]),
        "queue 1: a frame is writable"
    );
    assert_eq!(
        offer(TX, &[Buffer::Readable(&[0; 11])]),
        "queue 1: a frame has no header"
    );
    assert_eq!(
        offer(RX, &[Buffer::Readable(&[0; 12]), Buffer::Writable(2000)]),
        "queue 0: a buffer for frames is not writable"
    );
    assert_eq!(
        offer(RX, &[Buffer::Writable(11)]),
        "queue 0: a buffer for frames has no room for a header"
    );
    assert_eq!(
        offer(RX, &[Buffer::Writable(0)]),
        "queue 0: a buffer for frames has no room"
    );
}

#[test]
fn buffers_outside_of_memory_stop_the_device() {
    let outside = |queue: usize, flags| {
        refused(queue, move |net| {
            let descriptor = Descriptor {
                address: REGION_BYTES - 16,
                len: 4096,
                flags,
                next: 0,
            };
            net.driver.rings[queue].offer_raw(0, &[descriptor]);
        })
    };
    assert_eq!(
        outside(TX, Flags::NONE),
        "queue 1: a frame is not in memory"
    );
    assert_eq!(
        outside(RX, Flags::WRITE),
        "queue 0: a buffer for frames is not in memory"
    );
}

#[test]
fn a_length_that_no_frame_has_ends_the_network() {
    for length in [0, 13, 65_550, u32::MAX] {
        let mut net = Net::new(MRG_RXBUF);
        net.give(4, 2048);
        net.passt.write_all(&length.to_be_bytes()).unwrap();
        let error = net.driver.poll(0).unwrap_err().to_string();
        assert_eq!(error, format!("read a frame's length: {length} bytes"));
    }
}

#[test]
fn a_ring_full_of_useless_buffers_is_no_busy_loop() {
    let mut net = Net::new(MRG_RXBUF);
    net.arrive(&some(60_000));
    net.give(256, 16);
    assert!(net.driver.watched().is_empty());
    assert!(net.take().is_none());
}

#[test]
fn a_frame_that_changes_after_it_was_judged_is_sent_as_it_was_judged() {
    let mut net = Net::new(0);
    let filler = some(1000);
    net.fill_from_outside(&filler);
    // In one batch behind another, which waits as a whole.
    net.offer(&filler);
    let address = net.driver.rings[TX].place(&[&[0; 12], &some(300)[..]].concat());
    let descriptor = Descriptor {
        address,
        len: 312,
        flags: Flags::NONE,
        next: 0,
    };
    net.driver.rings[TX].set_descriptor(255, descriptor);
    net.driver.rings[TX].publish(255);
    net.driver.run(TX).unwrap();
    assert!(!net.driver.watched().is_empty());
    assert!(net.driver.rings[TX].take_used().is_none());
    // To 127.0.0.1, from another address: where it would be judged now, it would be dropped.
    for (at, evil) in [(30, [127, 0, 0, 1]), (26, [172, 17, 0, 9]), (6, [9; 4])] {
        vm_memory::Bytes::write_slice(
            &net.driver.memory,
            &evil,
            vm_memory::GuestAddress(address + 12 + at),
        )
        .unwrap();
    }
    let before = net.sent();
    assert!(before.iter().all(|frame| *frame == filler));
    net.driver.poll(0).unwrap();
    assert_eq!(net.sent(), [filler, some(300)]);
    assert!(net.driver.watched().is_empty());
}

impl Net {
    /// Sends in the device's place until the socket has no more room, whole frames: a message of less
    /// than 32 KiB goes as a whole or not.
    fn fill_from_outside(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
        let message = [&length, frame].concat();
        loop {
            match self.own.write(&message) {
                Ok(count) => assert_eq!(count, message.len()),
                Err(error) => return assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
}
