//! Pages of the provider's on which buyers save cards: asked for once a key, opened by a worker, and read back whenever
//! somebody says that the buyer is through. However often that is said, and in whatever order, a card is stored once.

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

use super::customers::KnownCustomer;
use super::drops::inconsistent;
use super::error::LedgerError;
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::ids::{BuyerId, CustomerId, IdempotencyKey, PaymentMethodId};

/// Pages that a buyer may have open; older ones are forgotten.
const OPEN_MAX: i64 = 5;

/// Where a page stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetupState {
    /// The provider has not said yet where it is.
    Asked,
    Open,
    Saved,
    Expired,
}

/// A page, as its buyer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupView {
    pub reference: Uuid,
    pub state: SetupState,
    pub url: Option<String>,
    /// The card that was saved.
    pub method: Option<PaymentMethodId>,
}

/// A page that this worker, and no other, asks the provider about until its lease ends.
#[derive(Debug, Clone)]
pub struct LeasedSetup {
    pub reference: Uuid,
    pub buyer: BuyerId,
    pub return_url: String,
    pub session: Option<String>,
    pub tries: i32,
    pub customer: KnownCustomer,
}

impl SetupState {
    const ALL: [Self; 4] = [Self::Asked, Self::Open, Self::Saved, Self::Expired];

    fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "ASKED",
            Self::Open => "OPEN",
            Self::Saved => "SAVED",
            Self::Expired => "EXPIRED",
        }
    }
}

impl Ledger {
    /// Asks for a page. `true`: under this key before.
    pub async fn ask_setup(
        &self,
        buyer: &BuyerId,
        key: &IdempotencyKey,
        return_url: &str,
        now: Timestamp,
    ) -> Result<(SetupView, bool), LedgerError> {
        const CUSTOMER: &str = "-- setups.want_customer
            insert into customers (buyer) values ($1) on conflict (buyer) do nothing";
        const ASK: &str = "-- setups.ask
            insert into card_setups (buyer, key, return_url, state, due_at, created_at)
            values ($1, $2, $3, 'ASKED', $4, $4) on conflict (buyer, key) do nothing";
        const OLDER: &str = "-- setups.drop_older
            delete from card_setups where setup_ref in (
                select setup_ref from card_setups where buyer = $1 order by created_at desc, setup_ref offset $2)";
        const FOUND: &str = "-- setups.by_key
            select setup_ref, state, url, method_id from card_setups where buyer = $1 and key = $2";
        run_tx!(self, "setups.ask", tx, {
            tx.execute(CUSTOMER, &[&buyer.as_str()]).await?;
            let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                &[&buyer.as_str(), &key.as_str(), &return_url, /* now */ &now];
            let is_new = tx.execute(ASK, arguments).await? == 1;
            if is_new {
                tx.execute(OLDER, &[&buyer.as_str(), &OPEN_MAX]).await?;
            }
            let row = tx.query_one(FOUND, &[&buyer.as_str(), &key.as_str()]).await?;
            Ok((view(&row)?, !is_new))
        })
    }

    /// A buyer's page. `None`: there is none, or it is not theirs.
    pub async fn setup_of(&self, buyer: &BuyerId, reference: Uuid) -> Result<Option<SetupView>, LedgerError> {
        const SQL: &str = "-- setups.of_buyer
            select setup_ref, state, url, method_id from card_setups where buyer = $1 and setup_ref = $2";
        let connection = self.connection().await?;
        let row = connection.query_opt(SQL, &[&buyer.as_str(), &reference]).await?;
        row.as_ref().map(view).transpose()
    }

    /// The buyer has come back: the page is read at once. Says nothing about whether a card was saved there.
    pub async fn read_setup_now(&self, buyer: &BuyerId, reference: Uuid, now: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- setups.read_now
            update card_setups set due_at = least(due_at, $3)
            where buyer = $1 and setup_ref = $2 and due_at is not null";
        let connection = self.connection().await?;
        connection.execute(SQL, &[&buyer.as_str(), &reference, /* now */ &now]).await?;
        Ok(())
    }

    /// The same by the provider's event. `false`: no page of ours has this name, or none yet.
    pub async fn read_session_now(&self, session: &str, now: Timestamp) -> Result<bool, LedgerError> {
        const SQL: &str = "-- setups.read_session_now
            update card_setups set due_at = case when due_at is null then null else least(due_at, $2) end
            where session_id = $1";
        let connection = self.connection().await?;
        Ok(connection.execute(SQL, &[&session, /* now */ &now]).await? == 1)
    }

    /// Takes up to `limit` pages that are due.
    pub async fn lease_setups(
        &self,
        now: Timestamp,
        lease: SignedDuration,
        limit: i64,
    ) -> Result<Vec<LeasedSetup>, LedgerError> {
        const SQL: &str = "-- setups.lease
            with due as (
                select setup_ref from card_setups where due_at <= $1 order by due_at limit $3 for update skip locked
            ), leased as (
                update card_setups c set due_at = $2, tries = c.tries + 1
                from due where c.setup_ref = due.setup_ref
                returning c.setup_ref, c.buyer, c.return_url, c.session_id, c.tries
            )
            select l.*, u.customer_ref, u.customer_id, u.again, s.shop_id
            from leased l join customers u on u.buyer = l.buyer, shop s";
        self.leased(SQL, now, lease, limit).await?.iter().map(leased_setup).collect()
    }

    /// The provider has said where the page is.
    pub async fn open_setup(
        &self,
        setup: &LeasedSetup,
        session: &str,
        url: Option<&str>,
        due_at: Timestamp,
    ) -> Result<(), LedgerError> {
        const SQL: &str = "-- setups.open
            update card_setups set state = 'OPEN', session_id = $2, url = $3, due_at = $4
            where setup_ref = $1 and tries = $5 and state = 'ASKED'";
        let connection = self.connection().await?;
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&setup.reference, &session, &url, /* due_at */ &due_at, &setup.tries];
        connection.execute(SQL, arguments).await?;
        Ok(())
    }

    /// It is asked about again at `due_at`.
    pub async fn keep_setup(&self, setup: &LeasedSetup, due_at: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- setups.keep
            update card_setups set due_at = $2 where setup_ref = $1 and tries = $3 and due_at is not null";
        let connection = self.connection().await?;
        connection.execute(SQL, &[&setup.reference, /* due_at */ &due_at, &setup.tries]).await?;
        Ok(())
    }

    /// Nobody can save a card there any more.
    pub async fn expire_setup(&self, setup: &LeasedSetup) -> Result<(), LedgerError> {
        const SQL: &str = "-- setups.expire
            update card_setups set state = 'EXPIRED', url = null, due_at = null
            where setup_ref = $1 and tries = $2 and due_at is not null";
        self.connection().await?.execute(SQL, &[&setup.reference, &setup.tries]).await?;
        Ok(())
    }

    /// A card was saved there: it is the customer's, and the profile's from now on. Once, whoever says so.
    pub async fn end_setup(
        &self,
        setup: &LeasedSetup,
        method: &PaymentMethodId,
        fingerprint: Option<[u8; 32]>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        // Before the page: in the order of locks. An erasure is waited for here, and has left no page.
        const PROFILE: &str = "-- setups.lock_profile
            select 1 from checkout_profiles where buyer = $1 for update";
        const END: &str = "-- setups.end
            update card_setups set state = 'SAVED', method_id = $2, url = null, due_at = null
            where setup_ref = $1 and due_at is not null";
        const USE: &str = "-- setups.use_card
            update checkout_profiles set payment_method = $2, updated_at = $3 where buyer = $1";
        const CARD: &str = "-- setups.save_card
            insert into cards as c (buyer, given, state, method_id, fingerprint, updated_at)
            values ($1, $2, 'SAVED', $2, $3, $4)
            on conflict (buyer, given) do update
                set state = 'SAVED', refusal = null, method_id = $2, fingerprint = $3, due_at = null, updated_at = $4
                where c.state <> 'SAVED'";
        let fingerprint = fingerprint.as_ref().map(<[u8; 32]>::as_slice);
        let (buyer, method) = (setup.buyer.as_str(), method.as_str());
        run_tx!(self, "setups.end", tx, {
            tx.query(PROFILE, &[&buyer]).await?;
            if tx.execute(END, &[&setup.reference, &method]).await? == 0 {
                return Ok(());
            }
            tx.execute(USE, &[&buyer, &method, /* now */ &now]).await?;
            tx.execute(CARD, &[&buyer, &method, &fingerprint, /* now */ &now]).await?;
            Ok(())
        })
    }
}

fn view(row: &Row) -> Result<SetupView, LedgerError> {
    let (reference, state): (Uuid, &str) = (row.get(0), row.get(1));
    let known = SetupState::ALL.into_iter().find(|known| known.as_str() == state);
    let method = row.get::<_, Option<&str>>(3);
    let parsed = method.map(str::parse).transpose();
    Ok(SetupView {
        reference,
        state: known.ok_or_else(|| inconsistent("card_setups", "state", reference, state))?,
        url: row.get(2),
        method: parsed.map_err(|_| inconsistent("card_setups", "method_id", reference, method.unwrap_or_default()))?,
    })
}

fn leased_setup(row: &Row) -> Result<LeasedSetup, LedgerError> {
    let (reference, buyer): (Uuid, &str) = (row.get(0), row.get(1));
    Ok(LeasedSetup {
        reference,
        buyer: buyer.parse().map_err(|_| inconsistent("card_setups", "buyer", reference, buyer))?,
        return_url: row.get(2),
        session: row.get(3),
        tries: row.get(4),
        customer: KnownCustomer {
            reference: row.get(5),
            id: row.get::<_, Option<String>>(6).map(CustomerId),
            again: row.get::<_, i32>(7).unsigned_abs(),
            shop: row.get(8),
        },
    })
}
