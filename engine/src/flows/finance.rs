//! Closing a day: orders, journal and the provider's account book are compared charge by charge, and must agree.
//!
//! What only the provider knows (fees, payouts, disputes) is booked on the way, once. Charges that the two sides date on
//! different sides of midnight are matched all the same, and shown as such.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use serde::Serialize;

use crate::domain::money::Money;
use crate::ledger::finance::{AccountSum, BookedCharge, BookedRefund, Documents, Movement};
use crate::provider::{BalanceKind, BalanceTransaction, PAGE_LIMIT_MAX, ProviderClient};

use super::engine::{Engine, EngineError};

/// How far the two sides' clocks and commits may date one charge apart.
const MATCHED_WITHIN: SignedDuration = SignedDuration::from_hours(24);

/// The books of one day (UTC).
#[derive(Debug, Clone, Serialize)]
pub struct DayReport {
    pub day: Date,
    pub charges: usize,
    pub refunds: usize,
    pub accounts: Vec<AccountSum>,
    /// What moved our balance at the provider, by currency.
    pub provider_net_minor: BTreeMap<String, i64>,
    /// Of that, what the other side dates on another day.
    pub across_midnight_minor: BTreeMap<String, i64>,
    pub invoices: Documents,
    pub credit_notes: Documents,
    /// Must be empty.
    pub differences: Vec<Difference>,
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

impl Engine {
    /// Compares a day that is over with the provider, numbers its documents and remembers how it ended. May be repeated.
    pub async fn close_day(
        &self,
        provider: &ProviderClient,
        day: Date,
    ) -> Result<Result<DayReport, NotOver>, EngineError> {
        let time = day_in_utc(day);
        if time.end > self.clock.now() {
            return Ok(Err(NotOver));
        }
        let around = earlier(time.start)..later(time.end);
        let transactions = balance(provider, &around).await?;
        let in_day = transactions.iter().filter(|transaction| time.contains(&transaction.created)).collect::<Vec<_>>();
        self.ledger.book_movements(&movements(&in_day)).await?;

        let mut differences = Vec::new();
        let charges = self.ledger.booked_charges(&around).await?;
        let refunds = self.ledger.booked_refunds(&around).await?;
        let mut shifted = BTreeMap::new();
        let ours = charges.iter().map(Ours::charge).chain(refunds.iter().map(Ours::refund)).collect::<Vec<_>>();
        compare(&ours, &transactions, &time, &mut differences, &mut shifted);
        self.find_strangers(&in_day, &mut differences).await?;
        for order in self.ledger.paid_without_booking(time.start).await? {
            let detail = format!("order {order} is paid and the journal has no charge of it");
            differences.push(Difference { rule: "paid_without_booking", detail });
        }

        let (invoices, credit_notes) = self.ledger.number_documents(time.end, self.clock.now()).await?;
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
        let report = DayReport {
            day,
            charges: charges.iter().filter(|charge| in_time(&charge.booked_at)).count(),
            refunds: refunds.iter().filter(|refund| in_time(&refund.settled_at)).count(),
            accounts,
            provider_net_minor,
            across_midnight_minor: shifted,
            invoices,
            credit_notes,
            differences,
        };
        let json = serde_json::to_value(&report).expect("a report is made of texts and numbers");
        self.ledger.close_day(day, report.differences.len(), &json, self.clock.now()).await?;
        metrics::gauge!("doorbuster_finance_differences").set(report.differences.len() as f64);
        Ok(Ok(report))
    }

    /// Money that the provider moved on the day and of which we know nothing at all.
    async fn find_strangers(
        &self,
        in_day: &[&BalanceTransaction],
        differences: &mut Vec<Difference>,
    ) -> Result<(), EngineError> {
        let sources = |kinds: &[BalanceKind]| {
            let of_kind = in_day.iter().filter(|transaction| kinds.contains(&transaction.kind));
            of_kind.filter_map(|transaction| transaction.source.as_deref()).collect::<Vec<_>>()
        };
        let charges = sources(&[BalanceKind::Charge]);
        let known = self.ledger.orders_of_charges(&charges).await?;
        let known = known.iter().map(|(charge, ..)| charge.as_str()).collect::<HashSet<_>>();
        for charge in charges.iter().filter(|charge| !known.contains(*charge)) {
            let detail = format!("the provider took the charge {charge}, which is no order's");
            differences.push(Difference { rule: "charge_without_order", detail });
        }
        let refunds = sources(&[BalanceKind::Refund, BalanceKind::RefundFailure]);
        let known = self.ledger.known_provider_refunds(&refunds).await?;
        let known = known.iter().map(|(refund, _)| refund.as_str()).collect::<HashSet<_>>();
        for refund in refunds.iter().filter(|refund| !known.contains(*refund)) {
            let detail = format!("the provider gave back {refund}, which nobody here asked for");
            differences.push(Difference { rule: "refund_without_order", detail });
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
}

/// Order, journal and provider, one by one. `shifted` gets what the two sides date on different days.
fn compare(
    ours: &[Ours],
    transactions: &[BalanceTransaction],
    time: &Range<Timestamp>,
    differences: &mut Vec<Difference>,
    shifted: &mut BTreeMap<String, i64>,
) {
    let mut theirs: HashMap<(&str, bool), &BalanceTransaction> = HashMap::new();
    for transaction in transactions {
        let is_charge = transaction.kind == BalanceKind::Charge;
        if let Some(source) = transaction.source.as_deref()
            && matches!(transaction.kind, BalanceKind::Charge | BalanceKind::Refund)
            && theirs.insert((source, is_charge), transaction).is_some()
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
        let Some(their) = theirs.get(&(source, our.kind == BalanceKind::Charge)) else {
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
        let detail = format!("our account with the provider moved by {minor} more in {currency} than its books say");
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

/// From midnight to midnight, in UTC.
pub fn day_in_utc(day: Date) -> Range<Timestamp> {
    let midnight = |day: Date| day.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp());
    midnight(day)..day.checked_add(1.day()).map_or(Timestamp::MAX, midnight)
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
