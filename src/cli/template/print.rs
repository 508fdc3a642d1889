//! Values as Go prints them.

use serde_json::Value;

/// What an action prints.
pub fn action(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        other => plain(other),
    }
}

/// A value without a value, under this name: Docker's structures know what it would be.
pub fn nothing(name: &str) -> &'static str {
    const LISTS: [&str; 14] = [
        "Binds",
        "CapAdd",
        "CapDrop",
        "Cmd",
        "DeviceCgroupRules",
        "DeviceRequests",
        "Entrypoint",
        "ExecIDs",
        "ExtraHosts",
        "GroupAdd",
        "Links",
        "OnBuild",
        "SecurityOpt",
        "VolumesFrom",
    ];
    const MAPS: [&str; 4] = ["Data", "Labels", "Options", "Volumes"];
    if LISTS.contains(&name) {
        "[]"
    } else if MAPS.contains(&name) {
        "map[]"
    } else if name.starts_with(char::is_uppercase) {
        "<nil>"
    } else {
        // A key of a map, such as a label.
        "<no value>"
    }
}

/// `%v`.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(switch) => switch.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(plain).collect();
            format!("[{}]", list.join(" "))
        }
        Value::Object(_) => {
            let pairs: Vec<String> = sorted(value)
                .into_iter()
                .map(|(key, value)| format!("{key}:{}", plain(value)))
                .collect();
            format!("map[{}]", pairs.join(" "))
        }
    }
}

/// Members of an object by name, as Go walks maps; none of what is no object.
pub fn sorted(value: &Value) -> Vec<(&String, &Value)> {
    let mut all: Vec<_> = value.as_object().into_iter().flatten().collect();
    all.sort_by_key(|(key, _)| *key);
    all
}

/// Whether Go takes it for true: not zero and not empty.
pub fn holds(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(switch) => *switch,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}
