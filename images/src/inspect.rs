//! `inspect` of an image: JSON of Docker's shape, with Docker's field names and order.
//!
//! Called by the command. It shows what the store knows; fields that only Docker's engine could fill
//! (the graph driver's data, parent, when it was tagged) are empty as they are for a pulled image there.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::Healthcheck;
use crate::digest::Digest;
use crate::image::Image;
use crate::reference::Reference;

/// The value of Go's `map[string]struct{}`.
#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspect<'a> {
    id: Digest,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: &'a str,
    comment: &'a str,
    created: &'a str,
    docker_version: &'a str,
    author: &'a str,
    config: Config<'a>,
    architecture: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
    os: &'a str,
    size: u64,
    graph_driver: GraphDriver,
    #[serde(rename = "RootFS")]
    root_fs: RootFs<'a>,
    metadata: Metadata,
    descriptor: Descriptor,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config<'a> {
    hostname: &'a str,
    domainname: &'a str,
    user: &'a str,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_ports: Option<BTreeMap<&'a str, Empty>>,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: Option<&'a [String]>,
    cmd: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<&'a Healthcheck>,
    image: &'a str,
    volumes: Option<BTreeMap<&'a str, Empty>>,
    working_dir: &'a str,
    entrypoint: Option<&'a [String]>,
    on_build: Option<&'a [String]>,
    labels: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    stop_signal: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<&'a [String]>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs<'a> {
    r#type: &'static str,
    layers: &'a [Digest],
}

/// What layers become, as `info` calls it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    /// `null`: a map without anything.
    data: (),
    name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    last_tag_time: &'static str,
}

/// Go's zero time: the store does not keep when a name was given.
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: Digest,
}

/// A list as Go writes it: an empty one is `null`.
fn go_list(list: &[String]) -> Option<&[String]> {
    (!list.is_empty()).then_some(list)
}

/// A list as Go's `map[string]struct{}`; an empty one is `null`.
fn go_set(names: &[String]) -> Option<BTreeMap<&str, Empty>> {
    (!names.is_empty()).then(|| names.iter().map(|name| (name.as_str(), Empty {})).collect())
}

/// The image as one JSON object, in Docker's field order, for any serde serialiser.
pub fn inspect_json(image: &Image) -> impl Serialize + '_ {
    let config = &image.config;
    let familiar = |names: &[Reference]| names.iter().map(Reference::familiar).collect();
    Inspect {
        id: image.id,
        repo_tags: familiar(&image.tags),
        repo_digests: familiar(&image.repo_digests),
        parent: "",
        comment: &config.comment,
        created: config
            .created
            .as_ref()
            .map_or("", |created| created.as_str()),
        docker_version: &config.docker_version,
        author: &config.author,
        config: Config {
            hostname: "",
            domainname: "",
            user: &config.user,
            attach_stdin: false,
            attach_stdout: false,
            attach_stderr: false,
            exposed_ports: go_set(&config.exposed_ports),
            tty: false,
            open_stdin: false,
            stdin_once: false,
            env: go_list(&config.env),
            cmd: config.cmd.as_deref(),
            healthcheck: config.healthcheck.as_ref(),
            image: "",
            volumes: go_set(&config.volumes),
            working_dir: &config.working_dir,
            entrypoint: config.entrypoint.as_deref(),
            on_build: go_list(&config.on_build),
            labels: (!config.labels.is_empty()).then_some(&config.labels),
            stop_signal: &config.stop_signal,
            shell: config.shell.as_deref(),
        },
        architecture: config.platform.architecture(),
        variant: config.platform.variant(),
        os: config.platform.os(),
        size: image.size,
        graph_driver: GraphDriver {
            data: (),
            name: "erofs",
        },
        root_fs: RootFs {
            r#type: "layers",
            layers: &config.diff_ids,
        },
        metadata: Metadata {
            last_tag_time: NEVER,
        },
        descriptor: Descriptor {
            digest: image.manifest_digest,
        },
    }
}

/// Members that Docker leaves out of the JSON where there is nothing to show, with what its templates read
/// there: the object that they are of, as a JSON pointer, and the name.
#[must_use]
pub fn left_out() -> Vec<(&'static str, &'static str, Value)> {
    let (config, check) = ("/Config", "/Config/Healthcheck");
    vec![
        ("", "Variant", json!("")),
        ("", "OsVersion", json!("")),
        ("", "Manifests", Value::Null),
        (config, "ArgsEscaped", json!(false)),
        (config, "ExposedPorts", Value::Null),
        (config, "Healthcheck", Value::Null),
        (config, "Shell", Value::Null),
        (config, "StopSignal", json!("")),
        (check, "Test", Value::Null),
        (check, "Interval", json!(0)),
        (check, "Timeout", json!(0)),
        (check, "StartPeriod", json!(0)),
        (check, "StartInterval", json!(0)),
        (check, "Retries", json!(0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ImageConfig;
    use crate::manifest::{Document, parse};
    use crate::sample::Sample;

    fn image(change: impl FnOnce(&mut Value)) -> Image {
        let sample = Sample::new(&[b"one", b"two"]);
        let mut config = serde_json::from_slice(&sample.config).unwrap();
        change(&mut config);
        let config = ImageConfig::parse(&serde_json::to_vec(&config).unwrap()).unwrap();
        let Document::Manifest(manifest) = parse(&sample.manifest).unwrap() else {
            panic!("an index")
        };
        let mut image =
            Image::assemble(Digest::of(&sample.manifest), 100, &manifest, config).unwrap();
        image.tags = vec![Reference::parse("busybox").unwrap()];
        image.repo_digests = vec![image.tags[0].with_digest(image.manifest_digest)];
        image
    }

    #[test]
    fn the_shape_is_dockers() {
        let image = image(|config| {
            config["config"]["ExposedPorts"] = serde_json::json!({"80/tcp": {}});
            config["config"]["Healthcheck"] =
                serde_json::json!({"Test": ["CMD", "true"], "Interval": 1_000_000_000});
        });
        let text = serde_json::to_string(&inspect_json(&image)).unwrap();
        assert!(text.starts_with("{\"Id\":\"sha256:"), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["RepoTags"], serde_json::json!(["busybox:latest"]));
        assert_eq!(
            value["RepoDigests"][0],
            format!("busybox@{}", image.manifest_digest)
        );
        assert_eq!(value["Created"], "2024-05-01T12:00:00Z");
        assert_eq!(
            (&value["Architecture"], &value["Os"]),
            (&"amd64".into(), &"linux".into())
        );
        assert_eq!(value["Config"]["Cmd"], serde_json::json!(["/bin/sh"]));
        assert_eq!(value["Config"]["Entrypoint"], Value::Null);
        assert_eq!(value["Config"]["Labels"], Value::Null);
        assert_eq!(
            value["Config"]["ExposedPorts"],
            serde_json::json!({"80/tcp": {}})
        );
        assert_eq!(
            value["Config"]["Healthcheck"],
            serde_json::json!({"Test": ["CMD", "true"], "Interval": 1_000_000_000})
        );
        assert!(value["Config"].get("StopSignal").is_none());
        assert_eq!(value["RootFS"]["Type"], "layers");
        assert_eq!(value["RootFS"]["Layers"].as_array().unwrap().len(), 2);
        assert_eq!(value["Size"], image.size);
        assert_eq!(value["GraphDriver"], json!({"Data": null, "Name": "erofs"}));
        assert_eq!(value["Metadata"], json!({"LastTagTime": NEVER}));
    }

    #[test]
    fn what_is_left_out_is_there_where_the_image_has_it() {
        let bare = image(|_| {});
        let bare = serde_json::to_value(inspect_json(&bare)).unwrap();
        let full = image(|config| {
            config["config"]["ExposedPorts"] = json!({"80/tcp": {}});
            config["config"]["Shell"] = json!(["/bin/sh"]);
            config["config"]["StopSignal"] = json!("SIGINT");
            config["config"]["Healthcheck"] = json!({
                "Test": ["CMD", "true"], "Interval": 1, "Timeout": 1, "StartPeriod": 1,
                "StartInterval": 1, "Retries": 1,
            });
        });
        let full = serde_json::to_value(inspect_json(&full)).unwrap();
        let has = |value: &Value, part: &str, member: &str| {
            let part = value.pointer(part);
            part.is_some_and(|part| part.get(member).is_some())
        };
        for (part, member, _) in left_out() {
            assert!(!has(&bare, part, member), "{part} {member}");
            // Those are of other machines and systems, or of stores of another kind.
            let never = ["ArgsEscaped", "Manifests", "OsVersion", "Variant"];
            assert_eq!(
                has(&full, part, member),
                !never.contains(&member),
                "{part} {member}"
            );
        }
    }

    #[test]
    fn control_characters_of_the_author_are_escaped() {
        let image = image(|config| {
            config["author"] = "\x1b[2J".into();
            config["config"]["Labels"] = serde_json::json!({"a\x07": "\u{0}\n"});
        });
        let text = serde_json::to_string(&inspect_json(&image)).unwrap();
        assert!(
            !text.contains(|character: char| character.is_ascii_control()),
            "{text}"
        );
    }
}
