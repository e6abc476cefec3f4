//! Reading arguments and environment, with errors that name the variable when the value came from one.

use std::env;
use std::ffi::{OsStr, OsString};

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, Error, FromArgMatches};

use super::Cli;

/// More characters of a bad value than this are not shown.
const MAX_SHOWN: usize = 200;

impl Cli {
    /// What this process was started with. An empty variable counts as unset, because compose's `${X:-}` makes one.
    ///
    /// # Errors
    /// clap's, ready to be printed; the request for help or version is one of them.
    pub fn read() -> Result<Self, Error> {
        let mut command = without_empty_variables(Self::command());
        let matches = command.try_get_matches_from_mut(env::args_os());
        let read = matches.and_then(|matches| Self::from_arg_matches(&matches));
        read.map_err(|error| named(error, &mut command))
    }

    /// A sentence about the flags as clap would print it, exit code included.
    pub fn wrong(sentence: &str) -> Error {
        Self::command().error(ErrorKind::ValueValidation, sentence)
    }
}

fn without_empty_variables(command: Command) -> Command {
    let empty = |arg: &Arg| arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if empty(&arg) { arg.env(None::<&'static str>) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// clap names the flag alone, for text that is not UTF-8 not even that, and shows a value in full however long it is.
fn named(mut error: Error, command: &mut Command) -> Error {
    command.build();
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && let Some((end, _)) = value.char_indices().nth(MAX_SHOWN)
    {
        let cut = format!("{}...", &value[..end]);
        error.insert(ContextKind::InvalidValue, ContextValue::String(cut));
    }
    if error.kind() == ErrorKind::InvalidUtf8 {
        return not_text(command);
    }
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg) else { return error };
    let given = flags_given();
    let variable = every_arg(command).find(|arg| arg.to_string() == *wrong).and_then(|arg| {
        let by_flag = arg.get_long().is_some_and(|long| given.iter().any(|flag| flag == long));
        arg.get_env().filter(|name| !by_flag && env::var_os(name).is_some())
    });
    if let Some(variable) = variable {
        let tip = StyledStr::from(format!("the value is that of the variable {}", variable.display()));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

fn not_text(command: &mut Command) -> Error {
    let words: Vec<OsString> = words().collect();
    let mut culprits = Vec::new();
    for (at, word) in words.iter().enumerate().filter(|(_, word)| word.to_str().is_none()) {
        let (shown, before) =
            (word.to_string_lossy(), at.checked_sub(1).map(|at| words[at].to_string_lossy()));
        culprits.push(match (shown.split_once('='), before) {
            (Some((flag, _)), _) if flag.starts_with("--") => flag.to_owned(),
            (_, Some(flag)) if flag.starts_with("--") => flag.into_owned(),
            _ => shown.into_owned(),
        });
    }
    let variables: Vec<&OsStr> = every_arg(command).filter_map(Arg::get_env).collect();
    let unreadable = |name: &&&OsStr| env::var_os(name).is_some_and(|value| value.to_str().is_none());
    culprits.extend(variables.iter().filter(unreadable).map(|name| name.display().to_string()));
    culprits.dedup();
    let culprits = culprits.join(", ");
    command.error(
        ErrorKind::InvalidUtf8,
        format!("{culprits}: the value is not UTF-8; expected plain text, such as web-1 or /srv/muster"),
    )
}

fn every_arg(command: &Command) -> Box<dyn Iterator<Item = &Arg> + '_> {
    Box::new(command.get_arguments().chain(command.get_subcommands().flat_map(every_arg)))
}

/// Names of the flags on the command line, without dashes and values.
fn flags_given() -> Vec<String> {
    let flag = |word: OsString| {
        let text = word.to_string_lossy().into_owned();
        text.strip_prefix("--").map(|flag| flag.split('=').next().unwrap_or_default().to_owned())
    };
    words().filter_map(flag).collect()
}

/// The arguments that are muster's own: those of a COMMAND are not judged.
fn words() -> impl Iterator<Item = OsString> {
    env::args_os().skip(1).take_while(|word| word != "--")
}
