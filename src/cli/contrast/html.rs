//! The rows as one page that needs nothing else: no script, no font, no address. Drawings of the four
//! ways to run applications on a machine, the two that were measured with their figures.
//!
//! Text that a probe or a user wrote is escaped by [`escaped`] wherever it gets in.

use std::fmt::Write;

use super::rows::{Contrast, Row, bytes, rows};
use super::side::Measured;

const STYLE: &str = include_str!("contrast.css");

/// Width of a drawing, in its own units; a letter of a label takes about seven.
const WIDTH: usize = 280;

/// Height of a layer, and the gap between two.
const LAYER: usize = 34;
/// See [`LAYER`].
const GAP: usize = 4;

/// Height of a wall and its words.
const WALL: usize = 20;

/// Longest label in letters: what the width of a drawing has room for.
const LABEL_MAX: usize = 36;

/// The page.
pub fn page(contrast: &Contrast) -> String {
    let mut page = String::new();
    let image = escaped(&contrast.image);
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{image}: microVM and container</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>{image}: in a microVM, and as a plain container</h1>\n\
         <p>Measured on one host (kernel {}) with the same limits: {} of memory, {} CPUs. \
         A probe ran in place of the image’s program, with its user, capabilities and filters.</p>\n",
        escaped(&contrast.host.release),
        escaped(&contrast.memory),
        escaped(&contrast.cpus),
    );
    if let Err(why) = &contrast.container {
        let _ = writeln!(
            page,
            "<p class=\"missing\">No plain container: {}.</p>",
            escaped(why)
        );
    }
    drawings(&mut page, contrast);
    table(&mut page, &rows(contrast));
    page.push_str(
        "<p class=\"note\">System calls were made once each with arguments that are wrong; one counts as \
         answered when the error is another than EPERM and ENOSYS. Memory is the proportional set \
         size of all processes on the host that exist for the container alone.</p>\n</body>\n</html>\n",
    );
    page
}

/// One of the ways to run applications on a machine.
struct Stack<'a> {
    title: &'a str,
    /// From the top: the class of each layer, and its parts side by side.
    layers: Vec<(&'a str, Vec<String>)>,
    /// Before which layer the wall is, and what it is.
    wall: Option<(usize, &'a str)>,
    /// What was measured.
    figures: Vec<(&'a str, String)>,
}

fn drawings(page: &mut String, contrast: &Contrast) {
    let words = |text: &str, count: usize| vec![text.to_owned(); count];
    let host = format!("host kernel {}", contrast.host.release);
    let guest = format!("kernel {}", contrast.vm.report.kernel.release);
    let vmm = format!("{} system calls", contrast.vmm_syscalls);
    let stacks = [
        Stack {
            title: "Applications on bare metal",
            layers: vec![
                ("app", words("app", 3)),
                ("kernel", words("one kernel, one set of users", 1)),
                ("metal", words("machine", 1)),
            ],
            wall: None,
            figures: Vec::new(),
        },
        Stack {
            title: "Virtual machines on a hypervisor",
            layers: vec![
                ("app", words("apps", 3)),
                ("kernel", words("guest OS", 3)),
                ("host", words("hypervisor", 1)),
                ("metal", words("machine", 1)),
            ],
            wall: Some((2, "hardware")),
            figures: Vec::new(),
        },
        Stack {
            title: "Containers on a shared kernel",
            layers: vec![
                ("app", words("app", 3)),
                ("box", words("container", 3)),
                ("kernel", vec![host.clone()]),
                ("metal", words("machine", 1)),
            ],
            wall: Some((2, "namespaces and filters")),
            figures: contrast.container.as_ref().map_or_else(
                |_| Vec::new(),
                |side| {
                    vec![
                        ("start", format!("{} ms", side.start_ms)),
                        ("memory", short_memory(side)),
                        (
                            "host system calls reached",
                            side.report.syscalls.reached.len().to_string(),
                        ),
                    ]
                },
            ),
        },
        Stack {
            title: "Here: one container in each microVM",
            layers: vec![
                ("app", words("app", 2)),
                ("box", words("container", 2)),
                ("kernel", vec![guest.clone(), guest]),
                ("box", words("VMM", 2)),
                ("host", vec![host]),
                ("metal", words("machine", 1)),
            ],
            wall: Some((3, "hardware")),
            figures: vec![
                ("start", format!("{} ms", contrast.vm.start_ms)),
                ("memory", short_memory(&contrast.vm)),
                ("host system calls reached", "0".to_owned()),
                ("its VMM’s filter", vmm),
            ],
        },
    ];
    page.push_str("<div class=\"stacks\">\n");
    for stack in &stacks {
        drawing(page, stack);
    }
    page.push_str("</div>\n");
}

fn short_memory(side: &Measured) -> String {
    let more = if side.unread == 0 { "" } else { "> " };
    format!("{more}{}", bytes(side.memory_bytes))
}

fn drawing(page: &mut String, stack: &Stack) {
    let wall = if stack.wall.is_some() { WALL } else { 0 };
    let height = stack.layers.len() * (LAYER + GAP) + wall;
    let _ = write!(
        page,
        "<figure>\n<figcaption>{}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"{}\">\n",
        escaped(stack.title),
        escaped(stack.title),
    );
    let mut y = 0;
    for (index, (class, parts)) in stack.layers.iter().enumerate() {
        if let Some((at, what)) = stack.wall
            && at == index
        {
            let _ = writeln!(
                page,
                "<line class=\"wall\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{line}\" y2=\"{line}\"/>\
                 <text class=\"wall\" x=\"{WIDTH}\" y=\"{text}\">{}</text>",
                escaped(what),
                line = y + 4,
                text = y + 16,
            );
            y += WALL;
        }
        let count = parts.len().max(1);
        let width = (WIDTH - GAP * (count - 1)) / count;
        for (column, part) in parts.iter().enumerate() {
            let x = column * (width + GAP);
            let label = fitting(part, LABEL_MAX / count);
            let _ = writeln!(
                page,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{LAYER}\" \
                 rx=\"3\"/><text x=\"{}\" y=\"{}\">{}</text>",
                x + width / 2,
                y + LAYER / 2 + 4,
                escaped(&label),
            );
        }
        y += LAYER + GAP;
    }
    page.push_str("</svg>\n");
    if !stack.figures.is_empty() {
        page.push_str("<dl>\n");
        for (name, value) in &stack.figures {
            let _ = writeln!(
                page,
                "<dt>{}</dt><dd>{}</dd>",
                escaped(name),
                escaped(value)
            );
        }
        page.push_str("</dl>\n");
    }
    page.push_str("</figure>\n");
}

/// A label that its box has room for.
fn fitting(label: &str, letters: usize) -> String {
    if label.chars().count() <= letters {
        return label.to_owned();
    }
    let short: String = label.chars().take(letters.saturating_sub(1)).collect();
    format!("{}…", short.trim_end())
}

fn table(page: &mut String, rows: &[Row]) {
    page.push_str(
        "<table>\n<thead><tr><th></th><th scope=\"col\">microVM</th>\
         <th scope=\"col\">plain container</th></tr></thead>\n<tbody>\n",
    );
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = row.group;
            let _ = writeln!(
                page,
                "<tr class=\"group\"><th colspan=\"3\" scope=\"rowgroup\">{}</th></tr>",
                escaped(group)
            );
        }
        let _ = writeln!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>",
            escaped(row.name),
            escaped(&row.vm),
            escaped(&row.container),
        );
    }
    page.push_str("</tbody>\n</table>\n");
}

/// Text as HTML: nothing of it is markup.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::sample;
    use super::*;

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&sample());
        for word in [
            "http:", "https:", "src=", "url(", "<script", "@import", "<link",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(page.contains("190 ms") && page.contains("90 ms"));
    }

    #[test]
    fn nothing_that_a_probe_says_is_markup() {
        let mut contrast = sample();
        contrast.vm.report.kernel.release = "<script>alert('x')</script>".to_owned();
        contrast.image = "a\"><b>".to_owned();
        let page = page(&contrast);
        assert!(!page.contains("<script") && !page.contains("<b>"));
        assert!(page.contains("&lt;script&gt;"));
    }

    #[test]
    fn labels_fit_their_boxes() {
        assert_eq!(fitting("short", 10), "short");
        assert_eq!(fitting("a longer label", 8).chars().count(), 8);
        assert!(fitting(&"x".repeat(100), 12).chars().count() <= 12);
    }

    #[test]
    fn without_a_container_the_page_says_why() {
        let mut contrast = sample();
        contrast.container = Err("neither crun nor runc is on PATH".to_owned());
        assert!(page(&contrast).contains("No plain container: neither crun nor runc"));
    }
}
