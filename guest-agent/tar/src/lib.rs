//! Tar archives as bytes and checked values: a reader for those of strangers, and a writer.
//!
//! Used on both sides of a VM's border: by the agent, which reads layers and what is copied into a
//! container and writes what is copied out of it, and by the command, which reads what a guest
//! wrote. It opens no file, walks no path, and gives names no meaning.

mod error;
mod header;
mod packing;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use error::{TarError, shown};
pub use packing::{MAGIC_LEN, Packing};
pub use pax::XATTRS_MAX;
pub use reader::{Entry, EntryKind, Piece, TarReader, Xattr};
pub use writer::TarWriter;
