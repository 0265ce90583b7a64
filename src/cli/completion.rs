//! `completion`: the script that lets a shell complete commands and flags.
//!
//! Left out: completing what only a server knows (keys, leases, members).

use super::exit::Failure;
use super::output;
use clap_complete::Shell;

/// `quorate completion`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate completion bash > ~/.local/share/bash-completion/completions/quorate\n  \
    quorate completion zsh > ~/.zfunc/_quorate        (with ~/.zfunc in your fpath)\n  \
    quorate completion fish > ~/.config/fish/completions/quorate.fish")]
pub struct Args {
    /// The shell.
    shell: Shell,
}

/// Runs `quorate completion` for a command line.
pub fn run(args: &Args, mut command: clap::Command) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    output::write(&script)
}
