//! Idempotency keys: the first answer is kept and comes back, whatever it was.

use std::collections::HashMap;

use serde_json::json;

use super::super::answer::Answer;

/// The keys in use, and those whose answers are kept.
#[derive(Debug, Default)]
pub(super) struct Keys(HashMap<String, KeyRecord>);

#[derive(Debug)]
struct KeyRecord {
    path: String,
    parameters: String,
    /// `None` while the first request runs.
    answer: Option<Answer>,
    /// Until then a repeat is told that the first request still runs. In seconds since 1970.
    held_until: i64,
}

impl Keys {
    /// Takes the key for a first request; the error is the answer to any other.
    pub(super) fn begin(&mut self, key: &str, path: &str, parameters: &str, now: i64) -> Result<(), Answer> {
        let Some(known) = self.0.get(key) else {
            let (path, parameters) = (path.to_owned(), parameters.to_owned());
            self.0.insert(key.to_owned(), KeyRecord { path, parameters, answer: None, held_until: now });
            return Ok(());
        };
        if known.path != path || known.parameters != parameters {
            let text = "Keys can only be used with the path and parameters they were first used with.";
            return Err(Answer::error(400, &json!({ "type": "idempotency_error", "message": text })));
        }
        Err(match &known.answer {
            Some(answer) if now >= known.held_until => Answer { replayed: true, ..answer.clone() },
            _ => Answer::error(
                409,
                &json!({ "type": "idempotency_error", "code": "idempotency_key_in_use",
                    "message": "Another request with this key is still running." }),
            ),
        })
    }

    /// Ends what `begin` began.
    pub(super) fn finish(&mut self, key: &str, answer: &Answer, held_until: i64) {
        if !answer.stored {
            self.0.remove(key);
        } else if let Some(record) = self.0.get_mut(key) {
            record.answer = Some(answer.clone());
            record.held_until = held_until;
        }
    }

    pub(super) fn forget(&mut self) {
        self.0.retain(|_, record| record.answer.is_none());
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::answer::refused;
    use super::*;

    #[test]
    fn a_key_runs_once_and_replays_unless_nothing_had_begun() {
        let (mut keys, path) = (Keys::default(), "/v1/payment_intents/pi_1/confirm");
        assert_eq!(keys.begin("k", path, "a=1", 0), Ok(()));
        assert_eq!(keys.begin("k", path, "a=1", 0).unwrap_err().status, 409);
        assert_eq!(keys.begin("k", path, "a=2", 0).unwrap_err().status, 400);
        assert_eq!(keys.begin("k", "/v1/payment_intents", "a=1", 0).unwrap_err().status, 400);
        keys.finish("k", &Answer::error_500(), 0);
        let replay = keys.begin("k", path, "a=1", 0).unwrap_err();
        assert_eq!((replay.status, replay.replayed), (500, true));

        assert_eq!(keys.begin("invalid", path, "", 0), Ok(()));
        keys.finish("invalid", &refused("parameter_missing", "amount", ""), 0);
        assert_eq!(keys.begin("invalid", path, "corrected=1", 0), Ok(()));

        keys.forget();
        assert_eq!(keys.begin("k", path, "a=2", 0), Ok(()));
        assert_eq!(keys.begin("invalid", path, "corrected=1", 0).unwrap_err().status, 409, "still running");
    }

    #[test]
    fn a_held_key_is_in_use_until_its_time_has_come() {
        let (mut keys, path) = (Keys::default(), "/v1/refunds");
        assert_eq!(keys.begin("k", path, "", 100), Ok(()));
        keys.finish("k", &Answer::error_500(), 160);
        assert_eq!(keys.begin("k", path, "", 159).unwrap_err().status, 409);
        assert_eq!(keys.begin("k", path, "other=1", 159).unwrap_err().status, 400);
        assert_eq!(keys.begin("k", path, "", 160).unwrap_err().status, 500);
    }
}
