//! `/docs`: the description of a listener's API as one page for people. Made once, at the start, from the same document as
//! /openapi.json; it loads nothing from anywhere, and works without script. How it looks is templates/docs.html.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use askama::Template;
use askama::filters::HtmlSafe;
use serde_json::{Map, Value};

use crate::config::Setting;
use crate::error::{PROBLEM_JSON, Problem};
use crate::static_page::{self, StaticPage};

const STYLE: &str = include_str!("../templates/docs.css");

const METHODS: [(&str, &str); 5] =
    [("get", "GET"), ("put", "PUT"), ("post", "POST"), ("patch", "PATCH"), ("delete", "DELETE")];

/// The page as an answer.
pub fn page(description: &Value, problems: &[Problem], settings: &[Setting]) -> StaticPage {
    StaticPage::new(render(description, problems, settings), &static_page::policy(STYLE, &[], &[]))
}

/// The page of an OpenAPI document, of the problems that its routes may answer with, and of what `serve` can be told.
pub fn render(description: &Value, problems: &[Problem], settings: &[Setting]) -> String {
    let info = &description["info"];
    let components = &description["components"];
    let example = problems.iter().find(|problem| matches!(problem, Problem::LimitExceeded { .. }));
    let page = Page {
        style: STYLE,
        title: text(&info["title"]),
        version: text(&info["version"]),
        about: prose(&info["description"]),
        settings: Settings::grouped(settings),
        tokens: components["securitySchemes"].as_object().into_iter().flatten().map(Token::new).collect(),
        tags: tags(description),
        problem_example: example.map(|problem| pretty(&problem.clone().to_json())),
        problems,
        schemas: components["schemas"].as_object().into_iter().flatten().map(SchemaShown::new).collect(),
    };
    page.render().expect("a String takes all that is written")
}

#[derive(Template)]
#[template(path = "docs.html")]
struct Page<'a> {
    style: &'static str,
    title: &'a str,
    version: &'a str,
    about: Prose<'a>,
    settings: Vec<Settings<'a>>,
    tokens: Vec<Token<'a>>,
    tags: Vec<Tag<'a>>,
    problem_example: Option<String>,
    problems: &'a [Problem],
    schemas: Vec<SchemaShown<'a>>,
}

/// Variables under one heading.
struct Settings<'a> {
    heading: &'a str,
    settings: Vec<SettingShown<'a>>,
}

struct SettingShown<'a> {
    name: &'a str,
    value: &'a str,
    about: Prose<'a>,
}

struct Token<'a> {
    name: &'a str,
    header: String,
    about: Prose<'a>,
}

struct Tag<'a> {
    name: &'a str,
    about: Prose<'a>,
    operations: Vec<Operation<'a>>,
}

/// A method of a path, or an event that we send.
struct Operation<'a> {
    id: &'a str,
    /// Its colour.
    class: &'static str,
    method: &'static str,
    path: &'a str,
    summary: Prose<'a>,
    description: Option<Prose<'a>>,
    who: Option<String>,
    parameters: Vec<Parameter<'a>>,
    bodies: Vec<Body<'a>>,
    curl: Option<String>,
    answers: Vec<Answer<'a>>,
}

struct Parameter<'a> {
    name: &'a str,
    place: &'a str,
    is_required: bool,
    shape: Shape<'a>,
    about: Prose<'a>,
}

struct Body<'a> {
    media_type: &'a str,
    shape: Shape<'a>,
    about: Prose<'a>,
    examples: Vec<String>,
}

struct Answer<'a> {
    status: &'a str,
    /// Of a problem, whose descriptions stand under Errors.
    codes: Vec<&'a str>,
    bodies: Vec<Body<'a>>,
    about: Prose<'a>,
    headers: Vec<&'a str>,
}

struct SchemaShown<'a> {
    name: &'a str,
    about: Prose<'a>,
    /// What it is, where it has no fields.
    shapes: Vec<Shape<'a>>,
    fields: Vec<Field<'a>>,
}

struct Field<'a> {
    name: &'a str,
    shape: Shape<'a>,
    is_required: bool,
    about: Prose<'a>,
}

impl<'a> Settings<'a> {
    fn grouped(settings: &'a [Setting]) -> Vec<Self> {
        let mut groups = Vec::<Self>::new();
        for Setting { heading, name, value, about } in settings {
            let shown = SettingShown { name, value, about: Prose(about) };
            match groups.iter_mut().find(|group| group.heading == heading) {
                Some(group) => group.settings.push(shown),
                None => groups.push(Self { heading, settings: vec![shown] }),
            }
        }
        groups
    }
}

impl<'a> Token<'a> {
    fn new((name, scheme): (&'a String, &'a Value)) -> Self {
        let header = match scheme["name"].as_str() {
            Some(header) => format!("{header}: …"),
            None => "Authorization: Bearer …".to_owned(),
        };
        Self { name, header, about: prose(&scheme["description"]) }
    }
}

/// The tags in the document's order, then those that it forgot to list, each with its operations.
fn tags(description: &Value) -> Vec<Tag<'_>> {
    let listed = description["tags"].as_array().into_iter().flatten();
    let mut tags = listed
        .map(|tag| Tag { name: text(&tag["name"]), about: prose(&tag["description"]), operations: Vec::new() })
        .collect::<Vec<_>>();
    for (kind, is_ours) in [("paths", true), ("webhooks", false)] {
        for (path, item) in description[kind].as_object().into_iter().flatten() {
            for (class, method) in METHODS {
                let Some(says) = item.get(class) else { continue };
                let operation = Operation::new(class, method, path, says, is_ours);
                let name = text(&says["tags"][0]);
                match tags.iter_mut().find(|tag| tag.name == name) {
                    Some(tag) => tag.operations.push(operation),
                    None => tags.push(Tag { name, about: Prose(""), operations: vec![operation] }),
                }
            }
        }
    }
    tags
}

impl<'a> Operation<'a> {
    fn new(class: &'static str, method: &'static str, path: &'a str, says: &'a Value, is_ours: bool) -> Self {
        let keys = says["security"].as_array().into_iter().flatten().filter_map(Value::as_object).flat_map(Map::keys);
        let keys = keys.map(String::as_str).collect::<Vec<_>>();
        let who = if keys.is_empty() { "anybody".to_owned() } else { keys.join(" or ") };
        let responses = says["responses"].as_object().into_iter().flatten();
        Self {
            id: text(&says["operationId"]),
            class,
            method,
            path,
            summary: prose(&says["summary"]),
            description: says["description"].as_str().map(Prose),
            who: is_ours.then_some(who),
            parameters: says["parameters"].as_array().into_iter().flatten().map(Parameter::new).collect(),
            bodies: Body::all(&says["requestBody"]),
            curl: is_ours.then(|| curl(method, path, says, !keys.is_empty())),
            answers: responses.map(Answer::new).collect(),
        }
    }
}

/// The request as it is typed. What it sends is the document's own example.
fn curl(method: &str, path: &str, says: &Value, has_token: bool) -> String {
    let parameters = says["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut filled = path.to_owned();
    let mut headers = String::new();
    if has_token {
        headers += " \\\n  -H \"Authorization: Bearer $TOKEN\"";
    }
    for parameter in parameters.iter().filter(|parameter| parameter["required"] == true) {
        let (name, example) = (text(&parameter["name"]), as_text(&parameter["example"]));
        match text(&parameter["in"]) {
            "path" => filled = filled.replace(&format!("{{{name}}}"), &example),
            "header" => headers += &format!(" \\\n  -H {}", quoted(&format!("{name}: {example}"))),
            _ => {}
        }
    }
    let mut line = match method {
        "GET" => format!("curl \"$SHOP{filled}\"{headers}"),
        _ => format!("curl -X {method} \"$SHOP{filled}\"{headers}"),
    };
    for (media_type, content) in says["requestBody"]["content"].as_object().into_iter().flatten() {
        let example = quoted(&as_text(&content["example"]));
        line += &format!(" \\\n  -H 'Content-Type: {media_type}' \\\n  --data-binary {example}");
    }
    line
}

/// One word for a shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A text as it is, anything else as JSON.
fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn pretty(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => format!("{value:#}"),
    }
}

impl<'a> Parameter<'a> {
    fn new(parameter: &'a Value) -> Self {
        Self {
            name: text(&parameter["name"]),
            place: text(&parameter["in"]),
            is_required: parameter["required"] == true,
            shape: Shape(&parameter["schema"]),
            about: prose(&parameter["description"]),
        }
    }
}

impl<'a> Body<'a> {
    /// The bodies that a request or an answer may have, by media type.
    fn all(says: &'a Value) -> Vec<Self> {
        let contents = says["content"].as_object().into_iter().flatten();
        let bodies = contents.map(|(media_type, content)| {
            let several = content["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
            Self {
                media_type,
                shape: Shape(&content["schema"]),
                about: prose(&says["description"]),
                examples: content.get("example").into_iter().chain(several).map(pretty).collect(),
            }
        });
        bodies.collect()
    }
}

impl<'a> Answer<'a> {
    fn new((status, says): (&'a String, &'a Value)) -> Self {
        if let Some(problem) = says["content"].get(PROBLEM_JSON) {
            let codes = problem["examples"].as_object().into_iter().flat_map(Map::keys).map(String::as_str);
            return Self { status, codes: codes.collect(), bodies: Vec::new(), about: Prose(""), headers: Vec::new() };
        }
        let headers = says["headers"].as_object().into_iter().flat_map(Map::keys).map(String::as_str);
        let about = prose(&says["description"]);
        Self { status, codes: Vec::new(), bodies: Body::all(says), about, headers: headers.collect() }
    }
}

impl<'a> SchemaShown<'a> {
    fn new((name, schema): (&'a String, &'a Value)) -> Self {
        let parts = schema["allOf"].as_array().map_or_else(|| vec![schema], |parts| parts.iter().collect());
        let (with, without) = parts.into_iter().partition::<Vec<_>, _>(|part| part["properties"].is_object());
        let fields = with.into_iter().flat_map(|part| {
            let required = part["required"].as_array().into_iter().flatten().map(text).collect::<BTreeSet<_>>();
            let properties = part["properties"].as_object().into_iter().flatten();
            properties.map(move |(name, property)| Field {
                name,
                shape: Shape(property),
                is_required: required.contains(name.as_str()),
                about: prose(&property["description"]),
            })
        });
        let shapes = without.into_iter().map(Shape).collect();
        Self { name, about: prose(&schema["description"]), shapes, fields: fields.collect() }
    }
}

fn prose(value: &Value) -> Prose<'_> {
    Prose(text(value))
}

/// Text of others between tags.
struct Escaped<'a>(&'a str);

/// Sentences, with `code` between backticks; nothing for what is no text.
struct Prose<'a>(&'a str);

/// What a schema allows, in a few words.
struct Shape<'a>(&'a Value);

// Both escape all that is not theirs.
impl HtmlSafe for Prose<'_> {}
impl HtmlSafe for Shape<'_> {}

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
        for (position, piece) in self.0.split('`').enumerate() {
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
        if let Some(properties) = schema["properties"].as_object() {
            f.write_str("{ ")?;
            for (position, (name, property)) in properties.iter().enumerate() {
                write!(f, "{}{}: {}", if position > 0 { "; " } else { "" }, Escaped(name), Shape(property))?;
            }
            return f.write_str(" }");
        }
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
            ("minLength", ", length from "),
            ("maxLength", ", length up to "),
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
            "tags": [evil], "summary": evil, "description": evil, "operationId": evil,
            "parameters": [{ "name": evil, "in": evil, "description": evil, "required": true,
                "example": evil, "schema": { "type": evil, "enum": [evil] } }],
            "requestBody": { "description": evil, "content": { evil: { "schema": { "$ref": evil }, "example": { evil: evil } } } },
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
            &[Setting { heading: evil.into(), name: evil.into(), value: evil.into(), about: evil.into() }],
        );
        assert!(!page.contains("<script") && !page.contains("</script"), "{page}");
        // As we escape it, and as the template does.
        let escaped = page.matches("&lt;script&gt;").count() + page.matches("&#60;script&#62;").count();
        assert!(escaped > 40, "{escaped}: {page}");
        // No quote of a description ends an attribute.
        for attribute in page.split("href=\"").skip(1).chain(page.split("id=\"").skip(1)) {
            let (inside, after) = attribute.split_once('"').unwrap();
            assert!(!inside.contains('<') && after.starts_with('>'), "{attribute}");
        }
        render(&Value::Null, &[], &[]);
    }
}
