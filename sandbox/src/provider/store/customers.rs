//! Customers: who a saved card belongs to.

use serde_json::{Map, Value, json};

use super::super::answer::{Answer, Refusal, not_found};
use super::super::form::Form;
use super::super::parameters::ApiVersion;
use super::Store;
use super::list::Listed;

/// A customer.
#[derive(Debug, Clone, PartialEq)]
pub struct FakeCustomer {
    pub customer_id: String,
    pub email: Option<String>,
    pub name: Option<String>,
    pub metadata: Map<String, Value>,
    pub default_payment_method: Option<String>,
    pub is_deleted: bool,
    /// In seconds since 1970.
    pub created: i64,
    address: Option<Value>,
    description: Option<String>,
    phone: Option<String>,
    preferred_locales: Vec<String>,
    shipping: Option<Value>,
    tax_exempt: String,
}

impl FakeCustomer {
    /// What a request says of it; the rest stays.
    fn take(&mut self, form: &Form) {
        let kept = [
            ("email", &mut self.email),
            ("name", &mut self.name),
            ("description", &mut self.description),
            ("phone", &mut self.phone),
            ("invoice_settings[default_payment_method]", &mut self.default_payment_method),
        ];
        for (name, place) in kept {
            if form.get(name).is_some() {
                *place = form.owned(name);
            }
        }
        if let Some(address) = address_of(form, "address") {
            self.address = Some(address);
        }
        if let Some(shipping) = shipping_of(form) {
            self.shipping = Some(shipping);
        }
        let locales: Vec<String> = form.list("preferred_locales").map(str::to_owned).collect();
        if !locales.is_empty() {
            self.preferred_locales = locales;
        }
        if let Some(word) = form.text("tax_exempt") {
            self.tax_exempt = word.to_owned();
        }
        form.merge_into(&mut self.metadata, "metadata");
    }

    fn wire(&self) -> Value {
        if self.is_deleted {
            return json!({ "id": self.customer_id, "object": "customer", "deleted": true });
        }
        json!({ "id": self.customer_id, "object": "customer", "livemode": false, "address": self.address, "balance": 0,
            "created": self.created, "currency": null, "default_source": null, "delinquent": false,
            "description": self.description, "discount": null, "email": self.email, "invoice_prefix": "7FE1103",
            "invoice_settings": { "custom_fields": null, "default_payment_method": self.default_payment_method,
                "footer": null, "rendering_options": null },
            "metadata": self.metadata, "name": self.name, "next_invoice_sequence": 1, "phone": self.phone,
            "preferred_locales": self.preferred_locales, "shipping": self.shipping, "tax_exempt": self.tax_exempt,
            "test_clock": null })
    }
}

impl Listed for FakeCustomer {
    fn id(&self) -> &str {
        &self.customer_id
    }

    fn created(&self) -> i64 {
        self.created
    }

    fn has(&self, _field: &str, value: &str) -> bool {
        self.email.as_deref() == Some(value)
    }

    fn is_listed(&self) -> bool {
        !self.is_deleted
    }

    fn to_json(&self, _version: ApiVersion) -> Value {
        self.wire()
    }
}

/// An address whose every field is there, or `None` if the request has none.
pub(super) fn address_of(form: &Form, name: &str) -> Option<Value> {
    form.fields(name).next()?;
    let field = |field: &str| form.text(&format!("{name}[{field}]")).map(str::to_owned);
    Some(json!({ "city": field("city"), "country": field("country"), "line1": field("line1"), "line2": field("line2"),
        "postal_code": field("postal_code"), "state": field("state") }))
}

pub(super) fn shipping_of(form: &Form) -> Option<Value> {
    form.fields("shipping").next()?;
    let field = |field: &str| form.text(&format!("shipping[{field}]")).map(str::to_owned);
    Some(json!({ "address": address_of(form, "shipping[address]"), "carrier": field("carrier"), "name": field("name"),
        "phone": field("phone"), "tracking_number": field("tracking_number") }))
}

impl Store {
    pub(crate) fn customers(&self) -> &[FakeCustomer] {
        &self.customers
    }

    /// A deleted one is gone for everything but being read.
    pub(super) fn has_customer(&self, id: &str) -> bool {
        self.customers.iter().any(|customer| customer.customer_id == id && !customer.is_deleted)
    }

    pub(super) fn create_customer(&mut self, form: &Form) -> Result<Answer, Answer> {
        let method = match form.text("payment_method") {
            Some(id) => Some(self.named_method(id)?),
            None => None,
        };
        if form
            .text("invoice_settings[default_payment_method]")
            .is_some_and(|id| method.is_none_or(|position| self.methods[position].method_id != id))
        {
            return Err(not_theirs(form));
        }
        let mut customer = self.blank_customer();
        if let Some(position) = method {
            self.check_attachable(position, &customer.customer_id)?;
        }
        customer.take(form);
        let answer = Answer::ok(&customer.wire());
        let id = self.insert_customer(customer);
        if let Some(position) = method {
            self.attach(position, &id);
        }
        Ok(answer)
    }

    /// As a session makes one.
    pub(super) fn new_customer(&mut self, email: Option<String>) -> String {
        let customer = FakeCustomer { email, ..self.blank_customer() };
        self.insert_customer(customer)
    }

    fn blank_customer(&mut self) -> FakeCustomer {
        FakeCustomer {
            customer_id: self.new_id("cus"),
            email: None,
            name: None,
            metadata: Map::new(),
            default_payment_method: None,
            is_deleted: false,
            created: self.clock.now(),
            address: None,
            description: None,
            phone: None,
            preferred_locales: Vec::new(),
            shipping: None,
            tax_exempt: "none".to_owned(),
        }
    }

    fn insert_customer(&mut self, customer: FakeCustomer) -> String {
        let (id, object) = (customer.customer_id.clone(), customer.wire());
        self.customers.push(customer);
        self.emit_other("customer.created", object);
        id
    }

    pub(super) fn update_customer(&mut self, id: &str, form: &Form) -> Result<Answer, Answer> {
        let position = self.live_customer(id)?;
        if let Some(method) = form.text("invoice_settings[default_payment_method]") {
            let method = self.method_positions.get(method).map(|position| &self.methods[*position]);
            if method.is_none_or(|method| method.customer.as_deref() != Some(id)) {
                return Err(not_theirs(form));
            }
        }
        self.customers[position].take(form);
        let object = self.customers[position].wire();
        self.emit_other("customer.updated", object.clone());
        Ok(Answer::ok(&object))
    }

    pub(super) fn read_customer(&self, id: &str) -> Result<Answer, Answer> {
        let customer = self.customers.iter().find(|customer| customer.customer_id == id);
        Ok(Answer::ok(&customer.ok_or_else(|| not_found("customer", id, "id"))?.wire()))
    }

    /// Their cards go with them.
    pub(super) fn delete_customer(&mut self, id: &str) -> Result<Answer, Answer> {
        let position = self.live_customer(id)?;
        let theirs = |(_, method): &(usize, &super::Method)| method.customer.as_deref() == Some(id);
        let cards: Vec<usize> = self.methods.iter().enumerate().filter(theirs).map(|(position, _)| position).collect();
        for card in cards {
            self.detach(card);
        }
        let object = self.customers[position].wire();
        self.customers[position].is_deleted = true;
        self.emit_other("customer.deleted", object);
        Ok(Answer::ok(&self.customers[position].wire()))
    }

    fn live_customer(&self, id: &str) -> Result<usize, Answer> {
        let is_live = |customer: &FakeCustomer| customer.customer_id == id && !customer.is_deleted;
        self.customers.iter().position(is_live).ok_or_else(|| not_found("customer", id, "id"))
    }
}

fn not_theirs(form: &Form) -> Answer {
    let name = "invoice_settings[default_payment_method]";
    let id = form.text(name).unwrap_or_default();
    let message = format!(
        "The customer does not have a payment method with the ID {id}. The payment method must be attached to the \
         customer."
    );
    Answer::from(Refusal::new(Some("resource_missing"), name, message)).executed()
}
