//! Every shell block of README and docs, pasted as a reader would paste it: all blocks of a document in one shell, one after
//! the other, behind the walk of README. What a document shows as output is held against what comes.

mod markdown;
mod shell;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use markdown::{Block, blocks};
use shell::Reader;

/// Blocks that compile, install, or want servers of the reader's: (document, words of the block, why it is not run). Of these
/// only targets of make, packages and flags are looked at.
const NOT_RUN: &[(&str, &str, &str)] = &[
    ("README.md", "make setup", "it compiles"),
    ("README.md", "make demo", "it compiles"),
    ("docs/API.md", "npx openapi-typescript", "it installs"),
    ("docs/MODEL.md", "make soak", "it runs for minutes"),
    ("loadtest/k6/README.md", "k6 run", "it wants k6 and a staging"),
    ("sandbox/README.md", "cargo build", "it compiles"),
    ("sandbox/README.md", "alias stripe", "it wants the provider of the block above"),
];

/// Documents in the order in which one reader reads them; each list is a shell of its own.
const README: &[&str] = &["README.md"];
const CHECKOUT_THEN_ORDERS: &[&str] = &["docs/CHECKOUT.md", "docs/ORDERS.md"];
const OTHERS: &[&str] = &["docs/FINANCE.md", "docs/CATALOG.md", "docs/API.md", "docs/ORDERS.md"];

#[test]
fn the_blocks_of_the_readme_do_what_they_say() {
    paste(README);
}

#[test]
fn the_walks_of_checkout_and_orders_do_what_they_say_one_after_the_other() {
    paste(CHECKOUT_THEN_ORDERS);
}

#[test]
fn the_walks_of_finance_catalog_and_orders_do_what_they_say() {
    paste(OTHERS);
}

#[test]
fn every_shell_block_is_run_or_listed() {
    let run = [README, CHECKOUT_THEN_ORDERS, OTHERS].concat();
    let mut listed = BTreeSet::new();
    for document in documents() {
        for block in blocks(&read(&document)).iter().filter(|block| block.is_shell()) {
            match not_run(&document, block) {
                Some(number) => {
                    listed.insert(number);
                }
                None => assert!(run.contains(&document.as_str()), "{document}, line {}: nothing runs it", block.line),
            }
        }
    }
    assert_eq!(listed.len(), NOT_RUN.len(), "a block that is listed is not there: {listed:?}");
}

/// In blocks that are not run and in prose: `make TARGET`, `-p PACKAGE`, and the flags of our programs.
#[test]
fn every_target_package_and_flag_that_is_named_exists() {
    let makefile = read("Makefile");
    let manifests = ["engine", "engine/protocol", "gateway", "sandbox", "benches", "loadtest"];
    let manifests = manifests.map(|folder| read(&format!("{folder}/Cargo.toml"))).concat();
    let mut seen = 0;
    for document in documents() {
        let text = read(&document);
        let in_prose = text.split('`').skip(1).step_by(2).filter(|code| !code.contains('\n'));
        let listed = blocks(&text).into_iter().filter(|block| not_run(&document, block).is_some());
        let listed = listed.flat_map(|block| block.commands()).map(|command| command.text).collect::<Vec<_>>();
        for command in in_prose.chain(listed.iter().map(String::as_str)) {
            let words = command.split_whitespace().collect::<Vec<_>>();
            if let ["make", target, ..] = words[..] {
                assert!(makefile.contains(&format!("\n{target}:")), "{document}: no target {target} in `{command}`");
                seen += 1;
            }
            let packages = words.windows(2).filter(|pair| words[0] == "cargo" && pair[0] == "-p");
            for package in packages.map(|pair| pair[1]) {
                let name = format!("name = \"{package}\"");
                assert!(manifests.contains(&name), "{document}: no package {package} in `{command}`");
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "only {seen} names were found");
}

fn paste(read_in_order: &[&str]) {
    let mut to_run = Vec::new();
    let walk = blocks(&read("README.md")).into_iter().filter(|block| block.text.contains("servers --background"));
    if !read_in_order.contains(&"README.md") {
        to_run.extend(walk.map(|block| ("README.md".to_owned(), block)));
    }
    for document in read_in_order {
        let shell = blocks(&read(document)).into_iter().filter(|block| block.is_shell());
        let shell = shell.filter(|block| not_run(document, block).is_none());
        to_run.extend(shell.map(|block| ((*document).to_owned(), block)));
    }
    let wrong = Reader::new().paste(&to_run);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn not_run(document: &str, block: &Block) -> Option<usize> {
    NOT_RUN.iter().position(|(listed, words, _)| *listed == document && block.text.contains(words))
}

/// Of the whole repository, as paths from its root.
fn documents() -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "*.md"]).current_dir(root()).output();
    let tracked = output.ok().filter(|output| output.status.success());
    let tracked = tracked.map(|output| String::from_utf8(output.stdout).unwrap()).unwrap_or_default();
    let mut documents = tracked.lines().map(str::to_owned).collect::<Vec<_>>();
    if documents.is_empty() {
        // A copy without its history.
        let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
        let docs = docs.map(|name| format!("docs/{}", name.to_str().unwrap())).filter(|name| name.ends_with(".md"));
        let others = ["README.md", "loadtest/k6/README.md", "sandbox/README.md"];
        documents = docs.chain(others.map(str::to_owned)).collect();
    }
    documents
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
