//! The command line of ingot.

use clap::{Parser, Subcommand};
use ingot::Error;
use ingot::bench::{BenchFlags, bench};
use ingot::build::{BuildFlags, build_and_report, clean_up_on_signals};
use ingot::eval::{EvalFlags, eval};
use ingot::inspect::{InspectFlags, inspect};
use ingot::opt::{OptFlags, opt};
use ingot::output::say;
use ingot::reference::{ExplainFlags, TableFlags, explain, passes, targets};
use ingot::run::{RunFlags, run};
use ingot::tokenize::{TokenizeFlags, tokenize};
use std::process::ExitCode;

/// Compiles small language models to freestanding C libraries.
#[derive(Parser)]
#[command(version, about, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 the model cannot be compiled, 2 wrong usage, \
                          3 a check failed, 4 a budget cannot be met, 101 a bug of ingot";

#[derive(Subcommand)]
enum Command {
    /// Write a static library and its header
    Build(BuildFlags),
    /// Continue a text with the compiled model
    Run(RunFlags),
    /// Measure how well the compiled model predicts a text
    Eval(EvalFlags),
    /// Measure the speed of the compiled model
    Bench(BenchFlags),
    /// Show what is in a checkpoint, IR text, library or weights file
    Inspect(InspectFlags),
    /// Turn text into tokens, or tokens into text
    Tokenize(TokenizeFlags),
    /// Run passes over IR text and print the result
    Opt(OptFlags),
    /// Explain an error code
    Explain(ExplainFlags),
    /// List triples, CPUs and their features
    Targets(TableFlags),
    /// List the passes and the reasons for their order
    Passes(TableFlags),
}

/// A file that reaches `ulimit -f` is an error like a full disk, not a signal that ends the program.
#[cfg(unix)]
fn report_large_files() {
    // SAFETY: no thread runs yet, and nothing else handles this signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(not(unix))]
fn report_large_files() {}

fn main() -> ExitCode {
    report_large_files();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        say(&format!(
            "this is a bug of ingot {}, not of your model: please report it with the lines above \
             and the command line",
            env!("CARGO_PKG_VERSION")
        ));
    }));
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<(), Error> {
    match command {
        Command::Build(flags) => {
            clean_up_on_signals();
            build_and_report(&flags)
        }
        Command::Run(flags) => run(&flags),
        Command::Eval(flags) => eval(&flags),
        Command::Bench(flags) => bench(&flags),
        Command::Inspect(flags) => inspect(&flags),
        Command::Tokenize(flags) => tokenize(&flags),
        Command::Opt(flags) => opt(&flags),
        Command::Explain(flags) => explain(&flags),
        Command::Targets(flags) => targets(&flags),
        Command::Passes(flags) => passes(&flags),
    }
}
