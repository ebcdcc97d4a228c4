//! The body of an event: type, time and data, as Standard Webhooks recommends; thin, because it travels to systems of its own.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::domain::notices::{ItemFacts, Notice, OrderFacts, Subject};

/// An event in the form in which it is signed and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The same for every delivery of this event: whoever gets it twice can tell.
    pub id: String,
    pub body: String,
}

impl Event {
    /// An event that tells of nothing, for a receiver to show that it takes events.
    pub fn test(at: Timestamp) -> Self {
        let id = format!("test_{}", Uuid::new_v4().simple());
        let body = json!({ "id": id, "type": "test", "timestamp": at.to_string(), "data": {} });
        Self { id, body: body.to_string() }
    }

    pub fn new(subject: &Subject, notice: &Notice, at: Timestamp) -> Self {
        let id = notice.event_id(subject.id()).to_string();
        let mut data = match subject {
            Subject::Order(order) => of_order(order),
            Subject::Drop { name, .. } => json!({ "drop": name }),
        };
        // What only this kind of notice has to say, under the names it is stored with.
        if let (Value::Object(data), Value::Object(detail)) = (&mut data, notice.detail()) {
            let detail = detail.into_iter().filter(|(name, _)| name != "kind");
            let detail = detail.collect::<Map<_, _>>();
            if !detail.is_empty() {
                data.insert("detail".to_owned(), Value::Object(detail));
            }
        }
        let body = json!({ "id": id, "type": notice.event_type(), "timestamp": at.to_string(), "data": data });
        Self { id, body: body.to_string() }
    }
}

fn of_order(order: &OrderFacts) -> Value {
    let item = |item: &ItemFacts| json!({ "sku": item.sku, "quantity": item.quantity, "unit_price": item.unit_price });
    json!({
        "order_id": order.id,
        "buyer": order.buyer,
        "drop": order.drop_name,
        "items": order.items.iter().map(item).collect::<Vec<_>>(),
        "total": order.totals.total,
    })
}
