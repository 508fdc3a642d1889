//! What containers have their network by. Called by [`super`].

use super::Finding;
use crate::sandbox::network::{PASST, find_passt};

/// Whether there is passt.
pub fn passt() -> Finding {
    match find_passt() {
        Some(path) => Finding::ok(format!("{PASST}: {}", path.display())),
        None => Finding::warn(
            format!("{PASST} is not installed: containers run with --network none only"),
            "install it: `sudo apt-get install passt`",
        ),
    }
}
