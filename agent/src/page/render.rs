//! From a roster to the bytes of every file. Pure: no clock, no host name, nothing of the node that renders.

use std::fmt::Write;
use std::io;
use std::net::Ipv4Addr;

use serde::Serialize;
use serde_json::ser::Formatter;

use super::html;
use crate::fleet::{Contact, NodeState, Roster, Row};

/// What the files say of the fleet beside the roster: the same on every node by configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Name of the fleet, as people chose it.
    pub fleet: String,
    /// Prefix of the keys in etcd, for the command line that the page shows.
    pub prefix: String,
}

/// The generated files, each as its whole content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFiles {
    pub ips_json: Vec<u8>,
    pub ips_txt: Vec<u8>,
    pub sd_json: Vec<u8>,
    pub ips_html: Vec<u8>,
}

/// Renders all files. Equal rosters with equal contact give equal bytes.
pub fn render(roster: &Roster, contact: &Contact, about: &About) -> ListFiles {
    let rows = roster.rows();
    let list = List::new(roster, contact, about, &rows);
    ListFiles {
        ips_json: json(&list, 2),
        ips_txt: addresses(&list.ips),
        sd_json: json(&rows.iter().map(|row| Target::new(row, about)).collect::<Vec<_>>(), 1),
        ips_html: html::page(roster, contact, about, &rows).into_bytes(),
    }
}

/// `ips.json`. The order of the fields is the order in the file.
#[derive(Serialize)]
struct List<'a> {
    schema: u32,
    fleet: &'a str,
    /// `null` until the registry has an id.
    registry: Option<&'a str>,
    revision: i64,
    digest: String,
    count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_since: Option<String>,
    ips: Vec<Ipv4Addr>,
    nodes: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    /// The last part of the node's key in etcd: unlike the name it is never used twice.
    id: String,
    name: &'a str,
    ip: Ipv4Addr,
    port: u16,
    state: NodeState,
    leader: bool,
    since: String,
    version: &'a str,
}

/// One entry of `sd.json`: Prometheus HTTP service discovery.
///
/// What changes in a node's life stands in `__meta_` labels, which Prometheus drops after relabelling: as plain
/// labels they would begin a new series at every change of state.
#[derive(Serialize)]
struct Target<'a> {
    targets: [String; 1],
    labels: TargetLabels<'a>,
}

#[derive(Serialize)]
struct TargetLabels<'a> {
    fleet: &'a str,
    node: &'a str,
    #[serde(rename = "__meta_muster_instance")]
    instance: &'a str,
    #[serde(rename = "__meta_muster_state")]
    state: NodeState,
    #[serde(rename = "__meta_muster_version")]
    version: &'a str,
}

impl<'a> List<'a> {
    fn new(roster: &'a Roster, contact: &'a Contact, about: &'a About, rows: &[Row<'a>]) -> Self {
        let ips: Vec<Ipv4Addr> = rows.iter().filter(|row| row.routable).map(|row| row.node.ip).collect();
        Self {
            schema: 1,
            fleet: &about.fleet,
            registry: roster.life().map(|life| life.id.as_str()),
            revision: roster.revision,
            digest: roster.digest(),
            count: ips.len(),
            stale_since: contact.stale_since.as_deref().map(utc),
            ips,
            nodes: rows.iter().map(Item::new).collect(),
        }
    }
}

impl<'a> Item<'a> {
    fn new(row: &Row<'a>) -> Self {
        let node = row.node;
        Self {
            id: node.id(),
            name: &node.name,
            ip: node.ip,
            port: node.ports.http,
            state: row.state,
            leader: row.leader,
            since: utc(&node.since),
            version: &node.version,
        }
    }
}

impl<'a> Target<'a> {
    fn new(row: &Row<'a>, about: &'a About) -> Self {
        let node = row.node;
        Self {
            targets: [format!("{}:{}", node.ip, node.ports.metrics)],
            labels: TargetLabels {
                fleet: &about.fleet,
                node: &node.name,
                instance: &node.instance,
                state: row.state,
                version: &node.version,
            },
        }
    }
}

fn addresses(ips: &[Ipv4Addr]) -> Vec<u8> {
    let mut text = String::with_capacity(ips.len() * 16);
    for ip in ips {
        writeln!(text, "{ip}").expect("a String takes all");
    }
    text.into_bytes()
}

/// RFC 3339 in UTC with milliseconds and a `Z`, whatever offset or annotation the writer chose: of one width, as
/// node.json and the log have it.
pub(super) fn utc(time: &str) -> String {
    time.parse().map_or_else(|_| time.to_owned(), crate::clock::shown)
}

/// JSON whose outer `levels` are spread over lines and whose inner ones stay on one: one node a line, for `grep`.
pub(super) fn json(value: &impl Serialize, levels: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let lines = Lines { levels, depth: 0, filled: false };
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, lines))
        .expect("plain structs always serialize, and a Vec takes all");
    bytes.push(b'\n');
    bytes
}

struct Lines {
    levels: usize,
    depth: usize,
    /// Whether the innermost array or object has had an element.
    filled: bool,
}

impl Lines {
    fn open<W: io::Write + ?Sized>(&mut self, out: &mut W, bracket: u8) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        out.write_all(&[bracket])
    }

    fn close<W: io::Write + ?Sized>(&mut self, out: &mut W, bracket: u8) -> io::Result<()> {
        self.depth -= 1;
        if self.filled && self.depth < self.levels {
            self.line(out)?;
        }
        self.filled = true;
        out.write_all(&[bracket])
    }

    fn element<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(b",")?;
        }
        match self.depth <= self.levels {
            true => self.line(out),
            false if first => Ok(()),
            false => out.write_all(b" "),
        }
    }

    fn line<W: io::Write + ?Sized>(&self, out: &mut W) -> io::Result<()> {
        out.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| out.write_all(b"  "))
    }
}

impl Formatter for Lines {
    fn begin_array<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b'[')
    }

    fn end_array<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b']')
    }

    fn begin_array_value<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.element(out, first)
    }

    fn end_array_value<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b'{')
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b'}')
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.element(out, first)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn end_object_value<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }
}
