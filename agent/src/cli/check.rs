//! `muster check`: what is well and what is not, sentence by sentence, each failure with a place to read on.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::diagnosis::{
    Fault, FaultKind, no_envoy, no_node_serves, nobody_leads, not_connected, of_envoy, of_file,
    unreadable_keys,
};
use super::survey::{Access, Survey, ask};
use super::{DIFFERENT, FINE, UNKNOWN};
use crate::config::{CheckFlags, CheckOutput};
use crate::process::probe::probe;
use crate::registry::operator::members_that_answer;

const LOOK: Duration = Duration::from_millis(500);
const PROBE_BOUND: Duration = Duration::from_secs(1);
/// Where failures are explained; each has a heading there.
const HINTS: &str = "docs/checks.md";

/// One sentence.
struct Finding {
    category: &'static str,
    /// What should be so.
    sentence: String,
    wrong: Option<Wrong>,
    /// It could not be found out.
    unknown: bool,
}

/// Why a sentence is not true.
struct Wrong {
    why: String,
    kind: FaultKind,
}

impl Wrong {
    fn new(why: impl Into<String>, kind: FaultKind) -> Self {
        Self { why: why.into(), kind }
    }
}

impl From<Fault> for Wrong {
    fn from(fault: Fault) -> Self {
        Self { why: fault.to_string(), kind: fault.kind }
    }
}

/// Checks, with `--wait` again until all is well or the time is over.
///
/// # Errors
/// The runtime cannot be made, the certificates cannot be used, or standard output is closed.
pub fn run(flags: &CheckFlags) -> Result<u8> {
    super::block_on(async {
        let access = Access::open(&flags.fleet).await?;
        let started = Instant::now();
        let mut told = None;
        let findings = loop {
            let findings = findings(&access).await;
            let first = findings.iter().find(|finding| finding.wrong.is_some());
            match first.map(|finding| finding.sentence.clone()) {
                Some(waiting) if started.elapsed() < flags.wait => {
                    if told.replace(waiting.clone()) != Some(waiting.clone()) {
                        writeln!(std::io::stderr(), "waiting: {waiting}")?;
                    }
                    sleep(LOOK).await;
                }
                _ => break findings,
            }
        };
        let mut out = std::io::stdout().lock();
        match flags.output {
            CheckOutput::Short => write!(out, "{}", short(&findings))?,
            CheckOutput::Json => writeln!(out, "{}", document(&findings))?,
        }
        Ok(code(&findings))
    })
}

fn code(findings: &[Finding]) -> u8 {
    match findings.iter().any(|finding| finding.wrong.is_some()) {
        false => FINE,
        true if findings.iter().any(|finding| finding.unknown) => UNKNOWN,
        true => DIFFERENT,
    }
}

async fn findings(access: &Access) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |category, sentence: String, wrong: Option<Wrong>| {
        findings.push(Finding { category, sentence, wrong, unknown: false });
    };
    let members = members_that_answer(&access.etcd, &access.space).await;
    for (endpoint, answer) in &members {
        let wrong = answer.as_ref().err().map(|error| Wrong::new(error.to_string(), FaultKind::MemberSilent));
        say("etcd", format!("{endpoint} answers for a majority"), wrong);
    }
    match access.survey().await {
        Ok(survey) => {
            fleet(&survey, &mut say);
            files(&survey, &mut say);
            envoys(&survey, &mut say);
            serving(&survey, &mut say).await;
            sites(&survey, &mut say).await;
        }
        Err(error) => findings.push(Finding {
            category: "fleet",
            sentence: "the registry can be read".into(),
            wrong: Some(Wrong::new(error.to_string(), FaultKind::RegistryUnreadable)),
            unknown: true,
        }),
    }
    findings
}

fn fleet(survey: &Survey, say: &mut impl FnMut(&'static str, String, Option<Wrong>)) {
    let (all, routed) = (survey.lines.len(), survey.lines.iter().filter(|line| line.routable).count());
    say("fleet", format!("{routed} of {all} nodes serve"), no_node_serves(survey).map(Wrong::from));
    say("fleet", "somebody leads".into(), nobody_leads(survey).map(Wrong::from));
    say("fleet", "every key of the registry can be read".into(), unreadable_keys(survey).map(Wrong::from));
}

fn files(survey: &Survey, say: &mut impl FnMut(&'static str, String, Option<Wrong>)) {
    for line in &survey.lines {
        let sentence = format!("{} serves the list as the registry has it", line.name);
        say("files", sentence, of_file(line).map(Wrong::from));
    }
}

fn envoys(survey: &Survey, say: &mut impl FnMut(&'static str, String, Option<Wrong>)) {
    say("envoy", "an Envoy is connected to the leader".into(), no_envoy(survey).map(Wrong::from));
    for (id, why) in survey.absent() {
        say("envoy", format!("{id} is told what the registry says"), Some(not_connected(id, why).into()));
    }
    for (id, envoy) in survey.connected() {
        let wrong = of_envoy(survey, id, envoy).map(Wrong::from);
        say("envoy", format!("{id} routes as the registry says"), wrong);
    }
}

async fn serving(survey: &Survey, say: &mut impl FnMut(&'static str, String, Option<Wrong>)) {
    let routed: Vec<_> = survey.lines.iter().filter(|line| line.routable).collect();
    let asked = routed.iter().map(|line| probe((line.ip, line.http).into(), "/healthz", PROBE_BOUND));
    for (line, answer) in routed.iter().zip(futures::future::join_all(asked).await) {
        let wrong = match answer {
            Ok(answer) if answer.status.as_u16() != 200 => Some(format!("it answers {}", answer.status)),
            Ok(answer) if answer.instance.as_ref() != Some(&line.instance) => {
                Some("somebody else answers at its address".to_owned())
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        let wrong = wrong.map(|why| Wrong::new(why, FaultKind::NodeDoesNotAnswer));
        say("serving", format!("{} answers at {}:{}", line.name, line.ip, line.http), wrong);
    }
}

/// Of a node that does not tell, something else is said.
async fn sites(survey: &Survey, say: &mut impl FnMut(&'static str, String, Option<Wrong>)) {
    let asked = survey.lines.iter().map(|line| ask((line.ip, line.http), "/node.json"));
    for (line, file) in survey.lines.iter().zip(futures::future::join_all(asked).await) {
        let itself: Option<Value> = file.ok().and_then(|file| serde_json::from_slice(&file).ok());
        let trouble = itself.as_ref().and_then(|itself| itself.pointer("/site/trouble")?.as_str());
        let wrong = trouble.map(|why| Wrong::new(why, FaultKind::SiteNotServed));
        say("site", format!("{} serves the site as it is", line.name), wrong);
    }
}

fn short(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut category = "";
    for finding in findings {
        if finding.category != category {
            category = finding.category;
            text += &format!("{category}\n");
        }
        text += &match &finding.wrong {
            None => format!("  \u{2713} {}\n", finding.sentence),
            Some(Wrong { why, kind }) => {
                format!("  \u{2717} {}: not so: {why}\n    see {HINTS}#{}\n", finding.sentence, kind.hint())
            }
        };
    }
    let wrong = findings.iter().filter(|finding| finding.wrong.is_some()).count();
    text + &if wrong == 0 {
        format!("all {} checks passed\n", findings.len())
    } else {
        format!("{wrong} of {} checks failed\n", findings.len())
    }
}

fn document(findings: &[Finding]) -> Value {
    let checks: Vec<Value> = findings
        .iter()
        .map(|finding| {
            json!({
                "category": finding.category, "check": finding.sentence, "ok": finding.wrong.is_none(),
                "error": finding.wrong.as_ref().map(|wrong| &wrong.why),
                "hint": finding.wrong.as_ref().map(|wrong| format!("{HINTS}#{}", wrong.kind.hint())),
            })
        })
        .collect();
    json!({ "schema": 1, "ok": code(findings) == FINE, "checks": checks })
}
