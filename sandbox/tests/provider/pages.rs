//! What a buyer's browser does at the provider: saving a card, and answering their bank.

use doorbuster_sandbox::provider::{FakeProviderOptions, Signature, WebhookOptions};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{INTENTS, Shop};

/// A merchant's endpoint that takes everything; `count` deliveries, each answered by 200.
async fn merchant(count: usize) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/webhooks", listener.local_addr().unwrap());
    let taking = tokio::spawn(async move {
        let mut taken = Vec::new();
        while taken.len() < count {
            let (mut connection, _) = listener.accept().await.unwrap();
            let (mut text, mut chunk) = (String::new(), [0; 8_192]);
            while !text.contains("\"type\":") {
                let read = connection.read(&mut chunk).await.unwrap();
                assert!(read > 0, "{text}");
                text.push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            connection.write_all(answer.as_bytes()).await.unwrap();
            taken.push(text);
        }
        taken
    });
    (url, taking)
}

async fn press(shop: &Shop, url: &str, form: &str) -> (u16, String) {
    let request = shop.http.post(url).header("content-type", "application/x-www-form-urlencoded");
    let answer = request.body(form.to_owned()).send().await.unwrap();
    let place = answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
    (answer.status().as_u16(), place.unwrap_or_default())
}

#[tokio::test]
async fn a_card_is_saved_on_the_providers_page_and_a_signed_event_says_so() {
    let shop = Shop::open(FakeProviderOptions::default()).await;
    let customer = shop.post("/v1/customers", "email=ada@example.org").await.id();
    let back = "https://shop.example/back?session={CHECKOUT_SESSION_ID}";
    let form =
        format!("mode=setup&currency=eur&customer={customer}&success_url={back}&cancel_url=https://shop.example");
    let session = shop.post("/v1/checkout/sessions", &form).await.json();
    let (id, url) = (session["id"].as_str().unwrap(), session["url"].as_str().unwrap());

    let page = shop.http.get(url).send().await.unwrap().text().await.unwrap();
    for part in ["<form method=\"post\"", "value=\"pm_card_visa\" checked", "https://shop.example"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let (endpoint, taking) = merchant(3).await;
    shop.fake.send_webhooks(WebhookOptions::new(&endpoint, "whsec_page"));
    assert_eq!(press(&shop, url, "card=pm_card_visa").await, (303, back.replace("{CHECKOUT_SESSION_ID}", id)));
    let taken = taking.await.unwrap();
    assert!(taken.iter().all(|text| text.contains("stripe-signature: t=")), "{taken:?}");
    assert!(taken.iter().any(|text| text.contains("\"type\":\"checkout.session.completed\"")), "{taken:?}");
    assert!(shop.fake.settled(std::time::Duration::from_secs(10)).await);
    assert!(shop.fake.deliveries().iter().all(|delivery| delivery.signature == Signature::Good));

    let read = shop.get(&format!("/v1/checkout/sessions/{id}?expand[]=setup_intent")).await.json();
    assert_eq!((&read["status"], &read["setup_intent"]["customer"]), (&json!("complete"), &json!(customer)));
    assert_eq!(press(&shop, url, "card=pm_card_visa").await.0, 410, "a page is used once");
    assert_eq!(press(&shop, &url.replace(id, "cs_test_0"), "card=pm_card_visa").await.0, 404);
    assert_eq!(shop.http.get(url).send().await.unwrap().status().as_u16(), 410);
}

#[tokio::test]
async fn a_declined_card_shows_the_page_again_and_the_bank_leads_back_to_the_shop() {
    let shop = Shop::open(FakeProviderOptions::default()).await;
    let form = "mode=setup&currency=eur&success_url=https://shop.example/back&customer_creation=always\
        &customer_email=%3Cb%3E@example.org&cancel_url=https://shop.example/%22onclick";
    let session = shop.post("/v1/checkout/sessions", form).await.json();
    let url = session["url"].as_str().unwrap();
    let page = shop.http.get(url).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("&lt;b&gt;@example.org") && page.contains("/&quot;onclick"), "{page}");
    assert_eq!(press(&shop, url, "card=pm_card_chargeDeclined").await.0, 200);
    let (status, bank) = press(&shop, url, "card=pm_card_authenticationRequired").await;
    assert_eq!(status, 303);
    assert_eq!(shop.http.get(&bank).send().await.unwrap().status().as_u16(), 200);
    let (address, secret) = bank.split_once('?').unwrap();
    assert_eq!(press(&shop, &format!("{address}/complete?{secret}x"), "").await.0, 404);
    let (status, place) = press(&shop, &format!("{address}/fail?{secret}"), "").await;
    assert_eq!((status, place.as_str()), (303, url));
    let (_, bank) = press(&shop, url, "card=pm_card_authenticationRequired").await;
    let (address, secret) = bank.split_once('?').unwrap();
    let done = press(&shop, &format!("{address}/complete?{secret}"), "").await;
    assert_eq!(done, (303, "https://shop.example/back".to_owned()));
}

#[tokio::test]
async fn a_payment_that_asks_its_owner_leads_back_with_its_end() {
    let shop = Shop::open(FakeProviderOptions::default()).await;
    for (verb, end) in [("complete", "succeeded"), ("fail", "failed")] {
        let form = "amount=100&currency=eur&payment_method_types[]=card&confirm=true\
            &payment_method=pm_card_authenticationRequired&return_url=https://shop.example/back?a=1";
        let intent = shop.post(INTENTS, form).await.json();
        let (id, action) = (intent["id"].as_str().unwrap(), &intent["next_action"]["redirect_to_url"]);
        let (address, secret) = action["url"].as_str().unwrap().split_once('?').unwrap();
        let (status, place) = press(&shop, &format!("{address}/{verb}?{secret}"), "").await;
        assert_eq!(status, 303);
        assert!(place.starts_with(&format!("https://shop.example/back?a=1&payment_intent={id}&")), "{place}");
        assert!(place.ends_with(&format!("redirect_status={end}")), "{place}");
    }
    assert_eq!(shop.fake.captures().len(), 1);
}
