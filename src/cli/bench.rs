//! (skeleton)
use super::Global;
use std::process::ExitCode;

/// (skeleton)
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

/// (skeleton)
pub fn run(_global: &Global, _args: Args) -> ExitCode {
    ExitCode::FAILURE
}
