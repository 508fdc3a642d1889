//! Values as Go prints them.

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
    const MAPS: [&str; 6] = [
        "Data",
        "DriverOpts",
        "ExposedPorts",
        "Labels",
        "Options",
        "Volumes",
    ];
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
