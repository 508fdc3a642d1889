//! The lab of docs/guide/lab.md, word for word: its files and its lines are taken from the page. The
//! package index and the registry are this host's, as there may be no Internet.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fixtures::Recipe;
use harness::registry::{Access, PASSWORD, Registry, USER};
use harness::{Sandbox, images, web};

use crate::world::World;

crate::tests![the_lab_word_for_word];

const PAGE: &str = include_str!("../../docs/guide/lab.md");

/// A build with pip in it, in an emulated host.
const PATIENCE: Duration = Duration::from_secs(400);

/// The repository that the page calls so.
const PROJECT: &str = "my-project";

fn the_lab_word_for_word(_: &World) -> Result<()> {
    let registry = Registry::start(Access::Password)?;
    let (before, after) = PAGE
        .split_once("## Run it anywhere")
        .context("the two parts")?;
    let one = machine(&registry)?;
    base_image(&one)?;
    for (name, language) in [("Dockerfile", "dockerfile"), ("web-server.py", "python")] {
        let block = blocks(before, language)
            .next()
            .context("a file of the lab")?;
        fs::write(one.work().join(name), block).context("write a file of the lab")?;
    }
    let output = follow(&one, before, &registry)?;
    // The second build had nothing to do.
    let again = output.last().context("an output")?;
    assert!(again.contains("digest: sha256:"), "{again}");
    let rebuilt = output.get(output.len() - 2).context("an output")?;
    assert_eq!(rebuilt.matches("CACHED").count(), 2, "{rebuilt}");
    drop(one);
    let two = machine(&registry)?;
    follow(&two, after, &registry)?;
    let ids = two.bulkhead(["ps", "-q"]).output()?.only_stdout()?;
    two.bulkhead(["rm", "-f"])
        .args(ids.split_whitespace())
        .output()?
        .code(0)?;
    Ok(())
}

/// Runs the lines of a part of the page; what each printed, and what it printed is what the page says.
fn follow(machine: &Sandbox, part: &str, registry: &Registry) -> Result<Vec<String>> {
    let mut outputs = Vec::new();
    let console: Vec<&str> = blocks(part, "console").flat_map(str::lines).collect();
    let mut lines = console.iter().peekable();
    while let Some(line) = lines.next() {
        let line = line
            .strip_prefix("$ ")
            .with_context(|| format!("no command: {line}"))?;
        let mut wanted = String::new();
        while let Some(said) = lines.next_if(|line| !line.starts_with("$ ")) {
            wanted.push_str(said);
            wanted.push('\n');
        }
        let script = line
            .replace("REGISTRY", &registry.address())
            .replace("PROJECT", PROJECT);
        let begun = Instant::now();
        let out = loop {
            let out = machine.shell(&script).timeout(PATIENCE).output()?;
            // The server takes its time to listen, and whoever types this does, too.
            if out.code == 0 || !line.starts_with("curl") || begun.elapsed() > PATIENCE {
                break out.code(0)?;
            }
            thread::sleep(Duration::from_millis(200));
        };
        if !wanted.is_empty() {
            assert_eq!(out.stdout, wanted, "{script}");
        }
        outputs.push(format!("{}{}", out.stdout, out.stderr));
    }
    Ok(outputs)
}

/// The fenced blocks of a language.
fn blocks<'a>(page: &'a str, language: &'a str) -> impl Iterator<Item = &'a str> {
    page.split("```")
        .skip(1)
        .step_by(2)
        .filter_map(move |block| {
            let (of, text) = block.split_once('\n')?;
            (of == language).then_some(text)
        })
}

/// A sandbox whose user has a credential helper as `gcloud auth configure-docker` sets it up.
fn machine(registry: &Registry) -> Result<Sandbox> {
    let vm = Sandbox::empty()?;
    let helper = vm.program().with_file_name("docker-credential-gcloud");
    let answer = format!(
        "#!/bin/sh\n[ \"$1\" = get ] || exit 1\nread -r server\n[ \"$server\" = {} ] || exit 1\n\
         echo '{{\"ServerURL\":\"{}\",\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'\n",
        registry.address(),
        registry.address()
    );
    fs::write(&helper, answer).context("write the credential helper")?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))
        .context("make the credential helper executable")?;
    let folder = vm.home().join(".docker");
    fs::create_dir_all(&folder).context("create .docker")?;
    let block = blocks(PAGE, "json")
        .next()
        .context("the page's config.json")?;
    fs::write(
        folder.join("config.json"),
        block.replace("REGISTRY", &registry.address()),
    )
    .context("write config.json")?;
    Ok(vm)
}

/// The base image, whose pip asks this host's index.
fn base_image(vm: &Sandbox) -> Result<()> {
    vm.load(&images::python()?)?;
    let index = images::path(Recipe::Python, "index")?;
    let address = web::host_address()?;
    let port = web::serve(index)?;
    let dockerfile = format!(
        "FROM {}\nRUN printf '[global]\\nindex-url = http://{address}:{port}/simple\\n\
         trusted-host = {address}\\nno-cache-dir = true\\n' > /etc/pip.conf\n",
        fixtures::python::IMAGE
    );
    vm.bulkhead(["build", "-t", fixtures::python::IMAGE, "-"])
        .stdin(dockerfile)
        .timeout(PATIENCE)
        .output()?
        .code(0)?;
    Ok(())
}
