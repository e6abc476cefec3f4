//! Logging, configuration, dispatch, exit code.

use std::process::ExitCode;

use muster::config::{Cli, CliCommand, EdgeFlags, RunFlags};
use muster::process::Signal;
use muster::process::supervisor::Supervisor;
use muster::{cli, edge, log, node};
use tokio::sync::mpsc::UnboundedReceiver;

/// What flags that cannot work exit with; clap's own.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::read().unwrap_or_else(|error| error.exit());
    if let Err(wrong) = cli.validate() {
        return refuse(&wrong);
    }
    // With a COMMAND stdout is that program's, as the data of the other commands is theirs.
    let own_stdout = match &cli.command {
        CliCommand::Run(flags) => flags.command.is_empty(),
        command => matches!(command, CliCommand::Edge(_)),
    };
    log::start(&cli.log, own_stdout);
    let outcome = match cli.command {
        CliCommand::Run(flags) => run(*flags),
        CliCommand::Edge(flags) => supervise(flags),
        CliCommand::Healthcheck(flags) => cli::healthcheck::run(&flags),
        CliCommand::Status(flags) => cli::status::run(&flags),
        CliCommand::Pki(command) => cli::pki::run(&command),
        CliCommand::Events(flags) => cli::events::run(&flags),
        CliCommand::Verify(flags) => cli::verify::run(&flags),
        CliCommand::Check(flags) => cli::check::run(&flags),
        CliCommand::Drain(flags) => cli::drain::run(&flags),
        CliCommand::Resume(flags) => cli::drain::resume(&flags),
        CliCommand::Switchover(flags) => cli::switchover::run(&flags),
        CliCommand::Wait(flags) => cli::wait::run(&flags),
        CliCommand::Version => cli::version(),
        CliCommand::Completion { shell } => cli::completion(shell),
    };
    match outcome {
        Ok(code) => code.into(),
        Err(error) => match error.downcast_ref::<node::Unusable>() {
            Some(wrong) => refuse(&wrong.0),
            None => {
                tracing::error!(name: "muster-ends", error = format!("{error:#}"), "muster ends");
                ExitCode::FAILURE
            }
        },
    }
}

fn refuse(wrong: &str) -> ExitCode {
    // When stderr is closed, there is no place left for the message.
    _ = Cli::wrong(wrong).print();
    USAGE.into()
}

fn run(flags: RunFlags) -> anyhow::Result<u8> {
    as_pid_1(|supervisor, signals| node::run(flags, supervisor, signals))
}

fn supervise(flags: EdgeFlags) -> anyhow::Result<u8> {
    as_pid_1(|supervisor, signals| edge::run(flags, supervisor, signals))
}

/// Takes over signals and children, and runs a life to its end.
fn as_pid_1<F: Future<Output = anyhow::Result<u8>>>(
    life: impl FnOnce(Supervisor, UnboundedReceiver<Signal>) -> F,
) -> anyhow::Result<u8> {
    // Before any other thread: children inherit this thread's signal mask.
    let (supervisor, signals) = Supervisor::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let code = runtime.block_on(life(supervisor, signals));
    runtime.shutdown_background();
    code
}
