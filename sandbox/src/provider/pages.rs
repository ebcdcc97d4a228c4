//! What a buyer's browser sees of the provider: their bank's question, and the page on which a card is saved. No
//! credential of ours is asked for here; an address that names a secret or a session is one.

use std::sync::Arc;

use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};

use super::cards::Card;
use super::form::Form;
use super::server::Server;
use super::store::{Completed, End, Hosted};

/// `None` if the address is the API's.
pub(super) fn respond(server: &Arc<Server>, method: &Method, uri: &Uri, body: &str) -> Option<Response> {
    if let Some(rest) = uri.path().strip_prefix("/authenticate/") {
        return Some(authenticate(server, method, rest, uri.query().unwrap_or_default()));
    }
    let session = uri.path().strip_prefix("/c/pay/")?;
    Some(match *method {
        Method::GET => show(server, session, None),
        Method::POST => save_card(server, session, body),
        _ => not_there(),
    })
}

fn not_there() -> Response {
    (StatusCode::NOT_FOUND, "No such page.\n").into_response()
}

fn go_to(url: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, url)]).into_response()
}

/// Where `next_action` sends the buyer's browser.
fn authenticate(server: &Arc<Server>, method: &Method, rest: &str, query: &str) -> Response {
    let (id, verb) = rest.split_once('/').unwrap_or((rest, ""));
    let secret = query.strip_prefix("client_secret=").unwrap_or_default();
    let is_setup = id.starts_with("seti_");
    let is_theirs = match is_setup {
        true => server.store().is_setup_secret(id, secret),
        false => {
            let is_theirs = |intent: &super::FakeIntent| intent.intent_id == id && intent.client_secret() == secret;
            server.store().intents().iter().any(is_theirs)
        }
    };
    if !is_theirs {
        return (StatusCode::NOT_FOUND, "No such payment.\n").into_response();
    }
    let end = match (method, verb) {
        (&Method::GET, "") => {
            let form = |verb: &str, label: &str| {
                format!(
                    "<form method=\"post\" action=\"/authenticate/{id}/{verb}?client_secret={secret}\">\
                     <button>{label}</button></form>"
                )
            };
            let page = "<!doctype html><title>Your bank</title><h1>Is it you who pays?</h1>";
            return Html(format!("{page}{}{}\n", form("complete", "Yes"), form("fail", "No"))).into_response();
        }
        (&Method::POST, "complete") => End::Succeeded,
        (&Method::POST, "fail") => End::Failed,
        _ => return not_there(),
    };
    let way_back = server.change(|store| match is_setup {
        true => store.finish_setup(id, end).then(|| store.way_back_from_bank(id, end)),
        false => store.finish_action(id, end).then(|| {
            let intent = store.intents().iter().find(|intent| intent.intent_id == id);
            intent.and_then(|intent| Some(back_from_payment(intent.return_url()?, id, secret, end)))
        }),
    });
    match way_back {
        Some(Some(url)) => go_to(&url),
        Some(None) => "Thank you. You may close this page.\n".into_response(),
        None => (StatusCode::CONFLICT, "This payment is not waiting for you.\n").into_response(),
    }
}

/// The shop is told which payment its buyer comes back from; whether it succeeded, it reads for itself.
fn back_from_payment(return_url: &str, id: &str, secret: &str, end: End) -> String {
    let joint = if return_url.contains('?') { '&' } else { '?' };
    let status = if end == End::Succeeded { "succeeded" } else { "failed" };
    format!("{return_url}{joint}payment_intent={id}&payment_intent_client_secret={secret}&redirect_status={status}")
}

/// The page of a session, with what went wrong before.
fn show(server: &Arc<Server>, session: &str, problem: Option<&str>) -> Response {
    let Some(hosted) = server.change(|store| store.hosted(session)) else { return not_there() };
    match hosted.status {
        "open" => Html(form(session, &hosted, problem)).into_response(),
        status => {
            (StatusCode::GONE, Html(format!("<!doctype html><title>Ended</title><h1>This page is {status}.</h1>\n")))
                .into_response()
        }
    }
}

fn form(session: &str, hosted: &Hosted, problem: Option<&str>) -> String {
    let card = |(number, card): (usize, &Card)| {
        let checked = if number == 0 { " checked" } else { "" };
        format!(
            "<p><label><input type=\"radio\" name=\"card\" value=\"{}\"{checked}> {} ending in {}</label></p>\n",
            card.token,
            card.label,
            card.last4()
        )
    };
    let cards: String = Card::all().iter().enumerate().map(card).collect();
    let problem = problem.map(|text| format!("<p role=\"alert\">{text}</p>\n")).unwrap_or_default();
    let email = hosted.email.as_deref().map(|email| format!("<p>{}</p>\n", escaped(email))).unwrap_or_default();
    let back = hosted.cancel_url.as_deref().map(|url| format!("<p><a href=\"{}\">Back</a></p>\n", escaped(url)));
    format!(
        "<!doctype html><html lang=\"en\"><title>Save a card</title><h1>Save a card</h1>\n{problem}{email}\
         <form method=\"post\" action=\"/c/pay/{session}\">\n{cards}<button>Save card</button></form>\n{}</html>\n",
        back.unwrap_or_default()
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn save_card(server: &Arc<Server>, session: &str, body: &str) -> Response {
    let form = Form::parse(body).unwrap_or_default();
    let token = form.text("card").unwrap_or_default();
    match server.change(|store| store.pay_session(session, token)) {
        Completed::GoTo(url) => go_to(&url),
        Completed::Declined(problem) => show(server, session, Some(&problem)),
        Completed::NotOpen => show(server, session, None),
    }
}
