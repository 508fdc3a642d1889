//! Reads an image back by the rules of the kernel's documentation, with everything that a reader
//! relies on asserted.

use std::collections::{BTreeMap, BTreeSet};

/// One inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) nid: u64,
    pub(super) compact: bool,
    /// As in `i_format`: 0 plain, 2 inline, 4 chunks.
    pub(super) layout: u64,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) links: u32,
    pub(super) size: u64,
    /// `i_u`
    pub(super) union: u32,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    number: u64,
    behind: u64,
}

/// An image: every path from the root, which is `/`.
pub(super) struct Image {
    bytes: Vec<u8>,
    meta: u64,
    time: (i64, u32),
    nodes: BTreeMap<String, Node>,
}

/// A number of `N` bytes at `at`.
fn le<const N: usize>(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    let mut value = [0; 8];
    value[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(value)
}

impl Image {
    pub(super) fn read(bytes: Vec<u8>) -> Self {
        assert_eq!(le::<4>(&bytes, 1024), 0xe0f5_e1e2);
        assert_eq!(le::<4>(&bytes, 1024 + 8), 3, "compatible features");
        assert_eq!(le::<4>(&bytes, 1024 + 80), 4, "incompatible features");
        assert_eq!(le::<4>(&bytes, 1024 + 36) * 4096, bytes.len() as u64);
        let mut image = Self {
            meta: le::<4>(&bytes, 1024 + 40) * 4096,
            time: (
                le::<8>(&bytes, 1024 + 24).cast_signed(),
                u32::try_from(le::<4>(&bytes, 1024 + 32)).unwrap(),
            ),
            nodes: BTreeMap::new(),
            bytes,
        };
        let root = le::<2>(&image.bytes, 1024 + 14);
        let mut pending = vec![(String::from("/"), root, root)];
        while let Some((path, nid, parent)) = pending.pop() {
            let node = image.node(nid);
            if node.mode & 0o170_000 == 0o040_000 {
                for (name, child, kind) in image.names(&path, &node) {
                    match name.as_slice() {
                        b"." => assert_eq!(child, nid),
                        b".." => assert_eq!(child, parent),
                        _ => {
                            let slash = if path == "/" { "" } else { "/" };
                            let child_path = format!("{path}{slash}{}", name.escape_ascii());
                            let file_type = match image.node(child).mode >> 12 {
                                0o10 => 1,
                                0o04 => 2,
                                0o02 => 3,
                                0o06 => 4,
                                0o01 => 5,
                                0o12 => 7,
                                other => panic!("{child_path}: type {other:o}"),
                            };
                            assert_eq!(kind, file_type, "{child_path}");
                            pending.push((child_path, child, nid));
                        }
                    }
                }
            }
            image.nodes.insert(path, node);
        }
        image.check_counts();
        assert_eq!(le::<8>(&image.bytes, 1024 + 16), image.inode_count());
        image
    }

    fn range(&self, from: u64, len: u64) -> &[u8] {
        &self.bytes[usize::try_from(from).unwrap()..usize::try_from(from + len).unwrap()]
    }

    /// Names, nids and types of a directory, `.` and `..` included.
    fn names(&self, path: &str, node: &Node) -> Vec<(Vec<u8>, u64, u64)> {
        let data = self.content(node);
        let mut names: Vec<(Vec<u8>, u64, u64)> = Vec::new();
        for block in data.chunks(4096) {
            let count = le::<2>(block, 8) / 12;
            for index in 0..count {
                let start = usize::try_from(le::<2>(block, index * 12 + 8)).unwrap();
                let end = if index + 1 < count {
                    usize::try_from(le::<2>(block, index * 12 + 20)).unwrap()
                } else {
                    block.len() - block.iter().rev().take_while(|byte| **byte == 0).count()
                };
                let name = block[start..end].to_vec();
                if let Some((before, ..)) = names.last() {
                    assert!(*before < name, "{path}: sorted");
                }
                let nid = le::<8>(block, index * 12);
                names.push((name, nid, le::<1>(block, index * 12 + 10)));
            }
        }
        names
    }

    fn node(&self, nid: u64) -> Node {
        let bytes = &self.bytes;
        let at = self.meta + nid * 32;
        let format = le::<2>(bytes, at);
        let compact = format & 1 == 0;
        let short = |at| u32::try_from(le::<2>(bytes, at)).unwrap();
        let long = |at| u32::try_from(le::<4>(bytes, at)).unwrap();
        let xattr_len = match le::<2>(bytes, at + 2) {
            0 => 0,
            count => 12 + (count - 1) * 4,
        };
        let head = if compact { 32 } else { 64 };
        let mut xattrs = BTreeMap::new();
        let behind = at + head + xattr_len;
        let mut entry = at + head + 12;
        while entry < behind {
            let (name_len, value_len) = (le::<1>(bytes, entry), le::<2>(bytes, entry + 2));
            let prefix = match le::<1>(bytes, entry + 1) {
                1 => "user.",
                2 => "system.posix_acl_access",
                3 => "system.posix_acl_default",
                4 => "trusted.",
                6 => "security.",
                other => panic!("namespace {other}"),
            };
            // Names that are no text must not become the same.
            let name = self.range(entry + 4, name_len).escape_ascii();
            let value = self.range(entry + 4 + name_len, value_len).to_vec();
            let before = xattrs.insert(format!("{prefix}{name}"), value);
            assert!(before.is_none(), "{prefix}{name} twice");
            entry += (4 + name_len + value_len).next_multiple_of(4);
        }
        assert_eq!(
            entry.max(behind),
            if xattr_len > 0 { behind } else { entry }
        );
        let node = Node {
            nid,
            compact,
            layout: format >> 1,
            mode: u16::try_from(le::<2>(bytes, at + 4)).unwrap(),
            uid: if compact {
                short(at + 24)
            } else {
                long(at + 24)
            },
            gid: if compact {
                short(at + 26)
            } else {
                long(at + 28)
            },
            mtime: if compact {
                self.time
            } else {
                (le::<8>(bytes, at + 32).cast_signed(), long(at + 40))
            },
            links: if compact {
                short(at + 6)
            } else {
                long(at + 44)
            },
            size: if compact {
                le::<4>(bytes, at + 8)
            } else {
                le::<8>(bytes, at + 8)
            },
            union: long(at + 16),
            number: le::<4>(bytes, at + 20),
            xattrs,
            behind,
        };
        assert!(!compact || self.time == node.mtime);
        node
    }

    /// The content of a file, directory or symbolic link.
    pub(super) fn content(&self, node: &Node) -> Vec<u8> {
        let union = u64::from(node.union);
        let (whole, rest) = (node.size / 4096 * 4096, node.size % 4096);
        match node.layout {
            0 if node.size > 0 => {
                // Plain data ends with zeros up to the next block, and never lies in the inodes.
                let end = union * 4096 + node.size;
                assert!(end <= self.meta);
                let padding = self.range(end, end.next_multiple_of(4096) - end);
                assert!(padding.iter().all(|byte| *byte == 0));
                self.range(union * 4096, node.size).to_vec()
            }
            0 => Vec::new(),
            2 => {
                assert!(rest > 0);
                assert_eq!(
                    node.behind / 4096,
                    (node.behind + rest - 1) / 4096,
                    "a last block in two"
                );
                let mut data = match whole {
                    0 => Vec::new(),
                    _ => self.range(union * 4096, whole).to_vec(),
                };
                data.extend(self.range(node.behind, rest));
                data
            }
            4 => {
                assert!(union < 32, "chunk format");
                let chunk_len = 4096_u64 << union;
                let mut data = Vec::new();
                for chunk in 0..node.size.div_ceil(chunk_len) {
                    let block = le::<4>(&self.bytes, node.behind + chunk * 4);
                    let len = (node.size - chunk * chunk_len).min(chunk_len);
                    if block == 0xffff_ffff {
                        data.resize(data.len() + usize::try_from(len).unwrap(), 0);
                    } else {
                        assert!(block * 4096 + len <= self.meta);
                        data.extend(self.range(block * 4096, len));
                    }
                }
                data
            }
            other => panic!("layout {other}"),
        }
    }

    /// Links are counted right, numbers are given once, directories have one name.
    fn check_counts(&self) {
        let mut names: BTreeMap<u64, u32> = BTreeMap::new();
        for (path, node) in &self.nodes {
            *names.entry(node.nid).or_default() += 1;
            if node.mode & 0o170_000 == 0o040_000 {
                let below = self.children(path);
                let folders = below.iter().filter(|one| one.mode >> 12 == 0o04).count();
                assert_eq!(node.links, 2 + u32::try_from(folders).unwrap(), "{path}");
            }
        }
        let mut numbers = BTreeSet::new();
        for (path, node) in &self.nodes {
            if node.mode & 0o170_000 == 0o040_000 {
                assert_eq!(names[&node.nid], 1, "{path}");
            } else {
                assert_eq!(node.links, names[&node.nid], "{path}");
            }
            numbers.insert((node.nid, node.number));
        }
        assert_eq!(numbers.len(), names.len());
        let numbers: BTreeSet<u64> = numbers.into_iter().map(|(_, number)| number).collect();
        assert_eq!(numbers.len(), names.len());
        assert!(numbers.iter().all(|number| *number > 0));
    }

    fn children(&self, path: &str) -> Vec<&Node> {
        let prefix = if path == "/" {
            "/"
        } else {
            &format!("{path}/")
        };
        self.nodes
            .iter()
            .filter(|(other, _)| {
                other
                    .strip_prefix(prefix)
                    .is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
            })
            .map(|(_, node)| node)
            .collect()
    }

    pub(super) fn inode_count(&self) -> u64 {
        let nids: BTreeSet<u64> = self.nodes.values().map(|node| node.nid).collect();
        nids.len() as u64
    }

    pub(super) fn paths(&self) -> Vec<&str> {
        self.nodes.keys().map(String::as_str).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn get(&self, path: &str) -> &Node {
        self.nodes
            .get(path)
            .unwrap_or_else(|| panic!("{path} among {:?}", self.nodes.keys()))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    /// The content at a path.
    pub(super) fn data(&self, path: &str) -> Vec<u8> {
        self.content(self.get(path))
    }

    pub(super) fn is_whiteout(&self, path: &str) -> bool {
        let node = self.get(path);
        node.mode & 0o170_000 == 0o020_000 && node.union == 0
    }

    pub(super) fn is_opaque(&self, path: &str) -> bool {
        self.mark(path, "trusted.overlay.opaque") == Some("y")
    }

    pub(super) fn is_implied(&self, path: &str) -> bool {
        self.mark(path, "trusted.bulkhead.implied") == Some("y")
    }

    /// The number on the root.
    pub(super) fn implied_count(&self) -> Option<&str> {
        self.mark("/", "trusted.bulkhead.implied_count")
    }

    fn mark(&self, path: &str, name: &str) -> Option<&str> {
        let value = self.get(path).xattrs.get(name)?;
        Some(std::str::from_utf8(value).unwrap())
    }
}
