//! Buyers at the provider and their cards: what is asked for, what is known, and what has still to be found out.
//!
//! A card is asked about in the transaction that saves its profile. A worker takes it by moving `due_at` behind its lease;
//! `tries` fences one who slept. The customer is one row a buyer, and the key of its making is made of that row, so that
//! however many cards and workers ask, the provider makes one.

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::inconsistent;
use super::error::LedgerError;
use super::pool::Ledger;
use super::profiles::CheckoutProfile;
use super::tx::run_tx;
use crate::domain::cards::{CardFacts, CardRefusal, CardState};
use crate::domain::ids::{BuyerId, CustomerId, OrderId, PaymentMethodId};

/// A card that this worker, and no other, asks the provider about until its lease ends.
#[derive(Debug, Clone)]
pub struct LeasedCard {
    pub buyer: BuyerId,
    pub given: PaymentMethodId,
    pub card_ref: Uuid,
    /// Keys of this card that were given up.
    pub again: u32,
    pub tries: i32,
    pub customer: KnownCustomer,
}

/// A buyer's customer, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownCustomer {
    pub reference: Uuid,
    pub id: Option<CustomerId>,
    /// Keys that were given up.
    pub again: u32,
    pub shop: String,
}

/// How a card ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardEnd {
    Saved { method: PaymentMethodId, fingerprint: Option<[u8; 32]> },
    Refused(CardRefusal),
}

/// What saving a profile did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileSaved {
    /// And how its card stands, if it has one.
    Now(Option<(CardState, Option<CardRefusal>)>),
    /// Nothing was saved: this card can never be charged for this buyer.
    CardNeededAgain(CardRefusal),
}

impl Ledger {
    /// Saves a profile, and asks for its card to be saved at the provider.
    pub async fn save_profile_and_card(
        &self,
        buyer: &BuyerId,
        profile: &CheckoutProfile,
        now: Timestamp,
    ) -> Result<ProfileSaved, LedgerError> {
        // Another's, as far as we know; or one that the provider has refused for good.
        const KNOWN: &str = "-- customers.known_card
            select case when buyer <> $1 then 'of_another' else refusal end from cards
            where (method_id = $2 and buyer <> $1)
                  or (buyer = $1 and given = $2 and refusal in ('used_before', 'of_another', 'not_there'))
            limit 1";
        const CUSTOMER: &str = "-- customers.want
            insert into customers (buyer) values ($1) on conflict (buyer) do nothing";
        // One that is saved stays so; one that was refused for now is asked about again, under another key.
        const CARD: &str = "-- customers.ask_card
            insert into cards as c (buyer, given, state, due_at, updated_at) values ($1, $2, 'CHECKING', $3, $3)
            on conflict (buyer, given) do update
                set state = 'CHECKING', refusal = null, again = c.again + 1, due_at = $3, updated_at = $3
                where c.state = 'REFUSED'";
        // What no order may need any more, so that a buyer keeps few of them.
        const OTHERS: &str = "-- customers.drop_other_cards
            delete from cards c
            where c.buyer = $1 and c.given <> $2 and c.state <> 'SAVED'
                  and not exists (select 1 from orders o join payments p using (order_id)
                                  where o.buyer = $1 and p.payment_method = c.given and p.due_at is not null)";
        const STATE: &str = "-- customers.state_of
            select state, refusal from cards where buyer = $1 and given = $2";
        let given = profile.payment_method.as_ref().map(PaymentMethodId::as_str);
        run_tx!(self, "customers.save_profile", tx, keep if ProfileSaved::Now(_), {
            if let Some(given) = given
                && let Some(row) = tx.query_opt(KNOWN, &[&buyer.as_str(), &given]).await?
            {
                return Ok(ProfileSaved::CardNeededAgain(CardRefusal::of_name(row.get(0))));
            }
            super::profiles::write(tx, buyer, profile, now).await?;
            let Some(given) = given else { return Ok(ProfileSaved::Now(None)) };
            tx.execute(CUSTOMER, &[&buyer.as_str()]).await?;
            tx.execute(CARD, &[&buyer.as_str(), &given, /* now */ &now]).await?;
            tx.execute(OTHERS, &[&buyer.as_str(), &given]).await?;
            let row = tx.query_one(STATE, &[&buyer.as_str(), &given]).await?;
            Ok(ProfileSaved::Now(Some(state_of(&row, buyer)?)))
        })
    }

    /// How the card of a buyer's profile stands. `None`: nobody has asked about it.
    pub async fn card_of_profile(
        &self,
        buyer: &BuyerId,
    ) -> Result<Option<(CardState, Option<CardRefusal>)>, LedgerError> {
        const SQL: &str = "-- customers.card_of_profile
            select c.state, c.refusal from checkout_profiles p
            join cards c on c.buyer = p.buyer and c.given = p.payment_method
            where p.buyer = $1";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let row = connection.query_opt(&statement, &[&buyer.as_str()]).await?;
        row.map(|row| state_of(&row, buyer)).transpose()
    }

    /// Takes up to `limit` cards that are due.
    pub async fn lease_cards(
        &self,
        now: Timestamp,
        lease: SignedDuration,
        limit: i64,
    ) -> Result<Vec<LeasedCard>, LedgerError> {
        const SQL: &str = "-- customers.lease_cards
            with due as (
                select buyer, given from cards where due_at <= $1 order by due_at limit $3 for update skip locked
            ), leased as (
                update cards c set due_at = $2, tries = c.tries + 1
                from due where c.buyer = due.buyer and c.given = due.given
                returning c.buyer, c.given, c.card_ref, c.again, c.tries
            )
            select l.*, u.customer_ref, u.customer_id, u.again, s.shop_id
            from leased l join customers u on u.buyer = l.buyer, shop s";
        self.leased(SQL, now, lease, limit).await?.iter().map(leased_card).collect()
    }

    /// Runs a statement that takes up to `$3` rows which are due at `$1`, and puts them off until `$2`.
    pub(super) async fn leased(
        &self,
        sql: &str,
        now: Timestamp,
        lease: SignedDuration,
        limit: i64,
    ) -> Result<Vec<Row>, LedgerError> {
        let until = now.checked_add(lease).unwrap_or(Timestamp::MAX);
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(sql).await?;
        Ok(connection.query(&statement, &[/* now */ &now, /* until */ &until, &limit]).await?)
    }

    /// Takes the card that an order's payment needs, if it is due: a charge does not wait for the worker.
    pub async fn lease_card_of(
        &self,
        order: OrderId,
        now: Timestamp,
        lease: SignedDuration,
    ) -> Result<Option<LeasedCard>, LedgerError> {
        const SQL: &str = "-- customers.lease_card_of
            with leased as (
                update cards c set due_at = $3, tries = c.tries + 1
                from orders o join payments p using (order_id)
                where o.order_id = $1 and c.buyer = o.buyer and c.given = p.payment_method and c.due_at <= $2
                returning c.buyer, c.given, c.card_ref, c.again, c.tries
            )
            select l.*, u.customer_ref, u.customer_id, u.again, s.shop_id
            from leased l join customers u on u.buyer = l.buyer, shop s";
        let until = now.checked_add(lease).unwrap_or(Timestamp::MAX);
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let row = connection.query_opt(&statement, &[&order.0, /* now */ &now, /* until */ &until]).await?;
        row.as_ref().map(leased_card).transpose()
    }

    /// What is known of the card that an order's payment names.
    pub async fn card_facts(&self, order: OrderId) -> Result<CardFacts, LedgerError> {
        const SQL: &str = "-- customers.card_facts
            select c.state, u.customer_id, c.method_id
            from orders o join payments p using (order_id)
            join cards c on c.buyer = o.buyer and c.given = p.payment_method
            join customers u on u.buyer = c.buyer
            where o.order_id = $1";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let row = connection.query_opt(&statement, &[&order.0]).await?;
        row.map_or(Ok(CardFacts::OneOff), |row| facts_of(row.get(0), row.get(1), row.get(2), order.0))
    }

    /// Commits that the provider is about to be asked for a customer. `false`: its buyer has been forgotten meanwhile.
    pub async fn ask_customer(&self, reference: Uuid, now: Timestamp) -> Result<bool, LedgerError> {
        const SQL: &str = "-- customers.ask_customer
            update customers set asked_at = coalesce(asked_at, $2) where customer_ref = $1 and buyer is not null";
        let connection = self.connection().await?;
        Ok(connection.execute(SQL, &[&reference, /* now */ &now]).await? == 1)
    }

    /// The provider has made this customer. The first one stays, and is the answer.
    pub async fn store_customer(
        &self,
        reference: Uuid,
        customer: &CustomerId,
    ) -> Result<Option<CustomerId>, LedgerError> {
        const SQL: &str = "-- customers.store
            update customers set customer_id = coalesce(customer_id, $2) where customer_ref = $1
            returning customer_id";
        let connection = self.connection().await?;
        let row = connection.query_opt(SQL, &[&reference, &customer.0]).await?;
        Ok(row.map(|row| CustomerId(row.get(0))))
    }

    /// The provider keeps answering this key with an error it has stored: the next one takes over.
    pub async fn give_up_customer_key(&self, customer: &KnownCustomer) -> Result<(), LedgerError> {
        const SQL: &str = "-- customers.give_up_key
            update customers set again = again + 1 where customer_ref = $1 and again = $2 and customer_id is null";
        let connection = self.connection().await?;
        connection.execute(SQL, &[&customer.reference, &customer.again.cast_signed()]).await?;
        Ok(())
    }

    /// The customer is gone at the provider, and their cards with them. The next one is made under another key.
    pub async fn lose_customer(
        &self,
        reference: Uuid,
        customer: &CustomerId,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        const SQL: &str = "-- customers.lose
            with lost as (
                update customers set customer_id = null, again = again + 1
                where customer_ref = $1 and customer_id = $2 returning buyer
            )
            update cards c
            set state = 'REFUSED', refusal = 'used_before', method_id = null, due_at = null, updated_at = $3
            from lost where c.buyer = lost.buyer and c.state = 'SAVED'";
        let connection = self.connection().await?;
        connection.execute(SQL, &[&reference, &customer.0, /* now */ &now]).await?;
        Ok(())
    }

    /// Writes how a card ended, unless its lease ran out and another worker has it.
    pub async fn end_card(&self, card: &LeasedCard, end: &CardEnd, now: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- customers.end_card
            update cards
            set state = $4, refusal = $5, method_id = $6, fingerprint = $7, due_at = null, updated_at = $8
            where buyer = $1 and given = $2 and tries = $3 and state = 'CHECKING'";
        let (state, refusal, method, fingerprint) = match end {
            CardEnd::Saved { method, fingerprint } => (CardState::Saved, None, Some(method.as_str()), *fingerprint),
            CardEnd::Refused(refusal) => (CardState::Refused, Some(refusal.as_str()), None, None),
        };
        let fingerprint = fingerprint.as_ref().map(<[u8; 32]>::as_slice);
        let connection = self.connection().await?;
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
            &card.buyer.as_str(),
            &card.given.as_str(),
            &card.tries,
            &state.as_str(),
            &refusal,
            &method,
            &fingerprint,
            /* now */ &now,
        ];
        connection.execute(SQL, arguments).await?;
        Ok(())
    }

    /// The card is asked about again at `due_at`, under the same key.
    pub async fn keep_card(&self, card: &LeasedCard, due_at: Timestamp) -> Result<(), LedgerError> {
        self.put_back(card, 0, due_at).await
    }

    /// The same, under the next key.
    pub async fn keep_card_under_next_key(&self, card: &LeasedCard, due_at: Timestamp) -> Result<(), LedgerError> {
        self.put_back(card, 1, due_at).await
    }

    async fn put_back(&self, card: &LeasedCard, keys: i32, due_at: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- customers.keep_card
            update cards set due_at = $4, again = again + $5
            where buyer = $1 and given = $2 and tries = $3 and state = 'CHECKING'";
        let connection = self.connection().await?;
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&card.buyer.as_str(), &card.given.as_str(), &card.tries, /* due_at */ &due_at, &keys];
        connection.execute(SQL, arguments).await?;
        Ok(())
    }

    /// Takes customers whose buyers have been forgotten, each with the number of times it was looked at.
    pub async fn lease_leaving_customers(
        &self,
        now: Timestamp,
        lease: SignedDuration,
        limit: i64,
    ) -> Result<Vec<(KnownCustomer, i32)>, LedgerError> {
        const SQL: &str = "-- customers.lease_leaving
            with due as (
                select customer_ref from customers where ends_at <= $1 order by ends_at limit $3 for update skip locked
            )
            update customers u set ends_at = $2, tries = u.tries + 1 from due, shop s
            where u.customer_ref = due.customer_ref
            returning u.customer_ref, u.customer_id, u.again, s.shop_id, u.tries";
        let rows = self.leased(SQL, now, lease, limit).await?;
        let known = |row: &Row| KnownCustomer {
            reference: row.get(0),
            id: row.get::<_, Option<String>>(1).map(CustomerId),
            again: row.get::<_, i32>(2).unsigned_abs(),
            shop: row.get(3),
        };
        Ok(rows.iter().map(|row| (known(row), row.get(4))).collect())
    }

    /// The end of a customer is tried again at `at`.
    pub async fn keep_leaving_customer(&self, reference: Uuid, tries: i32, at: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- customers.keep_leaving
            update customers set ends_at = $3 where customer_ref = $1 and tries = $2 and ends_at is not null";
        self.connection().await?.execute(SQL, &[&reference, &tries, /* at */ &at]).await?;
        Ok(())
    }

    /// The provider has no such customer any more, and neither have we.
    pub async fn customer_gone(&self, reference: Uuid) -> Result<(), LedgerError> {
        const SQL: &str = "-- customers.gone
            delete from customers where customer_ref = $1 and ends_at is not null";
        self.connection().await?.execute(SQL, &[&reference]).await?;
        Ok(())
    }

    /// The name under which this shop is known at the provider.
    pub async fn shop_id(&self) -> Result<String, LedgerError> {
        const SQL: &str = "-- customers.shop_id\nselect shop_id from shop";
        Ok(self.connection().await?.query_one(SQL, &[]).await?.get(0))
    }

    /// The key with which fingerprints of cards are hashed.
    pub async fn pepper(&self) -> Result<Vec<u8>, LedgerError> {
        const SQL: &str = "-- customers.pepper\nselect pepper from shop";
        Ok(self.connection().await?.query_one(SQL, &[]).await?.get(0))
    }
}

/// What a card's row says to a charge.
pub(super) fn facts_of(
    state: &str,
    customer: Option<String>,
    method: Option<String>,
    order: Uuid,
) -> Result<CardFacts, LedgerError> {
    Ok(match (card_state(state, &order)?, customer, method) {
        (CardState::Checking, ..) => CardFacts::Checking,
        (CardState::Saved, Some(customer), Some(method)) => CardFacts::Saved {
            customer: CustomerId(customer),
            method: method.parse().map_err(|_| inconsistent("cards", "method_id", order, &method))?,
        },
        (CardState::Saved | CardState::Refused, ..) => CardFacts::OneOff,
    })
}

fn card_state(state: &str, whose: &impl ToString) -> Result<CardState, LedgerError> {
    let known = CardState::ALL.into_iter().find(|known| known.as_str() == state);
    known.ok_or_else(|| inconsistent("cards", "state", whose.to_string(), state))
}

fn state_of(row: &Row, buyer: &BuyerId) -> Result<(CardState, Option<CardRefusal>), LedgerError> {
    Ok((card_state(row.get(0), buyer)?, row.get::<_, Option<&str>>(1).map(CardRefusal::of_name)))
}

fn leased_card(row: &Row) -> Result<LeasedCard, LedgerError> {
    let (buyer, given): (&str, &str) = (row.get(0), row.get(1));
    Ok(LeasedCard {
        buyer: buyer.parse().map_err(|_| inconsistent("cards", "buyer", buyer, buyer))?,
        given: given.parse().map_err(|_| inconsistent("cards", "given", buyer, given))?,
        card_ref: row.get(2),
        again: row.get::<_, i32>(3).unsigned_abs(),
        tries: row.get(4),
        customer: KnownCustomer {
            reference: row.get(5),
            id: row.get::<_, Option<String>>(6).map(CustomerId),
            again: row.get::<_, i32>(7).unsigned_abs(),
            shop: row.get(8),
        },
    })
}
