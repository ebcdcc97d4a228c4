//! One line of the log, as text for people or as JSON for programs. Each says its cause once: an event carries it both
//! in its sentence and as the field `error`, so text leaves out the field, and JSON takes it out of the sentence.

use std::fmt::{self, Write as _};

use doorbuster_engine::domain::clock::Clock;
use serde_json::{Map, Value, json};
use tracing::Level;
use tracing::field::{Field, Visit};

const CAUSE: &str = "error";

/// Fields in the order in which they were given, the sentence apart.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

#[derive(Clone)]
pub(super) struct Line {
    level: Level,
    target: &'static str,
    span: Option<(&'static str, Fields)>,
    fields: Fields,
    /// How many were held back, this one among them.
    held_back: u64,
}

impl Line {
    pub(super) fn new(
        level: Level,
        target: &'static str,
        span: Option<(&'static str, Fields)>,
        fields: Fields,
    ) -> Self {
        Self { level, target, span, fields, held_back: 0 }
    }

    pub(super) fn counted(self, held_back: u64) -> Self {
        Self { held_back, ..self }
    }

    /// What went wrong: the cause, or all that the line says if it names none.
    pub(super) fn cause(&self) -> &str {
        self.fields.error().unwrap_or(&self.fields.message)
    }

    pub(super) fn text(&self, has_colours: bool) -> String {
        let colour = match self.level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            Level::DEBUG => 34,
            Level::TRACE => 35,
        };
        let level =
            if has_colours { format!("\x1b[{colour}m{:>5}\x1b[0m", self.level) } else { format!("{:>5}", self.level) };
        let mut text = format!("{:.6} {level} ", Clock::System.now());
        if let Some((name, fields)) = &self.span {
            let fields = fields.others.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
            let _ = write!(text, "{name}{{{}}}: ", fields.join(" "));
        }
        let message = &self.fields.message;
        let _ = write!(text, "{}: {}", self.target, one_line(message));
        for (name, value) in &self.fields.others {
            match value {
                Value::String(value) if *name == CAUSE && message.contains(value.as_str()) => {}
                Value::String(value) => _ = write!(text, " {name}={}", one_line(value)),
                value => _ = write!(text, " {name}={value}"),
            }
        }
        if self.held_back > 0 {
            let _ = write!(text, " held_back={}", self.held_back);
        }
        text.push('\n');
        text
    }

    pub(super) fn json(&self) -> String {
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), json!(format!("{:.6}", Clock::System.now())));
        line.insert("level".to_owned(), json!(self.level.as_str()));
        let message = match self.fields.error() {
            Some(error) => self.fields.message.strip_suffix(error).map(|message| message.trim_end_matches(": ")),
            None => None,
        };
        line.insert("message".to_owned(), json!(message.unwrap_or(&self.fields.message)));
        for (name, value) in &self.fields.others {
            line.insert((*name).to_owned(), value.clone());
        }
        if self.held_back > 0 {
            line.insert("held_back".to_owned(), json!(self.held_back));
        }
        line.insert("target".to_owned(), json!(self.target));
        if let Some((name, fields)) = &self.span {
            let mut span =
                fields.others.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>();
            span.insert("name".to_owned(), json!(name));
            line.insert("span".to_owned(), Value::Object(span));
        }
        format!("{}\n", Value::Object(line))
    }
}

/// A sentence of somebody else's, such as a certificate's, must not look like a line of ours.
fn one_line(text: &str) -> String {
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text.to_owned() }
}

impl Fields {
    #[cfg(test)]
    pub(super) fn of_message(message: &str) -> Self {
        Self { message: message.to_owned(), others: Vec::new() }
    }

    fn error(&self) -> Option<&str> {
        self.others.iter().find(|(name, _)| *name == CAUSE)?.1.as_str()
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(message)) => self.message = message,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str, error: &str) -> Line {
        let mut fields = Fields::of_message(message);
        fields.others = vec![("count", json!(3)), (CAUSE, json!(error))];
        Line::new(
            Level::WARN,
            "here",
            Some(("request", Fields { others: vec![("id", json!("r1"))], ..Fields::default() })),
            fields,
        )
    }

    #[test]
    fn a_line_says_its_cause_once() {
        let refused = line("three claims were refused: no memory", "no memory");
        let text = refused.text(false);
        assert!(
            text.ends_with(" WARN request{id=\"r1\"}: here: three claims were refused: no memory count=3\n"),
            "{text}"
        );
        let json: Value = serde_json::from_str(&refused.json()).unwrap();
        assert_eq!((&json["message"], &json["error"]), (&json!("three claims were refused"), &json!("no memory")));
        assert_eq!((&json["count"], &json["span"]["id"], &json["level"]), (&json!(3), &json!("r1"), &json!("WARN")));
        // Where the sentence does not say it, the field does.
        assert!(line("three claims were refused", "no memory").text(false).ends_with("count=3 error=no memory\n"));
    }

    #[test]
    fn what_others_say_stays_on_one_line() {
        let text = line("it said: a\nb", "c\u{1b}[31m\nd").text(false);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert_eq!(line("a\nb", "c\nd").json().lines().count(), 1);
    }
}
