//! `bulkhead events`, `bulkhead system events`: what happened to containers, images and volumes, and
//! what happens.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::filter::Filters;
use super::output;
use super::template::Template;
use super::values::time;
use crate::sandbox::events::{self, Event};
use crate::sandbox::logs::{Follow, Reader};
use crate::sandbox::paths::Root;

/// Longest time between two looks at the journal.
const LOOK: Duration = Duration::from_secs(10);

/// Every key of `--filter`.
const KEYS: [&str; 9] = [
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "scope",
    "type",
    "volume",
];

/// Flags of `events`.
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// Only events of which KEY=VALUE holds: container, image, event, type, label, scope, network,
    /// volume, daemon
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// `json` or a template such as '{{.Action}} {{.Actor.ID}}'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// From this time on: such as 2025-01-02T13:23:37Z, or 42m for so long ago
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Up to this time, in the same forms; without it events are followed
    #[arg(long, value_name = "string")]
    until: Option<String>,
}

/// Prints events, those that come, too, unless all of them are past.
///
/// # Errors
/// A filter, a format or a time that is none, or the journal can't be read.
pub fn run(args: &EventsArgs) -> Result<()> {
    let now = Timestamp::now();
    let since = time::moment_of_flag(args.since.as_deref(), "since", now)?;
    let until = time::moment_of_flag(args.until.as_deref(), "until", now)?;
    // Without either of them, only what is new.
    let since = match (since, until) {
        (None, None) => Some(now),
        (since, _) => since,
    };
    let filters = Filters::parse(&args.filter, "-f, --filter", &KEYS)?;
    let form = Form::parse(args.format.as_deref())?;
    let root = Root::of_user()?;
    // Before the first look, so that nothing falls between.
    let follow = Follow::new(&events::path(root.path()))?;
    let mut reader = Reader::open(&events::path(root.path()))?;
    loop {
        // In this order: what was written before the end is read after it was seen.
        let seen = Timestamp::now();
        while let Some(event) = reader.next_of::<Event>()? {
            let nanos = i128::from(event.time_nano);
            let is_in_time = since.is_none_or(|since| nanos >= since.as_nanosecond())
                && until.is_none_or(|until| nanos <= until.as_nanosecond());
            if is_in_time && is_wanted(&filters, &event) {
                output::line(&form.text(&event)?)?;
            }
        }
        let Some(until) = until else {
            follow.wait(LOOK)?;
            continue;
        };
        if seen >= until {
            return Ok(());
        }
        let left = Duration::try_from(until.duration_since(seen)).unwrap_or_default();
        follow.wait(left.min(LOOK))?;
    }
}

fn is_wanted(filters: &Filters, event: &Event) -> bool {
    let (kind, actor) = (event.kind.as_str(), &event.actor);
    let attribute = |name: &str| actor.attributes.get(name).map_or("", String::as_str);
    let name = attribute("name");
    let of = |key: &str| {
        !filters.has(key)
            || (kind == key
                && filters.any(key, |value| {
                    actor.id.starts_with(value) || name.starts_with(value)
                }))
    };
    let image = match kind {
        "image" => name,
        _ => attribute("image"),
    };
    let has_image = |value: &str| {
        [actor.id.as_str(), image]
            .iter()
            .any(|text| *text == value || without_tag(text) == value)
    };
    filters.any("event", |value| event.action.starts_with(value))
        && filters.is("type", kind)
        && filters.is("scope", &event.scope)
        && of("container")
        && of("network")
        && of("volume")
        && of("daemon")
        && filters.any("image", |value| {
            matches!(kind, "container" | "image") && has_image(value)
        })
        && filters.labels("label", &actor.attributes)
}

/// `busybox` of `busybox:1`; the colon of a registry's port is none of a tag.
fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((bare, tag)) if !tag.contains('/') => bare,
        _ => name,
    }
}

/// How events are printed.
enum Form {
    Plain,
    Json,
    Template(Template),
}

impl Form {
    fn parse(format: Option<&str>) -> Result<Self> {
        Ok(match format.map(str::trim) {
            None | Some("") => Self::Plain,
            Some(format) if output::is_json(format) => Self::Json,
            Some(text) => Self::Template(Template::parse_list(text)?),
        })
    }

    fn text(&self, event: &Event) -> Result<String> {
        match self {
            Self::Plain => Ok(plain(event)),
            Self::Json => Ok(serde_json::to_string(&with_old_names(event)?)?),
            Self::Template(template) => template.render(&fields(event)),
        }
    }
}

/// The object with the names that Docker had before `Action` and `Actor`, which it still writes.
fn with_old_names(event: &Event) -> Result<Value> {
    let mut value = serde_json::to_value(event)?;
    if let Some(object) = value.as_object_mut()
        && matches!(event.kind.as_str(), "container" | "image")
    {
        object.insert("status".to_owned(), json!(event.action));
        object.insert("id".to_owned(), json!(event.actor.id));
        if let Some(image) = event.actor.attributes.get("image") {
            object.insert("from".to_owned(), json!(image));
        }
    }
    Ok(value)
}

/// What templates find: the names of Docker's own structure.
fn fields(event: &Event) -> Value {
    json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.actor.id, "Attributes": event.actor.attributes},
        "Scope": event.scope,
        "Time": event.time,
        "TimeNano": event.time_nano,
        "Status": event.action,
        "ID": event.actor.id,
        "From": event.actor.attributes.get("image").map_or("", String::as_str),
    })
}

/// `2025-01-02T03:04:05.000000000Z container start ID (image=busybox, name=x)`
fn plain(event: &Event) -> String {
    let time = Timestamp::from_nanosecond(i128::from(event.time_nano)).unwrap_or_default();
    let local = time.to_zoned_datetime(TimeZone::system());
    let zone = match local.offset().is_zero() {
        true => "Z".to_owned(),
        false => local.strftime("%:z").to_string(),
    };
    let attributes: Vec<String> = event
        .actor
        .attributes
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let attributes = match attributes.as_slice() {
        [] => String::new(),
        some => format!(" ({})", some.join(", ")),
    };
    format!(
        "{}{zone} {} {} {}{attributes}",
        local.strftime("%Y-%m-%dT%H:%M:%S.%9f"),
        event.kind,
        event.action,
        event.actor.id
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::events::Actor;

    fn event(kind: &str, action: &str, id: &str, attributes: &[(&str, &str)]) -> Event {
        let attributes = attributes.iter();
        Event {
            kind: kind.to_owned(),
            action: action.to_owned(),
            actor: Actor {
                id: id.to_owned(),
                attributes: attributes
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
            },
            scope: "local".to_owned(),
            time: 1_735_787_045,
            time_nano: 1_735_787_045_000_000_007,
        }
    }

    fn start() -> Event {
        let attributes = [("image", "busybox:1"), ("name", "web1"), ("tier", "web")];
        event("container", "start", "abc123", &attributes)
    }

    #[test]
    fn the_text_is_dockers() {
        let text = plain(&start());
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.contains(":05.000000007"), "{time}");
        assert_eq!(
            rest,
            "container start abc123 (image=busybox:1, name=web1, tier=web)"
        );
        let bare = plain(&event("image", "delete", "sha256:1", &[]));
        assert!(bare.ends_with(" image delete sha256:1"), "{bare}");
    }

    #[test]
    fn templates_have_dockers_names_old_ones_too() {
        let form = Form::parse(Some(
            "{{.Status}} {{.ID}} {{.Actor.Attributes.name}} {{.From}}",
        ));
        let text = form.unwrap().text(&start()).unwrap();
        assert_eq!(text, "start abc123 web1 busybox:1");
        let text = Form::parse(Some("json")).unwrap().text(&start()).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&value["status"], &value["Action"], &value["timeNano"]),
            (
                &"start".into(),
                &"start".into(),
                &1_735_787_045_000_000_007_i64.into()
            )
        );
    }

    #[test]
    fn filters_leave_the_events_they_name() {
        let exec = event("container", "exec_create: sh -c x", "abc123", &[]);
        let tag = event("image", "tag", "sha256:77", &[("name", "r:5000/busybox:2")]);
        for (texts, want) in [
            (&[][..], [true, true, true]),
            (&["event=start"], [true, false, false]),
            (&["event=exec_create"], [false, true, false]),
            (&["event=start", "event=tag"], [true, false, true]),
            (&["type=image"], [false, false, true]),
            (&["container=abc"], [true, true, false]),
            (&["container=web1"], [true, false, false]),
            (&["image=busybox"], [true, false, false]),
            (&["image=busybox:1"], [true, false, false]),
            (&["image=r:5000/busybox"], [false, false, true]),
            (&["label=tier=web"], [true, false, false]),
            (&["scope=swarm"], [false, false, false]),
            (&["network=x"], [false, false, false]),
            (&["type=container", "event=tag"], [false, false, false]),
        ] {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            let filters = Filters::parse(&texts, "-f, --filter", &KEYS).unwrap();
            let got = [&start(), &exec, &tag].map(|event| is_wanted(&filters, event));
            assert_eq!(got, want, "{texts:?}");
        }
    }
}
