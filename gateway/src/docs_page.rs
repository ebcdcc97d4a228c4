//! `/docs`: the description of a listener's API as one page for people. Made once, at the start, from the same document as
//! /openapi.json; it loads nothing from anywhere, and works without script.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::error::{PROBLEM_JSON, Problem};

const STYLE: &str = "body{font:16px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}\
h2{margin-top:3rem;border-bottom:2px solid}article{margin:2.2rem 0}h3{margin-bottom:.3rem}\
code{font:.92em ui-monospace,monospace;background:#f2f2f0;padding:0 .2em}\
table{border-collapse:collapse;width:100%;margin:.5rem 0 1rem}td,th{border:1px solid #ccc;padding:.25rem .5rem;text-align:left;\
vertical-align:top}th{background:#f2f2f0}nav ul{columns:2}a{color:#0645ad}\
@media(prefers-color-scheme:dark){body{background:#161616;color:#e4e4e4}code,th{background:#2a2a2a}a{color:#8ab4f8}\
td,th{border-color:#444}}";

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// The page, with the policy that allows its own style and nothing else.
#[derive(Debug, Clone)]
pub struct DocsPage {
    html: Bytes,
    policy: HeaderValue,
}

impl DocsPage {
    pub fn new(description: &Value, problems: &[Problem]) -> Self {
        let style = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let policy = HeaderValue::from_str(&policy).expect("base64 is visible ASCII");
        Self { html: render(description, problems).into(), policy }
    }
}

impl IntoResponse for DocsPage {
    fn into_response(self) -> Response {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        ([(CONTENT_TYPE, html), (CONTENT_SECURITY_POLICY, self.policy)], self.html).into_response()
    }
}

/// The page of an OpenAPI document and of the problems that its routes may answer with.
pub fn render(description: &Value, problems: &[Problem]) -> String {
    let mut page = String::new();
    write_page(&mut page, description, problems).expect("a String takes all that is written");
    page
}

fn write_page(page: &mut String, description: &Value, problems: &[Problem]) -> fmt::Result {
    let info = &description["info"];
    let title = Escaped(text(&info["title"]));
    write!(page, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>")?;
    write!(page, "<meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>")?;
    writeln!(page, "<h1>{title} {}</h1><p>{}</p>", Escaped(text(&info["version"])), Prose(&info["description"]))?;
    writeln!(page, "<p>For programs: <a href=\"/openapi.json\">/openapi.json</a>, OpenAPI 3.1.</p>")?;
    let operations = operations(description);
    let tags = tags(description, &operations);
    write!(page, "<nav><ul>")?;
    for (name, _) in &tags {
        write!(page, "<li><a href=\"#tag-{0}\">{0}</a></li>", Escaped(name))?;
    }
    writeln!(page, "<li><a href=\"#errors\">errors</a></li><li><a href=\"#schemas\">schemas</a></li></ul></nav>")?;
    write_tokens(page, &description["components"]["securitySchemes"])?;
    for (name, about) in &tags {
        writeln!(page, "<section id=\"tag-{0}\"><h2>{0}</h2><p>{1}</p>", Escaped(name), Prose(about))?;
        for operation in operations.iter().filter(|operation| operation.tag() == *name) {
            operation.write(page)?;
        }
        writeln!(page, "</section>")?;
    }
    write_problems(page, problems)?;
    write_schemas(page, &description["components"]["schemas"])?;
    page.write_str("</body></html>\n")
}

/// A method of a path.
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    says: &'a Value,
}

fn operations(description: &Value) -> Vec<Operation<'_>> {
    let paths = description["paths"].as_object().into_iter().flatten();
    let operations = paths.flat_map(|(path, item)| {
        let methods = METHODS.iter().filter_map(move |method| Some((*method, item.get(method)?)));
        methods.map(move |(method, says)| Operation { method, path, says })
    });
    operations.collect()
}

/// The tags in the document's order, then those that it forgot to list.
fn tags<'a>(description: &'a Value, operations: &[Operation<'a>]) -> Vec<(&'a str, &'a Value)> {
    let listed = description["tags"].as_array().into_iter().flatten();
    let mut tags = listed.map(|tag| (text(&tag["name"]), &tag["description"])).collect::<Vec<_>>();
    for operation in operations {
        if !tags.iter().any(|(name, _)| *name == operation.tag()) {
            tags.push((operation.tag(), &Value::Null));
        }
    }
    tags
}

impl<'a> Operation<'a> {
    fn tag(&self) -> &'a str {
        text(&self.says["tags"][0])
    }

    fn write(&self, page: &mut String) -> fmt::Result {
        let Self { method, path, says } = self;
        let method = method.to_uppercase();
        writeln!(page, "<article><h3><code>{method} {}</code> {}</h3>", Escaped(path), Prose(&says["summary"]))?;
        if !says["description"].is_null() {
            writeln!(page, "<p>{}</p>", Prose(&says["description"]))?;
        }
        let security = says["security"].as_array().into_iter().flatten().filter_map(Value::as_object);
        let keys = security.flat_map(Map::keys).map(String::as_str).collect::<Vec<_>>();
        let who = if keys.is_empty() { "anybody".to_owned() } else { keys.join(" or ") };
        writeln!(page, "<p>For: {}</p>", Escaped(&who))?;
        let parameters = says["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !parameters.is_empty() {
            write!(page, "<table><tr><th>parameter</th><th>in</th><th>type</th><th>what</th></tr>")?;
            for parameter in parameters {
                let (name, place) = (Escaped(text(&parameter["name"])), Escaped(text(&parameter["in"])));
                let needed = if parameter["required"] == true { ", required" } else { "" };
                write!(page, "<tr><td><code>{name}</code></td><td>{place}{needed}</td>")?;
                writeln!(
                    page,
                    "<td>{}</td><td>{}</td></tr>",
                    Shape(&parameter["schema"]),
                    Prose(&parameter["description"])
                )?;
            }
            writeln!(page, "</table>")?;
        }
        for (media_type, content) in says["requestBody"]["content"].as_object().into_iter().flatten() {
            let about = Prose(&says["requestBody"]["description"]);
            writeln!(
                page,
                "<p>Body: {} as <code>{}</code>. {about}</p>",
                Shape(&content["schema"]),
                Escaped(media_type)
            )?;
        }
        write!(page, "<table><tr><th>status</th><th>answer</th></tr>")?;
        for (status, response) in says["responses"].as_object().into_iter().flatten() {
            write!(page, "<tr><td>{}</td><td>", Escaped(status))?;
            write_response(page, response)?;
            writeln!(page, "</td></tr>")?;
        }
        writeln!(page, "</table></article>")
    }
}

fn write_response(page: &mut String, response: &Value) -> fmt::Result {
    if let Some(problem) = response["content"].get(PROBLEM_JSON) {
        let codes = problem["examples"].as_object().into_iter().flat_map(Map::keys);
        for (position, code) in codes.enumerate() {
            let comma = if position > 0 { ", " } else { "" };
            write!(page, "{comma}<a href=\"#code-{0}\"><code>{0}</code></a>", Escaped(code))?;
        }
        return Ok(());
    }
    let contents = response["content"].as_object().into_iter().flatten();
    for (_, content) in contents {
        write!(page, "{} ", Shape(&content["schema"]))?;
    }
    write!(page, "{}", Prose(&response["description"]))?;
    let headers = response["headers"].as_object().into_iter().flatten();
    for (position, (name, _)) in headers.enumerate() {
        write!(page, "{} <code>{}</code>", if position > 0 { "," } else { " Headers:" }, Escaped(name))?;
    }
    Ok(())
}

fn write_tokens(page: &mut String, schemes: &Value) -> fmt::Result {
    let Some(schemes) = schemes.as_object() else { return Ok(()) };
    write!(page, "<table><tr><th>for</th><th>send</th><th>what</th></tr>")?;
    for (name, scheme) in schemes {
        let header = match scheme["name"].as_str() {
            Some(header) => format!("{header}: …"),
            None => "Authorization: Bearer …".to_owned(),
        };
        let (name, header) = (Escaped(name), Escaped(&header));
        writeln!(
            page,
            "<tr><td>{name}</td><td><code>{header}</code></td><td>{}</td></tr>",
            Prose(&scheme["description"])
        )?;
    }
    writeln!(page, "</table>")
}

fn write_problems(page: &mut String, problems: &[Problem]) -> fmt::Result {
    write!(page, "<section id=\"errors\"><h2>Errors</h2><p>What a detail names is made up here.</p>")?;
    write!(page, "<table><tr><th>code</th><th>status</th><th>title</th><th>what to do</th></tr>")?;
    for problem in problems {
        let (code, detail) = (Escaped(problem.code()), problem.detail());
        write!(page, "<tr id=\"code-{code}\"><td><code>{code}</code></td><td>{}</td>", problem.status())?;
        writeln!(page, "<td>{}</td><td>{}</td></tr>", Escaped(problem.title()), Escaped(&detail))?;
    }
    writeln!(page, "</table></section>")
}

fn write_schemas(page: &mut String, schemas: &Value) -> fmt::Result {
    writeln!(page, "<section id=\"schemas\"><h2>Schemas</h2>")?;
    for (name, schema) in schemas.as_object().into_iter().flatten() {
        writeln!(
            page,
            "<article id=\"schema-{0}\"><h3>{0}</h3><p>{1}</p>",
            Escaped(name),
            Prose(&schema["description"])
        )?;
        let parts = schema["allOf"].as_array().map_or_else(|| vec![schema], |parts| parts.iter().collect());
        for part in parts {
            match part["properties"].as_object() {
                Some(properties) => write_properties(page, properties, &part["required"])?,
                None => writeln!(page, "<p>{}</p>", Shape(part))?,
            }
        }
        writeln!(page, "</article>")?;
    }
    writeln!(page, "</section>")
}

fn write_properties(page: &mut String, properties: &Map<String, Value>, required: &Value) -> fmt::Result {
    let required = required.as_array().into_iter().flatten().map(text).collect::<BTreeSet<_>>();
    write!(page, "<table><tr><th>field</th><th>type</th><th>what</th></tr>")?;
    for (name, property) in properties {
        let needed = if required.contains(name.as_str()) { "" } else { ", may be left out" };
        let (field, about) = (Escaped(name), Prose(&property["description"]));
        writeln!(page, "<tr><td><code>{field}</code></td><td>{}{needed}</td><td>{about}</td></tr>", Shape(property))?;
    }
    writeln!(page, "</table>")
}

/// Text of others between tags, or between quotes.
struct Escaped<'a>(&'a str);

/// Sentences, with `code` between backticks; nothing for what is no text.
struct Prose<'a>(&'a Value);

/// What a schema allows, in a few words.
struct Shape<'a>(&'a Value);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Prose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, piece) in text(self.0).split('`').enumerate() {
            match position % 2 {
                0 => write!(f, "{}", Escaped(piece))?,
                _ => write!(f, "<code>{}</code>", Escaped(piece))?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.0;
        if let Some(reference) = schema["$ref"].as_str() {
            let name = Escaped(reference.rsplit('/').next().unwrap_or_default());
            return write!(f, "<a href=\"#schema-{name}\">{name}</a>");
        }
        for (keyword, between) in [("oneOf", " or "), ("anyOf", " or "), ("allOf", " with ")] {
            if let Some(parts) = schema[keyword].as_array() {
                for (position, part) in parts.iter().enumerate() {
                    write!(f, "{}{}", if position > 0 { between } else { "" }, Shape(part))?;
                }
                return Ok(());
            }
        }
        let kinds = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
            kind => text(kind).to_owned(),
        };
        f.write_str(if kinds.is_empty() { "anything" } else { "" })?;
        write!(f, "{}", Escaped(&kinds))?;
        if !schema["items"].is_null() {
            write!(f, " of {}", Shape(&schema["items"]))?;
        }
        for (keyword, before) in [
            ("format", ", "),
            ("enum", ", one of "),
            ("minimum", ", from "),
            ("maximum", ", up to "),
            ("minLength", ", characters from "),
            ("maxLength", ", characters up to "),
            ("pattern", ", as "),
            ("default", ", by default "),
            ("example", ", for example "),
        ] {
            match &schema[keyword] {
                Value::Null => {}
                Value::String(word) => write!(f, "{before}<code>{}</code>", Escaped(word))?,
                Value::Array(words) => {
                    let words = words.iter().map(text).collect::<Vec<_>>().join(", ");
                    write!(f, "{before}<code>{}</code>", Escaped(&words))?;
                }
                other => write!(f, "{before}{}", Escaped(&other.to_string()))?,
            }
        }
        Ok(())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whatever_a_description_says_it_is_text() {
        let evil = "<script>alert('\"&`x`')</script>";
        let says = json!({
            "tags": [evil], "summary": evil, "description": evil,
            "parameters": [{ "name": evil, "in": evil, "description": evil, "schema": { "type": evil, "enum": [evil] } }],
            "requestBody": { "description": evil, "content": { evil: { "schema": { "$ref": evil } } } },
            "responses": {
                evil: { "description": evil, "headers": { evil: {} }, "content": { evil: { "schema": {} } } },
                "404": { "description": evil, "content": { "application/problem+json": {} } }
            },
            "security": [{ evil: [] }]
        });
        let page = render(
            &json!({
                "info": { "title": evil, "version": evil, "description": evil },
                "tags": [{ "name": evil, "description": evil }, { "name": "other" }],
                "paths": { evil: { "get": says } },
                "components": {
                    "schemas": {
                        evil: { "description": evil, "properties": { evil: { "pattern": evil, "default": evil } } },
                        "other": { "oneOf": [{ "type": [evil], "items": { "type": evil }, "example": { evil: evil } }] }
                    },
                    "securitySchemes": { evil: { "name": evil, "description": evil } }
                }
            }),
            &[Problem::SkuTaken { sku: evil.to_owned() }],
        );
        assert!(!page.contains("<script") && !page.contains("</script"), "{page}");
        assert!(page.matches("&lt;script&gt;").count() > 30, "{page}");
        // No quote of a description ends an attribute.
        for attribute in page.split("href=\"").skip(1).chain(page.split("id=\"").skip(1)) {
            let (inside, after) = attribute.split_once('"').unwrap();
            assert!(!inside.contains('<') && after.starts_with('>'), "{attribute}");
        }
        render(&Value::Null, &[]);
    }
}
