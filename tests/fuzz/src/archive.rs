//! How a target gets a tar out of its input: any bytes, or such as come past a reader's first checks.
//!
//! ```text
//! input = form, then
//!   form % 3 = 0  the archive itself, perhaps compressed
//!              1  a tar whose headers get the checksum that they need
//!              2  entries: kind, name, what the kind has, oddities
//! ```

use crate::Input;

const BLOCK: usize = 512;

/// Entries of one input: with more, libFuzzer only grows inputs.
const ENTRIES_MAX: usize = 48;

/// Longest content that is made up rather than taken from the input.
const FILL_MAX: usize = 256 << 10;

const KINDS: [u8; 17] = *b"00001122533467xxg";

const KEYS: [&str; 20] = [
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.user.",
    "SCHILY.xattr.security.capability",
    "SCHILY.xattr.system.posix_acl_access",
    "SCHILY.xattr.trusted.overlay.opaque",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.name",
    "GNU.sparse.size",
    "GNU.sparse.realsize",
    "GNU.sparse.map",
    "GNU.sparse.numblocks",
    "GNU.sparse.offset",
    "GNU.sparse.numbytes",
];

/// The archive that `input` stands for; `names` are what its entries' paths are made of.
pub fn archive(input: &mut Input, names: &[&[u8]]) -> Vec<u8> {
    match input.byte() % 3 {
        0 => input.rest().to_vec(),
        1 => sealed(input.rest()),
        _ => composed(input, names),
    }
}

fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut tar = bytes.to_vec();
    for block in tar.as_chunks_mut::<BLOCK>().0 {
        if &block[257..262] == b"ustar" {
            seal(block);
        }
    }
    tar
}

fn seal(header: &mut [u8; BLOCK]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn composed(input: &mut Input, names: &[&[u8]]) -> Vec<u8> {
    let mut tar = Vec::new();
    for _ in 0..ENTRIES_MAX {
        if input.is_empty() {
            break;
        }
        entry(input, names, &mut tar);
    }
    tar.extend([0; 2 * BLOCK]);
    tar
}

fn entry(input: &mut Input, names: &[&[u8]], tar: &mut Vec<u8>) {
    let mut header = [0; BLOCK];
    let mut set = |at: usize, bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(BLOCK - at)];
        header[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let selector = input.byte();
    let kind = match selector {
        // Long names and the old sparse form are seldom alone.
        250.. => *b"LKS\0A?".get(usize::from(selector - 250)).unwrap_or(&b'0'),
        _ => KINDS[usize::from(selector) % KINDS.len()],
    };
    let path = path(input, names);
    set(0, &path[..path.len().min(100)]);
    set(100, b"0000644\0");
    set(108, b"0000000\0");
    set(116, b"0000000\0");
    set(136, b"00000000001\0");
    set(156, &[kind]);
    set(257, b"ustar\x0000");
    let mut data = Vec::new();
    match kind {
        b'1' | b'2' => {
            let target = self::path(input, names);
            set(157, &target[..target.len().min(100)]);
        }
        b'3' | b'4' => {
            set(329, format!("{:07o}", input.half()).as_bytes());
            set(337, format!("{:07o}", input.half()).as_bytes());
        }
        b'L' | b'K' => data = [&self::path(input, names), &b"\0"[..]].concat(),
        b'x' | b'g' => data = records(input, names),
        b'S' => {
            for at in 0..usize::from(input.byte() % 5) {
                let piece = format!("{:011o}\0{:011o}\0", input.half(), input.half());
                set(386 + at * 24, piece.as_bytes());
            }
            set(482, &[input.byte() & 1]);
            set(483, format!("{:011o}\0", input.word()).as_bytes());
            data = content(input);
        }
        _ => data = content(input),
    }
    let mut size = u32::try_from(data.len()).expect("small content");
    let odd = input.byte();
    if odd & 1 != 0 {
        set(100, format!("{:07o}\0", input.half()).as_bytes());
        set(108, format!("{:07o}\0", input.half()).as_bytes());
        set(136, format!("{:011o}\0", input.word()).as_bytes());
    }
    if odd & 2 != 0 {
        size = input.word();
    }
    if odd & 4 != 0 {
        set(257, b"ustar  \0");
    }
    set(124, format!("{size:011o}\0").as_bytes());
    if odd & 8 != 0 {
        let at = usize::from(input.half()) % BLOCK;
        let len = usize::from(input.byte() % 32);
        set(at, input.bytes(len));
    }
    if odd & 0x90 != 0x90 {
        seal(&mut header);
    }
    tar.extend(header);
    tar.extend(data);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

fn path(input: &mut Input, names: &[&[u8]]) -> Vec<u8> {
    let shape = input.byte();
    let mut path = Vec::new();
    if shape & 0x80 != 0 {
        path.push(b'/');
    }
    for at in 0..=shape % 4 {
        if at > 0 {
            path.push(b'/');
        }
        let index = usize::from(input.byte()) % (names.len() + 1);
        match names.get(index) {
            Some(name) => path.extend(*name),
            None => {
                let len = usize::from(input.byte() % 32);
                path.extend(input.bytes(len));
            }
        }
    }
    if shape & 0x40 != 0 {
        path.push(b'/');
    }
    path
}

fn records(input: &mut Input, names: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::new();
    for _ in 0..input.byte() % 8 {
        let key = KEYS[usize::from(input.byte()) % KEYS.len()];
        let value = match input.byte() % 4 {
            0 => {
                let len = usize::from(input.byte());
                input.bytes(len).to_vec()
            }
            1 => input.half().to_string().into(),
            2 => path(input, names),
            _ => numbers(input, ",").into(),
        };
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        data.extend(format!("{len} {key}=").bytes());
        data.extend(value);
        data.push(b'\n');
    }
    data
}

fn numbers(input: &mut Input, separator: &str) -> String {
    let count = input.byte() % 8;
    let numbers: Vec<_> = (0..count).map(|_| input.half().to_string()).collect();
    numbers.join(separator)
}

fn content(input: &mut Input) -> Vec<u8> {
    match input.byte() % 4 {
        0 => {
            let len = usize::from(input.half());
            input.bytes(len).to_vec()
        }
        // Runs of zeros become holes.
        1 => {
            let len = usize::from(input.half()) * 16;
            vec![0; len.min(FILL_MAX)]
        }
        2 => {
            let (byte, len) = (input.byte(), usize::from(input.half()));
            vec![byte; len]
        }
        // A sparse map of form 1.0, and what it is of.
        _ => {
            let mut map = format!("{}\n", numbers(input, "\n")).into_bytes();
            map.resize(map.len().next_multiple_of(BLOCK), 0);
            let (byte, len) = (input.byte(), usize::from(input.half()));
            map.resize(map.len() + len, byte);
            map
        }
    }
}
