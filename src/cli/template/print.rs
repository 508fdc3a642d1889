//! Values as Go prints them. Called by `eval`, `functions` and `verb`, and by the verbs to quote a text.

use serde_json::Value;

use super::left_out;

/// What an action prints.
pub fn action(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        other => plain(other),
    }
}

/// A value without a value, under this name: Docker's structures know what it would be.
pub fn nothing(name: &str) -> &'static str {
    const LISTS: [&str; 26] = [
        "Aliases",
        "Binds",
        "CapAdd",
        "CapDrop",
        "Cmd",
        "DNSNames",
        "DeviceCgroupRules",
        "DeviceRequests",
        "Entrypoint",
        "Env",
        "ExecIDs",
        "ExtraHosts",
        "GroupAdd",
        "Links",
        "Manifests",
        "MaskedPaths",
        "OnBuild",
        "ReadonlyPaths",
        "RemoteManagers",
        "SecondaryIPAddresses",
        "SecondaryIPv6Addresses",
        "SecurityOpt",
        "Shell",
        "Test",
        "VolumesFrom",
        "Warnings",
    ];
    if LISTS.contains(&name) {
        "[]"
    } else if is_map(name) {
        "map[]"
    } else if name.starts_with(char::is_uppercase) {
        "<nil>"
    } else {
        // A key of a map, such as a label.
        "<no value>"
    }
}

/// Whether the member of this name is a map in Docker's structures: its keys may be missing.
pub fn is_map(name: &str) -> bool {
    const MAPS: [&str; 13] = [
        "Annotations",
        "Data",
        "DriverOpts",
        "ExposedPorts",
        "Labels",
        "Networks",
        "Options",
        "PortBindings",
        "Ports",
        "StorageOpt",
        "Sysctls",
        "Tmpfs",
        "Volumes",
    ];
    MAPS.contains(&name)
}

/// Structures of Docker's of which one prints the values alone, by the names of their members in Go's order.
const STRUCTURES: [&[&str]; 4] = [
    &["HostIp", "HostPort"],
    &["Name", "MaximumRetryCount"],
    &["Type", "Config"],
    &["Type", "Layers"],
];

/// The values of such a structure. A member under another name, for templates, is none of its own.
fn structure(value: &Value) -> Option<Vec<&Value>> {
    let members = value.as_object()?;
    let mut known = STRUCTURES.iter();
    let names = known.find(|names| names.iter().all(|name| members.contains_key(*name)))?;
    let is_all = left_out::without(value).as_object()?.len() == names.len();
    let values = names.iter().map(|name| members.get(*name));
    values.collect::<Option<_>>().filter(|_| is_all)
}

/// A value behind its key. What stands at a port or a path is no map: a port without bindings has a list that
/// is not there, and what is exposed or a volume has nothing at all (Go's `struct{}`).
fn behind(key: &str, value: &Value) -> String {
    match value {
        Value::Null if key.contains('/') => "[]".to_owned(),
        Value::Object(map) if map.is_empty() && key.contains('/') => "{}".to_owned(),
        value => plain(value),
    }
}

/// `%v`.
pub fn plain(value: &Value) -> String {
    if let Some(values) = structure(value) {
        let values: Vec<String> = values.into_iter().map(plain).collect();
        return format!("{{{}}}", values.join(" "));
    }
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
                .map(|(key, value)| format!("{key}:{}", behind(key, value)))
                .collect();
            format!("map[{}]", pairs.join(" "))
        }
    }
}

/// A text as Go's `strconv.Quote` writes it.
pub fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            _ if is_printable(c) => out.push(c),
            _ if c.is_ascii() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            '\u{80}'..='\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Whether it is to be seen, as Go has it: no control, no format, no blank but the one, and assigned. Rust
/// escapes the same behind another character.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return c == ' ' || c.is_ascii_graphic();
    }
    let text = String::from_iter(['x', c]);
    text.escape_debug().eq(text.chars())
}

/// Members of an object by name, as Go walks maps; none of what is no object.
pub fn sorted(value: &Value) -> Vec<(&String, &Value)> {
    let all = value.as_object().into_iter().flatten();
    let mut all: Vec<_> = all
        .filter(|(name, value)| !left_out::is_list(name, value))
        .collect();
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
