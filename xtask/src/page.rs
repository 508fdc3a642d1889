//! `cargo xtask page`: opens a page of `bulkhead contrast --html` in a real browser and checks what it
//! looks like, on screens of several widths, light and dark, and on paper. main.rs calls it. It must
//! not know what the page is about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::packages::{self, Package};
use crate::progress::Step;

const PACKAGES: &[Package] = &[Package::file("chromium", &["/usr/bin/chromium"])];

/// Open a page of `bulkhead contrast --html` in a browser and check that all of it is readable
#[derive(Args, Debug)]
pub(crate) struct PageArgs {
    /// The page
    file: PathBuf,
    /// Where pictures of it and the printed pages go [default: beside it]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Widths of windows: a telephone's, a tablet's, a desk's.
const WIDTHS: [u32; 3] = [360, 800, 1280];

/// The least ratio of contrast of text on its ground (WCAG 2.1, 1.4.3).
const CONTRAST: &str = "4.5";

/// Finds text outside its box, cells that are cut, a page wider than its window, and text that is too
/// faint; leaves the list in the title.
const CHECK: &str = r#"<script>
const wrong = [];
const light = (text) => {
  const [r, g, b] = text.match(/[\d.]+/g).slice(0, 3)
    .map((n) => n / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
const ground = light(getComputedStyle(document.body).backgroundColor);
if (document.documentElement.scrollWidth > innerWidth) wrong.push('the page is wider than its window');
for (const text of document.querySelectorAll('svg text')) {
  const inner = text.getBoundingClientRect();
  const before = text.previousElementSibling;
  const box = before && before.tagName === 'rect' ? before : text.ownerSVGElement;
  const outer = box.getBoundingClientRect();
  if (inner.left < outer.left - 1 || inner.right > outer.right + 1
    || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1)
    wrong.push('outside its box: ' + text.textContent);
  const below = box.tagName === 'rect' ? light(getComputedStyle(box).fill) : ground;
  if (ratio(light(getComputedStyle(text).fill), below) < LEAST) wrong.push('faint: ' + text.textContent);
}
for (const cell of document.querySelectorAll('h1, p, th, td, dt, dd, figcaption')) {
  if (cell.scrollWidth > cell.clientWidth + 1 && getComputedStyle(cell).display !== 'inline')
    wrong.push('cut: ' + cell.textContent);
  if (ratio(light(getComputedStyle(cell).color), ground) < LEAST) wrong.push('faint: ' + cell.textContent);
}
const parts = document.querySelectorAll('svg rect').length + document.querySelectorAll('td').length;
document.title = 'checked ' + parts + ' parts: ' + (wrong.join('; ') || 'good');
</script>
"#;

/// The verb.
///
/// # Errors
///
/// There is no browser, or something on the page can't be read; the message says what.
pub(crate) fn main(arguments: &PageArgs) -> Result<()> {
    packages::ensure(PACKAGES)?;
    let file = &arguments.file;
    let page = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let beside = file.parent().map(Path::to_owned).unwrap_or_default();
    let out = std::path::absolute(arguments.out.as_ref().unwrap_or(&beside))
        .context("resolve the folder of pictures")?;
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let scratch = tempfile::tempdir().context("create a scratch folder")?;
    for (scheme, page) in [("light", page.clone()), ("dark", dark(&page)?)] {
        let shown = scratch.path().join(format!("{scheme}.html"));
        fs::write(&shown, &page).context("write a page")?;
        let checked = scratch.path().join(format!("{scheme}-check.html"));
        let script = CHECK.replace("LEAST", CONTRAST);
        fs::write(
            &checked,
            page.replace("</body>", &format!("{script}</body>")),
        )
        .context("write a page")?;
        for width in WIDTHS {
            let step = Step::begin(format!("{scheme}, {width} pixels wide"));
            let window = format!("--window-size={width},2400");
            let dom = browser(scratch.path(), &[&window, "--dump-dom"], &checked)?;
            let said = title(&dom)?;
            if !said.ends_with(": good") || said.starts_with("checked 0") {
                bail!("{scheme}, {width} pixels wide: {said}");
            }
            let picture = format!("--screenshot={}/{scheme}-{width}.png", out.display());
            browser(scratch.path(), &[&window, &picture], &shown)?;
            step.done_with(said);
        }
    }
    let step = Step::begin("paper");
    let pdf = out.join("page.pdf");
    let option = format!("--print-to-pdf={}", pdf.display());
    let words = [option.as_str(), "--no-pdf-header-footer"];
    browser(scratch.path(), &words, &scratch.path().join("light.html"))?;
    if !fs::read(&pdf).is_ok_and(|bytes| bytes.starts_with(b"%PDF")) {
        bail!("the page can't be printed");
    }
    step.done_with(pdf.display().to_string());
    Ok(())
}

/// The page as it is where dark is preferred.
fn dark(page: &str) -> Result<String> {
    const QUERY: &str = "(prefers-color-scheme: dark)";
    if !page.contains(QUERY) {
        bail!("the page has no dark form");
    }
    Ok(page.replace(QUERY, "screen"))
}

/// Runs the browser on a page; what it prints.
fn browser(home: &Path, options: &[&str], page: &Path) -> Result<String> {
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        .arg(format!(
            "--user-data-dir={}",
            home.join("profile").display()
        ))
        .args(options)
        .arg(page)
        .output()
        .context("run chromium")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("chromium ended with {}: {}", output.status, text.trim());
    }
    String::from_utf8(output.stdout).context("read what chromium says")
}

fn title(dom: &str) -> Result<&str> {
    dom.split_once("<title>")
        .and_then(|(_, rest)| rest.split_once("</title>"))
        .map(|(title, _)| title)
        .context("the page has no title")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_in_the_title() {
        assert_eq!(title("<head><title>x: good</title>").unwrap(), "x: good");
        title("<p>").unwrap_err();
    }

    #[test]
    fn a_page_without_a_dark_form_is_refused() {
        assert_eq!(
            dark("@media (prefers-color-scheme: dark) {").unwrap(),
            "@media screen {"
        );
        dark("<p>").unwrap_err();
    }
}
