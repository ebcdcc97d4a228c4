//! What the stores hold of one drop, in the words of the judge of the buyers' log. Read after everything is settled.

use std::collections::HashMap;

use anyhow::Context as _;
use doorbuster_engine::domain::ids::DropName;
use doorbuster_engine::flows::Engine;
use doorbuster_sandbox::crowd::{CaptureFact, FreedFact, OrderFact, StoreFacts};
use doorbuster_sandbox::provider::Capture;

/// `captures` are all of the provider's, none left out; `tokens_free` is what the audit found.
pub async fn store_facts(
    engine: &Engine,
    drop: &DropName,
    captures: Vec<Capture>,
    tokens_free: u32,
) -> anyhow::Result<StoreFacts> {
    let live = engine.refresh(drop).await?.context("the drop is gone")?;
    let facts = engine.ledger.drop_facts(&live.drop).await?;
    let sku = |number| live.drop.variant(number).map(|variant| variant.sku.clone()).unwrap_or_default();
    let variants = facts.tokens.iter().map(|token| (token.serial, token.variant)).collect::<HashMap<_, _>>();
    let orders = facts.orders.iter().map(|(id, order)| OrderFact {
        order_id: id.to_string(),
        buyer: order.buyer.to_string(),
        sku: sku(order.variant),
        status: order.status.as_str().to_owned(),
        serials: order.serials.iter().map(|serial| serial.0).collect(),
        total_minor: order.total.amount_minor,
        currency: order.total.currency.to_string(),
    });
    let freed = facts.grants.iter().filter(|grant| grant.is_release).filter_map(|grant| {
        let variant = variants.get(grant.serials.first()?)?;
        let at_us = grant.applied_at?.as_microsecond();
        Some(FreedFact { sku: sku(*variant), units: grant.serials.len() as u32, at_us })
    });
    let captures = captures.into_iter().map(|capture| CaptureFact {
        order_id: capture.order_id,
        amount_minor: capture.amount_minor,
        currency: capture.currency.to_ascii_uppercase(),
    });
    Ok(StoreFacts {
        stock: live.drop.variants.iter().map(|variant| (variant.sku.clone(), variant.stock_units)).collect(),
        limit: live.drop.buyer_limit,
        orders: orders.collect(),
        freed: freed.collect(),
        tokens_free,
        captures: captures.collect(),
    })
}
