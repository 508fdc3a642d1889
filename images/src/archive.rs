//! Images from archives and into them: `load`, `save` and `import`.
//!
//! Called by the command. `save` and `import` say what they do in their own files; this is `load`, from an
//! archive or a directory into the store. Three forms are known: what `docker save` writes (old and new), an OCI layout
//! in a tar, and an OCI layout in a directory. Layers stay opaque here too: only the outer archive is
//! read, and each member is copied as it is.
//!
//! ```text
//! tar ─ stream: headers ─ every regular member ─> spool (hash while copying) ─┐
//!                         links ─────────────────────────────────────────────┴> table: name -> content
//! table or directory ── manifest.json ─> docker  ─┐
//!                    └─ index.json ────> layout  ─┴─> adopt blobs ─> record names
//! ```
//!
//! A name in an archive is only ever a key of that table. It is never opened, made or joined to a path, so
//! `../`, absolute names, duplicates and links to anywhere mean nothing outside the archive.
//!
//! A compressed archive is refused: decompressing is what this program leaves to VMs, and the command has one do
//! it before ([`compression_of`]).

mod directory;
mod docker;
mod import;
mod layout;
mod save;
mod stream;
mod table;

use std::fs::File;
use std::io::{Chain, Cursor, Read};
use std::path::Path;

use tarball::Packing;
use thiserror::Error;

use crate::config::ConfigError;
use crate::digest::{Digest, DigestError};
use crate::escape::quoted;
use crate::json::JsonError;
use crate::limits::{ARCHIVE_BYTES, ARCHIVE_IMAGES, INDEX_DEPTH, LAYER_BYTES};
use crate::manifest::ManifestError;
use crate::platform::Platform;
use crate::reference::{Reference, ReferenceError};
use crate::store::{FileError, Spool, Spooled, Store, StoreError};

pub use import::import;
pub use save::save;
pub use stream::{Member, MemberKind, TarError, read as read_members};
pub use table::{Table, TableError};
pub use tarball::MAGIC_LEN;

/// A failed load, save or import.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The file or directory can't be opened.
    #[error(transparent)]
    Open(FileError),
    /// The input can't be read.
    #[error("cannot read the archive")]
    Read(#[source] std::io::Error),
    /// The outer archive is compressed.
    #[error("the archive is compressed with {0}")]
    Compressed(&'static str),
    /// The tar that is to become a layer is compressed.
    #[error("the archive is compressed with {0}")]
    CompressedLayer(&'static str),
    /// What is to become a layer doesn't begin as a tar does.
    #[error("the archive is no tar")]
    NotATar,
    /// The output can't be written.
    #[error("cannot write the archive")]
    Write(#[source] std::io::Error),
    /// What is to be saved is no name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Neither form.
    #[error("the archive holds neither a manifest.json nor an index.json, so it is no image")]
    NotAnImage,
    /// The tar itself is at fault.
    #[error("the archive is damaged")]
    Tar(#[source] TarError),
    /// The table of its members is at fault.
    #[error("cannot use the archive")]
    Table(#[source] TableError),
    /// A member that something else names isn't there.
    #[error("the archive has no {}", quoted(.0))]
    Missing(String),
    /// A member could not be stored.
    #[error("cannot store {}", quoted(name))]
    Member {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// A JSON document is at fault.
    #[error("cannot read {name}")]
    Json {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: JsonError,
    },
    /// A directory with more than [`ARCHIVE_BYTES`].
    #[error("the files of the layout have more than {ARCHIVE_BYTES} bytes together, the limit")]
    TooMuch,
    /// More images than [`ARCHIVE_IMAGES`].
    #[error("the archive holds {0} images, above the limit of {ARCHIVE_IMAGES}")]
    TooManyImages(usize),
    /// A name of an image that is no reference.
    #[error("cannot use the image name {}", quoted(name))]
    Name {
        /// As it stands there.
        name: String,
        /// Why.
        #[source]
        source: ReferenceError,
    },
    /// Content that differs from what the archive says of it.
    #[error(
        "{} is not what the archive says it is: got {actual} where {expected} was expected",
        quoted(name)
    )]
    DigestMismatch {
        /// The member.
        name: String,
        /// As the archive has it.
        expected: Digest,
        /// Of the content.
        actual: Digest,
    },
    /// A size that differs likewise.
    #[error(
        "{} has {actual} bytes where the archive says {expected}",
        quoted(name)
    )]
    SizeMismatch {
        /// The member.
        name: String,
        /// As the archive has it.
        expected: u64,
        /// Of the content.
        actual: u64,
    },
    /// A digest that is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// Indexes inside indexes, too deep.
    #[error("an index in the archive leads to further indexes more than {INDEX_DEPTH} times")]
    IndexDepth,
    /// A layer neither plain nor in a known compression.
    #[error("layer {} does not have the digest that the image config says, and is not gzip or zstd", quoted(.0))]
    Layer(String),
    /// An `oci-layout` of another version.
    #[error("the OCI layout has version {}, which is not supported", quoted(.0))]
    LayoutVersion(String),
    /// Images, but none for the platform.
    #[error("the archive has no image for {0}")]
    NoPlatform(Platform),
    /// A manifest that can't be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A config that can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ArchiveError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Compressed(kind) | Self::CompressedLayer(kind) => {
                let command = match *kind {
                    "gzip" => "gunzip -c",
                    "zstd" => "zstd -dc",
                    "bzip2" => "bunzip2 -c",
                    _ => "xz -dc",
                };
                let then = match self {
                    Self::Compressed(_) => "load",
                    _ => "import -",
                };
                format!("decompress it on the way: {command} FILE | bulkhead {then}")
            }
            Self::NotAnImage => {
                "load takes what docker save, podman save, skopeo and buildah write".to_owned()
            }
            Self::Tar(_) => "the file may be cut short; save or copy it again".to_owned(),
            Self::Member { source, .. } => return source.hint(),
            Self::Manifest(error) => return error.hint(),
            Self::Config(error) => return error.hint(),
            Self::Store(error) => return error.hint(),
            Self::Open(error) => return error.hint(),
            _ => return None,
        };
        Some(text)
    }
}

/// An image that was loaded, with the names that the archive gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// Its names; may be empty.
    pub references: Vec<Reference>,
}

/// One line for each name, or one for the id where there is none, as `docker load` prints them.
impl std::fmt::Display for Loaded {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, reference) in self.references.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(out, "{separator}Loaded image: {}", reference.familiar())?;
        }
        if self.references.is_empty() {
            write!(out, "Loaded image ID: {}", self.id)?;
        }
        Ok(())
    }
}

/// What images are loaded from.
#[derive(Debug)]
pub enum Source {
    /// An archive, for [`load_stream`].
    Archive(File),
    /// The directory of an OCI layout, for [`load_layout`].
    Layout(File),
}

/// Opens what is at `path`.
pub fn open(path: &Path) -> Result<Source, ArchiveError> {
    let file =
        File::open(path).map_err(|error| ArchiveError::Open(FileError::of("open", path)(error)))?;
    let kind = file.metadata().map_err(ArchiveError::Read)?.file_type();
    Ok(match kind.is_dir() {
        true => Source::Layout(file),
        false => Source::Archive(file),
    })
}

/// Loads an OCI layout from its directory. Of images for several platforms only those for `platform` are
/// taken.
pub fn load_layout(
    store: &Store,
    directory: File,
    platform: &Platform,
) -> Result<Vec<Loaded>, ArchiveError> {
    let lease = store.lease()?;
    let mut spool = store.spool()?;
    let mut directory = directory::Directory::new(directory);
    let mut find = |name: &str, limit: u64| directory.copy(name, limit, &mut spool);
    layout::import(store, &lease, &mut find, platform)
}

/// Loads an archive from a stream, for example standard input, as [`load_layout`]. The names become visible
/// at the end.
pub fn load_stream(
    store: &Store,
    source: impl Read,
    platform: &Platform,
) -> Result<Vec<Loaded>, ArchiveError> {
    let lease = store.lease()?;
    let mut spool = store.spool()?;
    let source = refuse_compressed(source)?;
    let table = read_table(source, &mut spool)?;
    let mut find =
        |name: &str, _limit: u64| Ok(table.get(name).map_err(ArchiveError::Table)?.cloned());
    if find(docker::MANIFEST, 0)?.is_some() {
        docker::import(store, &lease, &mut find, platform)
    } else if find(layout::INDEX, 0)?.is_some() {
        layout::import(store, &lease, &mut find, platform)
    } else {
        Err(ArchiveError::NotAnImage)
    }
}

/// Finds a member by its name in the archive; the limit is for sources that copy it only now.
type Find<'a> = dyn FnMut(&str, u64) -> Result<Option<Spooled>, ArchiveError> + 'a;

/// A member that has to be there.
fn require(find: &mut Find<'_>, name: &str, limit: u64) -> Result<Spooled, ArchiveError> {
    find(name, limit)?.ok_or_else(|| ArchiveError::Missing(name.to_owned()))
}

/// Copies every regular member into the spool and gives the table of their names.
fn read_table(source: impl Read, spool: &mut Spool) -> Result<Table<Spooled>, ArchiveError> {
    let mut table = Table::default();
    stream::read(source, |member, content| {
        match &member.kind {
            MemberKind::File => {
                // Names that aren't UTF-8 can't be referred to by JSON.
                let Some(name) = member.name() else {
                    return Ok(());
                };
                let spooled = spool
                    .copy(content, LAYER_BYTES)
                    .map_err(|source| match source {
                        StoreError::Read(source) => stream::reason(source),
                        source => ArchiveError::Member {
                            name: name.to_owned(),
                            source: Box::new(source),
                        },
                    })?;
                table
                    .insert_content(name, spooled)
                    .map_err(ArchiveError::Table)?;
            }
            MemberKind::Symlink | MemberKind::Hardlink => {
                table.insert_link(member).map_err(ArchiveError::Table)?
            }
            MemberKind::Other => {}
        }
        Ok(())
    })?;
    Ok(table)
}

/// Looks at the first bytes of the outer archive for a compression.
fn refuse_compressed<R: Read>(mut source: R) -> Result<Chain<Cursor<Vec<u8>>, R>, ArchiveError> {
    let mut magic = Vec::new();
    source
        .by_ref()
        .take(MAGIC_LEN)
        .read_to_end(&mut magic)
        .map_err(ArchiveError::Read)?;
    match compression_of(&magic) {
        Some(kind) => Err(ArchiveError::Compressed(kind)),
        None => Ok(Cursor::new(magic).chain(source)),
    }
}

/// What a file that begins so is compressed with, if anything that is known: the program that decompresses
/// it.
#[must_use]
pub fn compression_of(head: &[u8]) -> Option<&'static str> {
    Packing::of(head).program()
}

#[cfg(test)]
mod tests;
