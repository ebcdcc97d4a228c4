//! Invoices and credit notes as pages and as tables. A page loads nothing from anywhere, so it can be kept and printed.

use askama::Template;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use doorbuster_engine::domain::documents::{Document, DocumentKind, percent};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("../templates/document.css");

#[derive(Template)]
#[template(path = "document.html")]
struct Page<'a> {
    document: &'a Document,
    style: &'static str,
}

impl Page<'_> {
    // By reference, as templates call.
    fn day(&self, at: &Timestamp) -> String {
        day(*at)
    }

    fn rate(&self, basis_points: &u32) -> String {
        percent(*basis_points)
    }
}

/// The page of a document.
pub fn html(document: &Document) -> String {
    Page { document, style: STYLE }.render().expect("a page made of texts and numbers is written")
}

/// What a document is called as a file: `invoice-17.html`.
pub fn file_name(document: &Document) -> String {
    let kind = match document.head.kind {
        DocumentKind::Invoice => "invoice",
        DocumentKind::CreditNote => "credit-note",
    };
    format!("{kind}-{}.html", document.head.number)
}

/// The page as an answer, with the policy that allows its own style and nothing else.
pub fn answer(document: &Document) -> Response {
    let style = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    let policy = format!("default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'");
    let name = format!("inline; filename=\"{}\"", file_name(document));
    let header = |text: String| HeaderValue::from_str(&text).expect("letters, numbers and base64 are visible ASCII");
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, header(policy)),
        (CONTENT_DISPOSITION, header(name)),
    ];
    (headers, html(document)).into_response()
}

/// `30 November 2026`: nobody mistakes the month for the day.
fn day(at: Timestamp) -> String {
    at.strftime("%-d %B %Y").to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use doorbuster_engine::domain::credits::CreditLine;
    use doorbuster_engine::domain::documents::{Head, Recipient, Seller};
    use doorbuster_engine::domain::ids::OrderId;

    use super::*;

    fn credit_note() -> Document {
        let at = "2026-11-30T10:00:00Z".parse().unwrap();
        let head = Head {
            kind: DocumentKind::CreditNote,
            number: 3,
            issued_at: at,
            settled_at: at,
            order_id: OrderId(uuid::Uuid::nil()),
            currency: "EUR".parse().unwrap(),
            invoice_number: Some(17),
            reversed_at: None,
            seller: Some(Seller {
                name: "Łódź & Søn".to_owned(),
                address: vec!["1 Οδός".to_owned(), "上海".to_owned()],
                country: "DE".to_owned(),
                tax_id: Some("DE123".to_owned()),
            }),
            buyer: Some(Recipient { name: "<script>alert(1)</script>".to_owned(), address: vec!["2 Road".to_owned()] }),
            country: Some("PL".to_owned()),
        };
        let line = |line, quantity, net_minor, tax_minor| CreditLine {
            line,
            quantity,
            tax_basis_points: 1_900,
            net_minor,
            tax_minor,
        };
        let titles = BTreeMap::from([(1, "Shoe".to_owned())]);
        Document::new(head, &[line(1, 0, 4_202, 798), line(0, 1, 490, 93)], &titles)
    }

    #[test]
    fn a_page_says_what_the_document_says_and_loads_nothing() {
        let page = html(&credit_note());
        for says in [
            "<h1>Credit note 3</h1>",
            "To invoice 17",
            "Łódź &#38; Søn<br>1 Οδός<br>上海<br>DE<br>VAT number: DE123",
            "&#60;script&#62;",
            "2 Road<br>PL",
            "<dt>Refunded on</dt><dd>30 November 2026</dd>",
            "Shoe (lower price)",
            "<td class=\"number\">42.02 EUR</td><td class=\"number\">19 %</td><td class=\"number\">7.98 EUR</td>",
            "<th class=\"number\">55.83 EUR</th>",
            "<td class=\"number\">46.92 EUR</td><td class=\"number\">8.91 EUR</td>",
        ] {
            assert!(page.contains(says), "{says}: {page}");
        }
        assert!(!page.contains("<script") && !page.contains("http"), "{page}");
        assert_eq!(file_name(&credit_note()), "credit-note-3.html");
    }
}
