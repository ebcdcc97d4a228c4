//! Checkout profiles: where the money comes from and where the goods go. Never in Redis.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::types::ToSql;

use super::drops::inconsistent;
use super::error::LedgerError;
use super::pool::Ledger;
use crate::domain::ids::{BuyerId, PaymentMethodId};

#[derive(Debug, Clone, PartialEq)]
pub struct CheckoutProfile {
    /// `None`: an order waits until its buyer gives one.
    pub payment_method: Option<PaymentMethodId>,
    pub email: String,
    /// The address as the buyer gave it; its form is checked at the edge.
    pub ship_to: Value,
}

/// What stands for the card of a profile without one. A program that takes it for a card asks the provider for one of this
/// name, and is told that there is none.
pub(super) const NO_METHOD: &str = "no_payment_method";

impl CheckoutProfile {
    /// As the column has it.
    pub(super) fn method_column(&self) -> &str {
        self.payment_method.as_ref().map_or(NO_METHOD, PaymentMethodId::as_str)
    }
}

/// Writes a profile, within a transaction or without one.
pub(super) async fn write(
    to: &impl GenericClient,
    buyer: &BuyerId,
    profile: &CheckoutProfile,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- profiles.save_profile
        insert into checkout_profiles (buyer, payment_method, email, ship_to, updated_at)
        values ($1, $2, $3, $4, $5)
        on conflict (buyer) do update
            set payment_method = excluded.payment_method, email = excluded.email, ship_to = excluded.ship_to,
                updated_at = excluded.updated_at";
    let arguments: &[&(dyn ToSql + Sync)] = &[
        /* buyer */ &buyer.as_str(),
        /* payment_method */ &profile.method_column(),
        /* email */ &profile.email,
        /* ship_to */ &profile.ship_to,
        /* now */ &now,
    ];
    to.execute(&to.prepare_cached(SQL).await?, arguments).await?;
    Ok(())
}

impl Ledger {
    /// Saves a profile and asks nothing about its card, as a program that knew no customers did.
    pub async fn save_profile(
        &self,
        buyer: &BuyerId,
        profile: &CheckoutProfile,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        write(&self.connection().await?, buyer, profile, now).await
    }

    pub async fn profile_of(&self, buyer: &BuyerId) -> Result<Option<CheckoutProfile>, LedgerError> {
        const SQL: &str = "-- profiles.profile_of
            select payment_method, email, ship_to from checkout_profiles where buyer = $1";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let Some(row) = connection.query_opt(&statement, &[/* buyer */ &buyer.as_str()]).await? else {
            return Ok(None);
        };
        let method: &str = row.get(0);
        let parsed = (method != NO_METHOD).then(|| method.parse()).transpose();
        let payment_method = parsed.map_err(|_| inconsistent("checkout_profiles", "payment_method", buyer, method))?;
        Ok(Some(CheckoutProfile { payment_method, email: row.get(1), ship_to: row.get(2) }))
    }
}

/// One transaction of this buyer's at a time, until its end: a checkout that is placed, or an erasure. The words are those that
/// erasures have always locked, so that a program of before waits too.
pub(super) const LOCK_BUYER: &str = "-- profiles.lock_buyer
    select pg_advisory_xact_lock(hashtextextended('doorbuster erasure ' || $1::text, 0))";
