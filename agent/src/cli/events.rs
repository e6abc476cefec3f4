//! `muster events`: what happened, one line a change, as the leaders wrote it down.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::survey::Access;
use super::{FINE, unanswered};
use crate::config::{EventsFlags, EventsOutput};
use crate::fleet::events::Event;
use crate::registry::operator::events;

/// Between looks for what is new. A list from a revision on costs etcd next to nothing when there is nothing.
const LOOK: Duration = Duration::from_millis(250);

/// Prints them; with `--follow` until interrupted, also over an absence of etcd.
///
/// # Errors
/// The runtime cannot be made, the certificates cannot be used, or standard output is closed.
pub fn run(flags: &EventsFlags) -> Result<u8> {
    super::block_on(async {
        let access = Access::open(&flags.fleet).await?;
        let oldest = flags.since.map(|since| jiff::Timestamp::now() - since);
        let recent = |event: &Event| {
            oldest.is_none_or(|oldest| event.at.parse::<jiff::Timestamp>().is_ok_and(|at| at >= oldest))
        };
        let mut newest = match events(&access.etcd, &access.space, 0).await {
            Ok((known, newest)) => {
                if flags.output == EventsOutput::Table {
                    writeln!(
                        std::io::stdout(),
                        "{}",
                        columns(["TIME", "REV", "EVENT", "NODE", "IP", "DETAIL"])
                    )?;
                }
                print(flags, known.iter().filter(|event| recent(event)))?;
                newest
            }
            Err(error) => return Ok(unanswered(&error)),
        };
        if !flags.follow {
            return Ok(FINE);
        }
        loop {
            sleep(LOOK).await;
            if let Ok((fresh, now)) = events(&access.etcd, &access.space, newest).await {
                print(flags, fresh.iter())?;
                newest = now;
            }
        }
    })
}

fn print<'a>(flags: &EventsFlags, events: impl Iterator<Item = &'a Event>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for event in events {
        match flags.output {
            EventsOutput::Table => writeln!(out, "{}", line(event))?,
            EventsOutput::Jsonl => writeln!(out, "{}", serde_json::to_string(event)?)?,
        }
    }
    Ok(out.flush()?)
}

fn line(event: &Event) -> String {
    let took = event.took_ms.map(|took_ms| match event.event.as_str() {
        "left" => format!("acknowledged after {took_ms} ms"),
        _ => format!("after {took_ms} ms"),
    });
    let detail: Vec<String> = [Some(event.reason.clone()).filter(|reason| !reason.is_empty()), took]
        .into_iter()
        .flatten()
        .collect();
    columns([
        &event.at,
        &event.revision.to_string(),
        event.event.as_str(),
        &event.node,
        &event.ip.map_or_else(String::new, |ip| ip.to_string()),
        &detail.join(", "),
    ])
}

/// Fixed widths and not a table: a line is printed when it comes, and none after it may move it.
fn columns([time, revision, event, node, ip, detail]: [&str; 6]) -> String {
    format!("{time:<24}  {revision:>8}  {event:<14}  {node:<16}  {ip:<15}  {detail}").trim_end().to_owned()
}
