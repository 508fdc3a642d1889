//! What one image of the table may cost, as docs/hostile.md says it. The VM tests measure it.

/// Memory of a command in MiB: 4 MiB of JSON, and what becomes of it.
pub const COMMAND_MIB_MAX: u64 = 96;

/// Memory of a container's supervisor in MiB.
pub const SUPERVISOR_MIB_MAX: u64 = 48;

/// Memory of a VMM in MiB, with what its guest has touched: half of what a container's guest has, a quarter
/// of one's that unpacks.
pub const VMM_MIB_MAX: u64 = 512;

/// Space in the state root in MiB: blobs, layer disks, a container, what was committed and built.
pub const ROOT_MIB_MAX: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/hostile.md");

    #[test]
    fn the_document_has_each_limit() {
        for row in [
            format!("| memory of a command | at most {COMMAND_MIB_MAX} MiB |"),
            format!("| memory of a supervisor | at most {SUPERVISOR_MIB_MAX} MiB |"),
            format!("| memory of a VMM, its guest's included | at most {VMM_MIB_MAX} MiB |"),
            format!("| space in the state root | at most {ROOT_MIB_MAX} MiB more,"),
        ] {
            assert!(DOCUMENT.contains(&row), "docs/hostile.md lacks: {row}");
        }
    }
}
