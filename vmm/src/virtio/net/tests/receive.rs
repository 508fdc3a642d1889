//! Frames for the driver.

use super::*;

#[test]
fn a_frame_is_put_into_as_many_buffers_as_it_takes() {
    let mut net = Net::new(MRG_RXBUF | GUEST_CSUM);
    for (bytes, len, want) in [
        (60, 2048, 1),
        (2036, 2048, 1),
        (2037, 2048, 2),
        (65535, 4096, 17),
    ] {
        net.give(want, len);
        let frame = some(bytes);
        net.arrive(&frame);
        net.poll();
        let (header, got, count) = net.take().unwrap();
        assert!(got == frame, "{bytes}");
        assert_eq!(count, want);
        // DATA_VALID, and nothing to complete or cut.
        assert_eq!(header[..10], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn a_driver_that_checks_checksums_is_told_nothing_of_them() {
    let mut net = Net::new(MRG_RXBUF);
    net.give(1, 2048);
    net.arrive(&some(60));
    net.poll();
    assert_eq!(net.take().unwrap().0[0], 0);
}

#[test]
fn many_frames_come_whole_and_in_order_however_they_arrive() {
    let mut net = Net::new(MRG_RXBUF);
    let frames: Vec<_> = (0..60).map(|index| some(60 + index * 131)).collect();
    let mut bytes = Vec::new();
    for frame in &frames {
        bytes.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
        bytes.extend(frame);
    }
    net.give(200, 1536);
    let mut got = Vec::new();
    // Pieces of odd lengths, as a socket may cut them.
    let mut rest = bytes.as_slice();
    let mut piece = 1;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece.min(rest.len()));
        net.passt.write_all(now).unwrap();
        net.poll();
        while let Some((_, frame, count)) = net.take() {
            got.push(frame);
            net.give(count, 1536);
        }
        rest = later;
        piece = piece * 5 % 4093 + 1;
    }
    assert!(got == frames, "{} of {}", got.len(), frames.len());
}

#[test]
fn without_buffers_it_waits_and_does_not_watch() {
    let mut net = Net::new(MRG_RXBUF);
    net.arrive(&some(5000));
    net.arrive(&some(70));
    assert!(net.driver.watched().is_empty());
    // Too few for the first: they are the driver's until there are enough.
    net.give(2, 2048);
    net.poll();
    assert!(net.take().is_none());
    assert!(net.driver.watched().is_empty());
    net.give(1, 2048);
    net.poll();
    assert_eq!(net.take().unwrap().1, some(5000));
    assert!(net.take().is_none());
    net.give(1, 2048);
    net.poll();
    assert_eq!(net.take().unwrap().1, some(70));
}

#[test]
fn nothing_is_read_before_the_driver_gives_a_buffer() {
    let mut net = Net::new(MRG_RXBUF);
    net.arrive(&some(70));
    net.driver.run(RX).unwrap();
    let mut theirs = [0; 4];
    net.peer_sees(&mut theirs);
    assert_eq!(theirs, [0, 0, 0, 70]);
}

#[test]
fn a_driver_without_mergeable_buffers_gets_what_fits_into_one() {
    let mut net = Net::new(0);
    net.give(2, 1526);
    for bytes in [1515, 9000, 60] {
        net.arrive(&some(bytes));
    }
    net.arrive(&some(1514));
    net.poll();
    assert_eq!(net.take().unwrap().1, some(60));
    let (header, frame, _) = net.take().unwrap();
    assert_eq!(frame, some(1514));
    assert_eq!(header[10..], [1, 0]);
}

#[test]
fn all_buffers_of_a_frame_are_seen_at_once_and_interrupt() {
    use crate::virtio::mock::EVENT_IDX;
    let mut net = Net::new(MRG_RXBUF | EVENT_IDX);
    net.give(40, 2048);
    // The driver waits for the tenth buffer from here; the frame's eighteenth is beyond.
    net.driver.rings[RX].set_used_event(9);
    net.driver.take_interrupts();
    net.arrive(&some(36_000));
    net.poll();
    assert_eq!(net.driver.rings[RX].used_index(), 18);
    assert_eq!(net.driver.take_interrupts(), 1);
    assert_eq!(net.take().unwrap().1, some(36_000));
}

#[test]
fn a_reset_in_the_middle_of_a_frame_throws_it_away() {
    let mut net = Net::new(MRG_RXBUF);
    net.give(40, 2048);
    let frame = some(50_000);
    net.passt.write_all(&50_000_u32.to_be_bytes()).unwrap();
    net.passt.write_all(&frame[..20_000]).unwrap();
    net.poll();
    net.driver.reset();
    net.driver.activate(VERSION_1 | MRG_RXBUF).unwrap();
    net.give(4, 2048);
    net.passt.write_all(&frame[20_000..]).unwrap();
    net.arrive(&some(99));
    net.poll();
    assert_eq!(net.take().unwrap().1, some(99));
}

#[test]
fn a_frame_that_has_its_buffers_needs_no_more_of_them() {
    let mut net = Net::new(MRG_RXBUF);
    net.give(3, 2048);
    let frame = some(6000);
    net.passt.write_all(&6000_u32.to_be_bytes()).unwrap();
    net.passt.write_all(&frame[..3000]).unwrap();
    net.poll();
    net.driver.run(RX).unwrap();
    net.passt.write_all(&frame[3000..]).unwrap();
    net.poll();
    assert_eq!(net.take().unwrap().1, frame);
}
