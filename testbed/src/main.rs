//! `testbed`: a fleet of plain processes to try (`up`) and to measure (`bench`).

mod bench;
mod up;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use testbed::keeper;

/// The whole of muster as plain processes on 127.x.y.z.
#[derive(Parser)]
#[command(name = "testbed", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a fleet and run it until Ctrl-C or `quit`
    Up(up::Up),
    /// Measure it
    Bench(bench::Bench),
    /// Starts everything the testbed runs and ends it when standard input does.
    #[command(hide = true, name = keeper::KEEPER)]
    Keeper,
    /// Becomes another program that dies with its parent.
    #[command(hide = true, name = keeper::LAUNCH)]
    Launch {
        parent: i32,
        program: PathBuf,
        #[arg(last = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up(wanted) => run(up::up(wanted)),
        Command::Bench(wanted) => run(bench::bench(wanted)),
        Command::Keeper => keeper::keep().context("keeper"),
        Command::Launch { parent, program, args } => Err(keeper::launch(parent, &program, &args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = std::io::stderr().write_all(format!("testbed: {error:#}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// The keeper must stay the only thread of its process, so the runtime is made here and not for all commands.
fn run(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(task)
}
