//! What commands print, where nobody reads it.

use std::process::{Output, Stdio};

use tokio::process::Command;

use super::program::{PATIENCE, bare, configured};
use crate::support::{SECRET, Sale, engine, make_drop, new_database};

/// A pipe whose reader has gone, as behind `head -1` once it has its line.
fn nobody_reads() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Waits for its end. What it prints goes where the command says.
async fn ended(command: &mut Command) -> Output {
    let child = command.spawn().unwrap();
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap()
}

#[tokio::test]
async fn a_command_whose_reader_has_gone_ends_quietly_and_has_done_its_work() {
    let (database_url, name) = new_database().await;
    let engine = engine(&database_url).await;
    make_drop(&engine, &name, &Sale::default()).await;
    let cases: &[&[&str]] = &[
        &["--help"],
        &["openapi"],
        &["token", "--buyer", "ada"],
        &["order", "list"],
        &["order", "list", "--json"],
        &["drop", "list"],
        &["drop", "show", &name],
        &["drop", "watch", &name, "--once"],
        &["audit"],
        &["check-config"],
        &["drop", "pause", &name],
    ];
    for arguments in cases {
        let mut command = configured(arguments, &database_url).await;
        command.stdout(nobody_reads()).stderr(Stdio::piped());
        let output = ended(&mut command).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{arguments:?}");
    }
    let paused = engine.ledger.drop_by_name(&name.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(paused.state.as_str(), "paused", "what nobody reads is done all the same");

    // What was asked for is not there, and both would hear of it if they could.
    let mut command = configured(&["drop", "show", "nothing"], &database_url).await;
    command.stdout(nobody_reads()).stderr(nobody_reads());
    assert_eq!(ended(&mut command).await.status.code(), Some(1));
}

/// `watch` would go on for ever.
#[tokio::test]
async fn watching_ends_when_its_reader_has_gone() {
    let (database_url, name) = new_database().await;
    make_drop(&engine(&database_url).await, &name, &Sale::default()).await;
    let mut command = configured(&["drop", "watch", &name], &database_url).await;
    command.stdout(nobody_reads()).stderr(Stdio::piped());
    assert_eq!(ended(&mut command).await.status.code(), Some(0));
}

/// A disk that is full is another matter than a reader who has seen enough.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_answer_that_cannot_be_written_is_a_failure() {
    for arguments in [&["openapi"][..], &["token", "--buyer", "ada"]] {
        let mut command = bare(arguments);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        command.env("DOORBUSTER_JWT_SECRET", SECRET).stdout(full).stderr(Stdio::piped());
        let output = ended(&mut command).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("could not be written") && said.lines().count() == 1, "{said}");
    }
}
