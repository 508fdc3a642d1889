//! Members that Go's structures have and their JSON lacks where there is no value (`omitempty`): templates
//! read them, and what `json` makes of the whole object does not have them.
//! Verbs add them, `output` single labels; `functions` and `print` tell them from the others.

use serde_json::Value;

/// Under which an object has their names. A text of an image or a user under that name is no list.
const NAMES: &str = "\0left out";

/// Adds such a member with what Go has where there is nothing, unless the object has it. What is no
/// object stays as it is.
pub fn add(object: &mut Value, name: &str, nothing: Value) {
    let Some(members) = object.as_object_mut() else {
        return;
    };
    if members.contains_key(name) {
        return;
    }
    members.insert(name.to_owned(), nothing);
    let names = members
        .entry(NAMES)
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(names) = names {
        names.push(name.into());
    }
}

/// Whether a member is the list of their names, which nobody sees.
pub fn is_list(name: &str, value: &Value) -> bool {
    name == NAMES && value.is_array()
}

/// A value without them, at any depth.
pub fn without(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(without).collect(),
        Value::Object(members) => {
            let names = members.get(NAMES).and_then(Value::as_array);
            let is_left_out = |name: &str| {
                let mut names = names.into_iter().flatten();
                names.any(|other| other.as_str() == Some(name))
            };
            members
                .iter()
                .filter(|(name, value)| !is_list(name, value) && !is_left_out(name))
                .map(|(name, value)| (name.clone(), without(value)))
                .collect()
        }
        other => other.clone(),
    }
}
