//! The named limits on everything that an image, a registry or an archive can make grow.
//!
//! Used by every module of this crate, and shown in their errors, so that a user who meets a limit
//! can tell which one. Each constant has its unit in the name or the doc, and the reason for its size.

use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

// -- documents

/// Bytes of a manifest or an index. The distribution spec asks registries to take manifests of at least
/// 4 MiB, and registries refuse larger ones; real ones have some KiB.
pub const MANIFEST_BYTES: u64 = 4 * MIB;
/// Bytes of an image config. Docker's is capped by what a registry takes; real ones have some 10 KiB.
pub const CONFIG_BYTES: u64 = 4 * MIB;
/// Nesting of any JSON document. Manifests need 5 levels, configs 4, Docker's embedded build records some more.
pub const JSON_DEPTH: usize = 64;
/// Layers of an image: Docker's own limit, so no image that runs there is refused here.
pub const LAYERS: usize = 127;
/// Entries of an index. Docker's official images have about 30 (platforms, and an attestation for each).
pub const INDEX_ENTRIES: usize = 1_000;
/// Indexes inside indexes. One level is normal, two are seen in layouts.
pub const INDEX_DEPTH: usize = 4;
/// History records of a config: one for each build step, of which only some make a layer.
pub const HISTORY: usize = 1_024;
/// Entries of one list or map of a config (env, cmd, labels, volumes …).
pub const CONFIG_ENTRIES: usize = 10_000;
/// Ports that a config exposes: all that there are, by TCP, UDP and SCTP. Images of telephony expose a range
/// of 16,384 for their media.
pub const EXPOSED_PORTS: usize = 3 * 65_536;
/// Annotations of one descriptor.
pub const ANNOTATIONS: usize = 1_000;

// -- blobs

/// Bytes of one layer as stored. Docker Hub and others refuse layers above 10 GiB; model images come near that.
pub const LAYER_BYTES: u64 = 64 * GIB;
/// Bytes of all layers of an image as stored.
pub const IMAGE_BYTES: u64 = 128 * GIB;

// -- builds

/// Steps that the build cache knows; those of use longest ago are forgotten. A large project has some
/// hundred.
pub const BUILD_STEPS: usize = 4_096;
/// Bytes of layers that the build cache keeps besides those of images; beyond, those of use longest ago
/// go. As Docker's default on a disk of some hundred gigabytes.
pub const BUILD_CACHE_BYTES: u64 = 20 * GIB;
/// Bytes of one record of the build cache: an instruction and two numbers.
pub const BUILD_STEP_BYTES: u64 = 2 * MIB;

// -- references (the grammar's own limits)

/// Bytes of a repository name with its registry.
pub const NAME_BYTES: usize = 255;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 128;
/// Bytes of a whole reference: name, tag, digest and their separators.
pub const REFERENCE_BYTES: usize = NAME_BYTES + 1 + TAG_BYTES + 1 + 71;

// -- registry

/// Layers that are downloaded at once, as Docker does.
pub const PARALLEL_DOWNLOADS: usize = 3;
/// Layers that are uploaded at once, as Docker does.
pub const PARALLEL_UPLOADS: usize = 5;
/// Bytes of a blob that is sent with one request; of a larger one, what was sent is worth keeping when a
/// connection breaks, which takes one request more.
pub const WHOLE_UPLOAD_BYTES: u64 = 64 * KIB;
/// Bytes of a chunk of an upload where the registry, or a proxy before it, refused a larger one. Most
/// proxies take this much, and registries with a least size of a chunk have 5 MiB.
pub const CHUNK_BYTES: u64 = 8 * MIB;
/// How often an upload tells how far it is, and looks whether it should stop.
pub const UPLOAD_TICK: Duration = Duration::from_millis(100);
/// Time for a registry to bring a whole upload into its storage, which is a copy in some.
pub const COMMIT_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The longest time that a registry may make us wait by Retry-After. Limits that last longer are told.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Repositories from which one blob is tried to be mounted.
pub const MOUNT_SOURCES: usize = 3;
/// Repositories from which all blobs of a push are tried to be mounted: each is one more right that the
/// token is asked for, in one address, and servers take some KiB of that.
pub const MOUNT_SCOPES: usize = 16;
/// Redirects of one request. A blob needs one, a mirror in front of it two.
pub const REDIRECTS: usize = 5;
/// Bytes of a token endpoint's reply. Tokens have some KiB; one with many scopes some 10.
pub const TOKEN_BYTES: u64 = 256 * KIB;
/// Bytes of an error reply that are read for its message; the rest is dropped with the connection.
pub const ERROR_BYTES: u64 = 64 * KIB;
/// Bytes of a challenge header; real ones have 200.
pub const CHALLENGE_BYTES: usize = 8 * 1024;
/// Characters of a registry's own words that an error repeats.
pub const MESSAGE_CHARS: usize = 200;
/// Time to connect, name look-up and TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Time until the head of a reply.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a whole document (manifest, config, token), from its head to its last byte.
pub const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// A download that brings fewer than [`STALL_BYTES`] in this time has stalled: the connection is
/// dropped and tried again.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// An upload of which nothing more is taken for this time has stalled. It is taken in lumps: the client has
/// half a megabyte of it to send, and the kernel up to four (tcp_wmem), which on a line of 128 kbit/s are
/// this long on their way.
pub const UPLOAD_STALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// See [`STALL_TIMEOUT`]; a slow modem brings this in two seconds.
pub const STALL_BYTES: u64 = 8 * KIB;
/// Tries of one request, the first included.
pub const ATTEMPTS: u32 = 5;
/// Tries of one layer that brought [`PROGRESS_BYTES`] each, so a server that breaks every connection
/// after a while is put up with, but not for ever.
pub const RESUMES: u32 = 1_000;
/// Bytes that a try has to bring so that it doesn't count as one of [`ATTEMPTS`].
pub const PROGRESS_BYTES: u64 = MIB;
/// Pause before the second try; it doubles each time.
pub const BACKOFF_BASE: Duration = Duration::from_millis(500);
/// The longest such pause.
pub const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// Bytes of Docker's config.json; one with hundreds of registries has 100 KiB.
pub const DOCKER_CONFIG_BYTES: u64 = 4 * MIB;
/// Bytes of a file of CA certificates; the whole list of public CAs has 250 KiB.
pub const CA_BYTES: u64 = 4 * MIB;

// -- store

/// Bytes of the store's own index.json: about 30,000 names.
pub const STORE_INDEX_BYTES: u64 = 16 * MIB;
/// Hex digits that a short image id needs at least, as in Docker.
pub const SHORT_ID_MIN: usize = 1;
/// Time that a pull waits for another process that downloads the same blob. The other one ends by its
/// own limits, or its lock ends with it.
pub const INGEST_WAIT: Duration = Duration::from_secs(4 * 3600);
/// Time that a collection of unused content waits for those who only look at the store. Pulls and starts
/// take longer, and leave it to a later one.
pub const COLLECT_WAIT: Duration = Duration::from_secs(2);
/// Pause between two looks at a lock that another process holds.
pub const LOCK_POLL: Duration = Duration::from_millis(50);
/// Age after which a partial download that nobody resumed is removed.
pub const PARTIAL_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Bytes of the store's record of compressed layers: about 25,000.
pub const PACKED_BYTES: u64 = 4 * MIB;

// -- layer disks

/// Bytes of a layer's disk: a layer unpacked. The converter has its own, lower limit.
pub const DISK_BYTES: u64 = 1024 * GIB;
/// Disks are whole blocks of this many bytes, the block size of the guest's file systems.
pub const DISK_BLOCK: u64 = 4096;
/// Time that one process waits while another converts the same layer.
pub const DISK_WAIT: Duration = Duration::from_secs(3600);
/// Images that root shares with all users of a host. Each is a small file that is read when one is added or
/// removed; hosts have some tens of base images.
pub const SHARED_IMAGES: usize = 1_000;
/// Bytes of the record of one of them: [`LAYERS`] keys of 300 bytes, and names.
pub const SHARED_RECORD_BYTES: u64 = MIB;

// -- archives

/// Members of an archive. `docker save` writes three a layer, so this is 6,000 layers.
pub const ARCHIVE_MEMBERS: usize = 20_000;
/// Bytes of an archive, all images together.
pub const ARCHIVE_BYTES: u64 = 512 * GIB;
/// Bytes of a member's name or link target (PATH_MAX).
pub const ARCHIVE_NAME_BYTES: u64 = 4096;
/// Bytes of all members' names and link targets, which are kept in memory. `docker save` has some 80 a member.
pub const ARCHIVE_TABLE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a PAX header; one has a name, a link target, a size and times.
pub const ARCHIVE_PAX_BYTES: u64 = 64 * KIB;
/// Headers that describe the member after them, in a row.
pub const ARCHIVE_EXTENSIONS: usize = 8;
/// Links that lead to links. `docker save` makes one.
pub const LINK_HOPS: usize = 8;
/// Images in one archive.
pub const ARCHIVE_IMAGES: usize = 1_000;

// -- Dockerfiles

/// Bytes of a Dockerfile. Long ones have 50 KiB; here-documents are what makes them long.
pub const DOCKERFILE_BYTES: usize = 1024 * 1024;
/// Instructions of a Dockerfile, and of one stage with those that its base image brings. An image has at
/// most [`HISTORY`] records, and stages that are not part of it have some more.
pub const INSTRUCTIONS: usize = 4_096;
/// Stages of a Dockerfile. Those that build for a dozen of platforms have some 60.
pub const STAGES: usize = 256;
/// Here-documents of one instruction.
pub const HEREDOCS: usize = 64;
/// Bytes of one here-document: more belongs into a file of its own.
pub const HEREDOC_BYTES: usize = 512 * 1024;
/// Bytes of one word with its variables replaced: what Linux gives a program as one argument or variable
/// (MAX_ARG_STRLEN).
pub const WORD_BYTES: usize = 128 * 1024;
/// Bytes that replacing variables makes or compares in one build, so that a Dockerfile can't keep the
/// reader busy for more than a second or so.
pub const EXPANSION_WORK: u64 = 32 * MIB;
/// `${a:-${b:-…}}` in each other.
pub const EXPANSION_DEPTH: usize = 32;
/// Bytes of all steps' configs, environments and here-documents together. A step that changes the
/// environment has a copy of it, and usual ones have 1 KiB.
pub const PLAN_BYTES: u64 = 256 * MIB;
/// `--mount` flags of one RUN, and any other flag's repetitions.
pub const FLAGS: usize = 256;

// -- build contexts

/// Bytes of a .dockerignore. Long ones have some KiB.
pub const IGNORE_BYTES: u64 = 1024 * 1024;
/// Patterns of a .dockerignore, and of `--exclude`: each of them is held against each file.
pub const IGNORE_PATTERNS: usize = 10_000;
/// Files, links and directories that one step takes. The Linux kernel's tree has 100,000.
pub const CONTEXT_ENTRIES: usize = 4_000_000;
/// Directories in each other, of a build context.
pub const CONTEXT_DEPTH: usize = 1_000;
/// Links that lead to links (the kernel's own limit, MAXSYMLINKS).
pub const CONTEXT_LINKS: usize = 40;
