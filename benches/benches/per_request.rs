//! What requests and orders cost beside their stores: a buyer's token verified, a receipt signed and verified, the states of an
//! order walked.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use doorbuster::Secret;
use doorbuster::auth::{self, Verifier};
use doorbuster::receipt::{Receipt, ReceiptKey, Receipts};
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::orders::{OrderEvent, OrderState};
use doorbuster_engine::domain::payments::{PaymentEvent, PaymentState};
use jiff::SignedDuration;
use uuid::Uuid;

const SECRET: &str = "a secret of this bench that is long enough for tokens and receipts";

fn tokens(criterion: &mut Criterion) {
    let secret = Secret::from(SECRET.to_owned());
    let clock = Clock::System;
    let buyer = "buyer-00000000000001".parse().expect("a buyer");
    let token = auth::mint(&secret, &buyer, clock.now(), SignedDuration::from_hours(24));
    let verifier = Verifier::new(&secret, clock);
    criterion.bench_function("token_verified", |bencher| {
        bencher.iter(|| verifier.verify(black_box(&token)).expect("a good token"));
    });
}

fn receipts(criterion: &mut Criterion) {
    let keys = ReceiptKey::parse_list(&Secret::from(format!("bench={SECRET}"))).expect("a key");
    let receipts = Receipts::new(&keys).expect("one key");
    let receipt = Receipt {
        jti: Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001),
        sub: "buyer-00000000000001".to_owned(),
        drop: "bench".to_owned(),
        sku: "BENCH-42".to_owned(),
        serials: vec![4_711],
        acknowledgement: Acknowledgement::Accepted,
        epoch: 1,
        iat: 1_800_000_000,
    };
    let signed = receipts.sign(&receipt);
    criterion.bench_function("receipt_signed", |bencher| bencher.iter(|| receipts.sign(black_box(&receipt))));
    criterion.bench_function("receipt_verified", |bencher| {
        bencher.iter(|| receipts.verify(black_box(&signed)).expect("our own"));
    });
}

/// Paid, packed, shipped, delivered, and the money given back: six moves.
fn states(criterion: &mut Criterion) {
    let order = [OrderEvent::Paid, OrderEvent::Process, OrderEvent::Ship, OrderEvent::Deliver];
    let payment = [PaymentEvent::Succeeded, PaymentEvent::RefundAsked];
    criterion.bench_function("states_of_an_order", |bencher| {
        bencher.iter(|| {
            let walked = black_box(order).into_iter().try_fold(OrderState::PendingPayment, OrderState::apply);
            let paid = black_box(payment).into_iter().try_fold(PaymentState::InFlight, PaymentState::apply);
            (walked.expect("a way through"), paid.expect("a way through"))
        });
    });
}

criterion_group!(benches, tokens, receipts, states);
criterion_main!(benches);
