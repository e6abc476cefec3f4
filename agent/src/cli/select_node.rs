//! Selects the node that an argument names, and asks before something is done to it.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Result;

use super::survey::{Line, Survey};

/// The one line whose name, address or beginning of the id this is.
///
/// # Errors
/// None or several, in a sentence that names them.
pub(super) fn which<'a>(survey: &'a Survey, typed: &str) -> Result<&'a Line, String> {
    let exact = |line: &&Line| line.name == typed || line.ip.to_string() == typed;
    let begins = |line: &&Line| !typed.is_empty() && line.id().starts_with(typed);
    let mut found: Vec<&Line> = survey.lines.iter().filter(exact).collect();
    if found.is_empty() {
        found = survey.lines.iter().filter(begins).collect();
    }
    let names = |lines: &[&Line]| lines.iter().map(|line| line.id()).collect::<Vec<_>>().join(", ");
    match found[..] {
        [line] => Ok(line),
        [] => {
            let all: Vec<&Line> = survey.lines.iter().collect();
            Err(format!("no node is called `{}`; there are: {}", typed.escape_debug(), names(&all)))
        }
        _ => Err(format!("`{}` could be any of: {}", typed.escape_debug(), names(&found))),
    }
}

/// The node as it is, in a line.
pub(super) fn shown(line: &Line) -> String {
    let role = if line.leader { ", leads" } else { "" };
    format!("{} {} {}{role}", line.name, line.ip, line.state.as_str())
}

/// Asks on a terminal; a script is taken at its word.
pub(super) fn confirmed(question: &str, yes: bool) -> Result<bool> {
    let (stdin, mut stdout) = (std::io::stdin(), std::io::stdout());
    if yes || !stdin.is_terminal() || !stdout.is_terminal() {
        return Ok(true);
    }
    write!(stdout, "{question} [y/N] ")?;
    stdout.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
