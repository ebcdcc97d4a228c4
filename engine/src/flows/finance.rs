//! Closing a day: orders, journal and the provider's account book are compared charge by charge, and must agree.
//!
//! What only the provider knows (fees, payouts, disputes) is booked on the way, once. Charges that the two sides date on
//! different sides of midnight are matched all the same, and shown as such.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use serde::Serialize;

use crate::domain::documents::{Month, VatRow};
use crate::domain::ids::{BuyerId, OrderId};
use crate::domain::money::Money;
use crate::ledger::documents::{Documents, OrderDocuments};
use crate::ledger::finance::{AccountSum, BookDay, BookedCharge, BookedRefund, Movement};
use crate::provider::{BalanceKind, BalanceTransaction, Intent, PAGE_LIMIT_MAX, ProviderClient, Refund};

use super::engine::{Engine, EngineError};

/// How far the two sides' clocks and commits may date one charge apart.
const MATCHED_WITHIN: SignedDuration = SignedDuration::from_hours(24);
/// How long before its charge an intent may have been made: longer than any order waits for its buyer or their bank.
const INTENT_REACH: SignedDuration = SignedDuration::from_hours(24 * 7);
/// How long after it was made a refund may come back.
const REFUND_REACH: SignedDuration = SignedDuration::from_hours(24 * 30);
const UTC: &str = "UTC";

/// The books of one day.
#[derive(Debug, Clone, Serialize)]
pub struct DayReport {
    pub day: Date,
    /// In which it begins and ends.
    pub time_zone: String,
    pub charges: usize,
    pub refunds: usize,
    /// Refunds that had arrived and came back on this day.
    pub refunds_returned: usize,
    pub accounts: Vec<AccountSum>,
    /// What moved our balance at the provider, by currency.
    pub provider_net_minor: BTreeMap<String, i64>,
    /// Of that, what the other side dates on another day, and refunds that have not arrived.
    pub across_midnight_minor: BTreeMap<String, i64>,
    /// What others on the same account have moved, which is in no other figure.
    pub strangers: Strangers,
    pub invoices: Documents,
    pub credit_notes: Documents,
    /// Must be empty.
    pub differences: Vec<Difference>,
}

/// Money of others on the same account of the provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Strangers {
    /// Charges, refunds and refunds that came back.
    pub count: usize,
    /// Less their fees, by currency.
    pub net_minor: BTreeMap<String, i64>,
}

impl Strangers {
    fn of<'a>(lines: impl Iterator<Item = &'a BalanceTransaction>) -> Self {
        lines.fold(Self::default(), |mut strangers, line| {
            strangers.count += 1;
            *strangers.net_minor.entry(currency(line.net)).or_insert(0) += line.net.amount_minor;
            strangers
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Stable name of what does not agree.
    pub rule: &'static str,
    pub detail: String,
}

/// Why a day cannot be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOver;

/// Why a month's report cannot be made, or a day cannot be closed, in this zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadZone {
    #[error("there is no time zone {0:?}: it is a name such as Europe/Berlin")]
    Unknown(String),
    #[error("the first day was closed in {kept}, and so are all others; {asked} would cut the days elsewhere")]
    Other { kept: String, asked: String },
}

impl Engine {
    /// The zone of the books: that of the first closed day; before there is one, the one that is asked for, or UTC.
    pub async fn books_zone(&self, asked: Option<&str>) -> Result<Result<TimeZone, BadZone>, EngineError> {
        let kept = self.ledger.books_zone().await?;
        let name = match (kept, asked) {
            (Some(kept), Some(asked)) if kept != asked => {
                return Ok(Err(BadZone::Other { kept, asked: asked.to_owned() }));
            }
            (Some(kept), _) => kept,
            (None, asked) => asked.unwrap_or(UTC).to_owned(),
        };
        // Found even where the machine has no database of zones.
        if name == UTC {
            return Ok(Ok(TimeZone::UTC));
        }
        Ok(TimeZone::get(&name).map_err(|_| BadZone::Unknown(name)))
    }

    /// Compares a day that is over with the provider, numbers its documents and remembers how it ended. May be repeated.
    pub async fn close_day(
        &self,
        provider: &ProviderClient,
        day: Date,
        zone: &TimeZone,
    ) -> Result<Result<DayReport, NotOver>, EngineError> {
        let time = day_in(day, zone);
        if time.end > self.clock.now() {
            return Ok(Err(NotOver));
        }
        let around = earlier(time.start)..later(time.end);
        let transactions = balance(provider, &around).await?;
        let in_day = transactions.iter().filter(|transaction| time.contains(&transaction.created)).collect::<Vec<_>>();
        let mut differences = Vec::new();
        let strange = self.find_strangers(provider, &in_day, &mut differences).await?;
        let strangers = Strangers::of(in_day.iter().copied().filter(|line| strange.contains(&line.id)));
        let in_day = in_day.into_iter().filter(|line| !strange.contains(&line.id)).collect::<Vec<_>>();
        self.ledger.book_movements(&movements(&in_day)).await?;

        let charges = self.ledger.booked_charges(&around).await?;
        let refunds = self.ledger.booked_refunds(&around).await?;
        let returned = self.ledger.returned_refunds(&around).await?;
        let mut shifted = BTreeMap::new();
        let ours = charges.iter().map(Ours::charge).chain(refunds.iter().map(Ours::refund));
        let ours = ours.chain(returned.iter().map(Ours::returned)).collect::<Vec<_>>();
        compare(&ours, &transactions, &time, &mut differences, &mut shifted);
        self.shift_what_has_not_arrived(&in_day, &around, &mut shifted).await?;
        for order in self.ledger.paid_without_booking(time.start).await? {
            let detail = format!("order {order} is paid and the journal has no charge of it");
            differences.push(Difference { rule: "paid_without_booking", detail });
        }

        self.ledger.number_documents(time.end, self.clock.now()).await?;
        let (invoices, credit_notes) = self.ledger.documents_of_time(&time).await?;
        let (invoice_gaps, credit_note_gaps) = self.ledger.document_gaps().await?;
        if (invoice_gaps, credit_note_gaps) != (0, 0) {
            let detail =
                format!("{invoice_gaps} invoices and {credit_note_gaps} credit notes have numbers and are not there");
            differences.push(Difference { rule: "numbers_have_gaps", detail });
        }
        let accounts = self.ledger.account_sums(&time).await?;
        let mut provider_net_minor = BTreeMap::new();
        for transaction in &in_day {
            *provider_net_minor.entry(currency(transaction.net)).or_insert(0) += transaction.net.amount_minor;
        }
        check_balance(&accounts, &provider_net_minor, &shifted, &mut differences);
        let in_time = |at: &Timestamp| time.contains(at);
        let zone = zone.iana_name().unwrap_or(UTC);
        let report = DayReport {
            day,
            time_zone: zone.to_owned(),
            charges: charges.iter().filter(|charge| in_time(&charge.booked_at)).count(),
            refunds: refunds.iter().filter(|refund| in_time(&refund.settled_at)).count(),
            refunds_returned: returned.iter().filter(|refund| in_time(&refund.settled_at)).count(),
            accounts,
            provider_net_minor,
            across_midnight_minor: shifted,
            strangers,
            invoices,
            credit_notes,
            differences,
        };
        let json = serde_json::to_value(&report).expect("a report is made of texts and numbers");
        self.ledger.close_day(day, zone, report.differences.len(), &json, self.clock.now()).await?;
        metrics::gauge!("doorbuster_finance_differences").set(report.differences.len() as f64);
        Ok(Ok(report))
    }

    /// Every day that is over since the first booking, oldest first: closed, or forgotten.
    pub async fn book_days(&self, zone: &TimeZone) -> Result<Vec<BookDay>, EngineError> {
        let closed = self.ledger.closed_days().await?;
        let first = self.ledger.first_booking().await?.map(|at| at.to_zoned(zone.clone()).date());
        let Some(first) = first.into_iter().chain(closed.first().map(|day| day.day)).min() else { return Ok(closed) };
        let today = self.clock.now().to_zoned(zone.clone()).date();
        let mut closed = closed.into_iter().map(|day| (day.day, day)).collect::<HashMap<_, _>>();
        let days = first.series(1.day()).take_while(|day| *day < today);
        let forgotten = |day| BookDay { day, closed_at: None, differences: None };
        Ok(days.map(|day| closed.remove(&day).unwrap_or_else(|| forgotten(day))).collect())
    }

    /// What was sold into each country in these months, and what of it was credited, by rate. Numbers what has no
    /// number.
    pub async fn vat_report(&self, from: Month, to: Month, zone: &TimeZone) -> Result<Vec<VatRow>, EngineError> {
        self.issue_documents().await?;
        let mut months = Vec::new();
        let mut month = from;
        while month <= to {
            let time = first_instant(month.first_day(), zone)..first_instant(month.end(), zone);
            months.push((month, time));
            month = Month::of(month.end());
        }
        Ok(self.ledger.vat_of(&months).await?.rows())
    }

    /// Numbers what was paid and given back until now.
    pub async fn issue_documents(&self) -> Result<(), EngineError> {
        let now = self.clock.now();
        self.ledger.number_documents(just_after(now), now).await?;
        Ok(())
    }

    /// The documents of an order; what was paid or given back a moment ago gets its number here. `buyer`: it must be
    /// theirs.
    pub async fn order_documents(
        &self,
        order: OrderId,
        buyer: Option<&BuyerId>,
    ) -> Result<Option<OrderDocuments>, EngineError> {
        let found = self.ledger.order_documents(order, buyer).await?;
        if !found.as_ref().is_some_and(|found| found.is_due) {
            return Ok(found);
        }
        self.issue_documents().await?;
        Ok(self.ledger.order_documents(order, buyer).await?)
    }

    /// Lines of the provider's book that are nobody's here: of charges and refunds whose intents name no order of ours.
    /// One that does name an order and is not what that order knows is a difference.
    async fn find_strangers(
        &self,
        provider: &ProviderClient,
        in_day: &[&BalanceTransaction],
        differences: &mut Vec<Difference>,
    ) -> Result<HashSet<String>, EngineError> {
        let sources = |kinds: &[BalanceKind]| {
            let of_kind = in_day.iter().filter(|transaction| kinds.contains(&transaction.kind));
            of_kind.filter_map(|transaction| transaction.source.as_deref()).collect::<Vec<_>>()
        };
        let charges = sources(&[BalanceKind::Charge]);
        let known = self.ledger.orders_of_charges(&charges).await?;
        let known = known.iter().map(|(charge, ..)| charge.as_str()).collect::<HashSet<_>>();
        let mut unknown = charges.into_iter().filter(|charge| !known.contains(charge)).collect::<HashSet<_>>();
        let Some(first) = in_day.iter().map(|line| line.created).min() else { return Ok(HashSet::new()) };
        for charge in self.charges_naming_orders(provider, first, &unknown).await? {
            unknown.remove(charge.as_str());
            let detail = format!("the provider took the charge {charge} for an order of ours that does not know it");
            differences.push(Difference { rule: "charge_without_order", detail });
        }
        let refunds = sources(&[BalanceKind::Refund, BalanceKind::RefundFailure]);
        let known = self.ledger.bookings_of_refunds(&refunds).await?;
        let known = known.iter().map(|booking| booking.provider_refund.as_str()).collect::<HashSet<_>>();
        let strange_refunds = refunds.into_iter().filter(|refund| !known.contains(refund)).collect::<HashSet<_>>();
        let ours = self.refunds_of_our_orders(provider, first, &strange_refunds).await?;
        for refund in &ours {
            let detail = format!("the provider gave back {refund} of an order of ours, which nobody here asked for");
            differences.push(Difference { rule: "refund_without_order", detail });
        }
        unknown.extend(strange_refunds.into_iter().filter(|refund| !ours.contains(*refund)));
        let is_strange = |line: &&&BalanceTransaction| {
            let is_of_order =
                matches!(line.kind, BalanceKind::Charge | BalanceKind::Refund | BalanceKind::RefundFailure);
            is_of_order && line.source.as_deref().is_some_and(|source| unknown.contains(source))
        };
        Ok(in_day.iter().filter(is_strange).map(|line| line.id.clone()).collect())
    }

    /// Which of these charges belong to an intent that names an order of ours.
    async fn charges_naming_orders(
        &self,
        provider: &ProviderClient,
        first: Timestamp,
        charges: &HashSet<&str>,
    ) -> Result<Vec<String>, EngineError> {
        let mut found = Vec::new();
        let since = first.checked_sub(INTENT_REACH).unwrap_or(Timestamp::MIN);
        let mut after = None;
        while !charges.is_empty() {
            let page = provider.list_intents_since(since, after.as_ref(), PAGE_LIMIT_MAX).await;
            let page = page.map_err(|error| EngineError::Provider(error.to_string()))?;
            let is_asked =
                |intent: &&Intent| intent.latest_charge.as_deref().is_some_and(|charge| charges.contains(charge));
            let asked = page.data.iter().filter(is_asked).collect::<Vec<_>>();
            let named = asked.iter().filter_map(|intent| intent.order_named()).collect::<Vec<_>>();
            let ours = self.ledger.existing_orders(&named).await?;
            let of_ours = asked.iter().filter(|intent| intent.order_named().is_some_and(|order| ours.contains(&order)));
            found.extend(of_ours.filter_map(|intent| intent.latest_charge.clone()));
            after = page.data.last().map(|intent| intent.id.clone());
            if !page.has_more || after.is_none() {
                break;
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Which of these refunds are of an order of ours.
    async fn refunds_of_our_orders(
        &self,
        provider: &ProviderClient,
        first: Timestamp,
        refunds: &HashSet<&str>,
    ) -> Result<BTreeSet<String>, EngineError> {
        let mut found = BTreeSet::new();
        let since = first.checked_sub(REFUND_REACH).unwrap_or(Timestamp::MIN);
        let mut after = None;
        while !refunds.is_empty() {
            let page = provider.list_refunds_since(since, after.as_ref(), PAGE_LIMIT_MAX).await;
            let page = page.map_err(|error| EngineError::Provider(error.to_string()))?;
            let asked = page.data.iter().filter(|refund| refunds.contains(refund.id.0.as_str())).collect::<Vec<_>>();
            let named = asked.iter().filter_map(|refund| refund.order_named()).collect::<Vec<_>>();
            let ours = self.ledger.existing_orders(&named).await?;
            let intents =
                asked.iter().filter_map(|refund| Some(refund.intent.as_ref()?.0.as_str())).collect::<Vec<_>>();
            let payments = self.ledger.payments_of_intents(&intents).await?;
            let is_ours = |refund: &&&Refund| {
                refund.order_named().is_some_and(|order| ours.contains(&order))
                    || payments.iter().any(|payment| refund.intent.as_ref() == Some(&payment.intent))
            };
            found.extend(asked.iter().filter(is_ours).map(|refund| refund.id.0.clone()));
            after = page.data.last().map(|refund| refund.id.clone());
            if !page.has_more || after.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// Refunds that the provider has moved on this day and that were booked here on a day far from it, or not at all:
    /// they are on their way, or have failed on it.
    async fn shift_what_has_not_arrived(
        &self,
        in_day: &[&BalanceTransaction],
        around: &Range<Timestamp>,
        shifted: &mut BTreeMap<String, i64>,
    ) -> Result<(), EngineError> {
        let is_refund =
            |line: &&&BalanceTransaction| matches!(line.kind, BalanceKind::Refund | BalanceKind::RefundFailure);
        let moved = in_day.iter().filter(is_refund).collect::<Vec<_>>();
        let sources = moved.iter().filter_map(|line| line.source.as_deref()).collect::<Vec<_>>();
        for booking in self.ledger.bookings_of_refunds(&sources).await? {
            let of_refund =
                moved.iter().filter(|line| line.source.as_deref() == Some(booking.provider_refund.as_str()));
            for line in of_refund {
                let booked_at = if line.kind == BalanceKind::Refund { booking.arrived_at } else { booking.returned_at };
                if !booked_at.is_some_and(|at| around.contains(&at)) {
                    *shifted.entry(currency(line.amount)).or_insert(0) -= line.amount.amount_minor;
                }
            }
        }
        Ok(())
    }
}

/// One movement of money as our journal has it.
struct Ours {
    what: String,
    /// The provider's name of it.
    source: Option<String>,
    /// Above zero towards us.
    booked: i64,
    due: i64,
    currency: String,
    at: Timestamp,
    kind: BalanceKind,
}

impl Ours {
    fn charge(charge: &BookedCharge) -> Self {
        Self {
            what: format!("the charge of order {}", charge.order),
            source: charge.provider_charge.clone(),
            booked: charge.booked.amount_minor,
            due: charge.order_total.amount_minor,
            currency: currency(charge.booked),
            at: charge.booked_at,
            kind: BalanceKind::Charge,
        }
    }

    fn refund(refund: &BookedRefund) -> Self {
        Self {
            what: format!("the refund {} of order {}", refund.refund, refund.order),
            source: refund.provider_refund.clone(),
            booked: -refund.booked.amount_minor,
            due: -refund.amount.amount_minor,
            currency: currency(refund.amount),
            at: refund.settled_at,
            kind: BalanceKind::Refund,
        }
    }

    /// A refund that had arrived and came back.
    fn returned(refund: &BookedRefund) -> Self {
        Self {
            what: format!("the refund {} of order {}, which came back", refund.refund, refund.order),
            booked: refund.booked.amount_minor,
            due: refund.amount.amount_minor,
            kind: BalanceKind::RefundFailure,
            ..Self::refund(refund)
        }
    }
}

/// Which of the movements of a charge or refund a line of the provider's book is; a refund has two, should it come
/// back.
fn leg(kind: &BalanceKind) -> Option<u8> {
    match kind {
        BalanceKind::Charge => Some(0),
        BalanceKind::Refund => Some(1),
        BalanceKind::RefundFailure => Some(2),
        BalanceKind::Adjustment | BalanceKind::Fee | BalanceKind::Payout | BalanceKind::Other(_) => None,
    }
}

/// Order, journal and provider, one by one. `shifted` gets what the two sides date on different days.
fn compare(
    ours: &[Ours],
    transactions: &[BalanceTransaction],
    time: &Range<Timestamp>,
    differences: &mut Vec<Difference>,
    shifted: &mut BTreeMap<String, i64>,
) {
    let mut theirs: HashMap<(&str, Option<u8>), &BalanceTransaction> = HashMap::new();
    for transaction in transactions {
        let leg = leg(&transaction.kind);
        if let Some(source) = transaction.source.as_deref()
            && leg.is_some()
            && theirs.insert((source, leg), transaction).is_some()
        {
            let detail = format!("the provider lists {source} twice");
            differences.push(Difference { rule: "moved_twice", detail });
        }
    }
    for our in ours {
        let is_ours_in_day = time.contains(&our.at);
        let shown = |minor| match our.currency.parse() {
            Ok(currency) => Money::new(minor, currency).to_string(),
            Err(_) => format!("{minor} minor units of {}", our.currency),
        };
        if is_ours_in_day && our.booked != our.due {
            let detail = format!("{}: {} booked, {} due", our.what, shown(our.booked), shown(our.due));
            differences.push(Difference { rule: "journal_differs", detail });
        }
        let source = our.source.as_deref().unwrap_or("");
        let Some(their) = theirs.get(&(source, leg(&our.kind))) else {
            if is_ours_in_day {
                let detail = format!("{} ({source}) is not in the provider's books", our.what);
                differences.push(Difference { rule: "not_at_provider", detail });
            }
            continue;
        };
        let is_theirs_in_day = time.contains(&their.created);
        let agrees = their.amount.amount_minor == our.booked && currency(their.amount) == our.currency;
        if !agrees && (is_ours_in_day || is_theirs_in_day) {
            let detail = format!("{}: {} booked, the provider says {}", our.what, shown(our.booked), their.amount);
            differences.push(Difference { rule: "amounts_differ", detail });
        }
        match (is_ours_in_day, is_theirs_in_day) {
            (true, false) => *shifted.entry(our.currency.clone()).or_insert(0) += our.booked,
            (false, true) => *shifted.entry(our.currency.clone()).or_insert(0) -= our.booked,
            _ => {}
        }
    }
}

/// Our account with the provider must have moved as the provider says, but for what midnight cuts apart.
fn check_balance(
    accounts: &[AccountSum],
    net_minor: &BTreeMap<String, i64>,
    shifted: &BTreeMap<String, i64>,
    differences: &mut Vec<Difference>,
) {
    let ours = accounts.iter().filter(|sum| sum.account == "provider");
    let mut left: BTreeMap<&str, i64> =
        ours.map(|sum| (sum.currency.as_str(), sum.debit_minor - sum.credit_minor)).collect();
    for (currency, minor) in net_minor {
        *left.entry(currency).or_insert(0) -= minor;
    }
    for (currency, minor) in shifted {
        *left.entry(currency).or_insert(0) -= minor;
    }
    for (currency, minor) in left.into_iter().filter(|(_, minor)| *minor != 0) {
        let more = match currency.parse() {
            Ok(currency) => Money::new(minor, currency).to_string(),
            Err(_) => format!("{minor} minor units of {currency}"),
        };
        let detail = format!("our account with the provider moved by {more} more than its books say");
        differences.push(Difference { rule: "balance_differs", detail });
    }
}

/// Fees, payouts, disputes and refunds that came back, as entries of our journal.
fn movements(transactions: &[&BalanceTransaction]) -> Vec<Movement> {
    let mut movements = Vec::new();
    for transaction in transactions {
        let id = &transaction.id;
        let account = match transaction.kind {
            // Booked when they were settled.
            BalanceKind::Charge | BalanceKind::Refund | BalanceKind::RefundFailure => None,
            BalanceKind::Fee => Some("provider_fees"),
            BalanceKind::Payout => Some("bank"),
            BalanceKind::Adjustment => Some("disputes"),
            BalanceKind::Other(_) => Some("provider_other"),
        };
        if let Some(account) = account {
            movements.extend(movement(format!("provider-{id}"), account, transaction.amount, transaction.created));
        }
        let fee = Money::new(-transaction.fee.amount_minor, transaction.fee.currency);
        movements.extend(movement(format!("provider-{id}:fee"), "provider_fees", fee, transaction.created));
    }
    movements
}

/// `amount` above zero came to our account with the provider from `account`; below zero it went there.
fn movement(source: String, account: &'static str, amount: Money, at: Timestamp) -> Option<Movement> {
    const PROVIDER: &str = "provider";
    let (debit, credit) = if amount.amount_minor > 0 { (PROVIDER, account) } else { (account, PROVIDER) };
    let amount = Money::new(amount.amount_minor.abs(), amount.currency);
    (amount.amount_minor > 0).then_some(Movement { source, debit, credit, amount, at })
}

async fn balance(provider: &ProviderClient, time: &Range<Timestamp>) -> Result<Vec<BalanceTransaction>, EngineError> {
    let mut found: Vec<BalanceTransaction> = Vec::new();
    loop {
        let after = found.last().map(|transaction| transaction.id.clone());
        let page = provider.list_balance_transactions(time.clone(), after.as_deref(), PAGE_LIMIT_MAX).await;
        let page = page.map_err(|error| EngineError::Provider(error.to_string()))?;
        found.extend(page.data);
        if !page.has_more {
            return Ok(found);
        }
    }
}

/// A day of the shop's zone, from its first instant to that of the next day. Where the clocks change at midnight a day
/// begins later, or is longer; no instant is in two days or in none.
pub fn day_in(day: Date, zone: &TimeZone) -> Range<Timestamp> {
    first_instant(day, zone)..day.tomorrow().map_or(Timestamp::MAX, |next| first_instant(next, zone))
}

fn first_instant(day: Date, zone: &TimeZone) -> Timestamp {
    // Of a midnight that does not exist the instant at which the clocks jump over it; of one that comes twice the
    // first.
    day.to_zoned(zone.clone()).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

/// What happened at this very moment is before it, too.
fn just_after(time: Timestamp) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MAX)
}

fn earlier(time: Timestamp) -> Timestamp {
    time.checked_sub(MATCHED_WITHIN).unwrap_or(Timestamp::MIN)
}

fn later(time: Timestamp) -> Timestamp {
    time.checked_add(MATCHED_WITHIN).unwrap_or(Timestamp::MAX)
}

fn currency(amount: Money) -> String {
    amount.currency.as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over ten years of zones whose clocks change: at two or three in the morning, at midnight, by half an hour, by a
    /// whole day.
    #[test]
    fn no_instant_is_in_two_days_or_in_none() {
        let zones = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Africa/Cairo", "Asia/Beirut", "Australia/Lord_Howe"];
        for name in zones.into_iter().chain(["America/Havana", "Pacific/Apia"]) {
            let zone = TimeZone::get(name).unwrap();
            let first: Date = "2010-01-01".parse().unwrap();
            let mut end = day_in(first, &zone).start;
            for day in first.series(1.day()).take(10 * 366) {
                let time = day_in(day, &zone);
                assert_eq!(time.start, end, "{name} {day}: a gap, or an instant in two days");
                assert!(time.start <= time.end, "{name} {day}");
                end = time.end;
                // Each instant is of the day that a calendar there shows.
                for at in [time.start, time.end.checked_sub(SignedDuration::from_secs(1)).unwrap()] {
                    assert!(time.is_empty() || at.to_zoned(zone.clone()).date() == day, "{name} {day}: {at}");
                }
            }
        }
        let hours = |day: &str, zone: &str| {
            let time = day_in(day.parse().unwrap(), &TimeZone::get(zone).unwrap());
            time.end.duration_since(time.start).as_hours()
        };
        assert_eq!((hours("2026-03-29", "Europe/Berlin"), hours("2026-10-25", "Europe/Berlin")), (23, 25));
        assert_eq!(hours("2011-12-30", "Pacific/Apia"), 0, "a day that was left out");
    }
}
