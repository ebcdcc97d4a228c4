//! Lists: newest first, in pages, filtered by time and by a few fields.

use serde_json::{Value, json};

use super::super::answer::{Answer, refused};
use super::super::form::Form;
use super::super::parameters::ApiVersion;

/// What a list is made of.
pub(crate) trait Listed {
    fn id(&self) -> &str;
    fn created(&self) -> i64;
    fn to_json(&self, version: ApiVersion) -> Value;

    /// Deleted things are read, but not listed.
    fn is_listed(&self) -> bool {
        true
    }

    /// Asked only for filters that the list allows.
    fn has(&self, _field: &str, _value: &str) -> bool {
        false
    }
}

/// What a list is asked, and what of it is to be seen.
pub(super) struct Shown<'a> {
    pub(super) form: &'a Form,
    pub(super) version: ApiVersion,
    /// What was made later is not in lists yet. In seconds since 1970.
    pub(super) until: i64,
}

/// One page of `items`, which stand oldest first. `filters` are the fields that may be asked for.
pub(super) fn page<T: Listed>(items: &[T], url: &str, filters: &[&str], shown: &Shown<'_>) -> Result<Answer, Answer> {
    page_of(items, url, filters, shown, |item| item.to_json(shown.version))
}

/// The same, of objects that need a look at others to be written.
pub(super) fn page_of<T: Listed>(
    items: &[T],
    url: &str,
    filters: &[&str],
    shown: &Shown<'_>,
    to_json: impl Fn(&T) -> Value,
) -> Result<Answer, Answer> {
    let limit = limit(shown.form)?;
    let place = |name: &str| match shown.form.text(name) {
        None => Ok(None),
        Some(id) => match items.iter().position(|item| item.id() == id) {
            Some(position) => Ok(Some(position)),
            None => Err(refused("resource_missing", name, format!("No such object: '{id}'"))),
        },
    };
    let (after, before) = (place("starting_after")?, place("ending_before")?);
    if after.is_some() && before.is_some() {
        let message = "You can only specify one of these parameters: starting_after, ending_before.";
        return Err(refused("parameters_exclusive", "starting_after", message));
    }
    let fits = |item: &&T| {
        item.is_listed() && item.created() <= shown.until && is_in_time(item.created(), shown.form) && {
            filters.iter().all(|field| {
                let mut wanted = shown.form.get(field).into_iter().chain(shown.form.list(field)).peekable();
                wanted.peek().is_none() || wanted.any(|value| item.has(field, value))
            })
        }
    };
    let (data, has_more) = match before {
        Some(position) => {
            // The nearest ones to the place, still written newest first.
            let mut newer = items[position + 1..].iter().filter(fits);
            let mut found: Vec<Value> = newer.by_ref().take(limit).map(&to_json).collect();
            found.reverse();
            (found, newer.next().is_some())
        }
        None => {
            let mut older = items[..after.unwrap_or(items.len())].iter().rev().filter(fits);
            let found: Vec<Value> = older.by_ref().take(limit).map(&to_json).collect();
            (found, older.next().is_some())
        }
    };
    Ok(Answer::ok(&json!({ "object": "list", "url": url, "has_more": has_more, "data": data })))
}

/// 1 to 100, 10 if nothing is said.
pub(super) fn limit(form: &Form) -> Result<usize, Answer> {
    const DEFAULT: usize = 10;
    let refused = |message: &str| Err(refused("parameter_invalid_integer", "limit", message));
    match form.integer("limit") {
        None => Ok(DEFAULT),
        Some(..=0) => refused("This value must be greater than or equal to 1."),
        Some(101..) => refused("This value must be less than or equal to 100."),
        Some(limit) => Ok(usize::try_from(limit).unwrap_or(DEFAULT)),
    }
}

fn is_in_time(created: i64, form: &Form) -> bool {
    form.integer("created").is_none_or(|time| created == time)
        && form.integer("created[gte]").is_none_or(|time| created >= time)
        && form.integer("created[gt]").is_none_or(|time| created > time)
        && form.integer("created[lte]").is_none_or(|time| created <= time)
        && form.integer("created[lt]").is_none_or(|time| created < time)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{get, post, store};

    #[test]
    fn a_list_is_paged_forwards_and_backwards_and_its_bounds_are_kept() {
        let mut store = store();
        let ids: Vec<String> =
            (0..5).map(|number| post(&mut store, "/v1/customers", &format!("email=a{number}@x.org")).id()).collect();
        let mut page = |query: &str| {
            let answer = get(&mut store, "/v1/customers", query);
            let json = answer.json();
            match answer.status {
                200 => {
                    let place = |one: &serde_json::Value| ids.iter().position(|id| one["id"] == **id).unwrap();
                    let found: Vec<usize> = json["data"].as_array().unwrap().iter().map(place).collect();
                    format!("{found:?} {}", json["has_more"])
                }
                _ => answer.short(),
            }
        };
        let [first, third, last] = [&ids[0], &ids[2], &ids[4]];
        for (query, expected) in [
            (String::new(), "[4, 3, 2, 1, 0] false"),
            ("limit=2".to_owned(), "[4, 3] true"),
            (format!("limit=2&starting_after={third}"), "[1, 0] false"),
            (format!("limit=1&ending_before={third}"), "[3] true"),
            (format!("ending_before={third}"), "[4, 3] false"),
            (format!("starting_after={first}"), "[] false"),
            (format!("ending_before={last}"), "[] false"),
            ("email=a3@x.org".to_owned(), "[3] false"),
            ("created=1795773600&limit=1".to_owned(), "[4] true"),
            ("created[gt]=1795773600".to_owned(), "[] false"),
            ("created[lte]=1795773599".to_owned(), "[] false"),
            (format!("starting_after={first}&ending_before={last}"), "400 parameters_exclusive"),
            ("starting_after=cus_0".to_owned(), "400 resource_missing"),
            ("limit=0".to_owned(), "400 parameter_invalid_integer"),
            ("limit=101".to_owned(), "400 parameter_invalid_integer"),
            ("created[gt]=now".to_owned(), "400 parameter_invalid_integer"),
            ("phone=1".to_owned(), "400 parameter_unknown"),
        ] {
            assert_eq!(page(&query), expected, "{query}");
        }
    }
}
