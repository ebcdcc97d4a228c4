//! What is said about the API holds: /openapi.json names codes that exist, /docs lists all of it, docs/API.md is up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use doorbuster::error::{PROBLEM_JSON, Problem};
use serde_json::Value;

use super::schema;
use super::shop::{send, shop};
use crate::support::{Answer, Sale};

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];
/// The command that writes the generated part of docs/API.md anew.
const REWRITE: &str = "DOORBUSTER_REWRITE_DOCS=1 cargo test -p doorbuster --test gateway the_written_list";

/// The documents, or whatever else is at this path, of both listeners.
async fn both(path: &str) -> [Answer; 2] {
    let shop = shop(Sale::default()).await;
    [send(shop.http.get(shop.url(path))).await, shop.ops(path).await]
}

/// Every `METHOD /path` of a document with what is said of it.
pub(super) fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(METHODS.contains(&method.as_str()), "{method} {path}");
            operations.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    operations
}

#[tokio::test]
async fn every_error_of_a_route_names_codes_that_exist_with_that_status() {
    let samples = Problem::samples();
    let known = samples.iter().map(|problem| (problem.code(), problem)).collect::<BTreeMap<_, _>>();
    let mut named = BTreeSet::new();
    for document in both("/openapi.json").await {
        let document = document.json();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
        for (method, path, operation) in operations(&document) {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let what = format!("{method} {path} {status}");
                let description = response["description"].as_str().unwrap_or_default();
                assert!(!description.is_empty(), "{what} is not described: {response}");
                let status: u16 = status.parse().unwrap();
                if status < 400 {
                    continue;
                }
                let problem = &response["content"][PROBLEM_JSON];
                let refined = &problem["schema"]["allOf"];
                assert_eq!(refined[0]["$ref"], "#/components/schemas/Problem", "{what}");
                let codes = refined[1]["properties"]["code"]["enum"].as_array().unwrap();
                let codes = codes.iter().map(|code| code.as_str().unwrap()).collect::<BTreeSet<_>>();
                assert!(!codes.is_empty(), "{what} names no code: {response}");
                for code in &codes {
                    let sample = known.get(code).unwrap_or_else(|| panic!("{what}: there is no code {code:?}"));
                    assert_eq!(sample.status(), status, "{what} {code}");
                    assert!(description.contains(&format!("`{code}`: {}", sample.title())), "{what}: {description}");
                    named.insert((*code).to_owned());
                }
                let examples = problem["examples"].as_object().unwrap();
                assert_eq!(examples.keys().map(String::as_str).collect::<BTreeSet<_>>(), codes, "{what}");
                for (code, example) in examples {
                    let place = example["$ref"].as_str().unwrap().strip_prefix('#').unwrap();
                    let value = &document.pointer(place).unwrap_or_else(|| panic!("{what}: no {place}"))["value"];
                    assert_eq!(*value, known[&**code].clone().to_json(), "{what} {code}");
                }
            }
            assert!(operation["summary"].is_string() && operation["responses"]["500"].is_object(), "{method} {path}");
        }
    }
    // No code is without a route, but for the answers to what is none, and to the payment provider.
    let unnamed = known.keys().filter(|code| !named.contains(**code)).copied().collect::<Vec<_>>();
    assert_eq!(unnamed, ["delivery_refused", "method_not_allowed", "webhooks_off"]);
}

#[tokio::test]
async fn every_body_has_an_example_that_its_schema_allows() {
    let mut tried = 0;
    for document in both("/openapi.json").await {
        let document = document.json();
        let mut bodies = operations(&document);
        for (event, item) in document["webhooks"].as_object().into_iter().flatten() {
            bodies.push(("POST".to_owned(), event.clone(), item["post"].clone()));
        }
        for (method, path, operation) in bodies {
            let answers = operation["responses"].as_object().unwrap().values();
            let contents = answers.chain([&operation["requestBody"]]).filter_map(|body| body["content"].as_object());
            for (media_type, content) in contents.flatten() {
                let examples = content["examples"].as_object().into_iter().flatten().map(|(_, example)| {
                    let place = example["$ref"].as_str().and_then(|place| place.strip_prefix('#'));
                    &place.map_or(example, |place| document.pointer(place).unwrap())["value"]
                });
                let examples = examples.chain(content.get("example")).collect::<Vec<_>>();
                let what = format!("{method} {path} {media_type} {}", content["schema"]);
                assert!(!examples.is_empty(), "{what} has no example");
                for example in examples {
                    let faults = schema::faults(&document, &content["schema"], example);
                    assert!(faults.is_empty(), "{what}: {faults:?} in {example}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 600, "{tried}");
}

#[tokio::test]
async fn the_page_for_people_lists_every_route_and_every_code() {
    let [public, operators] = both("/docs").await;
    let documents = both("/openapi.json").await;
    for (page, document) in [&public, &operators].into_iter().zip(&documents) {
        assert_eq!((page.status.as_u16(), page.header("content-type")), (200, Some("text/html; charset=utf-8")));
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
        for active in ["<script", "<link", "<img", "src=", "http://", "onload", "style="] {
            assert!(!page.text.contains(active), "{active}");
        }
        for (method, path, operation) in operations(&document.json()) {
            let class = method.to_lowercase();
            let heading = format!("<span class=\"{class}\">{method}</span> {path}</code>");
            // Once in the list of routes, once at its own place.
            assert_eq!(page.text.matches(&heading).count(), 2, "{heading}");
            assert!(page.text.contains("$SHOP"), "{method} {path} has no example");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                assert!(page.text.contains(&format!("<td><code>{name}</code></td>")), "{method} {path} {name}");
            }
        }
        for problem in Problem::samples() {
            let row =
                format!("<tr id=\"code-{0}\"><td><code>{0}</code></td><td>{1}</td>", problem.code(), problem.status());
            assert!(page.text.contains(&row), "{row}");
        }
        // Every link of the page leads somewhere on it.
        for link in page.text.split("href=\"#").skip(1) {
            let target = link.split('"').next().unwrap();
            assert_eq!(page.text.matches(&format!("id=\"{target}\"")).count(), 1, "#{target}");
        }
    }
    assert!(documents[1].json()["paths"].get("/v1/operator").is_some());
    // Operators are told every variable of `serve`, and buyers none.
    let settings = doorbuster::config::settings_of_serve();
    assert!(settings.len() > 30 && settings.iter().all(|setting| !setting.about.is_empty()), "{settings:?}");
    for setting in settings {
        let row = format!("<tr id=\"env-{0}\"><td><code>{0}</code></td>", setting.name);
        assert!(operators.text.contains(&row) && !public.text.contains(&row), "{row}");
    }
}

/// The generated part of docs/API.md.
fn table() -> String {
    let mut rows = String::from("| code | status | title | what to do |\n|---|---|---|---|\n");
    let mut problems = Problem::samples();
    problems.sort_by_key(|problem| (problem.status(), problem.code()));
    for problem in problems {
        let (code, status, title) = (problem.code(), problem.status(), problem.title());
        rows += &format!("| `{code}` | {status} | {title} | {} |\n", problem.detail().replace('|', "\\|"));
    }
    rows
}

#[test]
fn the_written_list_of_codes_is_that_of_the_program() {
    const BEGIN: &str = "<!-- codes, written by a test -->\n";
    const END: &str = "<!-- end of codes -->";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/API.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("docs/API.md says where the codes begin");
    let (_, after) = rest.split_once(END).expect("docs/API.md says where the codes end");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", table());
    if std::env::var_os("DOORBUSTER_REWRITE_DOCS").is_some() {
        std::fs::write(&file, &wanted).unwrap();
        return;
    }
    assert!(text == wanted, "docs/API.md does not list the codes as they are: run {REWRITE}");
}
