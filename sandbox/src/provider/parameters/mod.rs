//! What each endpoint takes, by API version, and the check that holds every request against it.
//!
//! `table` has a row for every endpoint that is served. A row names the parameters that mean something here, with their
//! types, and those that the real provider takes and this one does not play: they are refused too, so that nobody
//! believes that they did something. All else is unknown, as it is to the real one.

mod table;

use super::answer::Refusal;
use super::form::Form;
pub(crate) use table::Endpoint;

/// An API version: it decides which parameters there are and how objects look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApiVersion {
    V2024_06_20,
    V2026_10_28,
}

impl ApiVersion {
    /// What a request without a version gets, and what events are written in.
    pub(crate) const OF_ACCOUNT: Self = Self::V2024_06_20;

    /// As the header `Stripe-Version` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V2024_06_20 => "2024-06-20",
            Self::V2026_10_28 => "2026-10-28.endive",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::V2024_06_20, Self::V2026_10_28].into_iter().find(|version| version.name() == name)
    }
}

/// What a parameter's value may be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Integer,
    Boolean,
    OneOf(&'static [&'static str]),
    /// An object with these fields.
    Fields(&'static [Parameter]),
    /// `name[]=…` or `name[0]=…`.
    List(&'static Kind),
    /// `name[anything]=…`: metadata.
    Map,
    Either(&'static Kind, &'static Kind),
}

#[derive(Debug, Clone, Copy)]
struct Parameter {
    name: &'static str,
    kind: Kind,
    is_needed: bool,
    /// `None`: in both.
    version: Option<ApiVersion>,
}

const fn may(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind, is_needed: false, version: None }
}

const fn must(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind, is_needed: true, version: None }
}

impl Parameter {
    const fn only(self, version: ApiVersion) -> Self {
        Self { version: Some(version), ..self }
    }

    fn is_in(&self, version: ApiVersion) -> bool {
        self.version.is_none_or(|only| only == version)
    }
}

/// One endpoint.
#[derive(Debug)]
struct Row {
    endpoint: Endpoint,
    method: &'static str,
    /// `{id}` stands for one segment.
    path: &'static str,
    parameters: &'static [&'static [Parameter]],
    /// Names that the real provider takes here and this one does not play.
    not_played: &'static str,
}

/// A request whose endpoint is known and whose parameters have passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) endpoint: Endpoint,
    /// Empty where the path has none.
    pub(crate) id: String,
    pub(crate) form: Form,
    pub(crate) version: ApiVersion,
}

/// Holds one request against the table: the body of a POST, the query of a GET or DELETE.
pub fn check_parameters(method: &str, path: &str, parameters: &str, version: ApiVersion) -> Result<(), Refusal> {
    read(method, path, parameters, version).map(drop)
}

pub(crate) fn read(method: &str, path: &str, parameters: &str, version: ApiVersion) -> Result<Call, Refusal> {
    let Some((row, id)) = find(method, path) else {
        let message = format!("Unrecognized request URL ({method}: {path}).");
        return Err(Refusal { status: 404, ..Refusal::without_param(message) });
    };
    let Some(form) = Form::parse(parameters) else {
        return Err(Refusal::without_param("The parameters are not form-encoded."));
    };
    for (name, value) in form.iter() {
        check(row, version, name, value)?;
    }
    let is_missing = |parameter: &&Parameter| {
        let given = |(name, _): (&str, &str)| head(name) == parameter.name;
        parameter.is_needed && parameter.is_in(version) && !form.iter().any(given)
    };
    match row.parameters.iter().flat_map(|some| *some).find(is_missing) {
        Some(Parameter { name, .. }) => {
            Err(Refusal::new(Some("parameter_missing"), name, format!("Missing required param: {name}.")))
        }
        None => Ok(Call { endpoint: row.endpoint, id: id.to_owned(), form, version }),
    }
}

/// The number of the endpoint's row, for limits that count by endpoint.
pub(crate) fn row_number(method: &str, path: &str) -> Option<usize> {
    table::TABLE.iter().position(|row| matching_id(row, method, path).is_some())
}

pub(crate) fn rows() -> usize {
    table::TABLE.len()
}

fn find<'a>(method: &str, path: &'a str) -> Option<(&'static Row, &'a str)> {
    table::TABLE.iter().find_map(|row| Some((row, matching_id(row, method, path)?)))
}

/// The id in a path that is the row's own.
fn matching_id<'a>(row: &Row, method: &str, path: &'a str) -> Option<&'a str> {
    if row.method != method {
        return None;
    }
    let Some((before, after)) = row.path.split_once("{id}") else {
        return (row.path == path).then_some("");
    };
    let id = path.strip_prefix(before)?.strip_suffix(after)?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

/// `metadata` of `metadata[order_id]`.
fn head(name: &str) -> &str {
    name.split_once('[').map_or(name, |(head, _)| head)
}

fn check(row: &Row, version: ApiVersion, name: &str, value: &str) -> Result<(), Refusal> {
    let head = head(name);
    let is_meant = |parameter: &&Parameter| parameter.name == head && parameter.is_in(version);
    match row.parameters.iter().flat_map(|some| *some).find(is_meant) {
        Some(parameter) => check_value(parameter.kind, &name[head.len()..], name, value, version),
        None if row.not_played.split_whitespace().any(|known| known == head) => Err(Refusal::not_played(head)),
        None => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Refusal {
    Refusal::new(Some("parameter_unknown"), name, format!("Received unknown parameter: {name}"))
}

/// `rest` is what of the name stands behind the part that `kind` is of: `[order_id]`.
fn check_value(kind: Kind, rest: &str, name: &str, value: &str, version: ApiVersion) -> Result<(), Refusal> {
    let next = match rest.strip_prefix('[').map(|rest| rest.split_once(']')) {
        None if rest.is_empty() => None,
        Some(Some(next)) => Some(next),
        _ => return Err(unknown(name)),
    };
    match (kind, next) {
        (Kind::Either(first, second), _) => {
            let refused = match check_value(*first, rest, name, value, version) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            // What one of them does not know by name, the other one can say more about.
            let is_unknown = refused.code == Some("parameter_unknown");
            check_value(*second, rest, name, value, version).map_err(|other| if is_unknown { other } else { refused })
        }
        (Kind::Fields(fields), Some((field, rest))) => {
            match fields.iter().find(|known| known.name == field && known.is_in(version)) {
                Some(known) => check_value(known.kind, rest, name, value, version),
                None => Err(unknown(name)),
            }
        }
        (Kind::List(kind), Some((index, rest))) if index.bytes().all(|digit| digit.is_ascii_digit()) => {
            check_value(*kind, rest, name, value, version)
        }
        (Kind::Map, Some((field, ""))) => check_metadata(field, name, value),
        // An empty object or list unsets what was there.
        (Kind::Map | Kind::Fields(_) | Kind::List(_), None) if value.is_empty() => Ok(()),
        (Kind::Map | Kind::Fields(_), None) => Err(Refusal::new(None, name, "Invalid object")),
        (Kind::List(_), None) => Err(Refusal::new(None, name, "Invalid array")),
        (Kind::Text | Kind::Integer | Kind::Boolean | Kind::OneOf(_) | Kind::List(_) | Kind::Map, Some(_)) => {
            Err(unknown(name))
        }
        (scalar, None) => check_scalar(scalar, name, value),
    }
}

fn check_scalar(kind: Kind, name: &str, value: &str) -> Result<(), Refusal> {
    /// The longest text that the provider takes anywhere.
    const TEXT_CHARS_MAX: usize = 5_000;
    match kind {
        Kind::Text if value.chars().count() > TEXT_CHARS_MAX => {
            Err(Refusal::new(None, name, format!("Invalid string: must be at most {TEXT_CHARS_MAX} characters")))
        }
        Kind::Text => Ok(()),
        _ if value.is_empty() => Err(Refusal::new(
            Some("parameter_invalid_empty"),
            name,
            format!(
                "You passed an empty string for '{name}'. We assume empty values are an attempt to unset a parameter; \
                 however '{name}' cannot be unset. You should remove '{name}' from your request or supply a non-empty \
                 value."
            ),
        )),
        Kind::Integer if value.parse::<i64>().is_err() => {
            Err(Refusal::new(Some("parameter_invalid_integer"), name, format!("Invalid integer: {value}")))
        }
        Kind::Boolean if !matches!(value, "true" | "false") => {
            Err(Refusal::new(None, name, format!("Invalid boolean: {value}")))
        }
        Kind::OneOf(words) if !words.contains(&value) => {
            Err(Refusal::new(None, name, format!("Invalid {name}: must be one of {}", words.join(", "))))
        }
        _ => Ok(()),
    }
}

/// Names of up to 40 characters without brackets, values of up to 500.
fn check_metadata(field: &str, name: &str, value: &str) -> Result<(), Refusal> {
    if field.is_empty() {
        return Err(Refusal::new(Some("parameter_invalid_empty"), name, "Metadata keys cannot be empty"));
    }
    if field.chars().count() > 40 {
        return Err(Refusal::new(None, name, "Metadata keys can have up to 40 characters"));
    }
    if value.chars().count() > 500 {
        return Err(Refusal::new(None, name, "Metadata values can have up to 500 characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTENTS: &str = "/v1/payment_intents";

    fn code(method: &str, path: &str, parameters: &str, version: ApiVersion) -> String {
        match check_parameters(method, path, parameters, version) {
            Ok(()) => "passes".to_owned(),
            Err(Refusal { status, code, param, .. }) => {
                format!("{status} {} {}", code.unwrap_or("-"), param.unwrap_or_default())
            }
        }
    }

    #[test]
    fn every_refusal_names_its_parameter() {
        let long = |length: usize| "x".repeat(length);
        let value = format!("amount=5&currency=eur&metadata[a]={}", long(501));
        let name = format!("amount=5&currency=eur&metadata[{}]=1", long(41));
        let text = format!("amount=5&currency=eur&description={}", long(5_001));
        let long_name = format!("400 - metadata[{}]", long(41));
        let table = [
            ("amount=5&currency=eur", "passes"),
            ("amount=5&currency=eur&metadata[a]=1&metadata[b]=", "passes"),
            ("amount=5&currency=eur&metadata=", "passes"),
            ("amount=5&currency=eur&off_session=true", "passes"),
            ("amount=5&currency=eur&off_session=one_off", "passes"),
            ("amount=5&currency=eur&shipping[address][city]=Ulm&expand[]=customer&expand[1]=x", "passes"),
            ("currency=eur", "400 parameter_missing amount"),
            ("amount=5", "400 parameter_missing currency"),
            ("amount=5&currency=eur&colour=red", "400 parameter_unknown colour"),
            ("amount=5&currency=eur&shipping[colour]=red", "400 parameter_unknown shipping[colour]"),
            ("amount=5&currency=eur&shipping[address][colour]=red", "400 parameter_unknown shipping[address][colour]"),
            ("amount=5&currency=eur&description[a]=1", "400 parameter_unknown description[a]"),
            ("amount=5&currency=eur&metadata[a][b]=1", "400 parameter_unknown metadata[a][b]"),
            ("amount=5&currency=eur&metadata[a=1", "400 parameter_unknown metadata[a"),
            ("amount=5&currency=eur&expand[a]=1", "400 parameter_unknown expand[a]"),
            ("amount=0.5&currency=eur", "400 parameter_invalid_integer amount"),
            ("amount=five&currency=eur", "400 parameter_invalid_integer amount"),
            ("amount=&currency=eur", "400 parameter_invalid_empty amount"),
            ("amount=5&currency=eur&confirm=yes", "400 - confirm"),
            ("amount=5&currency=eur&off_session=never", "400 - off_session"),
            ("amount=5&currency=eur&capture_method=later", "400 - capture_method"),
            ("amount=5&currency=eur&metadata=order", "400 - metadata"),
            ("amount=5&currency=eur&expand=customer", "400 - expand"),
            ("amount=5&currency=eur&metadata[]=1", "400 parameter_invalid_empty metadata[]"),
            ("amount=5&currency=eur&transfer_group=x", "400 not_played transfer_group"),
            (&value, "400 - metadata[a]"),
            (&name, &long_name),
            (&text, "400 - description"),
        ];
        for (parameters, expected) in table {
            assert_eq!(code("POST", INTENTS, parameters, ApiVersion::V2026_10_28), expected, "{parameters}");
        }
    }

    #[test]
    fn a_version_takes_its_own_names_only() {
        let (old, new) = ("payment_method_types[]=card", "allowed_payment_method_types[]=card");
        for (parameters, version, expected) in [
            (old, ApiVersion::V2024_06_20, "passes"),
            (new, ApiVersion::V2026_10_28, "passes"),
            (old, ApiVersion::V2026_10_28, "400 parameter_unknown payment_method_types[]"),
            (new, ApiVersion::V2024_06_20, "400 parameter_unknown allowed_payment_method_types[]"),
        ] {
            let parameters = format!("amount=5&currency=eur&{parameters}");
            assert_eq!(code("POST", INTENTS, &parameters, version), expected, "{parameters}");
        }
        assert_eq!(ApiVersion::from_name("2024-06-20"), Some(ApiVersion::V2024_06_20));
        assert_eq!(ApiVersion::from_name("2020-08-27"), None);
    }

    #[test]
    fn a_path_is_an_endpoint_only_as_a_whole() {
        for (method, path, expected) in [
            ("POST", "/v1/payment_intents/pi_1/confirm", "passes"),
            ("GET", "/v1/payment_intents/pi_1", "passes"),
            ("GET", "/v1/payment_intents/search", "400 parameter_missing query"),
            ("GET", "/v1/payment_intents/pi_1/confirm", "404 - "),
            ("POST", "/v1/payment_intents//confirm", "404 - "),
            ("POST", "/v1/payment_intents/pi_1/x/confirm", "404 - "),
            ("PUT", "/v1/payment_intents/pi_1", "404 - "),
            ("GET", "/v1/subscriptions", "404 - "),
        ] {
            assert_eq!(code(method, path, "", ApiVersion::V2026_10_28), expected, "{method} {path}");
        }
    }

    /// A row that is nobody's would be a hole: two rows of one path, or a parameter that is listed twice.
    #[test]
    fn no_row_hides_another_and_no_name_stands_twice() {
        for (number, row) in table::TABLE.iter().enumerate() {
            let path = row.path.replace("{id}", "x_1");
            assert_eq!(row_number(row.method, &path), Some(number), "{} {}", row.method, row.path);
            for version in [ApiVersion::V2024_06_20, ApiVersion::V2026_10_28] {
                let played = row.parameters.iter().flat_map(|some| *some).filter(|played| played.is_in(version));
                let mut names: Vec<&str> = played.map(|played| played.name).collect();
                names.extend(row.not_played.split_whitespace());
                let all = names.len();
                names.sort_unstable();
                names.dedup();
                assert_eq!(names.len(), all, "{} {}", row.method, row.path);
            }
        }
    }
}
