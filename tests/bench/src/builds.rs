//! A Dockerfile of two stages, built anew and from the cache, next to buildah.

use std::fs;

use anyhow::{Context, Result};

use crate::host::{Host, time};
use crate::peers::Buildah;
use crate::table::{Table, ratio, spread};

/// Six steps: three of `RUN`, three of `COPY`.
const DOCKERFILE: &str = "\
FROM busybox AS made
COPY src /src
RUN seq 1 20000 > /numbers
RUN cat /src/* /numbers | sha256sum > /sum
FROM busybox
COPY --from=made /numbers /sum /made/
COPY src/0 /first
RUN chown -R app /made && ls -l /made > /made/list
USER app
CMD [\"cat\", \"/made/sum\"]
";

/// Files of the context.
const FILES: u32 = 50;

/// Measures in turns and adds the rows.
pub fn measure(host: &Host, table: &mut Table) -> Result<()> {
    let context = host.scratch().join("build");
    fs::create_dir_all(context.join("src")).context("create a context")?;
    fs::write(context.join("Dockerfile"), DOCKERFILE).context("write a Dockerfile")?;
    for number in 0..FILES {
        let content = format!("file {number}\n").repeat(1000);
        fs::write(context.join(format!("src/{number}")), content).context("write a context")?;
    }
    let context = context.to_str().context("a path is not UTF-8")?;
    let buildah = Buildah::new()?;
    make_base(host, &buildah)?;
    let own = ["build", "-q", "-t", "built"];
    let other = ["bud", "-q", "--layers", "--pull-never", "-t", "built"];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut ours_again, mut theirs_again) = (Vec::new(), Vec::new());
    for run in 0..=host.runs {
        let anew = ["--no-cache", context];
        let again = [context];
        let own_anew = time(&mut host.command(&[&own[..], &anew].concat()))?;
        let other_anew = time(&mut buildah.command(&[&other[..], &anew].concat()))?;
        let own_again = time(&mut host.command(&[&own[..], &again].concat()))?;
        let other_again = time(&mut buildah.command(&[&other[..], &again].concat()))?;
        // The first of each fills caches.
        if run > 0 {
            ours.push(own_anew);
            theirs.push(other_anew);
            ours_again.push(own_again);
            theirs_again.push(other_again);
        }
    }
    let how = format!("{} runs in turn, median (min to max)", host.runs);
    for (what, own, other) in [
        ("of two stages and six steps, anew", &ours, &theirs),
        ("of the same, from the cache", &ours_again, &theirs_again),
    ] {
        table.add(&format!("`build` {what}"), spread(own, "s"), "", &how);
        table.add(
            "`buildah bud --layers`",
            spread(other, "s"),
            "",
            "overlay, isolation chroot",
        );
        table.add(
            "ratio to buildah",
            format!("{:.2}", ratio(own, other)),
            "",
            "median of pairs",
        );
    }
    Ok(())
}

/// buildah's busybox. Not the archive that we load: its image has no history, and buildah counts that.
fn make_base(host: &Host, buildah: &Buildah) -> Result<()> {
    let context = host.scratch().join("base");
    fs::create_dir(&context).context("create a context")?;
    let path = |name: &str| context.join(name).display().to_string();
    host.output(&["create", "--name", "base", "busybox"])?;
    host.output(&["export", "-o", &path("base.tar"), "base"])?;
    host.output(&["rm", "base"])?;
    fs::write(
        path("Dockerfile"),
        "FROM scratch\nADD base.tar /\nENV PATH=/bin\nCMD [\"sh\"]\n",
    )
    .context("write a Dockerfile")?;
    buildah.output(&["bud", "-q", "-t", "busybox", &path("")])
}
