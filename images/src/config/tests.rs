//! Image configs, good and hostile.

use serde_json::{Value, json};

use super::*;
use crate::sample::{Sample, sha};

fn config_with(change: impl FnOnce(&mut Value)) -> Result<ImageConfig, ConfigError> {
    let mut value = serde_json::from_slice(&Sample::new(&[b"one"]).config).unwrap();
    change(&mut value);
    ImageConfig::parse(&serde_json::to_vec(&value).unwrap())
}

#[test]
fn every_field_is_read() {
    let config = config_with(|value| {
        value["author"] = json!("me");
        value["comment"] = json!("c");
        value["docker_version"] = json!("20.10");
        value["variant"] = json!("v2");
        value["config"] = json!({
            "User": "1000:users", "Env": ["A=1", "B"], "Entrypoint": ["/e", "x"], "Cmd": ["c"],
            "WorkingDir": "/w", "Volumes": {"/z": {}, "/a": {}},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Labels": {"k": "v"}, "StopSignal": "SIGINT",
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000_u64, "Retries": 3},
            "Shell": ["/bin/bash", "-c"], "OnBuild": ["RUN x"],
            "Hostname": "", "AttachStdin": false, "ArgsEscaped": true, "Image": "sha256:x",
        });
        value["history"] = json!([
            {"created": "2024-01-01T00:00:00Z", "created_by": "ADD", "author": "a", "comment": "b"},
            {"created_by": "CMD", "empty_layer": true},
        ]);
    })
    .unwrap();
    assert_eq!(config.platform.to_string(), "linux/amd64/v2");
    assert_eq!(config.created.unwrap().unix_seconds(), 1_714_564_800);
    assert_eq!(
        (config.author.as_str(), config.comment.as_str()),
        ("me", "c")
    );
    assert_eq!(config.docker_version, "20.10");
    assert_eq!(
        (config.user.as_str(), config.working_dir.as_str()),
        ("1000:users", "/w")
    );
    assert_eq!(config.env, ["A=1", "B"]);
    assert_eq!(config.entrypoint.unwrap(), ["/e", "x"]);
    assert_eq!(config.cmd.unwrap(), ["c"]);
    assert_eq!(config.volumes, ["/a", "/z"]);
    assert_eq!(config.exposed_ports, ["53/udp", "80/tcp"]);
    assert_eq!(config.labels["k"], "v");
    assert_eq!(config.stop_signal, "SIGINT");
    let check = config.healthcheck.unwrap();
    assert_eq!(
        (check.test.len(), check.interval, check.retries),
        (2, 5_000_000_000, 3)
    );
    assert_eq!(config.shell.unwrap(), ["/bin/bash", "-c"]);
    assert_eq!(config.on_build, ["RUN x"]);
    assert_eq!(config.diff_ids[0].to_string(), sha(b"one"));
    assert_eq!(config.history.len(), 2);
    assert_eq!(
        config.history[0].created.as_ref().unwrap().as_str(),
        "2024-01-01T00:00:00Z"
    );
    assert!(config.history[1].empty_layer);
}

#[test]
fn go_writes_null_for_what_is_empty() {
    let config = config_with(|value| {
        value["config"] = json!({
            "Env": null, "Cmd": null, "Entrypoint": null, "Volumes": null, "ExposedPorts": null, "Labels": null,
            "OnBuild": null, "Shell": null, "Healthcheck": null, "User": "", "WorkingDir": "", "StopSignal": null,
        });
        value["history"] = json!(null);
        value["author"] = json!(null);
    })
    .unwrap();
    assert_eq!(
        (config.env.len(), config.cmd, config.entrypoint),
        (0, None, None)
    );
    assert!(config.volumes.is_empty() && config.labels.is_empty() && config.history.is_empty());
    let bare = config_with(|value| {
        value.as_object_mut().unwrap().remove("config");
    });
    assert_eq!(bare.unwrap().user, "");
    let check = config_with(|value| value["config"]["Healthcheck"] = json!({"Test": null}));
    assert_eq!(check.unwrap().healthcheck, Some(Healthcheck::default()));
    for rootfs in [
        json!(null),
        json!({}),
        json!({"type": "layers", "diff_ids": null}),
    ] {
        let config = config_with(|value| value["rootfs"] = rootfs).unwrap();
        assert!(config.diff_ids.is_empty());
    }
    let without = config_with(|value| {
        value.as_object_mut().unwrap().remove("rootfs");
    });
    assert!(without.unwrap().diff_ids.is_empty());
}

#[test]
fn a_platform_that_is_not_told_is_the_hosts() {
    for absent in [None, Some(""), Some("null")] {
        let config = config_with(|value| {
            for field in ["os", "architecture"] {
                match absent {
                    None => drop(value.as_object_mut().unwrap().remove(field)),
                    Some("null") => value[field] = json!(null),
                    Some(text) => value[field] = json!(text),
                }
            }
        });
        assert_eq!(config.unwrap().platform, Platform::host(), "{absent:?}");
    }
    let config = config_with(|value| {
        value["architecture"] = json!("riscv64");
        value["os"] = json!("");
    });
    assert_eq!(config.unwrap().platform.to_string(), "linux/riscv64");
}

#[test]
fn a_made_up_time_is_no_time() {
    let config = config_with(|value| value["created"] = json!("\x1b[2Jyesterday")).unwrap();
    assert_eq!(config.created, None);
}

#[test]
fn nul_bytes_are_refused_where_a_process_would_get_them() {
    for (field, text) in [
        ("Env", json!(["A=\0"])),
        ("Cmd", json!(["a", "b\0c"])),
        ("Entrypoint", json!(["\0"])),
        ("User", json!("ro\0ot")),
        ("WorkingDir", json!("/\0")),
        ("Volumes", json!({"/a\0": {}})),
        ("StopSignal", json!("\0")),
        ("Shell", json!(["\0"])),
        ("Healthcheck", json!({"Test": ["CMD", "\0"]})),
    ] {
        let error = config_with(|value| value["config"][field] = text).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the image config has a NUL byte in {field}")
        );
    }
}

#[test]
fn counts_and_sizes_are_limited() {
    for field in ["Env", "Cmd", "Entrypoint", "OnBuild", "Shell"] {
        let many = json!(vec!["a=b"; CONFIG_ENTRIES + 1]);
        let error = config_with(|value| value["config"][field] = many).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the image config has 10001 entries in {field}, above the limit of 10000")
        );
    }
    let ports = |count: usize| {
        let ports: BTreeMap<String, Value> = (0..count)
            .map(|number| (number.to_string(), json!({})))
            .collect();
        config_with(|value| value["config"]["ExposedPorts"] = json!(ports))
    };
    assert_eq!(ports(17_386).unwrap().exposed_ports.len(), 17_386);
    assert_eq!(
        ports(EXPOSED_PORTS + 1).unwrap_err().to_string(),
        "the image config has 196609 entries in ExposedPorts, above the limit of 196608"
    );
    for field in ["Volumes", "Labels"] {
        let value = if field == "Labels" {
            json!("")
        } else {
            json!({})
        };
        let many: BTreeMap<String, Value> = (0..=CONFIG_ENTRIES)
            .map(|number| (number.to_string(), value.clone()))
            .collect();
        let result = config_with(|value| value["config"][field] = json!(many));
        assert!(
            matches!(result, Err(ConfigError::TooManyEntries { .. })),
            "{field}"
        );
    }
    let many = json!({"Test": vec!["x"; CONFIG_ENTRIES + 2]});
    let error = config_with(|value| value["config"]["Healthcheck"] = many).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the image config has 10002 entries in Healthcheck, above the limit of 10000"
    );
    let diff_ids = config_with(|value| {
        value["rootfs"]["diff_ids"] = json!(vec![sha(b"x"); 1000]);
    });
    assert!(matches!(diff_ids, Err(ConfigError::TooManyLayers(1000))));
    let history = config_with(|value| value["history"] = json!(vec![json!({}); HISTORY + 1]));
    assert!(matches!(
        history,
        Err(ConfigError::TooManyEntries {
            field: "history",
            ..
        })
    ));
    let large = config_with(|value| value["author"] = json!("x".repeat(5 << 20)));
    assert!(matches!(
        large,
        Err(ConfigError::Json(JsonError::TooLarge { .. }))
    ));
}

#[test]
fn entries_above_a_limit_are_counted_and_not_kept() {
    let many = format!("[{}{{}}]", "{},".repeat(2 * HISTORY));
    let list: List<Record, HISTORY> = serde_json::from_str(&many).unwrap();
    assert_eq!(list.lengths(), (HISTORY, 2 * HISTORY + 1));
    let many = format!("{{{}\"b\":\"\"}}", "\"a\":\"\",".repeat(9));
    let map: document::Map<String, 5> = serde_json::from_str(&many).unwrap();
    assert_eq!(map.lengths(), (5, 10));
    assert!(serde_json::from_str::<List<Record, 1>>("[{},{]").is_err());
}

#[test]
fn diff_ids_are_digests() {
    for text in ["sha256:../../x", "sha512:ab", "", &sha(b"x").to_uppercase()] {
        let error = config_with(|value| value["rootfs"]["diff_ids"] = json!([text])).unwrap_err();
        assert!(
            matches!(error, ConfigError::DiffId { index: 1, .. }),
            "{text}"
        );
    }
}

#[test]
fn layers_and_diff_ids_go_together() {
    let config = config_with(|_| {}).unwrap();
    config.check_layers(1).unwrap();
    assert_eq!(
        config.check_layers(2).unwrap_err().to_string(),
        "the image has 2 layers, but its config has 1 diff_ids"
    );
}

#[test]
fn another_platform_is_named() {
    let config = config_with(|value| value["architecture"] = json!("arm64\x1b")).unwrap();
    let wanted = Platform::parse("linux/amd64").unwrap();
    assert_eq!(
        config.check_platform(&wanted).unwrap_err().to_string(),
        "the image is for linux/arm64\\u{1b}, not for linux/amd64"
    );
}

#[test]
fn what_is_no_config_is_refused() {
    for text in [
        "",
        "{}",
        "[]",
        "null",
        "{\"architecture\":1,\"os\":\"linux\",\"rootfs\":{}}",
    ] {
        assert!(
            matches!(
                ImageConfig::parse(text.as_bytes()),
                Err(ConfigError::Json(_))
            ),
            "{text}"
        );
    }
    let sample = Sample::new(&[b"x"]);
    for end in 0..sample.config.len() {
        assert!(ImageConfig::parse(&sample.config[..end]).is_err(), "{end}");
    }
}
