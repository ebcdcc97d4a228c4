//! Search: `metadata['order_id']:'1' AND status:'succeeded'`, as far as payments are looked for.

use serde_json::{Value, json};

use super::super::answer::{Answer, Refusal};
use super::FakeIntent;
use super::list::{Listed as _, Shown, limit};

/// One condition, or its opposite.
#[derive(Debug, PartialEq, Eq)]
struct Term<'a> {
    is_not: bool,
    field: &'a str,
    /// Of `metadata['key']`.
    key: Option<&'a str>,
    value: &'a str,
}

/// One page of what a query finds, newest first. A page's name is how many stand before it.
pub(super) fn page(intents: &[FakeIntent], url: &str, shown: &Shown<'_>) -> Result<Answer, Answer> {
    let query = shown.form.get("query").unwrap_or_default();
    let limit = limit(shown.form)?;
    let Some(terms) = terms(query) else {
        let message = format!("We were unable to parse your search query: {query}");
        return Err(Refusal::new(None, "query", message).into());
    };
    if let Some(term) = terms.iter().find(|term| !is_searchable(term)) {
        return Err(
            Refusal::new(None, "query", format!("Field `{}` is an unsupported search field.", term.field)).into()
        );
    }
    let skipped = match shown.form.text("page").map(str::parse::<usize>) {
        None => 0,
        Some(Ok(skipped)) => skipped,
        Some(Err(_)) => return Err(Refusal::new(None, "page", "Invalid page").into()),
    };
    let fits = |intent: &&FakeIntent| {
        intent.created <= shown.until && terms.iter().all(|term| holds(intent, term) != term.is_not)
    };
    let mut found = intents.iter().rev().filter(fits).skip(skipped);
    let data: Vec<Value> = found.by_ref().take(limit).map(|intent| intent.to_json(shown.version)).collect();
    let next_page = found.next().map(|_| (skipped + limit).to_string());
    Ok(Answer::ok(&json!({ "object": "search_result", "url": url, "has_more": next_page.is_some(),
        "next_page": next_page, "data": data })))
}

fn is_searchable(term: &Term<'_>) -> bool {
    match term.field {
        "metadata" => term.key.is_some(),
        field => term.key.is_none() && matches!(field, "amount" | "currency" | "customer" | "status"),
    }
}

fn holds(intent: &FakeIntent, term: &Term<'_>) -> bool {
    match (term.field, term.key) {
        ("metadata", Some(key)) => intent.metadata.get(key).and_then(Value::as_str) == Some(term.value),
        ("status", _) => intent.status == term.value,
        ("customer", _) => intent.customer.as_deref() == Some(term.value),
        ("currency", _) => intent.currency == term.value,
        _ => intent.amount_minor.to_string() == term.value,
    }
}

/// All of them have to hold. `None` if the text is no query of this kind.
fn terms(query: &str) -> Option<Vec<Term<'_>>> {
    query.split(" AND ").map(|text| term(text.trim())).collect()
}

fn term(text: &str) -> Option<Term<'_>> {
    let (is_not, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (name, value) =
        text.split_once("]:").map_or_else(|| text.split_once(':'), |(name, value)| Some((name, value)))?;
    let (field, key) = match name.split_once('[') {
        Some((field, key)) => (field, Some(unquoted(key)?)),
        None => (name, None),
    };
    let value = unquoted(value).or_else(|| (field == "amount").then_some(value))?;
    (!field.is_empty()).then_some(Term { is_not, field, key, value })
}

/// What stands in quotes of either kind, without more of them.
fn unquoted(text: &str) -> Option<&str> {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote).filter(|inner| !inner.contains(quote));
    inner('\'').or_else(|| inner('"'))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{get, post, store};

    #[test]
    fn a_query_finds_what_all_its_terms_say() {
        let mut store = store();
        for (order, amount) in [("o-1", 100), ("o-2", 200), ("o-2", 300)] {
            let intent = format!("amount={amount}&currency=eur&metadata[order_id]={order}&payment_method_types[]=card");
            post(&mut store, "/v1/payment_intents", &intent);
        }
        let mut found = |query: &str| {
            let parameters = serde_urlencoded::to_string([("query", query)]).unwrap();
            let answer = get(&mut store, "/v1/payment_intents/search", &parameters);
            match answer.json()["data"].as_array() {
                Some(data) => {
                    format!("{:?}", data.iter().map(|one| one["amount"].as_i64().unwrap()).collect::<Vec<_>>())
                }
                None => answer.short(),
            }
        };
        for (query, expected) in [
            ("metadata['order_id']:'o-2'", "[300, 200]"),
            ("metadata[\"order_id\"]:\"o-1\"", "[100]"),
            ("metadata['order_id']:'o-2' AND amount:200", "[200]"),
            ("-metadata['order_id']:'o-2'", "[100]"),
            ("status:'succeeded'", "[]"),
            ("status:'requires_payment_method' AND currency:'eur' AND -amount:100", "[300, 200]"),
            ("order_id:'o-2'", "400 -"),
            ("metadata:'o-2'", "400 -"),
            ("status:succeeded", "400 -"),
            ("o-2", "400 -"),
        ] {
            assert_eq!(found(query), expected, "{query}");
        }
    }
}
