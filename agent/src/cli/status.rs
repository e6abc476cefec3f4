//! `muster status`: who is registered, who leads, and whether files and Envoys say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::diagnosis::diagnose;
use super::survey::{Access, File, Line, Survey};
use super::{DIFFERENT, FINE, unanswered};
use crate::config::{StatusFlags, StatusOutput};
use crate::registry::operator::{leases_left, members_that_answer};

/// Goes home and clears the terminal below.
const REDRAW: &str = "\x1b[H\x1b[J";
/// What is not known, as opposed to what does not apply and is left empty.
const NOT_KNOWN: &str = "unknown";

/// What is asked beside the survey.
struct Beside {
    answering: usize,
    members: usize,
    left: BTreeMap<i64, Duration>,
}

/// Prints it, once or again and again.
///
/// # Errors
/// The runtime cannot be made, the certificates cannot be used, or standard output is closed.
pub fn run(flags: &StatusFlags) -> Result<u8> {
    super::block_on(async {
        let access = Access::open(&flags.fleet).await?;
        let Some(every) = flags.watch else { return show(flags, &access, "").await };
        let redraw = std::io::stdout().is_terminal();
        loop {
            show(flags, &access, if redraw { REDRAW } else { "" }).await?;
            if !redraw && flags.output != StatusOutput::Json {
                writeln!(std::io::stdout())?;
            }
            sleep(every).await;
        }
    })
}

async fn show(flags: &StatusFlags, access: &Access, before: &str) -> Result<u8> {
    let leases = async |lines: &[Line]| leases_left(&access.etcd, lines.iter().map(|line| line.lease)).await;
    let (survey, members) =
        tokio::join!(access.survey_beside(leases), members_that_answer(&access.etcd, &access.space));
    let answering = members.iter().filter(|(_, answer)| answer.is_ok()).count();
    let (survey, left) = match survey {
        Ok(found) => found,
        Err(error) => {
            let fleet = &flags.fleet.registry.fleet;
            let mut out = std::io::stdout();
            if flags.output == StatusOutput::Json {
                let unknown = json!({ "schema": 1, "ok": false, "fleet": fleet, "error": error.to_string() });
                writeln!(out, "{before}{unknown}")?;
            } else if !before.is_empty() {
                // What was drawn before is not known to be so any more.
                writeln!(out, "{before}fleet {fleet}: unknown, the registry does not answer: {error}")?;
            }
            return Ok(unanswered(&error));
        }
    };
    let beside = Beside { answering, members: members.len(), left };
    let text = match flags.output {
        StatusOutput::Table => table(flags, &survey, &beside, false),
        StatusOutput::Wide => table(flags, &survey, &beside, true),
        StatusOutput::Tsv => tsv(&survey, &beside),
        StatusOutput::Json => format!("{}\n", document(flags, &survey, &beside)),
    };
    write!(std::io::stdout(), "{before}{text}")?;
    Ok(if is_well(&survey, &beside) { FINE } else { DIFFERENT })
}

/// The worst of its parts: what the first line counts, and what the lines below the table name.
fn is_well(survey: &Survey, beside: &Beside) -> bool {
    beside.answering == beside.members && diagnose(survey).is_empty()
}

fn table(flags: &StatusFlags, survey: &Survey, beside: &Beside, wide: bool) -> String {
    let (nodes, digest) = (survey.lines.len(), &survey.digest);
    let serving = survey.lines.iter().filter(|line| line.routable).count();
    let mut text = format!(
        "fleet {}: {nodes} nodes, {serving} serving, revision {}, digest {digest}, etcd {}/{}, {}/{nodes} files agree, {}/{} envoys in sync\n",
        flags.fleet.registry.fleet,
        survey.roster.applied,
        beside.answering,
        beside.members,
        survey.agreeing(),
        survey.in_sync(),
        survey.connected().count(),
    );
    let mut header = vec!["NODE", "IP", "ROLE", "STATE", "UP", "LEASE", "FILE", "ENVOY", "VERSION"];
    if wide {
        header.extend(["INSTANCE", "PORT", "SINCE", "REASON"]);
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    for line in &survey.lines {
        let mut cells = cells(survey, line, beside);
        if wide {
            cells.extend([
                line.instance.clone(),
                line.http.to_string(),
                line.since.clone(),
                line.reason.clone(),
            ]);
        }
        table.add_row(cells);
    }
    text += &format!("{table}\n");
    for exception in exceptions(survey) {
        text += &format!("{exception}\n");
    }
    text
}

fn cells(survey: &Survey, line: &Line, beside: &Beside) -> Vec<String> {
    let left = beside.left.get(&line.lease);
    vec![
        line.name.clone(),
        line.ip.to_string(),
        if line.leader { "leader".into() } else { String::new() },
        line.state.as_str().to_owned(),
        up(&line.since).unwrap_or_else(|| NOT_KNOWN.into()),
        left.map_or_else(|| NOT_KNOWN.into(), |left| format!("{}s", left.as_secs())),
        file(&line.file),
        envoy(survey, line),
        line.version.clone(),
    ]
}

fn file(file: &File) -> String {
    match file {
        File::Agrees { revision } => format!("agrees @{revision}"),
        File::Differs { revision, how } => format!("differs @{revision}: {how}"),
        File::Absent { why } => format!("absent: {why}"),
        File::Unknown { why } => format!("{NOT_KNOWN}: {why}"),
    }
}

/// Whether Envoys route to it: nothing where none should.
fn envoy(survey: &Survey, line: &Line) -> String {
    let (in_sync, all) = (survey.in_sync(), survey.connected().count());
    match (line.routable, in_sync == all) {
        (_, false) => format!("{in_sync}/{all} in sync"),
        (true, true) if all > 0 => "routed".into(),
        (true, true) => NOT_KNOWN.into(),
        (false, true) => String::new(),
    }
}

/// Lines below the table: everything that is wrong, and the operators' marks.
fn exceptions(survey: &Survey) -> Vec<String> {
    // What is wrong with a file stands in its line of the table.
    let faults = diagnose(survey).into_iter().filter(|fault| !fault.kind.is_of_a_file());
    let mut said: Vec<String> = faults.map(|fault| fault.to_string()).collect();
    for (name, mark) in survey.roster.marks() {
        let why = if mark.why.is_empty() { String::new() } else { format!(": {}", mark.why) };
        said.push(format!("{name} is marked since {}{why}; muster resume {name} undoes it", mark.since));
    }
    said
}

fn tsv(survey: &Survey, beside: &Beside) -> String {
    let mut text = "node\tip\trole\tstate\tup\tlease\tfile\tenvoy\tversion\n".to_owned();
    for line in &survey.lines {
        text += &(cells(survey, line, beside).join("\t") + "\n");
    }
    text
}

fn document(flags: &StatusFlags, survey: &Survey, beside: &Beside) -> Value {
    let nodes: Vec<Value> = survey
        .lines
        .iter()
        .map(|line| {
            let (verdict, revision, note) = match &line.file {
                File::Agrees { revision } => ("agrees", Some(*revision), ""),
                File::Differs { revision, how } => ("differs", Some(*revision), how.as_str()),
                File::Absent { why } => ("absent", None, why.as_str()),
                File::Unknown { why } => (NOT_KNOWN, None, why.as_str()),
            };
            json!({
                "id": line.id(), "name": line.name, "ip": line.ip, "port": line.http,
                "leader": line.leader, "state": line.state.as_str(), "reason": line.reason, "since": line.since,
                "lease_s": beside.left.get(&line.lease).map(Duration::as_secs), "routable": line.routable,
                "file": { "verdict": verdict, "revision": revision, "note": note }, "version": line.version,
            })
        })
        .collect();
    let connected: BTreeSet<&String> = survey.connected().map(|(id, _)| id).collect();
    let envoys: Vec<Value> = survey
        .envoys
        .iter()
        .map(|(id, envoy)| {
            let connected = connected.contains(id);
            json!({ "id": id, "connected": connected, "in_sync": connected && survey.is_in_sync(envoy),
                "digest": envoy.digest, "rejection": envoy.rejection })
        })
        .collect();
    json!({
        "schema": 1, "ok": is_well(survey, beside), "fleet": flags.fleet.registry.fleet,
        "registry": survey.roster.life().map(|life| &life.id), "revision": survey.roster.applied,
        "digest": survey.digest, "members": { "answering": beside.answering, "all": beside.members },
        "leader": survey.leader().map(|leader| &leader.instance), "nodes": nodes, "envoys": envoys,
        "exceptions": exceptions(survey),
    })
}

/// How long ago, in one or two units.
fn up(since: &str) -> Option<String> {
    let since: jiff::Timestamp = since.parse().ok()?;
    let seconds = jiff::Timestamp::now().duration_since(since).as_secs().max(0);
    Some(match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    })
}
