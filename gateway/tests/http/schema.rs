//! Whether a value is what a schema of an OpenAPI document allows. Knows the keywords that our documents use, and no other.

use serde_json::Value;

/// What is wrong with a value, by place; empty when nothing is.
pub(super) fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    hold(document, schema, value, "", &mut faults);
    faults
}

fn hold(document: &Value, schema: &Value, value: &Value, place: &str, faults: &mut Vec<String>) {
    let keywords = schema.as_object().unwrap_or_else(|| panic!("{place}: {schema} is no schema"));
    let number = |keyword: &str| schema[keyword].as_f64().unwrap();
    for (keyword, rule) in keywords {
        let fits = match keyword.as_str() {
            // A pattern is for readers and generators: what holds it is the parser behind it.
            "description" | "example" | "default" | "pattern" => true,
            "$ref" => {
                let target = document.pointer(rule.as_str().unwrap().strip_prefix('#').unwrap());
                hold(document, target.unwrap_or_else(|| panic!("{place}: no {rule}")), value, place, faults);
                true
            }
            "allOf" => {
                rule.as_array().unwrap().iter().for_each(|part| hold(document, part, value, place, faults));
                true
            }
            "oneOf" => {
                let fitting = rule.as_array().unwrap().iter().filter(|part| {
                    let mut of_part = Vec::new();
                    hold(document, part, value, place, &mut of_part);
                    of_part.is_empty()
                });
                fitting.count() == 1
            }
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is_of(value, kind.as_str().unwrap())),
                kind => is_of(value, kind.as_str().unwrap()),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "format" => value.is_null() || is_formatted(value, rule.as_str().unwrap()),
            "minimum" => value.as_f64().is_none_or(|value| value >= number("minimum")),
            "maximum" => value.as_f64().is_none_or(|value| value <= number("maximum")),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 >= number("minLength")),
            "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 <= number("maxLength")),
            "required" => {
                let missing =
                    rule.as_array().unwrap().iter().filter(|name| value.get(name.as_str().unwrap()).is_none());
                faults.extend(missing.map(|name| format!("{place}/{}: is missing", name.as_str().unwrap())));
                true
            }
            "properties" => {
                for (name, property) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        hold(document, property, value, &format!("{place}/{name}"), faults);
                    }
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(*rule, Value::Bool(false), "{place}");
                value
                    .as_object()
                    .is_none_or(|fields| fields.keys().all(|name| schema["properties"].get(name).is_some()))
            }
            "items" => {
                for (position, item) in value.as_array().into_iter().flatten().enumerate() {
                    hold(document, rule, item, &format!("{place}/{position}"), faults);
                }
                true
            }
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
            other => panic!("{place}: this test does not know the keyword {other}"),
        };
        if !fits {
            faults.push(format!("{place}: {value} is not {keyword} {rule}"));
        }
    }
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}

fn is_formatted(value: &Value, format: &str) -> bool {
    let text = value.as_str();
    match format {
        "uuid" => text.is_some_and(|text| text.parse::<uuid::Uuid>().is_ok()),
        "date-time" => text.is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok()),
        "int32" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok() || u32::try_from(number).is_ok()),
        "int64" => value.is_i64() || value.is_u64(),
        other => panic!("this test does not know the format {other}"),
    }
}

#[test]
fn a_value_that_does_not_fit_is_told_by_place() {
    let document = serde_json::json!({
        "one": { "type": "object", "required": ["id", "at"], "additionalProperties": false, "properties": {
            "id": { "type": "string", "format": "uuid" }, "at": { "type": ["string", "null"], "format": "date-time" },
            "state": { "oneOf": [{ "type": "null" }, { "type": "string", "enum": ["open"] }] },
            "units": { "type": "array", "items": { "type": "integer", "minimum": 1 } }
        }}
    });
    let id = "01ab3f2c-9d40-7e11-8a55-0c2d4e6f8091";
    for (value, places) in [
        (serde_json::json!({ "id": id, "at": null, "state": "open", "units": [1, 2] }), &[][..]),
        (serde_json::json!({ "id": "x", "at": "today" }), &["/at", "/id"][..]),
        (serde_json::json!({ "id": id }), &["/at"][..]),
        (serde_json::json!({ "id": id, "at": null, "more": 1 }), &[""][..]),
        (
            serde_json::json!({ "id": id, "at": null, "state": "shut", "units": [0, "1"] }),
            &["/state", "/units/0", "/units/1"][..],
        ),
    ] {
        let found = faults(&document, &document["one"], &value);
        let found = found.iter().map(|fault| fault.split(": ").next().unwrap()).collect::<Vec<_>>();
        assert_eq!(found, places, "{value}");
    }
}
