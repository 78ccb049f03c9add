//! The command line of ingot.

use clap::{Parser, Subcommand};
use ingot::Error;
use ingot::build::{BuildFlags, build};
use std::process::ExitCode;

/// Compiles small language models to freestanding C libraries.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a static library and its header
    Build(BuildFlags),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Build(flags) => {
            let built = build(&flags)?;
            for file in &built.files {
                println!("{}", file.display());
            }
            Ok(())
        }
    }
}
