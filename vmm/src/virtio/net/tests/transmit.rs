//! Frames of the driver.

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::super::transmit::{BATCH_BYTES_MAX, MARK_BYTES};
use super::*;

#[test]
fn a_frame_goes_out_with_its_length_however_it_is_cut() {
    let mut net = Net::new(0);
    let frame = some(3000);
    let (front, back) = frame.split_at(10);
    let cuts: [&[Buffer]; 3] = [
        &[Buffer::Readable(&[0; 12]), Buffer::Readable(&frame)],
        &[
            Buffer::Readable(&[0; 5]),
            Buffer::Readable(&[0; 7]),
            Buffer::Readable(front),
            Buffer::Readable(back),
        ],
        &[Buffer::Readable(&[&[0; 12], &frame[..]].concat())],
    ];
    for cut in cuts {
        net.driver.rings[TX].offer(cut).unwrap();
        net.driver.rings[TX].offer_indirect(cut).unwrap();
    }
    net.driver.run(TX).unwrap();
    assert_eq!(net.sent(), vec![frame; 6]);
    for _ in 0..6 {
        assert_eq!(net.driver.rings[TX].take_used().unwrap().written, 0);
    }
    assert_eq!(net.driver.take_interrupts(), 1);
}

#[test]
fn a_segment_that_is_to_be_cut_is_sent_whole() {
    let mut net = Net::new(0);
    let frame = some(65535);
    // NEEDS_CSUM, GSO_TCPV4, segments of 1448 bytes (section 5.1.6.1).
    let header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
    net.driver.rings[TX]
        .offer(&[Buffer::Readable(&header), Buffer::Readable(&frame)])
        .unwrap();
    net.driver.run(TX).unwrap();
    assert_eq!(net.sent(), [frame]);
}

#[test]
fn what_is_too_short_or_too_long_or_not_the_guests_own_is_dropped_and_done() {
    let mut net = Net::new(0);
    let mut foreign = some(60);
    foreign[6] ^= 4;
    for frame in [&some(60)[..13], &[], &some(65536), &foreign] {
        net.send(frame);
        assert!(net.driver.rings[TX].take_used().is_some());
    }
    assert!(net.sent().is_empty());
}

#[test]
fn a_full_socket_is_waited_for_and_nothing_is_lost() {
    let mut net = Net::new(0);
    let frames: Vec<_> = (0..100).map(|index| some(60 + index * 600)).collect();
    let mut sent = Vec::new();
    for frame in &frames {
        net.offer(frame);
        net.driver.run(TX).unwrap();
    }
    // More than a socket holds: it waits for room, and kicks change nothing.
    assert_eq!(net.driver.watched().len(), 1);
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 8192];
    let mut done = 0;
    while done < frames.len() {
        // Read a little at a time, so that frames are cut at any place.
        match net.passt.read(&mut buffer) {
            Ok(count) => bytes.extend(&buffer[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        net.driver.poll(0).unwrap();
        net.driver.run(TX).unwrap();
        while net.driver.rings[TX].take_used().is_some() {
            done += 1;
        }
    }
    while let Ok(count) = net.passt.read(&mut buffer) {
        bytes.extend(&buffer[..count]);
    }
    let mut rest = bytes.as_slice();
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let (frame, more) = more.split_at(usize::try_from(u32::from_be_bytes(*length)).unwrap());
        sent.push(frame.to_vec());
        rest = more;
    }
    assert!(sent == frames, "{} of {}", sent.len(), frames.len());
    assert!(net.driver.watched().is_empty());
}

#[test]
fn a_reset_in_the_middle_of_a_frame_keeps_passts_place() {
    let mut net = Net::new(0);
    for _ in 0..10 {
        net.offer(&some(60_000));
    }
    net.driver.run(TX).unwrap();
    net.driver.reset();
    net.driver.activate(VERSION_1).unwrap();
    let mut frames = Vec::new();
    let mut bytes = vec![0; 1 << 20];
    let mut have = 0;
    for _ in 0..100 {
        if let Ok(count) = net.passt.read(&mut bytes[have..]) {
            have += count;
        }
        net.driver.run(TX).unwrap();
        net.driver.poll(0).unwrap();
    }
    net.send(&some(77));
    have += net.passt.read(&mut bytes[have..]).unwrap();
    let mut rest = &bytes[..have];
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let (frame, more) = more.split_at(usize::try_from(u32::from_be_bytes(*length)).unwrap());
        frames.push(frame.to_vec());
        rest = more;
    }
    assert_eq!(frames.pop().unwrap(), some(77));
    assert!(!frames.is_empty() && frames.iter().all(|frame| frame.len() == 60_000));
}

#[test]
fn what_is_read_at_once_ends_at_a_mark_though_more_is_there() {
    let mut net = Net::new(0);
    let mut buffer = vec![0; 2 * MARK_BYTES];
    let (mut bytes, mut marks, mut before_more) = (0, 0, 0);
    while marks < 3 || before_more == 0 {
        net.fill();
        let mut at_mark = false;
        while let Ok((count, mark)) = net.passt.recv_with_fd(&mut buffer) {
            before_more += usize::from(at_mark);
            bytes += count;
            at_mark = mark.is_some();
            if at_mark {
                assert!(bytes <= MARK_BYTES + 2 * BATCH_BYTES_MAX, "{bytes}");
                (bytes, marks) = (0, marks + 1);
            }
        }
        net.driver.poll(0).unwrap();
        assert!(bytes <= MARK_BYTES + 2 * BATCH_BYTES_MAX, "{bytes}");
    }
    // What nobody reads is bounded by the socket, and goes on when it is read.
    net.fill();
    let used = net.driver.rings[TX].used_index();
    net.send(&some(60));
    assert_eq!(net.driver.rings[TX].used_index(), used);
    while net.passt.recv_with_fd(&mut buffer).is_ok() {}
    net.driver.poll(0).unwrap();
    net.driver.run(TX).unwrap();
    assert!(net.driver.rings[TX].used_index() > used);
}
