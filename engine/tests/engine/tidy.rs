//! The few style rules that are enforced: the arrow between modules, and what must not stand in the tree.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file below `folder` whose name ends so, with its text.
fn files(folder: &Path, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                found.extend(files(&path, ending));
            }
        } else if name.ends_with(ending) {
            let shown = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push((shown, fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// The code of a file: without comments, and without its tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_arrow_between_modules_holds() {
    // Who may name whom: domain ← adapters ← flows ← workers. Adapters do not know each other.
    // What tokens and carts share of Redis is scripting, which knows neither of them nor what they are about.
    let allowed: [(&str, &[&str]); 11] = [
        ("domain", &["domain"]),
        ("scripting", &["scripting"]),
        ("tokens", &["domain", "scripting", "tokens"]),
        ("carts", &["domain", "scripting", "carts"]),
        ("ledger", &["domain", "ledger"]),
        ("provider", &["domain", "provider"]),
        ("mail", &["domain", "mail"]),
        ("webhooks", &["domain", "webhooks"]),
        ("beacon", &["domain", "beacon"]),
        ("flows", &["domain", "tokens", "carts", "ledger", "provider", "mail", "webhooks", "beacon", "flows"]),
        ("workers", &["domain", "flows", "provider", "beacon", "workers"]),
    ];
    let src = root().join("engine/src");
    for (module, may_name) in allowed {
        for (file, text) in files(&src.join(module), ".rs") {
            for other in allowed.map(|(name, _)| name).iter().filter(|name| !may_name.contains(name)) {
                let named = code(&text).contains(&format!("crate::{other}"));
                assert!(!named, "{file} may not name crate::{other}");
            }
        }
    }
}

/// What stands in quotes behind `before`, wherever it occurs.
fn quoted_after(text: &str, before: &str) -> Vec<String> {
    let rests = text.split(before).skip(1);
    rests.filter_map(|rest| rest.split_once('"')?.1.split_once('"')).map(|(quoted, _)| quoted.to_owned()).collect()
}

#[test]
fn every_step_is_in_the_table_and_every_step_of_the_table_is_passed() {
    use doorbuster_engine::steps::{NO_STEPS, STEPS};
    let sources = files(&root().join("engine/src"), ".rs");
    let sources = sources.iter().filter(|(file, _)| !file.ends_with("/steps.rs"));
    let sources = sources.map(|(_, text)| code(text)).collect::<Vec<_>>();
    let transactions = sources.iter().flat_map(|text| quoted_after(text, "run_tx!(")).collect::<Vec<_>>();
    for name in &transactions {
        let halves = [format!("{name}:written"), format!("{name}:committed")];
        let are_steps = halves.iter().all(|half| STEPS.contains(&half.as_str()));
        assert!(
            are_steps != NO_STEPS.contains(&name.as_str()),
            "{name} is in steps.rs: either in STEPS or in NO_STEPS"
        );
    }
    for step in STEPS {
        let times = match step.rsplit_once(':') {
            Some((name, "written" | "committed")) => transactions.iter().filter(|other| *other == name).count(),
            _ => sources.iter().map(|text| text.matches(&format!("\"{step}\"")).count()).sum(),
        };
        assert!((1..=2).contains(&times), "{step} is passed in {times} places");
    }
    for text in &sources {
        let calls = text.split("passed(").skip(1).filter_map(|rest| rest.split_once(';'));
        for step in calls.flat_map(|(call, _)| call.split('"').skip(1).step_by(2)) {
            assert!(STEPS.contains(&step) || !step.contains('.'), "{step} is not in the table of steps.rs");
        }
    }
    assert!(
        NO_STEPS.iter().all(|name| transactions.iter().any(|other| other == name)),
        "a name that is no transaction"
    );
    let steps = fs::read_to_string(root().join("engine/src/steps.rs")).unwrap();
    assert!(!code(&steps).contains("crate::"), "anybody may pass a step, so steps.rs knows nobody");
}

#[test]
fn each_driver_has_one_door() {
    let doors: [(&str, &[&str]); 4] = [
        ("redis::", &["engine/src/scripting/", "engine/src/tokens/", "engine/src/carts/"]),
        ("tokio_postgres", &["engine/src/ledger/"]),
        // HTTP goes out to the payment provider, to the shop's systems and to the public beacon, and nowhere else.
        ("reqwest", &["engine/src/provider/", "engine/src/webhooks/", "engine/src/beacon/"]),
        ("lettre", &["engine/src/mail/"]),
    ];
    for folder in ["engine/src", "gateway/src"] {
        for (file, text) in files(&root().join(folder), ".rs") {
            for (driver, doors) in doors {
                let uses = code(&text).lines().any(|line| line.contains(driver) && !line.contains("crate::"));
                let may = doors.iter().any(|door| file.starts_with(door));
                assert!(!uses || may, "{file} uses {driver}, which only {doors:?} may");
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for folder in ["engine/src", "gateway/src", "sandbox/src"] {
        for (file, text) in files(&root().join(folder), ".rs") {
            assert!(text.starts_with("//!") || text.starts_with("#![doc"), "{file} begins without a //! header");
        }
    }
}

#[test]
fn every_statement_names_its_function() {
    for (file, text) in files(&root().join("engine/src/ledger"), ".rs") {
        let path = Path::new(&file);
        let named = if path.ends_with("mod.rs") { path.parent().unwrap() } else { path };
        let module = named.file_stem().unwrap().to_string_lossy().into_owned();
        for (number, line) in text.lines().enumerate() {
            let starts_sql = line.contains("\"select ")
                || line.contains("\"update ")
                || line.contains("\"insert ")
                || line.contains("\"delete ")
                || line.contains("\"with ");
            assert!(!starts_sql, "{file}:{}: begin the statement with `-- {module}.function`", number + 1);
            if let Some((_, label)) = line.split_once("\"-- ") {
                assert!(label.starts_with(&format!("{module}.")), "{file}:{}: label {label:?}", number + 1);
            }
        }
    }
}

#[test]
fn nothing_unfinished_stands_in_the_tree() {
    // Spelled apart, so that this file does not find itself.
    let unfinished = [concat!("FIX", "ME"), concat!("XX", "X"), concat!("TO", "DO"), concat!("HA", "CK")];
    for ending in [".rs", ".lua", ".sql", ".md", ".sh", ".toml"] {
        for (file, text) in files(&root(), ending) {
            for word in unfinished {
                assert!(!text.contains(word), "{file} contains {word}");
            }
        }
    }
}

#[test]
fn lints_are_silenced_with_a_reason() {
    for folder in ["engine", "gateway", "sandbox", "benches", "loadtest"] {
        for (file, text) in files(&root().join(folder), ".rs") {
            let silenced = concat!("#[all", "ow(");
            assert!(!text.contains(silenced), "{file}: use #[expect(lint, reason = …)]");
            for (number, line) in text.lines().enumerate() {
                let expects = line.trim_start().starts_with(concat!("#[exp", "ect("));
                let next = text.lines().skip(number).take(4).collect::<String>();
                assert!(!expects || next.contains("reason = "), "{file}:{}: why?", number + 1);
            }
        }
    }
}
