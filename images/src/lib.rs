//! Images: references, registries, archives, and the store that keeps what they bring.
//!
//! Called by the command and by `sandbox`. It never looks inside a layer: a layer is opaque bytes that
//! are hashed while they are written, and only a converter VM decompresses or untars them. It knows no
//! VM, no container and no agent.
//!
//! Everything that comes from a registry, an archive or an image config is hostile. It is read once,
//! within [`limits`], into a checked type; nothing in it becomes a path, and a digest that reaches the
//! file system is 32 bytes, never a string that someone else wrote.
//!
//! ```text
//! pull(reference) ── registry ─┐                    ┌─ blobs/sha256/<hex>   layers, configs, manifests
//!                              ├─> Store ── index ──┤
//! load(archive)  ── archive ───┘       │            └─ layers/<diff>-<blob> disks made by converter VMs
//! push(reference) <─ registry ─────────┤
//! save(images)   <── archive ──────────┘
//! ```
//!
//! The public functions block; the async runtime of the HTTP client stays inside `registry`. They must
//! not be called from an async task.

pub mod archive;
pub mod build;
pub mod commit;
pub mod config;
pub mod context;
pub mod digest;
pub mod dockerfile;
mod escape;
pub mod image;
pub mod inspect;
mod json;
pub mod layers;
pub mod limits;
mod lock;
pub mod manifest;
pub mod platform;
pub mod reference;
pub mod registry;
#[cfg(test)]
mod sample;
pub mod store;
pub mod timestamp;

pub use archive::{Loaded, import, load_layout, load_stream, save};
pub use commit::commit;
pub use config::ImageConfig;
pub use digest::Digest;
pub use image::{Image, Layer};
pub use inspect::inspect_json;
pub use layers::{LayerDisk, LayerDisks, LayerKey, PendingDisk, SharedDisks, SharedImage};
pub use manifest::Compression;
pub use platform::Platform;
pub use reference::Reference;
pub use registry::{PullStatus, Pulled, Pushed, RegistryOptions, pull, push};
pub use store::Store;
