//! `ips.html`: the list for people. No outside asset and no clock: what is rendered says absolute times only, and is
//! complete; a constant script then keeps it current.

use std::fmt::Write;
use std::net::Ipv4Addr;

use askama::Template;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::render::{About, utc};
use crate::fleet::{Contact, NodeState, Roster, Row};

/// Nodes in the table: browsers crawl on longer ones. The script has the same number.
const SHOWN: usize = 500;
const STYLE: &str = include_str!("templates/style.css");
const SCRIPT: &str = include_str!("templates/page.js");
const EMPTY: &str =
    "The registry was read and holds no node. A node appears here as soon as its nginx answers.";

/// The `Content-Security-Policy` under which `ips.html` is complete: its one style block, its one script, and requests
/// to where it came from.
///
/// By hash and not `unsafe-inline`, so that even text that slipped through the escaping could neither run nor restyle
/// the page.
pub fn content_security_policy() -> String {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

/// Renders the page.
pub(super) fn page(roster: &Roster, contact: &Contact, about: &About, rows: &[Row<'_>]) -> String {
    let tally = Tally::new(rows, roster.leader().is_some());
    let shown = rows.len().min(SHOWN);
    let page = Page {
        style: STYLE,
        script: SCRIPT,
        empty: EMPTY,
        about,
        verdict: Verdict::new(&tally, contact.stale_since.is_some()),
        stale_since: contact.stale_since.as_deref().map(Moment::new),
        leader: rows.iter().find(|row| row.leader).map(|row| row.node.ip),
        revision: roster.revision,
        digest: roster.digest(),
        registry: roster.life().map(|life| life.id.as_str()),
        lines: rows[..shown].iter().map(Line::new).collect(),
        more: rows.len() - shown,
        tally,
    };
    // The template engine takes away the last line's end.
    page.render().expect("the template writes to a String and calls nothing that fails") + "\n"
}

#[derive(Template)]
#[template(path = "ips.html")]
struct Page<'a> {
    style: &'static str,
    script: &'static str,
    /// What a page without nodes says.
    empty: &'static str,
    about: &'a About,
    verdict: Verdict,
    tally: Tally,
    stale_since: Option<Moment>,
    leader: Option<Ipv4Addr>,
    revision: i64,
    digest: String,
    registry: Option<&'a str>,
    lines: Vec<Line<'a>>,
    /// Nodes that are not among `lines`.
    more: usize,
}

/// How many nodes are in which state.
struct Tally {
    total: usize,
    serving: usize,
    draining: usize,
    lost: usize,
    /// Whether any candidate leads, listed or not: one whose nginx is down keeps the lead.
    led: bool,
}

/// The page's first line: the worst of all that it knows.
struct Verdict {
    /// Class of the page's colour: `good`, `notice`, `bad` or `stale`.
    class: &'static str,
    glyph: &'static str,
    word: &'static str,
    sentence: String,
}

/// A row of the table, ready to print.
struct Line<'a> {
    ip: Ipv4Addr,
    port: u16,
    name: &'a str,
    leader: bool,
    state: &'static str,
    glyph: &'static str,
    reason: &'a str,
    since: Moment,
    version: &'a str,
}

/// A time in UTC, for the `datetime` attribute and for eyes.
struct Moment {
    rfc3339: String,
    date: String,
    time: String,
}

impl Tally {
    fn new(rows: &[Row<'_>], led: bool) -> Self {
        let count = |state| rows.iter().filter(|row| row.state == state).count();
        Self {
            total: rows.len(),
            serving: count(NodeState::Serving),
            draining: count(NodeState::Draining),
            lost: count(NodeState::Lost),
            led,
        }
    }

    /// `3 of 5 nodes serving, 1 draining, 1 lost`
    fn sentence(&self) -> String {
        let Self { total, serving, draining, lost, led } = *self;
        let mut text = match (serving, total) {
            (_, 0) => return "No node is registered".into(),
            (0, _) => "No node serving".into(),
            (1, 1) => "1 node serving".into(),
            _ if serving == total => format!("All {total} nodes serving"),
            _ => format!("{serving} of {total} nodes serving"),
        };
        for (count, state) in [(draining, "draining"), (lost, "lost")] {
            if count > 0 {
                write!(text, ", {count} {state}").expect("a String takes all");
            }
        }
        if !led {
            text.push_str(", no leader");
        }
        text
    }
}

impl Verdict {
    fn new(tally: &Tally, stale: bool) -> Self {
        let sentence =
            if stale { format!("Last known: {}", lower_first(&tally.sentence())) } else { tally.sentence() };
        let (class, glyph, word) = match tally {
            // Before all others: what was good when it was last seen is not known to be good now.
            _ if stale => ("stale", "◷", "Stale"),
            Tally { serving: 0, .. } => ("bad", "✕", "Down"),
            Tally { lost: 1.., .. } => ("notice", "▲", "Degraded"),
            Tally { led: false, .. } => ("notice", "▲", "No leader"),
            Tally { draining: 1.., .. } => ("notice", "◐", "Changing"),
            _ => ("good", "●", "Healthy"),
        };
        Self { class, glyph, word, sentence }
    }
}

fn lower_first(sentence: &str) -> String {
    let (first, rest) = sentence.split_at(1);
    first.to_ascii_lowercase() + rest
}

impl<'a> Line<'a> {
    fn new(row: &Row<'a>) -> Self {
        let node = row.node;
        let glyph = match row.state {
            NodeState::Serving => "●",
            NodeState::Draining => "◐",
            NodeState::Lost => "✕",
        };
        Self {
            ip: node.ip,
            port: node.ports.http,
            name: &node.name,
            leader: row.leader,
            state: row.state.as_str(),
            glyph,
            reason: &node.reason,
            since: Moment::new(&node.since),
            version: &node.version,
        }
    }
}

impl Moment {
    fn new(time: &str) -> Self {
        let rfc3339 = utc(time);
        let (date, rest) = rfc3339.split_once('T').unwrap_or(("", &rfc3339));
        let seconds = rest.split_once(['.', 'Z']).map_or(rest, |(seconds, _)| seconds);
        Self { date: date.to_owned(), time: seconds.to_owned(), rfc3339 }
    }
}
