//! `--format`: the part of Go's templates that looks values up: text, `{{.A.B}}`, `{{json .A}}` and
//! the word `json`. Anything else is refused rather than printed wrongly.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Fills `format` from `value`.
///
/// # Errors
/// When the template has something that is not supported, or a name that is not there.
pub fn render(format: &str, value: &Value) -> Result<String> {
    if format == "json" {
        return Ok(value.to_string());
    }
    let mut out = String::new();
    let mut rest = format;
    while let Some((text, behind)) = rest.split_once("{{") {
        out.push_str(text);
        let (action, behind) = behind
            .split_once("}}")
            .with_context(|| format!("template parsing error: unclosed action in {format}"))?;
        out.push_str(&evaluate(action.trim(), value)?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out.replace("\\n", "\n").replace("\\t", "\t"))
}

fn evaluate(action: &str, value: &Value) -> Result<String> {
    let words: Vec<&str> = action.split_whitespace().collect();
    match words.as_slice() {
        ["json", path] => Ok(look_up(path, value)?.to_string()),
        [path] if path.starts_with('.') => Ok(plain(look_up(path, value)?)),
        _ => bail!(
            "template {{{{{action}}}}} is not supported: only {{{{.A.B}}}} and {{{{json .A}}}} are"
        ),
    }
}

fn look_up<'a>(path: &str, value: &'a Value) -> Result<&'a Value> {
    let path = path
        .strip_prefix('.')
        .context("template parsing error: a name begins with a dot")?;
    let mut at = value;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        at = at
            .get(name)
            .with_context(|| format!("template: can't evaluate field {name} in {path}"))?;
    }
    Ok(at)
}

/// As Go prints it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<no value>".to_owned(),
        Value::Array(list) => {
            format!("[{}]", list.iter().map(plain).collect::<Vec<_>>().join(" "))
        }
        Value::Object(map) => {
            let pairs: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{k}:{}", plain(v)))
                .collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_looked_up_and_printed_as_go_does() {
        let value = json!({"State": {"ExitCode": 3, "Ok": true}, "L": ["a", "b"], "M": {"k": "v"}});
        for (format, want) in [
            ("code {{.State.ExitCode}}!", "code 3!"),
            ("{{ .State.Ok }}", "true"),
            ("{{.L}} {{.M}}", "[a b] map[k:v]"),
            ("{{json .L}}", "[\"a\",\"b\"]"),
            ("a\\tb", "a\tb"),
        ] {
            assert_eq!(render(format, &value).unwrap(), want, "{format}");
        }
        assert_eq!(render("json", &json!([1])).unwrap(), "[1]");
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for format in ["{{range .L}}", "{{.Nope}}", "{{.L", "{{len .L}}"] {
            assert!(render(format, &json!({"L": []})).is_err(), "{format}");
        }
    }
}
