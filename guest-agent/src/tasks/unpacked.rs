//! Whether a file is an archive that `ADD` unpacks, and reading it.
//!
//! Called by [`super::put`]. As in Docker the content decides and not the name: a tar, plain or
//! compressed with gzip, bzip2, xz or zstd.

use std::io::Read;

use crate::failure::{Context, Failure};
use crate::packing::{Packing, decoded};

/// Bytes of a file that are looked at: enough for a decoder to yield the first header of a tar.
const HEAD_LEN: usize = 256 << 10;

/// Bytes of a tar's header.
const HEADER_LEN: usize = 512;

/// Reads the beginning of a file, and says how it is packed if it is an archive.
///
/// # Errors
/// What reading says.
pub(super) fn look(file: &mut dyn Read) -> Result<(Vec<u8>, Option<Packing>), Failure> {
    let mut head = Vec::new();
    file.take(HEAD_LEN as u64)
        .read_to_end(&mut head)
        .context(|| "read the archive".into())?;
    let packing = Packing::of(&head);
    let mut header = Vec::new();
    // What can't be decoded is a file like any other.
    let read = decoded(packing, &mut head.as_slice())
        .map(|decoder| decoder.take(HEADER_LEN as u64).read_to_end(&mut header));
    let is_archive = matches!(read, Ok(Ok(_))) && is_header(&header);
    Ok((head, is_archive.then_some(packing)))
}

/// Whether these bytes are a header of a tar (POSIX.1-2017, pax, "ustar Interchange Format"): its
/// checksum is right.
fn is_header(bytes: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    if bytes.len() != HEADER_LEN {
        return false;
    }
    let sum: u32 = (0..)
        .zip(bytes)
        .map(|(at, byte)| match CHECKSUM.contains(&at) {
            true => u32::from(b' '),
            false => u32::from(*byte),
        })
        .sum();
    let field = bytes.get(CHECKSUM).unwrap_or_default();
    let digits = field
        .iter()
        .skip_while(|byte| **byte == b' ')
        .take_while(|byte| byte.is_ascii_digit());
    let said = digits.fold(None, |said: Option<u32>, digit| {
        let digit = u32::from(*digit).wrapping_sub(u32::from(b'0'));
        said.unwrap_or(0).checked_mul(8)?.checked_add(digit)
    });
    said == Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tar() -> Vec<u8> {
        let mut header = vec![0; HEADER_LEN];
        header[..4].copy_from_slice(b"file");
        header[100..107].copy_from_slice(b"0000644");
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.resize(HEADER_LEN * 3, 0);
        header
    }

    fn packing(mut bytes: &[u8]) -> Option<Packing> {
        let (head, packing) = look(&mut bytes).unwrap();
        let mut whole = head.as_slice().chain(bytes);
        if let Some(packing) = packing {
            let mut out = Vec::new();
            decoded(packing, &mut whole)
                .unwrap()
                .read_to_end(&mut out)
                .unwrap();
            assert_eq!(out, tar());
        }
        packing
    }

    #[test]
    fn the_content_decides() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar()).unwrap();
        assert_eq!(packing(&gzip.finish().unwrap()), Some(Packing::Gzip));
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&tar()).unwrap();
        assert_eq!(packing(&bzip2.finish().unwrap()), Some(Packing::Bzip2));
        let zstd = zstd::encode_all(tar().as_slice(), 1).unwrap();
        assert_eq!(packing(&zstd), Some(Packing::Zstd));
        assert_eq!(packing(&tar()), Some(Packing::None));
    }

    #[test]
    fn what_is_no_archive_is_a_file() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&[b'x'; 4096]).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut broken = tar();
        broken[0] ^= 1;
        for bytes in [
            &b""[..],
            b"BZh",
            b"\xfd7zXZ\0nonsense",
            &[0; 1024],
            &gzip,
            &gzip[..gzip.len() / 2],
            &broken,
            &tar()[..HEADER_LEN - 1],
        ] {
            assert_eq!(packing(bytes), None);
        }
    }
}
