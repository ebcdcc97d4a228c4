//! What shells and `man` are given.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use clap::CommandFactory as _;
use doorbuster::config::Cli;

use super::program::{bare, output};

#[tokio::test]
async fn completions_are_scripts_that_their_shell_can_read() {
    for (shell, words) in [("bash", "doorbuster__"), ("zsh", "#compdef doorbuster"), ("fish", "complete -c doorbuster")]
    {
        let completions = output(bare(&["completions", shell])).await;
        let script = String::from_utf8(completions.stdout).unwrap();
        assert!(completions.status.success() && script.contains(words), "{shell}");
        assert!(script.contains("check-config"), "{shell}");
        // Words of an argument are completed too.
        assert!(script.contains("CONFIRMED"), "{shell}");
        if shell == "bash" {
            let mut bash = Command::new("bash").args(["-n"]).stdin(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(bash.wait().unwrap().success());
        }
    }
}

#[tokio::test]
async fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let written = output(bare(&["man", pages.to_str().unwrap()])).await;
    assert!(written.status.success(), "{written:?}");
    let mut cli = Cli::command();
    cli.build();
    let mut names = Vec::new();
    names_of(&cli, "doorbuster", &mut names);
    assert!(names.len() > 60, "{names:?}");
    for name in names {
        let page =
            fs::read_to_string(pages.join(format!("{name}.1"))).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(page.contains(".SH NAME") && page.contains(".SH DESCRIPTION"), "{name}");
    }
}

fn names_of(command: &clap::Command, name: &str, names: &mut Vec<String>) {
    names.push(name.to_owned());
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        names_of(below, &format!("{name}-{}", below.get_name()), names);
    }
}
