//! Named steps: where this process stands, just before and just after everything it does to the outside.
//!
//! Nobody listens in a normal run, and a step then costs one load from memory. A process that is told so by a hidden option
//! (gateway/src/steps.rs) counts its steps and dies at one of them: so it is found out what a crash there leaves behind; see
//! docs/CRASHES.md. Nothing may depend on a step having been passed.
//!
//! A step has the name of what has just been done. A transaction is two: `:written`, with its COMMIT still to come, and
//! `:committed`, with nobody told of it yet.

use std::sync::OnceLock;

type Listener = Box<dyn Fn(&'static str) + Send + Sync>;

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// Every step, in the order of a purchase. `tests/engine/tidy.rs` holds it against the code, in both directions.
pub const STEPS: &[&str] = &[
    // A drop comes into Redis: by the clock, by a command, or again after Redis has forgotten something.
    "open.begun",
    "load.begun",
    "load.fenced",
    "load.settled",
    "load.loaded",
    "load.opened",
    "load.reported",
    "open.loaded",
    "open.moved",
    "open.told",
    // A claim, and the search for units elsewhere.
    "claim.taken",
    "pull.set_aside",
    "grants.grant_transfers:written",
    "grants.grant_transfers:committed",
    "pull.applied",
    "pull.cleared",
    // Buyers stand in line, and rounds give them units.
    "rows.open:written",
    "rows.open:committed",
    "joins.join:written",
    "joins.join:committed",
    "joins.leave:written",
    "joins.leave:committed",
    "mails.write:written",
    "mails.write:committed",
    "draws.seal:written",
    "draws.seal:committed",
    "draws.root:written",
    "draws.root:committed",
    "draws.confirm_root:written",
    "draws.confirm_root:committed",
    "draws.draw:written",
    "draws.draw:committed",
    "line.chunk_decided",
    "line.chunk_given",
    "rows.close:written",
    "rows.close:committed",
    // Claims become orders.
    "settle.read",
    "settlements.settle:written",
    "settlements.settle:committed",
    "settle.lane_ahead",
    "poison.set_aside:written",
    "poison.set_aside:committed",
    "settle.marked",
    "payments.use_profile:written",
    "payments.use_profile:committed",
    // A cart is ordered.
    "checkouts.place:written",
    "checkouts.place:committed",
    "checkout.leased",
    "checkout.decided",
    "checkout.cart_told",
    // A card becomes its customer's own.
    "customer.created",
    "method.attached",
    // The provider is called. Each call is committed before it is made.
    "charge.leased",
    "attempts.begin:written",
    "attempts.begin:committed",
    "attempts.dispatch_again:written",
    "attempts.dispatch_again:committed",
    "create.dispatched",
    "create.answered",
    "confirm.dispatched",
    "confirm.answered",
    "cancel.dispatched",
    "cancel.answered",
    "charge.read_back",
    "attempts.finish:written",
    "attempts.finish:committed",
    "payments.capture:written",
    "payments.capture:committed",
    "payments.settle_payment:written",
    "payments.settle_payment:committed",
    "charge.action_kept",
    "attempts.yield:written",
    "attempts.yield:committed",
    // What the provider tells by itself, and what its list shows.
    "news.kept",
    "news.leased",
    "news.read",
    "news.ended",
    "sweep.begun",
    "sweep.listed",
    "sweep.ended",
    // Orders that end otherwise, and money on its way back.
    "refunds.cancel_order:written",
    "refunds.cancel_order:committed",
    "payments.expire_unpaid:written",
    "payments.expire_unpaid:committed",
    "refunds.ask_refund:written",
    "refunds.ask_refund:committed",
    "refund.dispatched",
    "refund.answered",
    "refund.looked_up",
    "refunds.settle_refund:written",
    "refunds.settle_refund:committed",
    "rest.end:written",
    "rest.end:committed",
    "grants.applied",
    "grants.recorded",
    // Who is told.
    "events.fanned_out",
    "outbox.leased",
    "mail.sent",
    "webhook.sent",
    "outbox.recorded",
];

/// Transactions that are no steps: only read, or a command of somebody who repeats it when it got no answer. `awards.refuse` is
/// repeated with its grant, `checkouts.undo_order` with its checkout; engine/tests/engine/{standby,checkout}.rs do so.
/// What `payments.accept_total` was asked its buyer asks again. `attempts.lease` is told of as `charge.leased`. What
/// `lost.lose_claims` has not come to, a process that dies forgets. A change of a place is asked for again. The steps of a draw
/// that comes late, and `draws.then_open`, find out whether they were taken: engine/tests/engine/line.rs takes them twice.
pub const NO_STEPS: &[&str] = &[
    "attempts.give_back_unsent",
    "attempts.lease",
    "awards.refuse",
    "catalog.add_variant",
    "catalog.edit_product",
    "catalog.make_product",
    "checkouts.undo_order",
    "customers.save_profile",
    "documents.number",
    "drafts.delete_draft",
    "drafts.write_draft",
    "draws.postpone",
    "draws.then_open",
    "draws.void",
    "drops.archive",
    "drops.begin_opening",
    "drops.create_drop",
    "drops.warehouse_contents",
    "erasures.erase_buyer",
    "fulfilment.fulfil",
    "imports.import_products",
    "imports.import_stock",
    "joins.change",
    "lost.lose_claims",
    "outbox.enable_endpoint",
    "outbox.enqueue_notice",
    "payments.accept_total",
    "poison.settle",
    "rates.replace",
    "restocks.restock",
    "returns.take_return",
    "reviews.resolve",
    "rows.change",
    "rows.pause",
    "settlements.seen_claims",
    "setups.ask",
    "setups.end",
    "standby.join",
    "standby.leave",
    "stock.adjust_stock",
];

/// From now on every step of this process is told to `listener`. Once, before any work begins; later calls are ignored.
pub fn listen(listener: impl Fn(&'static str) + Send + Sync + 'static) {
    let _ = LISTENER.set(Box::new(listener));
}

/// This process has come to a step.
#[inline]
pub fn passed(step: &'static str) {
    if let Some(listener) = LISTENER.get() {
        listener(step);
    }
}
