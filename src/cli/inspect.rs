//! `bulkhead inspect`: containers, images and volumes as JSON, in Docker's shape.

use anyhow::{Result, bail};
use images::{Image, Store};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::ser::PrettyFormatter;

use super::run::with_code;
use super::template::Template;
use super::{output, volume};
use crate::sandbox::paths::Root;
use crate::sandbox::{containers, inspect};

/// Exit code of a format that is none.
const CODE_TEMPLATE: u8 = 64;

/// Flags of `inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// `json` or a template such as '{{.State.ExitCode}}'
    #[arg(short, long)]
    format: Option<String>,
    /// What to look for: container, image or volume
    #[arg(long = "type", value_name = "type")]
    kind: Option<String>,
    /// Show the sizes of containers: of the writable layer on the host, and with the image
    #[arg(short, long)]
    size: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// What there is to inspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A container
    Container,
    /// An image
    Image,
    /// A volume
    Volume,
}

impl ObjectKind {
    fn of(word: &str) -> Result<Self> {
        Ok(match word {
            "container" => Self::Container,
            "image" => Self::Image,
            "volume" => Self::Volume,
            _ => {
                bail!("unknown type: {word:?}: must be one of \"container\", \"image\", \"volume\"")
            }
        })
    }
}

/// One that was found.
enum Object {
    Container(Value),
    Volume(Value),
    Image(Box<Image>),
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Container(value) | Self::Volume(value) => value.serialize(serializer),
            Self::Image(image) => images::inspect_json(image).serialize(serializer),
        }
    }
}

/// Prints each object, and fails at the end when one is missing.
///
/// # Errors
/// `No such object`, with Docker's `[]` on stdout when there is none at all.
pub fn run(args: &InspectArgs, only: Option<ObjectKind>) -> Result<()> {
    let asked = args.kind.as_deref().filter(|kind| !kind.is_empty());
    let kind = only.or(asked.map(ObjectKind::of).transpose()?);
    let template = args.format.as_deref().map(Template::parse).transpose();
    let template = template.map_err(|error| with_code(CODE_TEMPLATE, format!("{error:#}")))?;
    let root = Root::of_user()?;
    let store = Store::open(&root.images())?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in &args.names {
        match object(&root, &store, name, kind, args.size)? {
            Some(value) => found.push(value),
            None => missing.push(name.as_str()),
        }
    }
    match template {
        None => output::line(&pretty(&found)?)?,
        Some(template) => {
            for (index, object) in found.iter().enumerate() {
                let value = match object {
                    Object::Container(value) => inspect::for_templates(value.clone()),
                    other => serde_json::to_value(other)?,
                };
                let text = template.render(&value);
                if text.is_err() && index == 0 {
                    output::line("")?;
                }
                output::line(&text?)?;
            }
            if found.is_empty() {
                output::line("")?;
            }
        }
    }
    if !missing.is_empty() {
        let word = match kind {
            Some(ObjectKind::Container) => "container",
            Some(ObjectKind::Image) => "image",
            Some(ObjectKind::Volume) => "volume",
            None => "object",
        };
        bail!("No such {word}: {}", missing.join(", "));
    }
    Ok(())
}

/// Indented by four, as Docker does.
///
/// # Errors
/// What can't be written as JSON.
pub fn pretty(found: &[impl Serialize]) -> Result<String> {
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    found.serialize(&mut serializer)?;
    Ok(String::from_utf8(bytes)?)
}

fn object(
    root: &Root,
    store: &Store,
    name: &str,
    kind: Option<ObjectKind>,
    with_sizes: bool,
) -> Result<Option<Object>> {
    if matches!(kind, None | Some(ObjectKind::Container))
        && let Ok((folder, config)) = containers::find(root, name)
    {
        let state = match folder.true_state() {
            // Removed since it was found.
            Err(_) if !folder.path().exists() => return Ok(None),
            state => state?,
        };
        let mut value = inspect::container(folder.path(), &config, &state);
        if with_sizes {
            let writable = folder.writable_bytes();
            // Of an image that was removed by force, nothing is known.
            let image = store
                .resolve(&config.image_id)
                .map_or(0, |image| image.size);
            value["SizeRw"] = writable.into();
            value["SizeRootFs"] = writable.saturating_add(image).into();
        }
        return Ok(Some(Object::Container(value)));
    }
    if kind == Some(ObjectKind::Container) {
        return Ok(None);
    }
    if kind != Some(ObjectKind::Volume) {
        match store.resolve(name) {
            Ok(image) => return Ok(Some(Object::Image(Box::new(image)))),
            Err(error) if error.is_no_such_image() => {}
            Err(error) => return Err(error.into()),
        }
    }
    if kind == Some(ObjectKind::Image) {
        return Ok(None);
    }
    Ok(volume::find(root, name)?.map(Object::Volume))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_indented_by_four_and_their_texts_are_left_alone() {
        let object = Object::Container(serde_json::json!({"Args": ["two  blanks"], "Env": []}));
        assert_eq!(
            pretty(&[object]).unwrap(),
            "[\n    {\n        \"Args\": [\n            \"two  blanks\"\n        ],\n        \"Env\": []\n    }\n]"
        );
        assert_eq!(pretty(&[Value::Null; 0]).unwrap(), "[]");
    }
}
