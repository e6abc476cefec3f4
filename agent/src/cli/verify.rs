//! `muster verify`: the registry against every node's file against what every Envoy has acknowledged.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::diagnosis::{Fault, FaultKind, diagnose};
use super::survey::{Access, File, Line, Survey};
use super::{DIFFERENT, FINE, UNKNOWN, unanswered};
use crate::config::{Output, VerifyFlags};

const LOOK: Duration = Duration::from_millis(200);

/// What one look found.
struct Findings {
    survey: Survey,
    /// Each in a sentence.
    differences: Vec<String>,
    /// What gave no answer.
    unknown: Vec<String>,
}

/// Compares until all parts agree or the time is over: a change that is under way is no difference.
///
/// # Errors
/// The runtime cannot be made, the certificates cannot be used, or standard output is closed.
pub fn run(flags: &VerifyFlags) -> Result<u8> {
    super::block_on(async {
        let access = Access::open(&flags.fleet).await?;
        let started = Instant::now();
        loop {
            let found = access.survey().await.map(findings);
            let agreed =
                found.as_ref().is_ok_and(|found| found.differences.is_empty() && found.unknown.is_empty());
            if !agreed && started.elapsed() < flags.wait {
                sleep(LOOK).await;
                continue;
            }
            return match found {
                Ok(found) => show(flags, &found),
                Err(error) => {
                    if flags.output == Output::Json {
                        let unknown = json!({ "schema": 1, "ok": false, "error": error.to_string() });
                        writeln!(std::io::stdout(), "{unknown}")?;
                    }
                    Ok(unanswered(&error))
                }
            };
        }
    })
}

/// That no node serves, or is routed to, is no difference between the parts.
fn findings(survey: Survey) -> Findings {
    let faults = diagnose(&survey).into_iter().filter(|fault| fault.kind != FaultKind::NoNodeServes);
    let (unknown, differences): (Vec<_>, Vec<_>) = faults.partition(|fault| fault.kind.is_unknown());
    let said = |faults: Vec<Fault>| faults.iter().map(ToString::to_string).collect();
    Findings { survey, differences: said(differences), unknown: said(unknown) }
}

fn show(flags: &VerifyFlags, found: &Findings) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    match flags.output {
        Output::Table => write!(out, "{}", table(found))?,
        Output::Json => writeln!(out, "{}", document(found))?,
    }
    Ok(match found {
        Findings { differences, .. } if !differences.is_empty() => DIFFERENT,
        Findings { unknown, .. } if !unknown.is_empty() => UNKNOWN,
        _ => FINE,
    })
}

fn table(found: &Findings) -> String {
    let survey = &found.survey;
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["NODE", "REGISTRY", "FILE", "ENVOY", "VERDICT"]);
    for line in &survey.lines {
        let [file, envoy, verdict] = verdict(survey, line);
        table.add_row([line.name.as_str(), line.state.as_str(), &file, &envoy, &verdict]);
    }
    let mut text = format!("{table}\n");
    for said in found.differences.iter().chain(&found.unknown) {
        text += &format!("{said}\n");
    }
    text += &match (found.differences.len(), found.unknown.len()) {
        (0, 0) => format!(
            "everybody agrees: {} nodes, {} envoys, digest {}\n",
            survey.lines.len(),
            survey.connected().count(),
            survey.digest
        ),
        (0, unknown) => format!("{unknown} not known\n"),
        (differences, 0) => format!("{differences} differences\n"),
        (differences, unknown) => format!("{differences} differences, {unknown} not known\n"),
    };
    text
}

fn verdict(survey: &Survey, line: &Line) -> [String; 3] {
    let file = match &line.file {
        File::Agrees { .. } => "agrees",
        File::Differs { .. } => "differs",
        File::Absent { .. } => "absent",
        File::Unknown { .. } => "unknown",
    };
    let envoy = match (survey.connected().count(), survey.in_sync()) {
        (0, _) => "unknown",
        (all, in_sync) if in_sync < all => "behind",
        _ if line.routable => "routed",
        _ => "not routed",
    };
    let verdict = match (file, envoy) {
        ("differs" | "absent", _) | (_, "behind") => "differs",
        ("unknown", _) | (_, "unknown") => "unknown",
        _ => "agrees",
    };
    [file, envoy, verdict].map(str::to_owned)
}

fn document(found: &Findings) -> Value {
    let survey = &found.survey;
    let nodes: Vec<Value> = survey
        .lines
        .iter()
        .map(|line| {
            let [file, envoy, verdict] = verdict(survey, line);
            json!({ "name": line.name, "ip": line.ip, "registry": line.state.as_str(), "file": file, "envoy": envoy, "verdict": verdict })
        })
        .collect();
    json!({
        "schema": 1, "ok": found.differences.is_empty() && found.unknown.is_empty(), "digest": survey.digest,
        "nodes": nodes, "differences": found.differences, "unknown": found.unknown,
    })
}
