//! (skeleton)
use std::process::ExitCode;

/// (skeleton)
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

/// (skeleton)
pub fn run(_args: Args) -> ExitCode {
    ExitCode::FAILURE
}
