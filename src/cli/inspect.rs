//! `bulkhead inspect`: containers, images and volumes as JSON, in Docker's shape.

use anyhow::{Error, Result, anyhow, bail};
use images::{Image, Store};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::ser::PrettyFormatter;

use super::run::with_code;
use super::template::{Template, left_out};
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

/// How what was found is shown.
#[derive(Debug)]
pub enum Form {
    /// As a list, indented by four.
    Indented,
    /// As a list on one line: the word `json`.
    Compact,
    /// By a template, one after the other.
    Template(Template),
}

impl Form {
    /// Reads `--format`; an empty one is none.
    ///
    /// # Errors
    /// What is no template.
    pub fn parse(format: Option<&str>) -> Result<Self> {
        Ok(match format {
            None | Some("") => Self::Indented,
            Some("json") => Self::Compact,
            Some(text) => {
                let template = Template::parse(text);
                Self::Template(
                    template.map_err(|error| with_code(CODE_TEMPLATE, format!("{error:#}")))?,
                )
            }
        })
    }

    /// Shows what was found, by lines, and returns what a template says of those that it can't be filled
    /// from. `read` makes of an object what templates read.
    ///
    /// # Errors
    /// A line that can't be printed.
    pub fn show<T: Serialize>(
        &self,
        found: &[T],
        read: impl Fn(&T) -> Result<Value>,
        mut line: impl FnMut(&str) -> Result<()>,
    ) -> Result<Vec<Error>> {
        let template = match self {
            Self::Indented => return line(&pretty(found)?).map(|()| Vec::new()),
            Self::Compact => {
                return line(&serde_json::to_string(found)?).map(|()| Vec::new());
            }
            Self::Template(template) => template,
        };
        let mut failed = Vec::new();
        for object in found {
            match read(object).and_then(|value| template.render(&value)) {
                Ok(text) => line(&text)?,
                Err(error) => failed.push(error),
            }
        }
        // Docker ends what it has with a line, also where it has nothing.
        if failed.len() == found.len() {
            line("")?;
        }
        Ok(failed)
    }
}

/// Fails when something did: with the last, those before it are told here.
///
/// # Errors
/// The last one.
pub fn fail_with(mut failed: Vec<Error>) -> Result<()> {
    let last = failed.pop();
    for error in failed {
        output::note(&format!("bulkhead: {error:#}"));
    }
    last.map_or(Ok(()), Err)
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

/// Prints each object, and fails at the end when one is missing or can't be shown.
///
/// # Errors
/// `No such object`, with Docker's `[]` on stdout when there is none at all.
pub fn run(args: &InspectArgs, only: Option<ObjectKind>) -> Result<()> {
    let asked = args.kind.as_deref().filter(|kind| !kind.is_empty());
    let kind = only.or(asked.map(ObjectKind::of).transpose()?);
    let form = Form::parse(args.format.as_deref())?;
    let root = Root::of_user()?;
    let store = Store::open(&root.images())?;
    let word = match kind {
        Some(ObjectKind::Container) => "container",
        Some(ObjectKind::Image) => "image",
        Some(ObjectKind::Volume) => "volume",
        None => "object",
    };
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in &args.names {
        match object(&root, &store, name, kind, args.size) {
            Ok(Some(value)) => found.push(value),
            Ok(None) => failed.push(anyhow!("No such {word}: {name}")),
            Err(error) => failed.push(error),
        }
    }
    failed.extend(form.show(&found, for_templates, output::line)?);
    fail_with(failed)
}

/// Members that templates know by the name of Go's field as well, where that is not the name in the JSON:
/// the object that they are of, as a JSON pointer, and both names.
const ALSO_CALLED: [(&str, &str, &str); 12] = [
    ("", "Id", "ID"),
    ("/HostConfig", "CpuCount", "CPUCount"),
    ("/HostConfig", "CpuPercent", "CPUPercent"),
    ("/HostConfig", "CpuPeriod", "CPUPeriod"),
    ("/HostConfig", "CpuQuota", "CPUQuota"),
    ("/HostConfig", "CpuRealtimePeriod", "CPURealtimePeriod"),
    ("/HostConfig", "CpuRealtimeRuntime", "CPURealtimeRuntime"),
    ("/HostConfig", "CpuShares", "CPUShares"),
    ("/HostConfig", "Dns", "DNS"),
    ("/HostConfig", "DnsOptions", "DNSOptions"),
    ("/HostConfig", "DnsSearch", "DNSSearch"),
    ("/HostConfig", "NanoCpus", "NanoCPUs"),
];

/// Where a container has lists of bindings, by port.
const BINDINGS: [&str; 2] = ["/HostConfig/PortBindings", "/NetworkSettings/Ports"];

/// An object as templates read it: with the members that its JSON leaves out.
fn for_templates(object: &Object) -> Result<Value> {
    let (mut value, members) = match object {
        Object::Container(value) => (value.clone(), inspect::left_out()),
        Object::Image(_) => (serde_json::to_value(object)?, images::inspect::left_out()),
        Object::Volume(value) => return Ok(value.clone()),
    };
    for (part, member, nothing) in members {
        if let Some(part) = value.pointer_mut(part) {
            left_out::add(part, member, nothing);
        }
    }
    for mount in elements(value.get_mut("Mounts")) {
        for (member, nothing) in inspect::left_out_of_mounts() {
            left_out::add(mount, member, nothing);
        }
    }
    for (part, name, other) in ALSO_CALLED {
        also_call(value.pointer_mut(part), name, other);
    }
    for part in BINDINGS {
        let ports = value.pointer_mut(part).and_then(Value::as_object_mut);
        for bindings in ports.into_iter().flatten().map(|(_, bindings)| bindings) {
            for binding in elements(Some(bindings)) {
                also_call(Some(binding), "HostIp", "HostIP");
            }
        }
    }
    Ok(value)
}

/// The elements of a list; none of what is no list.
fn elements(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

/// Gives a member, where there is one, another name in templates.
fn also_call(object: Option<&mut Value>, name: &str, other: &str) {
    if let Some(object) = object
        && let Some(member) = object.get(name).cloned()
    {
        left_out::add(object, other, member);
    }
}

/// Indented by four, as Docker does.
///
/// # Errors
/// What can't be written as JSON.
fn pretty(found: &[impl Serialize]) -> Result<String> {
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
    use std::path::Path;

    use images::{Digest, ImageConfig};
    use serde_json::json;

    use super::*;
    use crate::sandbox::containers::tests::config;
    use crate::sandbox::state::ContainerState;

    /// One of which nothing is set.
    fn image() -> Object {
        let config = r#"{"architecture":"amd64","os":"linux",
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let id = Digest::of(config.as_bytes());
        Object::Image(Box::new(Image {
            id,
            manifest_digest: id,
            config: ImageConfig::parse(config.as_bytes()).unwrap(),
            layers: Vec::new(),
            tags: Vec::new(),
            repo_digests: Vec::new(),
            size: 0,
        }))
    }

    fn container() -> Object {
        let (config, state) = (config('a', "x", false), ContainerState::created());
        Object::Container(inspect::container(Path::new("/none"), &config, &state))
    }

    fn shown(format: &str, found: &[Object]) -> Vec<String> {
        let mut lines = Vec::new();
        let form = Form::parse(Some(format)).unwrap();
        let line = |line: &str| {
            lines.push(line.to_owned());
            Ok(())
        };
        assert!(form.show(found, for_templates, line).unwrap().is_empty());
        lines
    }

    #[test]
    fn what_a_template_can_not_be_filled_from_keeps_no_other_from_being_shown() {
        let all = [
            Object::Volume(json!({"Name": "a"})),
            Object::Volume(json!({"Name": "b", "Size": 5})),
            Object::Volume(json!({"Name": "c"})),
        ];
        let show = |found: &[Object]| {
            let mut lines = Vec::new();
            let form = Form::parse(Some("{{.Size}}")).unwrap();
            let failed = form.show(found, for_templates, |line| {
                lines.push(line.to_owned());
                Ok(())
            });
            (lines, failed.unwrap().len())
        };
        assert_eq!(show(&all), (vec!["5".to_owned()], 2));
        assert_eq!(show(&all[..1]), (vec![String::new()], 1));
        assert_eq!(show(&[]), (vec![String::new()], 0));
        assert!(fail_with(Vec::new()).is_ok());
        let failed = vec![anyhow!("first"), anyhow!("last")];
        assert_eq!(fail_with(failed).unwrap_err().to_string(), "last");
    }

    #[test]
    fn members_have_the_names_of_go_as_well() {
        let mut config = config('a', "x", false);
        config.given.nano_cpus = 1_500_000_000;
        let state = ContainerState::created();
        let mut value = inspect::container(Path::new("/none"), &config, &state);
        value["HostConfig"]["PortBindings"] =
            json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "90/tcp": null});
        let id = value["Id"].as_str().unwrap().to_owned();
        let found = [Object::Container(value)];
        for (format, want) in [
            ("{{.ID}}", id.as_str()),
            ("{{.HostConfig.NanoCPUs}}", "1500000000"),
            ("{{.HostConfig.CPUShares}} {{.HostConfig.CPUQuota}}", "0 0"),
            ("{{.HostConfig.DNS}}{{len .HostConfig.DNSSearch}}", "[]0"),
            (
                r#"{{range (index .HostConfig.PortBindings "80/tcp")}}{{.HostIP}} {{json .}}{{end}}"#,
                r#"127.0.0.1 {"HostIp":"127.0.0.1","HostPort":"8080"}"#,
            ),
        ] {
            assert_eq!(shown(format, &found), [want], "{format}");
        }
        let whole: Value = serde_json::from_str(&shown("{{json .}}", &found)[0]).unwrap();
        assert_eq!(whole, serde_json::to_value(&found[0]).unwrap());
        let image = image();
        let Object::Image(of) = &image else {
            unreachable!()
        };
        let id = of.id.to_string();
        assert_eq!(shown("{{.ID}}", &[image]), [id]);
    }

    #[test]
    fn a_bind_has_no_name_and_no_driver() {
        let Object::Container(mut value) = container() else {
            unreachable!()
        };
        value["Mounts"] = json!([
            {"Type": "bind", "Source": "/a"},
            {"Type": "volume", "Name": "data", "Driver": "local"},
        ]);
        let found = [Object::Container(value)];
        let format = "{{range .Mounts}}<{{.Name}} {{.Driver}}>{{end}}";
        assert_eq!(shown(format, &found), ["< ><data local>"]);
        let first = "{{json (index .Mounts 0)}}";
        assert_eq!(shown(first, &found), [r#"{"Source":"/a","Type":"bind"}"#]);
    }

    #[test]
    fn the_word_json_is_a_list_on_one_line() {
        let volume = |name: &str| Object::Volume(json!({"Name": name}));
        let both = [volume("a"), volume("b")];
        assert_eq!(shown("json", &both), [r#"[{"Name":"a"},{"Name":"b"}]"#]);
        assert_eq!(shown("json", &[]), ["[]"]);
        // A template that does the same is one for each.
        let each = [r#"{"Name":"a"}"#, r#"{"Name":"b"}"#];
        assert_eq!(shown("{{json .}}", &both), each);
        // In Docker's order.
        assert!(shown("json", &[image()])[0].starts_with("[{\"Id\":\"sha256:"));
    }

    #[test]
    fn an_empty_format_is_none() {
        let volume = [Object::Volume(json!({"Name": "a"}))];
        assert_eq!(shown("", &volume), [pretty(&volume).unwrap()]);
        assert_eq!(shown("", &[]), ["[]"]);
    }

    #[test]
    fn members_that_an_image_or_container_has_not_are_printed_as_by_docker() {
        let of_images = [
            (
                "{{json .Config.ExposedPorts}}{{json .Config.Shell}}",
                "nullnull",
            ),
            ("{{.Config.ExposedPorts}}{{.Config.Volumes}}", "map[]map[]"),
            ("{{.Config.Labels}}{{.Config.Env}}", "map[][]"),
            ("{{.Config.Cmd}}{{.Config.Entrypoint}}", "[][]"),
            ("{{.Config.OnBuild}}{{.Config.Shell}}", "[][]"),
            ("{{.Config.Healthcheck}}", "<nil>"),
            ("{{json .Config.StopSignal}}{{json .Variant}}", "\"\"\"\""),
            ("<{{.Author}}{{.Comment}}{{.OsVersion}}>", "<>"),
            ("{{len .Config.ExposedPorts}}", "0"),
            ("{{if .Config.Healthcheck}}checked{{end}}", ""),
            ("{{.GraphDriver.Name}} {{.GraphDriver.Data}}", "erofs map[]"),
            ("{{.Metadata.LastTagTime}}", "0001-01-01T00:00:00Z"),
        ];
        let of_containers = [
            (
                "{{.State.Health}}{{json .SizeRw}}{{.SizeRootFs}}",
                "<nil>null<nil>",
            ),
            ("{{json .Config.MacAddress}}{{.Config.Shell}}", "\"\"[]"),
            ("{{.HostConfig.ConsoleSize}}", "[0 0]"),
        ];
        for (object, cases) in [(image(), &of_images[..]), (container(), &of_containers[..])] {
            let found = [object];
            for (format, want) in cases {
                assert_eq!(shown(format, &found), [*want], "{format}");
            }
            // And the JSON is as it is without a template.
            let whole: Value = serde_json::from_str(&shown("{{json .}}", &found)[0]).unwrap();
            assert_eq!(whole, serde_json::to_value(&found[0]).unwrap());
        }
    }

    #[test]
    fn what_a_health_check_does_not_say_is_zero() {
        let Object::Image(mut image) = image() else {
            unreachable!()
        };
        image.config.healthcheck = Some(images::config::Healthcheck {
            retries: 3,
            ..Default::default()
        });
        let format = "{{with .Config.Healthcheck}}{{.Test}} {{.Interval}} {{.Retries}}{{end}}";
        assert_eq!(shown(format, &[Object::Image(image)]), ["[] 0 3"]);
    }

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
