//! The house rules, checked on the source: who imports whom (docs/architecture.md is the table), how long a module may
//! be, what it may be called, where `unsafe` stands.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// Lines a module may have, without its tests at the end.
const MAX_LINES: usize = 400;
/// Files with `unsafe`: fork, exec and wait have no safe form.
const UNSAFE: [&str; 2] = ["process/fork.rs", "process/guard.rs"];
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = ["manager", "handler", "helper", "helpers", "util", "utils", "common", "misc"];
/// Envoy's own terms that have such a word in them: the file is found by the term.
const OTHERS_TERMS: [&str; 1] = ["http_connection_manager"];
/// Neither I/O nor clock, nor anything that can fail: what would be named if there were.
const PURE: [&str; 4] = ["fleet/", "envoy/snapshot/", "envoy/resources/", "process/watchdog.rs"];
const IMPURE: [&str; 12] = [
    "tokio",
    "tracing",
    "fastrand",
    "async ",
    ".await",
    "SystemTime",
    "Instant",
    "std::fs",
    "std::io",
    "std::env",
    "Timestamp::now",
    "crate::clock",
];

/// One Rust file of `agent/src`.
struct Module {
    /// Relative to `agent/src`.
    path: String,
    text: String,
    /// `text` without comments and without what stands in quotes.
    code: String,
}

/// One row of the table.
struct Room {
    /// What it may import: rooms, or modules of rooms such as `process::probe`.
    imports: BTreeSet<String>,
    /// Crates that no other room names.
    alone: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn modules() -> Vec<Module> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let source = root().join("agent/src");
    let mut paths = Vec::new();
    walk(&source, &mut paths);
    paths.sort();
    let module = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let path = path.strip_prefix(&source).unwrap().to_str().unwrap().to_owned();
        Module { path, code: bare(&text), text }
    };
    paths.iter().map(module).collect()
}

/// The room a file is in: `registry/lease.rs` and `registry.rs` are in `registry`.
fn room(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Source without comments; strings and characters stay as empty quotes.
fn bare(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let raw = rest.strip_prefix('r').map(|more| more.len() - more.trim_start_matches('#').len());
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(hashes) = raw.filter(|n| !after_word && rest[1 + n..].starts_with('"')) {
            code.push_str("\"\"");
            let end = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            rest[open..].find(&end).map_or(rest.len(), |at| open + at + end.len())
        } else if first == '"' {
            code.push_str("\"\"");
            closing(rest)
        } else if let Some(length) = character(rest) {
            code.push_str("''");
            length
        } else {
            code.push(first);
            first.len_utf8()
        };
        rest = &rest[taken..];
    }
    code
}

/// Length of the string literal that `text` begins with.
fn closing(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of the character literal that `text` begins with; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let mut chars = inner.char_indices();
    let (_, first) = chars.next()?;
    if first == '\\' {
        return inner[2..].find('\'').map(|at| at + 4);
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 2)
}

/// Every path below the crate's root that `code` names, at most two segments long. `main.rs` calls the root `muster`.
fn crate_paths(module: &Module) -> BTreeSet<String> {
    let code = module.code.split_whitespace().collect::<Vec<_>>().join(" ");
    let root = if module.path == "main.rs" { "muster::" } else { "crate::" };
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        expand("", &code[at + root.len()..], &mut found);
    }
    found
}

/// `a::{b, c::d}` is `a::b` and `a::c`.
fn expand(before: &str, path: &str, found: &mut BTreeSet<String>) {
    if let Some(group) = path.strip_prefix('{') {
        let mut depth = 0;
        let mut start = 0;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                '}' | ',' if depth == 0 => {
                    expand(before, group[start..at].trim(), found);
                    start = at + 1;
                    if c == '}' {
                        return;
                    }
                }
                _ => {}
            }
        }
        return;
    }
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    if name.is_empty() {
        return;
    }
    match rest.strip_prefix("::") {
        Some(rest) if before.is_empty() => {
            found.insert(name.to_owned());
            expand(name, rest, found);
        }
        _ if before.is_empty() => drop(found.insert(name.to_owned())),
        _ => drop(found.insert(format!("{before}::{name}"))),
    }
}

/// The table under the heading "Rooms" of docs/architecture.md.
fn table() -> BTreeMap<String, Room> {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with("| room |")).skip(2);
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut rooms = BTreeMap::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), 4, "a row has four cells: {row}");
        let imports: BTreeSet<String> = quoted(cells[2]).into_iter().collect();
        let alone: BTreeSet<String> = quoted(cells[3]).into_iter().collect();
        for name in quoted(cells[0]) {
            let room = Room { imports: imports.clone(), alone: alone.clone() };
            assert!(rooms.insert(name.clone(), room).is_none(), "two rows for {name}");
        }
    }
    assert!(!rooms.is_empty(), "docs/architecture.md has no table that begins with `| room |`");
    rooms
}

/// Fails with all that is wrong at once.
fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn rooms_import_what_the_table_says() {
    let (table, modules) = (table(), modules());
    let mut wrong = Vec::new();
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for module in &modules {
        let here = room(&module.path);
        let Some(row) = table.get(here) else {
            // lib.rs only declares the others.
            if here != "lib" {
                wrong.push(format!("{}: the table has no room `{here}`", module.path));
            }
            continue;
        };
        let paths = crate_paths(module);
        let rooms: Vec<&String> = paths.iter().filter(|path| table.contains_key(path.as_str())).collect();
        for target in rooms.into_iter().filter(|target| target.as_str() != here) {
            let deep: Vec<&String> = paths.range(format!("{target}::")..format!("{target}:;")).collect();
            if row.imports.contains(target) {
                used.entry(here).or_default().insert(target.clone());
                continue;
            }
            for path in &deep {
                if row.imports.contains(*path) {
                    used.entry(here).or_default().insert((*path).clone());
                } else {
                    wrong.push(format!("{}: `{here}` must not import `{path}`", module.path));
                }
            }
            if deep.is_empty() {
                wrong.push(format!("{}: `{here}` must not import `{target}`", module.path));
            }
        }
    }
    for (name, row) in &table {
        let used = used.get(name.as_str()).cloned().unwrap_or_default();
        for import in row.imports.difference(&used) {
            wrong.push(format!("docs/architecture.md: `{name}` is said to import `{import}` and does not"));
        }
    }
    report(wrong);
}

#[test]
fn imports_go_one_way() {
    let table = table();
    let mut left: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, row) in &table {
        left.insert(name, row.imports.iter().map(|path| path.split("::").next().unwrap()).collect());
    }
    while !left.is_empty() {
        let settled: Vec<&str> = left
            .iter()
            .filter(|(_, to)| to.iter().all(|to| !left.contains_key(to)))
            .map(|(at, _)| *at)
            .collect();
        assert!(!settled.is_empty(), "these rooms import each other in a circle: {left:?}");
        left.retain(|name, _| !settled.contains(name));
    }
}

#[test]
fn what_one_room_knows_alone_no_other_names() {
    let modules = modules();
    let mut wrong = Vec::new();
    for (name, row) in &table() {
        for outside in &row.alone {
            let by = |module: &&Module| names(&module.code, outside);
            let users: BTreeSet<&str> = modules.iter().filter(by).map(|module| room(&module.path)).collect();
            if users != BTreeSet::from([name.as_str()]) {
                wrong.push(format!("`{outside}` is for `{name}` alone, and is named in {users:?}"));
            }
        }
    }
    report(wrong);
}

/// Whether code names a crate or module, and not one whose name only ends like it.
fn names(code: &str, outside: &str) -> bool {
    code.match_indices(&format!("{outside}::"))
        .any(|(at, _)| !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

#[test]
fn every_room_has_a_row() {
    let library = modules().into_iter().find(|module| module.path == "lib.rs").unwrap();
    let declared: BTreeSet<String> = library
        .code
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned))
        .chain(["main".to_owned()])
        .collect();
    assert_eq!(declared, table().into_keys().collect(), "lib.rs and the table name the same rooms");
}

#[test]
fn pure_rooms_do_nothing_but_compute() {
    let mut wrong = Vec::new();
    for module in modules() {
        if !PURE.iter().any(|pure| module.path.starts_with(pure)) {
            continue;
        }
        for word in IMPURE {
            if module.code.contains(word) {
                wrong.push(format!("{}: `{word}` has no place in a pure module", module.path));
            }
        }
    }
    report(wrong);
}

#[test]
fn only_the_supervisor_waits_for_children() {
    let mut wrong = Vec::new();
    for module in modules().iter().filter(|module| !UNSAFE.contains(&module.path.as_str())) {
        for word in ["waitpid", "std::process::Command", "tokio::process"] {
            if module.code.contains(word) {
                wrong.push(format!("{}: `{word}` takes children away from the supervisor", module.path));
            }
        }
    }
    report(wrong);
}

#[test]
fn only_the_client_makes_transactions() {
    let mut wrong = Vec::new();
    for module in modules().iter().filter(|module| module.path != "registry/client/txn.rs") {
        if module.code.contains("Txn::new") {
            wrong.push(format!("{}: a transaction of its own, where `Etcd::commit` makes them", module.path));
        }
    }
    report(wrong);
}

#[test]
fn modules_are_short() {
    let mut wrong = Vec::new();
    let modules = modules();
    for module in &modules {
        // Tests are read one at a time: their number does not make a module hard to read.
        if module.path.ends_with("tests.rs") || module.path.ends_with("properties.rs") {
            continue;
        }
        let lines = module.text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        if lines > MAX_LINES {
            wrong.push(format!("{}: {lines} lines, at most {MAX_LINES}: split it by concept", module.path));
        }
    }
    report(wrong);
}

#[test]
fn modules_say_what_they_are() {
    let mut wrong = Vec::new();
    for module in modules() {
        let inner = |line: &str| line.is_empty() || line.starts_with("#![") || line.starts_with("//!");
        let mut head = module.text.lines().take_while(|line| inner(line));
        // A file called `tests` beside a module has said what it is.
        if !module.path.ends_with("/tests.rs") && !head.any(|line| line.starts_with("//! ")) {
            wrong.push(format!("{}: no //! line says what it is", module.path));
        }
        let parts =
            module.path.trim_end_matches(".rs").split('/').filter(|part| !OTHERS_TERMS.contains(part));
        for part in parts {
            if EMPTY_NAMES.iter().any(|empty| part.split('_').any(|word| word == *empty)) {
                wrong.push(format!("{}: `{part}` says nothing about what is inside", module.path));
            }
        }
    }
    report(wrong);
}

/// Who reads a name need not know in which room it was met.
#[test]
fn a_public_type_has_its_name_alone() {
    let declared = Regex::new(r"pub(?:\([a-z: ]+\))? (?:struct|enum|trait|type) ([A-Za-z0-9]+)").unwrap();
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for module in modules() {
        for found in declared.captures_iter(&module.code) {
            homes.entry(found[1].to_owned()).or_default().push(module.path.clone());
        }
    }
    assert!(homes.len() > 100, "{} types", homes.len());
    let several = homes.into_iter().filter(|(_, homes)| homes.len() > 1);
    report(several.map(|(name, homes)| format!("`{name}` is declared in {}", homes.join(" and "))).collect());
}

#[test]
fn unsafe_stands_where_it_must() {
    let mut wrong = Vec::new();
    for module in modules() {
        let words = module.code.split(|c: char| !c.is_alphanumeric() && c != '_');
        let has = words.filter(|word| matches!(*word, "unsafe" | "unsafe_code")).count() > 0;
        if has != UNSAFE.contains(&module.path.as_str()) {
            let what = if has { "uses `unsafe`" } else { "needs no `unsafe` any more" };
            wrong.push(format!("{}: {what}", module.path));
        }
    }
    report(wrong);
}

#[test]
fn the_scanner_reads_rust() {
    let code = bare(
        "let a = \"crate::x // \\\" no\"; // crate::y\nlet b: &'static str = r#\"crate::\"z\"#; '\\'' 'c' end",
    );
    assert_eq!(code, "let a = \"\"; \nlet b: &'static str = \"\"; '' '' end");
    let module = Module {
        path: "registry/x.rs".into(),
        text: String::new(),
        code: "use crate::{fleet::{Node, Roster}, clock}; crate::page::run::go(); my_crate::none".into(),
    };
    let expected = ["clock", "fleet", "fleet::Node", "fleet::Roster", "page", "page::run"];
    assert_eq!(crate_paths(&module), expected.map(String::from).into());
}
