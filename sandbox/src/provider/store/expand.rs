//! `expand[]=latest_charge`: whole objects where their ids stand.

use serde_json::Value;

use super::super::answer::{Answer, Refusal};
use super::super::parameters::{ApiVersion, Call};
use super::Store;
use super::list::Listed as _;

impl Store {
    /// The answer, with what `expand` asks for put in. What is asked of a list stands below `data.`.
    pub(super) fn expand(&self, answer: Answer, call: &Call) -> Answer {
        let Ok(mut object) = serde_json::from_str::<Value>(&answer.body) else { return answer };
        for path in call.form.list("expand") {
            let names: Vec<&str> = path.split('.').collect();
            if !self.put_in(&mut object, &names, call.version) {
                let message = format!("This property cannot be expanded ({path}).");
                return Refusal::new(None, "expand", message).into();
            }
        }
        Answer { body: object.to_string(), ..answer }
    }

    /// False if there is nothing of this name.
    fn put_in(&self, object: &mut Value, names: &[&str], version: ApiVersion) -> bool {
        let Some((name, rest)) = names.split_first() else { return true };
        let Some(place) = object.get_mut(*name) else { return false };
        if let Value::Array(items) = place {
            return items.iter_mut().all(|item| self.put_in(item, rest, version));
        }
        if let Value::String(id) = place
            && let Some(found) = self.object(id, version)
        {
            *place = found;
        }
        place.is_null() || (place.is_object() && self.put_in(place, rest, version))
    }

    fn object(&self, id: &str, version: ApiVersion) -> Option<Value> {
        fn of<T: super::Listed>(items: &[T], id: &str, version: ApiVersion) -> Option<Value> {
            items.iter().find(|item| item.id() == id).map(|item| item.to_json(version))
        }
        match id.split_once('_')?.0 {
            "pi" => self.positions.get(id).map(|position| self.intents[*position].to_json(version)),
            "pm" => self.method_positions.get(id).map(|position| self.methods[*position].to_json(version)),
            "ch" => self.charge(id).map(|charge| self.charge_json(charge)),
            "cus" => of(&self.customers, id, version),
            "seti" => of(&self.setups, id, version),
            "re" => of(&self.refunds, id, version),
            "txn" => of(&self.balance, id, version),
            "dp" => of(&self.disputes, id, version),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{get, post, store};

    #[test]
    fn an_id_becomes_its_object_and_nothing_else_does() {
        let mut store = store();
        let parameters = "amount=100&currency=eur&payment_method_types[]=card&confirm=true&payment_method=pm_card_visa";
        let id = post(&mut store, "/v1/payment_intents", parameters).id();
        let path = format!("/v1/payment_intents/{id}");
        let whole = get(&mut store, &path, "expand[]=latest_charge.balance_transaction&expand[]=customer").json();
        assert_eq!(whole["latest_charge"]["balance_transaction"]["amount"], 100);
        assert!(whole["customer"].is_null() && whole["payment_method"].is_string());
        let list = get(&mut store, "/v1/payment_intents", "expand[]=data.payment_method").json();
        assert_eq!(list["data"][0]["payment_method"]["card"]["last4"], "4242");
        for wrong in ["status", "nothing", "latest_charge.nothing", "data.payment_method"] {
            assert_eq!(get(&mut store, &path, &format!("expand[]={wrong}")).short(), "400 -", "{wrong}");
        }
    }
}
