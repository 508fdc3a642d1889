//! `bulkhead import`: a file system in a tar as an image of one layer.

use std::fs::File;
use std::io::{IsTerminal, Read, Seek};
use std::path::Path;

use anyhow::{Context, Result, bail};
use images::archive::{MAGIC_LEN, compression_of};
use images::config::History;
use images::limits::LAYER_BYTES;
use images::timestamp::Timestamp;
use images::{Image, ImageConfig, Platform, Reference, Store, registry};

use super::policy::Policy;
use super::values::given;
use super::{output, pull, variables};
use crate::sandbox::clock::now;
use crate::sandbox::paths::Root;
use crate::sandbox::{decompress, events};

/// Flags of `import`.
#[derive(Debug, clap::Args)]
#[command(after_help = variables::of_import())]
pub struct ImportArgs {
    /// Apply a Dockerfile's instruction to the image: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK,
    /// LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "list", allow_hyphen_values = true)]
    change: Vec<String>,
    /// What the image's history says of it
    #[arg(short, long, value_name = "string", default_value = "")]
    message: String,
    /// Platform that the image is for: os[/arch[/variant]]
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    #[command(flatten)]
    trust: pull::TrustArgs,
    /// A tar, which may be compressed: a file, an address or `-` for standard input
    #[arg(value_name = "file|URL|-")]
    source: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Makes the image and prints its id.
///
/// # Errors
/// The tar is none, or can't be had; a name or a change that is none; a disk that is full.
pub fn run(args: &ImportArgs) -> Result<()> {
    let names = match args.name.as_deref() {
        None | Some("") => Vec::new(),
        Some(name) => vec![Reference::parse(name)?],
    };
    if names.iter().any(|name| name.digest().is_some()) {
        bail!("cannot import digest reference");
    }
    let platform = match given(&args.platform) {
        Some(text) => Platform::parse(text)?,
        None => Platform::host(),
    };
    let config = images::dockerfile::change(ImageConfig::empty(platform), &args.change)?;
    let root = Root::of_user()?;
    Policy::of_user()?.check_disk(&root)?;
    let store = Store::open(&root.images())?;
    let is_address = ["http://", "https://"]
        .iter()
        .any(|scheme| args.source.starts_with(scheme));
    let message = match (args.message.as_str(), is_address) {
        ("", true) => format!("Imported from {}", args.source),
        // A file's name is nobody else's business, as in Docker.
        ("", false) => "Imported from -".to_owned(),
        (message, _) => message.to_owned(),
    };
    let make = |source: &mut dyn Read| import(&store, source, config, message, &names);
    let image = if is_address {
        let make = |source: &mut dyn Read| make(&mut from_network(&root, source)?);
        registry::fetch(&args.source, &args.trust.options(), make)??
    } else if args.source == "-" {
        if std::io::stdin().is_terminal() {
            bail!("refusing to read an archive from a terminal; redirect standard input");
        }
        make(&mut decompress::plain(&root, std::io::stdin())?)?
    } else {
        let path = Path::new(&args.source);
        let file = File::open(path).with_context(|| format!("open {}", path.display()));
        make(&mut decompress::plain(&root, file?)?)?
    };
    let id = image.id.to_string();
    for name in &names {
        events::of_image(root.path(), "tag", &id, &name.familiar());
    }
    events::of_image(root.path(), "import", &id, &id);
    output::line(&id)
}

/// What comes over the network. Where it is compressed it is kept first: it is there for as long as it is read.
fn from_network<'a>(root: &Root, mut source: &'a mut dyn Read) -> Result<Box<dyn Read + 'a>> {
    let mut head = Vec::new();
    Read::by_ref(&mut source)
        .take(MAGIC_LEN)
        .read_to_end(&mut head)
        .context("read the archive")?;
    let is_compressed = compression_of(&head).is_some();
    let mut whole = std::io::Cursor::new(head).chain(source);
    if !is_compressed {
        return Ok(Box::new(whole));
    }
    let mut file = tempfile::tempfile_in(root.path()).context("create a file for the archive")?;
    let len = std::io::copy(&mut Read::by_ref(&mut whole).take(LAYER_BYTES), &mut file)
        .context("download the archive")?;
    if len == LAYER_BYTES {
        bail!("the archive has {LAYER_BYTES} bytes or more, the limit of a layer");
    }
    file.rewind().context("read the archive")?;
    decompress::plain(root, file)
}

fn import(
    store: &Store,
    source: &mut dyn Read,
    config: ImageConfig,
    message: String,
    names: &[Reference],
) -> Result<Image> {
    let created = Timestamp::parse(&now());
    let config = ImageConfig {
        created: created.clone(),
        comment: message.clone(),
        ..config
    };
    let step = History {
        created,
        author: String::new(),
        created_by: String::new(),
        comment: message,
        empty_layer: false,
    };
    Ok(images::import(store, source, config, step, names)?)
}
