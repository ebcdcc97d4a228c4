//! Invoices and credit notes as data: what they say, and what the months of a VAT report add up to.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;

use super::credits::{CreditLine, by_rate};
use super::ids::OrderId;
use super::money::{Currency, Money};

/// Who sells, as documents name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seller {
    pub name: String,
    pub address: Vec<String>,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// A number for VAT, or another one that the law of the country wants.
    pub tax_id: Option<String>,
}

/// To whom the goods went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recipient {
    pub name: String,
    pub address: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentKind {
    Invoice,
    CreditNote,
}

/// What a document is beside its lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Head {
    pub kind: DocumentKind,
    /// Without gaps in its series.
    pub number: i64,
    pub issued_at: Timestamp,
    /// When the money moved.
    pub settled_at: Timestamp,
    pub order_id: OrderId,
    pub currency: Currency,
    /// Of a credit note: the number of the invoice that it corrects.
    pub invoice_number: Option<i64>,
    /// Of a credit note: its refund came back then, and it counts no longer.
    pub reversed_at: Option<Timestamp>,
    /// `None`: nobody has said who sells.
    pub seller: Option<Seller>,
    /// `None`: the buyer was erased, or has given no address.
    pub buyer: Option<Recipient>,
    /// Where the goods went.
    pub country: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Document {
    #[serde(flatten)]
    pub head: Head,
    pub lines: Vec<DocumentLine>,
    /// The lowest rate first.
    pub rates: Vec<RateTotal>,
    pub net: Money,
    pub tax: Money,
    pub total: Money,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DocumentLine {
    /// The order's; 0 is shipping.
    pub line: u32,
    pub title: String,
    /// 0 where only the price was lowered.
    pub quantity: u32,
    pub tax_basis_points: u32,
    pub net: Money,
    pub tax: Money,
    pub total: Money,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RateTotal {
    pub tax_basis_points: u32,
    pub net: Money,
    pub tax: Money,
}

impl Document {
    /// `titles`: what a line of the order is called.
    pub fn new(head: Head, lines: &[CreditLine], titles: &BTreeMap<u32, String>) -> Self {
        let money = |minor| Money::new(minor, head.currency);
        let title = |line: &CreditLine| match titles.get(&line.line) {
            Some(title) => title.clone(),
            None if line.is_shipping() => "Shipping".to_owned(),
            None => format!("line {}", line.line),
        };
        let shown = lines.iter().map(|line| DocumentLine {
            line: line.line,
            title: title(line),
            quantity: line.quantity,
            tax_basis_points: line.tax_basis_points,
            net: money(line.net_minor),
            tax: money(line.tax_minor),
            total: money(line.gross_minor()),
        });
        let rates = by_rate(lines.iter().copied()).into_iter().map(|(tax_basis_points, sum)| RateTotal {
            tax_basis_points,
            net: money(sum.net_minor),
            tax: money(sum.tax_minor),
        });
        let (net, tax) = lines.iter().fold((0, 0), |(net, tax), line| (net + line.net_minor, tax + line.tax_minor));
        Self {
            lines: shown.collect(),
            rates: rates.collect(),
            net: money(net),
            tax: money(tax),
            total: money(net + tax),
            head,
        }
    }

    /// `Invoice 17`, `Credit note 3`.
    pub fn name(&self) -> String {
        let kind = match self.head.kind {
            DocumentKind::Invoice => "Invoice",
            DocumentKind::CreditNote => "Credit note",
        };
        format!("{kind} {}", self.head.number)
    }
}

/// `19 %`, `5.5 %`.
pub fn percent(basis_points: u32) -> String {
    let (whole, rest) = (basis_points / 100, basis_points % 100);
    match rest {
        0 => format!("{whole} %"),
        rest if rest % 10 == 0 => format!("{whole}.{} %", rest / 10),
        rest => format!("{whole}.{rest:02} %"),
    }
}

/// A month, by its first day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(Date);

/// A text that is no month.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a month is written as 2026-11, not {0:?}")]
pub struct InvalidMonth(pub String);

impl Month {
    pub fn of(day: Date) -> Self {
        Self(day.first_of_month())
    }

    pub fn first_day(self) -> Date {
        self.0
    }

    /// The first day that is no longer of it.
    pub fn end(self) -> Date {
        self.0.last_of_month().tomorrow().unwrap_or(Date::MAX)
    }
}

impl std::str::FromStr for Month {
    type Err = InvalidMonth;

    fn from_str(text: &str) -> Result<Self, InvalidMonth> {
        let is_month = text.len() == "2026-11".len();
        let day = format!("{text}-01").parse::<Date>().ok().filter(|_| is_month);
        day.map(Self).ok_or_else(|| InvalidMonth(text.to_owned()))
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}", self.0.year(), self.0.month())
    }
}

impl Serialize for Month {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What was sold into a country in a month at one rate, and what of that was credited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VatRow {
    pub month: Month,
    /// `None`: nobody knows where the goods went.
    pub country: Option<String>,
    pub tax_basis_points: u32,
    pub invoiced_net: Money,
    pub invoiced_tax: Money,
    pub credited_net: Money,
    pub credited_tax: Money,
    /// What is left of both.
    pub net: Money,
    pub tax: Money,
}

/// Adds the lines of documents up, by month, country, currency and rate.
#[derive(Debug, Default)]
pub struct VatSums(BTreeMap<(Month, Option<String>, String, u32), VatRow>);

/// What a document does to a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VatEntry {
    Invoiced,
    Credited,
    /// A credit note counts no longer: its refund came back.
    CreditReversed,
}

impl VatSums {
    pub fn add(
        &mut self,
        entry: VatEntry,
        month: Month,
        country: Option<&str>,
        currency: Currency,
        lines: &[CreditLine],
    ) {
        for line in lines {
            let nothing = Money::zero(currency);
            let key = (month, country.map(str::to_owned), currency.to_string(), line.tax_basis_points);
            let row = self.0.entry(key).or_insert_with(|| VatRow {
                month,
                country: country.map(str::to_owned),
                tax_basis_points: line.tax_basis_points,
                invoiced_net: nothing,
                invoiced_tax: nothing,
                credited_net: nothing,
                credited_tax: nothing,
                net: nothing,
                tax: nothing,
            });
            let (net, tax, sign) = match entry {
                VatEntry::Invoiced => (&mut row.invoiced_net, &mut row.invoiced_tax, 1),
                VatEntry::Credited => (&mut row.credited_net, &mut row.credited_tax, 1),
                VatEntry::CreditReversed => (&mut row.credited_net, &mut row.credited_tax, -1),
            };
            net.amount_minor += sign * line.net_minor;
            tax.amount_minor += sign * line.tax_minor;
            row.net.amount_minor = row.invoiced_net.amount_minor - row.credited_net.amount_minor;
            row.tax.amount_minor = row.invoiced_tax.amount_minor - row.credited_tax.amount_minor;
        }
    }

    /// By month, country, currency and rate.
    pub fn rows(self) -> Vec<VatRow> {
        self.0.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u32, rate: u32, net_minor: i64, tax_minor: i64) -> CreditLine {
        CreditLine { line: number, quantity: 1, tax_basis_points: rate, net_minor, tax_minor }
    }

    #[test]
    fn a_month_is_written_as_year_and_month_and_ends_before_the_next_one() {
        let month = "2026-12".parse::<Month>().unwrap();
        assert_eq!((month.to_string(), month.first_day().to_string()), ("2026-12".to_owned(), "2026-12-01".to_owned()));
        assert_eq!(month.end().to_string(), "2027-01-01");
        assert_eq!(Month::of("2026-12-31".parse().unwrap()), month);
        for wrong in ["", "2026", "2026-13", "2026-1", "2026-11-03", "11-2026"] {
            assert!(wrong.parse::<Month>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_are_written_without_needless_decimals() {
        for (basis_points, written) in [(1_900, "19 %"), (550, "5.5 %"), (0, "0 %"), (5, "0.05 %"), (2_125, "21.25 %")]
        {
            assert_eq!(percent(basis_points), written);
        }
    }

    #[test]
    fn a_report_adds_up_by_month_country_currency_and_rate() {
        let (november, december) = ("2026-11".parse::<Month>().unwrap(), "2026-12".parse::<Month>().unwrap());
        let euro = "EUR".parse().unwrap();
        let mut sums = VatSums::default();
        let order = [line(1, 1_900, 29_800, 5_662), line(2, 700, 1_000, 70), line(0, 1_900, 490, 93)];
        sums.add(VatEntry::Invoiced, november, Some("DE"), euro, &order);
        sums.add(VatEntry::Credited, december, Some("DE"), euro, &[line(1, 1_900, 14_900, 2_831)]);
        sums.add(VatEntry::Credited, november, Some("DE"), euro, &[line(2, 700, 100, 7)]);
        sums.add(VatEntry::CreditReversed, december, Some("DE"), euro, &[line(2, 700, 100, 7)]);
        sums.add(VatEntry::Invoiced, december, None, "JPY".parse().unwrap(), &[line(1, 0, 5_000, 0)]);
        let rows = sums.rows();
        let shown = rows.iter().map(|row| {
            (
                row.month.to_string(),
                row.country.as_deref(),
                row.tax_basis_points,
                row.net.to_string(),
                row.tax.to_string(),
            )
        });
        let row = |month: &str, country, rate, net: &str, tax: &str| {
            (month.to_owned(), country, rate, net.to_owned(), tax.to_owned())
        };
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [
                row("2026-11", Some("DE"), 700, "9.00 EUR", "0.63 EUR"),
                row("2026-11", Some("DE"), 1_900, "302.90 EUR", "57.55 EUR"),
                row("2026-12", None, 0, "5000 JPY", "0 JPY"),
                row("2026-12", Some("DE"), 700, "1.00 EUR", "0.07 EUR"),
                row("2026-12", Some("DE"), 1_900, "-149.00 EUR", "-28.31 EUR"),
            ]
        );
    }
}
