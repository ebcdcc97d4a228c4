//! Lists: newest first, in pages, filtered by time and by a few fields.

use serde_json::{Value, json};

use super::{Answer, Form, invalid};

/// What a list is made of.
pub(crate) trait Listed {
    fn id(&self) -> &str;
    fn created(&self) -> i64;
    fn to_json(&self) -> Value;

    /// Asked only for filters that the list allows.
    fn has(&self, _field: &str, _value: &str) -> bool {
        false
    }
}

type Condition<T> = Box<dyn Fn(&T) -> bool>;

/// One page of `items`, which stand oldest first. `filters` are the fields that may be asked for.
pub(super) fn page<T: Listed>(items: &[T], url: &str, filters: &[&str], form: &Form) -> Answer {
    const LIMIT_DEFAULT: usize = 10;
    let (mut limit, mut end) = (LIMIT_DEFAULT, items.len());
    let mut conditions: Vec<Condition<T>> = Vec::new();
    for (name, value) in form {
        match name.as_str() {
            "limit" => match value.parse() {
                Ok(number @ 1..=100) => limit = number,
                _ => return invalid("parameter_invalid_integer", "limit must be 1 to 100."),
            },
            "starting_after" => match items.iter().position(|item| item.id() == value) {
                Some(position) => end = position,
                None => return invalid("resource_missing", &format!("No such object: '{value}'")),
            },
            "created[gte]" | "created[gt]" | "created[lte]" | "created[lt]" => {
                let Ok(time) = value.parse::<i64>() else {
                    return invalid("parameter_invalid_integer", "created must be seconds since 1970.");
                };
                let operator = name.clone();
                conditions.push(Box::new(move |item| match operator.as_str() {
                    "created[gte]" => item.created() >= time,
                    "created[gt]" => item.created() > time,
                    "created[lte]" => item.created() <= time,
                    _ => item.created() < time,
                }));
            }
            field if filters.contains(&field) => {
                let (field, value) = (field.to_owned(), value.clone());
                conditions.push(Box::new(move |item| item.has(&field, &value)));
            }
            _ => return invalid("parameter_unknown", &format!("Received unknown parameter: {name}")),
        }
    }
    let mut found = items[..end].iter().rev().filter(|item| conditions.iter().all(|holds| holds(item)));
    let data: Vec<Value> = found.by_ref().take(limit).map(Listed::to_json).collect();
    Answer::ok(&json!({ "object": "list", "url": url, "has_more": found.next().is_some(), "data": data }))
}
