//! (skeleton)
use super::Global;
use super::exit::Failure;
/// (skeleton)
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}
/// (skeleton)
pub fn run(_global: &Global, _args: Args) -> Result<(), Failure> {
    Ok(())
}
