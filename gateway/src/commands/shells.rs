//! `doorbuster completions | man`: what shells and `man` know of the program, from the same tree of commands as --help.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Failure, output, print};
use crate::config::Cli;

#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell that completes
    shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArguments {
    /// The folder that gets a page for each command, such as ~/.local/share/man/man1; made if need be
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub fn completions(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "doorbuster", &mut script);
    let script = String::from_utf8(script).context("the completions are not UTF-8")?;
    output::write(format_args!("{script}"));
    Ok(())
}

pub fn man(arguments: &ManArguments) -> Result<(), Failure> {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    let written = clap_mangen::generate_to(Cli::command(), folder);
    written.with_context(|| format!("the pages cannot be written to {}", folder.display()))?;
    print(format_args!("the pages are in {}: man -l {}", folder.display(), folder.join("doorbuster.1").display()));
    Ok(())
}
