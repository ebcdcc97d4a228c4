//! What must be true after every run, whatever died in it: by the provider's own books, by the mail server's and the
//! receiver's own lists, and by our tables.

use std::collections::BTreeMap;

use doorbuster_sandbox::provider::FakeProvider;

use super::stage::Stage;

/// What is left to do, by name; each must come to nothing. An order that waits for none of these is unexplained.
const LEFT: &[(&str, &str)] = &[
    ("payments due", "select count(*) from payments where due_at is not null"),
    ("payments leased", "select count(*) from payments where leased_until > now()"),
    (
        "open attempts",
        "select count(*) from payment_attempts where state in ('PREPARED', 'DISPATCHED', 'NOT_SENT', 'UNKNOWN')",
    ),
    ("pending refunds", "select count(*) from refunds where state = 'PENDING'"),
    ("unfinished checkouts", "select count(*) from checkouts where ended_at is null"),
    ("unpaid orders", "select count(*) from orders where status = 'PENDING_PAYMENT'"),
    ("events of the provider", "select count(*) from webhook_events where due_at is not null"),
    ("events not fanned out", "select count(*) from order_events where fanned_out_at is null"),
    (
        "mails to write to lines",
        "select count(*) from line_mails m join line_counters c using (drop_id) join lines l using (drop_id)
         where m.joined_to < c.next - 1 or (l.state = 'CLOSED' and m.ended_to < c.next - 1)",
    ),
    ("deliveries", "select count(*) from outbox where state = 'queued'"),
    ("grants", "select count(*) from grants where applied_at is null"),
    ("poisoned claims", "select count(*) from poisoned_claims where resolved_at is null"),
];

/// Figures of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) orders: i64,
    pub(super) confirmed: i64,
    pub(super) cancelled: i64,
    pub(super) failed: i64,
    pub(super) captures: usize,
    pub(super) refunds: usize,
    /// Attempts of which no answer came, each known in the end.
    pub(super) unknown: i64,
    pub(super) reviews: i64,
    pub(super) mails: usize,
    pub(super) mails_again: usize,
}

impl Stage {
    /// Waits until nothing is left to do. The error says what is.
    pub(super) async fn quiet(&self) -> Result<(), String> {
        let waited = self
            .until("nothing is left to do", async || {
                // Most of the time the first of them is not over yet.
                for (_, sql) in LEFT {
                    if self.count(sql).await > 0 {
                        return false;
                    }
                }
                let none = std::time::Duration::ZERO;
                self.unsettled_claims().await == 0 && self.provider.settled(none).await
            })
            .await;
        let Err(vain) = waited else { return Ok(()) };
        let mut left = Vec::new();
        for (what, sql) in LEFT {
            match self.count(sql).await {
                0 => {}
                count => left.push(format!("{count} {what}")),
            }
        }
        let open = "select coalesce(string_agg(o.order_id || ' ' || o.status || ' ' || p.state || coalesce(' ' || p.failure, ''), ', '), '')
            from orders o join payments p using (order_id) where o.status = 'PENDING_PAYMENT' or p.due_at is not null";
        let open: String = self.sql.query_one(open, &[]).await.unwrap().get(0);
        Err(format!("{vain}: {}; {open}", left.join(", ")))
    }

    async fn unsettled_claims(&self) -> usize {
        let backlog = self.engine.backlog(&self.drop.parse().unwrap()).await;
        // A warehouse that is being loaded is not quiet either.
        backlog.ok().flatten().map_or(1, |backlog| backlog.claims() + backlog.unread)
    }

    /// Everything that is wrong. The program has ended, and nothing was left to do.
    pub(super) async fn violations(&self, deaths: u32) -> Vec<String> {
        let mut wrong = Vec::new();
        self.check_once(&mut wrong);
        self.check_books(&mut wrong).await;
        self.check_mails(deaths, &mut wrong).await;
        self.check_hooks(&mut wrong).await;
        match self.audit_patiently().await {
            Ok(violations) => wrong.extend(violations),
            Err(error) => wrong.push(format!("the audit failed: {error}")),
        }
        match self.close_days().await {
            Ok(differences) => wrong.extend(differences.into_iter().map(|found| format!("books: {found}"))),
            Err(error) => wrong.push(format!("the days cannot be closed: {error}")),
        }
        let units =
            "select count(*) - count(*) filter (where o.status in ('CONFIRMED', 'PROCESSING', 'SHIPPED', 'DELIVERED'))
                - (select sum(quantity_available)::bigint from inventory join warehouses using (warehouse_id)
                   where drop_id is not null)
            from tokens t left join orders o using (order_id)";
        if self.count(units).await != 0 {
            wrong.push("available and sold units are not the stock".to_owned());
        }
        wrong
    }

    async fn audit_patiently(&self) -> Result<Vec<String>, String> {
        let mut tries = 0;
        loop {
            match self.engine.audit(Some(&self.asked)).await {
                Ok(report) => {
                    let mut wrong = report
                        .violations
                        .iter()
                        .map(|found| format!("audit: {}: {}", found.rule, found.detail))
                        .collect::<Vec<_>>();
                    wrong.extend(
                        report.drops.iter().filter(|drop| !drop.is_quiet).map(|_| "audit: it was not quiet".to_owned()),
                    );
                    return Ok(wrong);
                }
                // The provider may lose this request too.
                Err(error) if tries == 50 => return Err(error.to_string()),
                Err(_) => tries += 1,
            }
        }
    }

    /// What may be wrong at no time, be it quiet or not: each order is captured once at most, each refund carried out once.
    pub(super) fn check_once(&self, wrong: &mut Vec<String>) {
        let mut captures: BTreeMap<String, usize> = BTreeMap::new();
        for capture in self.provider.captures() {
            *captures.entry(capture.order_id.unwrap_or_else(|| "no order".to_owned())).or_default() += 1;
        }
        wrong.extend(
            captures
                .iter()
                .filter(|(order, times)| **times > 1 || order.as_str() == "no order")
                .map(|(order, times)| format!("{times} captures of {order}")),
        );
        let mut refunds: BTreeMap<String, usize> = BTreeMap::new();
        for refund in self.provider.refunds().iter().filter(|refund| refund.status == "succeeded") {
            *refunds.entry(refund.metadata["refund_id"].to_string()).or_default() += 1;
        }
        wrong.extend(
            refunds.iter().filter(|(_, times)| **times > 1).map(|(id, times)| format!("{times} refunds under {id}")),
        );
    }

    /// Three books say the same of the money.
    async fn check_books(&self, wrong: &mut Vec<String>) {
        let theirs = held_by(&self.provider);
        let journal = "select coalesce(sum(case 'provider' when debit_account then amount_minor
                                                           when credit_account then -amount_minor end), 0)::bigint
            from journal where source not like 'provider-%'";
        let orders = "select (coalesce(sum(p.amount_minor), 0) - coalesce(sum(r.minor), 0))::bigint
            from payments p left join lateral (select sum(amount_minor) as minor from refunds r
                                               where r.order_id = p.order_id and r.state = 'SUCCEEDED') r on true
            where p.state in ('SUCCEEDED', 'REFUND_PENDING', 'PARTIALLY_REFUNDED', 'REFUNDED')";
        let (journal, orders) = (self.count(journal).await, self.count(orders).await);
        if (journal, orders) != (theirs, theirs) {
            wrong.push(format!("the provider holds {theirs}, the journal says {journal}, the orders say {orders}"));
        }
    }

    /// Each mail came, and came again only where somebody died before he could write down that it had been sent.
    async fn check_mails(&self, deaths: u32, wrong: &mut Vec<String>) {
        let mut came: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for mail in self.mails.mails() {
            came.entry(mail.message_id()).or_default().push(mail.data);
        }
        let sent = self.count("select count(*) from outbox where destination like 'mail%' and state = 'sent'").await;
        if came.len() as i64 != sent {
            wrong.push(format!("{} mails came, {sent} were sent", came.len()));
        }
        for (id, mails) in &came {
            let is_same = mails.iter().all(|mail| *mail == mails[0]);
            if mails.len() as u32 > 1 + deaths || !is_same {
                wrong.push(format!("the mail {id} came {} times, the same each time: {is_same}", mails.len()));
            }
        }
    }

    /// The shop's systems heard of everything.
    async fn check_hooks(&self, wrong: &mut Vec<String>) {
        let events = self.hooks.events();
        let bad = events.iter().filter(|event| event.problem.is_some()).count();
        let mut ids = events.iter().map(|event| event.id.clone()).collect::<Vec<_>>();
        ids.sort();
        ids.dedup();
        let told =
            self.count("select count(*) from outbox where destination = 'webhook:shop' and state = 'sent'").await;
        let happened = self.count("select count(*) from order_events").await;
        if bad > 0 || ids.len() as i64 != told || told > happened {
            wrong.push(format!("{} events came, {bad} of them badly; {told} of {happened} were told", ids.len()));
        }
    }

    pub(super) async fn figures(&self) -> Figures {
        let orders = async |status: &str| self.count(&format!("select count(*) from orders where {status}")).await;
        let mails = self.mails.mails();
        let mut ids = mails.iter().map(|mail| mail.message_id()).collect::<Vec<_>>();
        ids.sort();
        ids.dedup();
        let unknown = "select count(*) from payment_attempts
            where detail in ('read back from the provider', 'found in the provider''s list')
               or detail like 'no answer came of this key%'";
        Figures {
            orders: orders("true").await,
            confirmed: orders("status = 'CONFIRMED'").await,
            cancelled: orders("status = 'CANCELLED'").await,
            failed: orders("status = 'PAYMENT_FAILED'").await,
            captures: self.provider.captures().len(),
            refunds: self.provider.refunds().iter().filter(|refund| refund.status == "succeeded").count(),
            unknown: self.count(unknown).await,
            reviews: self.count("select count(*) from payments where state = 'MANUAL_REVIEW'").await,
            mails: ids.len(),
            mails_again: mails.len() - ids.len(),
        }
    }
}

/// What the provider has of ours by its own books: captured, and not given back.
fn held_by(provider: &FakeProvider) -> i64 {
    let captured = provider.captures().iter().map(|capture| capture.amount_minor).sum::<i64>();
    let refunds = provider.refunds();
    let given_back = refunds.iter().filter(|refund| refund.status == "succeeded");
    captured - given_back.map(|refund| refund.amount_minor).sum::<i64>()
}
