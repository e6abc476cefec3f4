//! `muster pki`: makes, shows and renews the fleet's certificates.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};

use super::{DIFFERENT, FAILED, FINE, TIMED_OUT};
use crate::clock::unix_now;
use crate::config::{Output, PkiCommand, PkiMakeFlags, PkiShowFlags, RegistryFlags};
use crate::pki::init::{Done, init};
use crate::pki::plan::Consumer;
use crate::pki::read::moment;
use crate::pki::renew::renew;
use crate::pki::show::{CertificateEntry, State, show};
use crate::pki::store::Store;
use crate::registry::auth;
use crate::registry::client::CallError;

/// Between two questions to an etcd that does not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(300);
const DAY: i64 = 86_400;
/// What `init` warns about.
const SOON_DAYS: i64 = 30;

/// # Errors
/// What is wrong with the certificates, or standard output is closed.
pub fn run(command: &PkiCommand) -> Result<u8> {
    let now = unix_now();
    match command {
        PkiCommand::Init { members, make } => {
            let members = members.iter().cloned().map(Consumer::Member);
            let services: Vec<Consumer> = members.chain(Consumer::OTHERS).collect();
            report(&init(&store(make), &services, make.days, now)?)?;
            judge(&show(&make.dir, SOON_DAYS * DAY, now)?)
        }
        PkiCommand::Renew { services, members, make } => {
            report(&renew(&store(make), services, members, make.days, now)?)?;
            Ok(FINE)
        }
        PkiCommand::EtcdAuth { registry, wait } => etcd_auth(registry, *wait),
        PkiCommand::Show(flags) => {
            let entries = show(&flags.dir, i64::from(flags.within) * DAY, now)?;
            print(flags, &entries)?;
            Ok(code(&entries, |entry| entry.state == State::Good))
        }
    }
}

/// Waits for a first answer of etcd; a refusal is final.
fn etcd_auth(flags: &RegistryFlags, wait: Duration) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let etcd = super::registry(flags)?;
        let deadline = Instant::now() + wait;
        let mut told = false;
        loop {
            match auth::set_up(&etcd, &flags.prefix).await {
                Ok(changed) => {
                    let what = if changed { "set up and on" } else { "on as it should be" };
                    writeln!(std::io::stdout(), "authentication in etcd is {what}: root, agent, operator")?;
                    return Ok(FINE);
                }
                Err(error @ CallError::Refused { .. }) => return Err(error.into()),
                Err(error) if Instant::now() >= deadline => {
                    tracing::error!(
                        name: "etcd-does-not-answer",
                        %error,
                        "etcd does not answer: run this again when it does"
                    );
                    return Ok(TIMED_OUT);
                }
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::info!(
                        name: "waiting-for-etcd",
                        %error,
                        wait_s = wait.as_secs(),
                        "waiting for etcd"
                    );
                }
                Err(_) => {}
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    })
}

fn store(flags: &PkiMakeFlags) -> Store {
    Store { dir: flags.dir.clone(), owner: flags.owner }
}

fn report(done: &[Done]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut table = Table::new();
    table.load_style(NOTHING);
    for one in done {
        if one.made.is_empty() && one.kept.is_empty() {
            table.add_row([&one.service, "elsewhere", ""]);
        }
        for (what, files) in [("made", &one.made), ("kept", &one.kept)] {
            if !files.is_empty() {
                table.add_row([&one.service, what, &files.join(", ")]);
            }
        }
    }
    Ok(writeln!(out, "{table}")?)
}

/// What `init` found there may be in no order, and it touches none of it.
fn judge(entries: &[CertificateEntry]) -> Result<u8> {
    for entry in entries {
        let path = entry.path.display();
        match &entry.state {
            State::Good => {}
            State::Expiring => {
                tracing::warn!(
                    name: "certificate-ends-soon",
                    %path,
                    ends = moment(entry.facts.to),
                    "certificate ends soon: muster pki renew"
                );
            }
            State::Wrong(error) => tracing::error!(
                name: "certificate-is-not-in-order",
                %error,
                "certificate is not in order"
            ),
        }
    }
    Ok(code(entries, |entry| matches!(entry.state, State::Good | State::Expiring)))
}

fn code(entries: &[CertificateEntry], fine: impl Fn(&CertificateEntry) -> bool) -> u8 {
    if entries.iter().any(CertificateEntry::is_unreadable) {
        FAILED
    } else if entries.iter().all(fine) {
        FINE
    } else {
        DIFFERENT
    }
}

fn print(flags: &PkiShowFlags, entries: &[CertificateEntry]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if flags.output == Output::Json {
        let certificates: Vec<Value> = entries.iter().map(as_json).collect();
        let ok = entries.iter().all(|entry| entry.state == State::Good);
        return Ok(writeln!(out, "{}", json!({"schema": 1, "ok": ok, "certificates": certificates}))?);
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["SERVICE", "FILE", "NAME", "SIGNED BY", "ALSO", "ENDS", "STATE"]);
    for entry in entries {
        let facts = &entry.facts;
        let ends = if facts.to == 0 { "unknown".to_owned() } else { moment(facts.to) };
        let also = facts.names.join(" ");
        let (state, _) = words(&entry.state);
        table.add_row([&entry.service, &entry.file, &facts.common_name, &facts.issuer, &also, &ends, state]);
    }
    writeln!(out, "{table}")?;
    for wrong in entries.iter().filter_map(|entry| words(&entry.state).1) {
        writeln!(out, "{wrong}")?;
    }
    Ok(())
}

fn as_json(entry: &CertificateEntry) -> Value {
    let facts = &entry.facts;
    let (state, why) = words(&entry.state);
    let uses: Vec<&str> = [("client", facts.client), ("server", facts.server)]
        .iter()
        .filter(|(_, may)| *may)
        .map(|(use_, _)| *use_)
        .collect();
    json!({
        "service": entry.service,
        "file": entry.file,
        "path": entry.path,
        "name": facts.common_name,
        "signed_by": facts.issuer,
        "names": facts.names,
        "uses": uses,
        "begins": moment(facts.from),
        "ends": moment(facts.to),
        "state": state,
        "why": why,
    })
}

/// A word for the table, and the sentence behind it.
fn words(state: &State) -> (&'static str, Option<String>) {
    use crate::pki::Wrong;
    let State::Wrong(wrong) = state else {
        return (if *state == State::Good { "good" } else { "ends soon" }, None);
    };
    let word = match wrong {
        Wrong::Expired { .. } | Wrong::AuthorityExpired { .. } => "expired",
        Wrong::NotYetValid { .. } => "not yet valid",
        Wrong::Exposed { .. } => "exposed",
        Wrong::Mismatch { .. } => "wrong key",
        Wrong::Stranger { .. } => "wrong authority",
        Wrong::Missing { .. } | Wrong::Half { .. } => "incomplete",
        Wrong::Unreadable { .. } => "unreadable",
        _ => "broken",
    };
    (word, Some(wrong.to_string()))
}
