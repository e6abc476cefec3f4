//! What the documents say about flags, commands, files, metrics and log messages, held against the code.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use muster::config::Cli;
use muster::metrics::{EdgeMetrics, Format, Metrics};
use regex::Regex;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files below a directory that end like this.
fn files(dir: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(dir)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{dir}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            found.extend(files(&path, ending));
        } else if path.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn documents() -> Vec<String> {
    let named =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "etcd/README.md", "envoy/README.md"];
    named.map(String::from).into_iter().chain(files("docs", ".md")).collect()
}

/// What stands in backquotes, fenced blocks included.
fn quoted(text: &str) -> Vec<&str> {
    let blocks = text.split("```").skip(1).step_by(2).flat_map(str::lines);
    let outside = text.split("```").step_by(2);
    let spans = outside.flat_map(|part| part.split('`').skip(1).step_by(2));
    blocks.chain(spans).collect()
}

/// docs/reference.md: each command with its flags, as its help says. Those of the log are told once, with `run`.
fn reference() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut page = "# Flags and variables\n\nWritten from `muster --help` by a test; \
        `MUSTER_WRITE=1 cargo test --workspace --test testsuite reference` writes it anew.\n\
        Each flag has a variable where one is named; a wrong value is refused before anything starts, with exit code 2.\n\
        A duration is a number of the flag's unit, or has one: `20`, `20s`, `2m`.\n"
        .to_owned();
    describe(&cli, "muster", &mut page);
    page
}

fn describe(command: &clap::Command, path: &str, page: &mut String) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
        let path = format!("{path} {}", sub.get_name());
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(page, "\n## {path}\n\n{}.", about.trim_end_matches('.')).unwrap();
        let rows: Vec<String> = sub.get_arguments().filter_map(|flag| row(flag, &path)).collect();
        if !rows.is_empty() {
            let head = "| flag | variable | default | meaning |\n|---|---|---|---|";
            writeln!(page, "\n{head}\n{}", rows.join("\n")).unwrap();
        }
        describe(sub, &path, page);
    }
}

fn row(flag: &clap::Arg, path: &str) -> Option<String> {
    let long = flag.get_long().filter(|long| *long != "help" && !flag.is_hide_set());
    if long.is_some_and(|long| path != "muster run" && long.starts_with("log")) {
        return None;
    }
    let help = flag.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
    let (meaning, said) = match help.split_once(" [default: ") {
        Some((meaning, said)) => (meaning, said.trim_end_matches(']').to_owned()),
        None => (help.as_str(), "none".to_owned()),
    };
    let given: Vec<_> = flag.get_default_values().iter().map(|value| value.to_str().unwrap()).collect();
    let default = if given.is_empty() { said } else { format!("`{}`", given.join(",")) };
    let takes = flag.get_action().takes_values();
    let values: Vec<_> = flag
        .get_value_names()
        .filter(|_| takes)
        .unwrap_or_default()
        .iter()
        .map(|name| name.as_str())
        .collect();
    let variable = flag.get_env().map_or("none".to_owned(), |name| format!("`{}`", name.to_str().unwrap()));
    let name = match long {
        Some(long) => format!("--{long} {}", values.join(" ")),
        None if flag.is_positional() => values.join(" "),
        None => return None,
    };
    Some(format!("| `{}` | {variable} | {default} | {meaning} |", name.trim().replace('|', "\\|")))
}

#[test]
fn the_reference_is_the_help() {
    let (page, expected) = ("docs/reference.md", reference());
    if std::env::var_os("MUSTER_WRITE").is_some() {
        fs::write(root().join(page), &expected).unwrap();
    }
    assert!(read(page) == expected, "{page} is not what the help says: MUSTER_WRITE=1 writes it anew");
    // No second table of flags that could say something else.
    for other in documents().into_iter().filter(|other| other != page) {
        let rows = read(&other)
            .lines()
            .filter(|line| line.starts_with("| `--") && line.contains("`MUSTER_"))
            .count();
        assert_eq!(rows, 0, "{other} has a table of flags: link to {page}");
    }
}

#[test]
fn every_make_target_named_exists() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(": ##").map(|(target, _)| target)).collect();
    assert!(targets.contains("up"), "the Makefile's targets are read");
    let mut wrong = Vec::new();
    for document in documents() {
        let text = read(&document);
        for line in quoted(&text) {
            for command in line.split(", ").filter_map(|part| part.trim().strip_prefix("make ")) {
                let target = command.split(|c: char| !c.is_alphanumeric() && c != '-').next().unwrap();
                if !targets.contains(target) {
                    wrong.push(format!("{document}: `make {target}` does not exist"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_service_named_exists() {
    let compose = read("compose.yaml");
    let (_, services) = compose.split_once("\nservices:\n").unwrap();
    let services: BTreeSet<&str> =
        services.lines().filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':')).collect();
    let command = Regex::new(r"docker compose (exec|run|kill|stop|start|ps|logs) ([^|#]*)").unwrap();
    let mut named = 0;
    for page in documents() {
        let text = read(&page);
        for found in quoted(&text).into_iter().flat_map(|code| command.captures_iter(code)) {
            let words = found[2].split_whitespace().filter(|word| !word.starts_with('-'));
            let most = if matches!(&found[1], "exec" | "run") { 1 } else { usize::MAX };
            for service in words.take(most) {
                assert!(services.contains(service), "{page}: there is no service {service} ({})", &found[0]);
                named += 1;
            }
        }
    }
    assert!(named > 10, "only {named} services found: the pattern is wrong");
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        let text = read(&document);
        let here = root().join(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            if !link.contains("://") && !here.parent().unwrap().join(path).exists() {
                wrong.push(format!("{document}: {link} is not there"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn operations_lists_the_metrics_and_no_other() {
    let page = read("docs/operations.md");
    let exported =
        Metrics::new("", "").text(Format::Prometheus) + &EdgeMetrics::new("", "").text(Format::Prometheus);
    let exported: BTreeSet<&str> =
        exported.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let named: BTreeSet<&str> = quoted(&page)
        .into_iter()
        .filter(|word| word.starts_with("muster_") || word.starts_with("process_"))
        .collect();
    let missing: Vec<_> = exported.difference(&named).collect();
    let invented: Vec<_> = named.difference(&exported).collect();
    assert!(missing.is_empty(), "docs/operations.md does not list {missing:?}");
    assert!(invented.is_empty(), "docs/operations.md lists {invented:?}, which nobody exports");
}

#[test]
fn operations_lists_the_log_events_and_no_other() {
    let page = read("docs/operations.md");
    let log = page.split("\n## ").find(|part| part.starts_with("Log")).expect("a section on the log");
    let listed = events(log);
    let call = Regex::new(r#"(info|warn|error)!\(\s*name: "([^"]+)""#).unwrap();
    let unnamed =
        Regex::new(r"(?:debug|info|warn|error)!\(\s*[^n\s]|(?:debug|info|warn|error)!\(\s*n[^a]").unwrap();
    let mut said = BTreeSet::new();
    for file in files("agent/src", ".rs") {
        let text = read(&file);
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (_, [level, name]) in call.captures_iter(code).map(|found| found.extract()) {
            let level = ["info", "warn", "error"].into_iter().find(|known| *known == level).unwrap();
            said.insert((name.to_owned(), level));
        }
        let without =
            unnamed.find(code).map(|found| &code[found.start()..][..60.min(code.len() - found.start())]);
        assert_eq!(without, None, "{file}: an event without a name");
    }
    // The requests, which nginx and Envoy write.
    said.insert(("request".to_owned(), "info"));
    assert!(said.contains(&("list-changed".to_owned(), "info")), "the messages are found");
    let missing: Vec<_> = said.difference(&listed).collect();
    let invented: Vec<_> = listed.difference(&said).collect();
    assert!(missing.is_empty(), "docs/operations.md does not explain {missing:?}");
    assert!(invented.is_empty(), "docs/operations.md explains what nobody says: {invented:?}");
}

/// Name and level of each event in the tables of events. Several in a row have a level each, or one for all.
fn events(log: &str) -> BTreeSet<(String, &str)> {
    let mut found = BTreeSet::new();
    for table in log.split("| event | level | meaning |\n").skip(1) {
        for row in table.lines().take_while(|line| line.starts_with('|')).skip(1) {
            let [names, levels] = [1, 2].map(|cell| row.split('|').nth(cell).expect("a cell"));
            let names: Vec<&str> = names.split('`').skip(1).step_by(2).collect();
            let levels: Vec<&str> = levels.trim().split(", ").collect();
            assert!(levels.len() == 1 || levels.len() == names.len(), "{row}");
            let level = |at: usize| levels.get(at).copied().unwrap_or(levels[0]);
            found.extend(names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), level(at))));
        }
    }
    found
}

#[test]
fn every_hint_of_check_has_its_heading() {
    let (code, page) = (read("agent/src/cli/diagnosis.rs"), read("docs/checks.md"));
    let hint = Regex::new("=> \"([a-z]+(?:-[a-z]+)+)\",").unwrap();
    let hints: BTreeSet<&str> =
        hint.captures_iter(&code).filter_map(|found| found.get(1)).map(|name| name.as_str()).collect();
    let headings: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert!(hints.len() > 5, "{hints:?}");
    assert_eq!(hints, headings);
}

/// One version of each thing, wherever it stands.
#[test]
fn versions_agree_wherever_they_stand() {
    let after = |file: &str, start: &str| -> String {
        let text = read(file);
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(start).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {start} in {file}")).trim_matches(['"', ' ']).to_owned()
    };
    let rust = after("Cargo.toml", "rust-version = ");
    assert!(
        after("rust-toolchain.toml", "channel = ").starts_with(&format!("{rust}.")),
        "rust-toolchain.toml"
    );
    assert_eq!(after(".env", "RUST_IMAGE="), format!("rust:{rust}"));
    assert!(read(".github/workflows/ci.yml").contains(&format!(" rust:{rust}-")), "ci.yml");
    let compose = after("scripts/lib.sh", "COMPOSE_NEEDED=");
    assert!(
        read("README.md").contains(&format!("Compose {compose} or newer")),
        "README.md says another Compose"
    );
    let readme = read("README.md");
    let said: BTreeSet<&str> = Regex::new("Rust ([0-9]+[.][0-9]+)")
        .unwrap()
        .find_iter(&readme)
        .map(|found| found.as_str())
        .collect();
    assert_eq!(said, BTreeSet::from([format!("Rust {rust}").as_str()]), "README.md");
}

/// `.ci/run` calls `make test` alone, and each Dockerfile and target that release.yml names exists.
#[test]
fn workflows_name_what_there_is() {
    let run = read(".ci/run");
    let prelude = ["#", "set -", "cd "];
    let commands: Vec<&str> =
        run.lines().filter(|line| !prelude.iter().any(|start| line.starts_with(start))).collect();
    assert_eq!(commands, ["exec make test"], ".ci/run");
    assert!(read(".github/workflows/ci.yml").contains("bash .ci/run"), "ci.yml");
    let release = read(".github/workflows/release.yml");
    let image = Regex::new("image: ([a-z]+), file: ([^ ,]+), target: ([^ }]+)").unwrap();
    let mut images = Vec::new();
    for named in image.captures_iter(&release) {
        let [image, file, target] = [1, 2, 3].map(|at| named.get(at).unwrap().as_str());
        let dockerfile = read(file);
        let last = target == "\"\"";
        assert!(
            last || dockerfile.contains(&format!(" AS {target}\n")),
            "release.yml: {file} has no {target}"
        );
        images.push(image);
    }
    assert_eq!(images, ["node", "envoy", "etcd", "front"]);
}

/// What a contributor is told to run is there.
#[test]
fn contributing_names_what_there_is() {
    let text = read("CONTRIBUTING.md");
    let scripts: Vec<&str> =
        text.split(['`', ' ', '\n']).filter(|word| word.ends_with(".sh") && word.contains('/')).collect();
    assert!(scripts.len() >= 2, "{scripts:?}");
    for script in scripts {
        assert!(root().join(script).is_file(), "CONTRIBUTING.md names {script}");
    }
    let stages = read("images/test.sh");
    let lanes = stages.lines().find_map(|line| line.strip_prefix("LANES=(")?.strip_suffix(')')).unwrap();
    let listed: Vec<&str> = lanes.split(['"', ' ']).filter(|stage| !stage.is_empty()).collect();
    assert!(listed.len() == 6, "{listed:?}");
    for stage in listed {
        assert!(text.contains(&format!("\n| {stage} | ")), "CONTRIBUTING.md does not list the stage {stage}");
    }
}
