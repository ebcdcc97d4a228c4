//! What an order was charged for, line by line, and what of it goes back with a credit note.
//!
//! A credit note says for each line how much of its net amount and of its VAT goes back. The next note's lines follow
//! from the order's lines and from what was credited before: whatever is asked for in whatever order, the notes of an
//! order never exceed a line of its invoice, and once everything went back they are equal to it to the last minor unit.
//!
//! | asked | goes back |
//! |---|---|
//! | the rest | everything that is left of every line, shipping too: a cancelled order |
//! | goods | the worth of these units; shipping only if that is asked for |
//! | an amount | goods that came back with it first, then what is left of all goods, shipping last |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Shipping has this number among the lines of an order, which are counted from 1.
pub const SHIPPING_LINE: u32 = 0;

/// One line of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChargedLine {
    /// Its number in the order; [`SHIPPING_LINE`] is shipping.
    pub line: u32,
    pub quantity: u32,
    pub tax_basis_points: u32,
    pub net_minor: i64,
    pub tax_minor: i64,
}

/// One line of a credit note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreditLine {
    pub line: u32,
    /// Units that came back; 0 where only the price was lowered.
    pub quantity: u32,
    pub tax_basis_points: u32,
    pub net_minor: i64,
    pub tax_minor: i64,
}

/// Units of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    pub line: u32,
    pub quantity: u32,
}

/// What is to go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credit {
    /// All that is left.
    Rest,
    /// The worth of goods that came back.
    Goods { units: Vec<Units>, with_shipping: bool },
    /// So much, for goods that came back or for none.
    Amount { minor: i64, units: Vec<Units> },
}

/// Which worth goes back with goods, where nobody names an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundOf {
    Goods,
    GoodsAndShipping,
}

/// What an order was charged, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// Number, quantity and price of one unit.
    pub goods: Vec<(u32, u32, i64)>,
    /// These prices include VAT; otherwise they are before it.
    pub price_includes_tax: bool,
    pub subtotal_minor: i64,
    /// On goods and shipping together.
    pub tax_minor: i64,
    pub shipping_minor: i64,
    /// `None`: an older program has not written it down; it is taken from the amounts.
    pub tax_basis_points: Option<u32>,
    /// `None`: an older program, which charged no VAT on shipping.
    pub shipping_tax_basis_points: Option<u32>,
}

/// Sums of one rate of VAT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateSum {
    pub net_minor: i64,
    pub tax_minor: i64,
}

/// Net goods, VAT and net shipping: the three accounts that a charge and a refund are booked on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Split {
    pub sales_minor: i64,
    pub tax_minor: i64,
    pub shipping_minor: i64,
}

/// VAT on shipping: what the tax table says, or else the highest rate among the goods.
pub fn shipping_rate(by_table: Option<u32>, goods: impl IntoIterator<Item = u32>) -> u32 {
    by_table.unwrap_or_else(|| goods.into_iter().max().unwrap_or(0))
}

impl Charge {
    /// The lines of its invoice: goods in the order of their numbers, then shipping. They add up to the order's total.
    pub fn lines(&self) -> Vec<ChargedLine> {
        let shipping_rate = self.shipping_tax_basis_points.unwrap_or(0);
        let shipping_tax = share(self.shipping_minor, i64::from(shipping_rate), 10_000).min(self.tax_minor);
        let goods_tax = self.tax_minor - shipping_tax;
        let rate = self.tax_basis_points.unwrap_or_else(|| implied_rate(self.subtotal_minor, goods_tax));
        let worth = self.goods.iter().map(|(_, quantity, price)| i64::from(*quantity) * price).collect::<Vec<_>>();
        // Their worth is the subtotal, or that with its VAT; where somebody has changed one of the two, the order's
        // total is what was charged.
        let taxes = spread(goods_tax, &worth);
        let nets = match self.price_includes_tax {
            // A line costs what its price says, to the last unit: what is not VAT is net.
            true => {
                let gross = spread(self.subtotal_minor + goods_tax, &worth);
                gross.iter().zip(&taxes).map(|(gross, tax)| gross - tax).collect()
            }
            false => spread(self.subtotal_minor, &worth),
        };
        let goods = self.goods.iter().zip(nets.into_iter().zip(taxes));
        let mut lines = goods
            .map(|((line, quantity, _), (net_minor, tax_minor))| ChargedLine {
                line: *line,
                quantity: *quantity,
                tax_basis_points: rate,
                net_minor,
                tax_minor,
            })
            .collect::<Vec<_>>();
        if self.shipping_minor > 0 || shipping_tax > 0 {
            lines.push(ChargedLine {
                line: SHIPPING_LINE,
                quantity: 1,
                tax_basis_points: shipping_rate,
                net_minor: self.shipping_minor,
                tax_minor: shipping_tax,
            });
        }
        lines
    }
}

impl ChargedLine {
    pub fn gross_minor(&self) -> i64 {
        self.net_minor + self.tax_minor
    }

    pub fn is_shipping(&self) -> bool {
        self.line == SHIPPING_LINE
    }
}

impl CreditLine {
    pub fn gross_minor(&self) -> i64 {
        self.net_minor + self.tax_minor
    }

    pub fn is_shipping(&self) -> bool {
        self.line == SHIPPING_LINE
    }
}

impl From<&ChargedLine> for CreditLine {
    fn from(line: &ChargedLine) -> Self {
        let ChargedLine { line, quantity, tax_basis_points, net_minor, tax_minor } = *line;
        Self { line, quantity, tax_basis_points, net_minor, tax_minor }
    }
}

pub fn total_minor(lines: &[CreditLine]) -> i64 {
    lines.iter().map(CreditLine::gross_minor).sum()
}

/// What a credit note is booked as.
pub fn split(lines: &[CreditLine]) -> Split {
    lines.iter().fold(Split::default(), |mut split, line| {
        let net = if line.is_shipping() { &mut split.shipping_minor } else { &mut split.sales_minor };
        *net += line.net_minor;
        split.tax_minor += line.tax_minor;
        split
    })
}

/// Net amounts and VAT of these lines by rate, the lowest first.
pub fn by_rate(lines: impl IntoIterator<Item = CreditLine>) -> BTreeMap<u32, RateSum> {
    let mut sums: BTreeMap<u32, RateSum> = BTreeMap::new();
    for line in lines {
        let sum = sums.entry(line.tax_basis_points).or_default();
        sum.net_minor += line.net_minor;
        sum.tax_minor += line.tax_minor;
    }
    sums
}

/// What is left of a line, and what may be taken of it now.
struct Left {
    charged: ChargedLine,
    units: u32,
    net_minor: i64,
    tax_minor: i64,
    taken: CreditLine,
}

impl Left {
    fn gross_minor(&self) -> i64 {
        self.net_minor + self.tax_minor
    }

    /// Takes amounts off; never more than is left.
    fn take(&mut self, net_minor: i64, tax_minor: i64) {
        self.net_minor -= net_minor;
        self.tax_minor -= tax_minor;
        self.taken.net_minor += net_minor;
        self.taken.tax_minor += tax_minor;
    }

    fn take_units(&mut self, quantity: u32) {
        self.units -= quantity;
        self.taken.quantity += quantity;
    }

    /// What so many units are worth: their part of what is left, and no more than they cost.
    fn worth(&self, quantity: u32) -> (i64, i64) {
        let (units, of) = (i64::from(quantity), i64::from(self.units.max(1)));
        let cost = |charged: i64| share_up(charged, units, i64::from(self.charged.quantity.max(1)));
        let net = share(self.net_minor, units, of).min(cost(self.charged.net_minor));
        (net, share(self.tax_minor, units, of).min(cost(self.charged.tax_minor)))
    }

    /// Takes a gross amount off, of which VAT is what its rate makes of everything that was credited of this line.
    fn take_gross(&mut self, gross_minor: i64) {
        let charged = &self.charged;
        let credited = charged.gross_minor() - self.gross_minor() + gross_minor;
        let tax_due = share(credited, charged.tax_minor, charged.gross_minor());
        let tax_before = charged.tax_minor - self.tax_minor;
        let least = (gross_minor - self.net_minor).max(0);
        let tax = (tax_due - tax_before).clamp(least, gross_minor.min(self.tax_minor).max(least));
        self.take(gross_minor - tax, tax);
    }
}

/// The lines of the next credit note, in the order of the invoice. `before`: of every note that stands, in any order.
/// `step`: what the provider gives back is a multiple of this (`charges::step`). `None`: more is asked for than is left,
/// or nothing.
pub fn next_note(charged: &[ChargedLine], before: &[CreditLine], asked: &Credit, step: i64) -> Option<Vec<CreditLine>> {
    let mut left = left_of(charged, before);
    match asked {
        Credit::Rest => {
            for line in &mut left {
                line.take_units(line.units);
                line.take(line.net_minor, line.tax_minor);
            }
        }
        Credit::Goods { units, with_shipping } => {
            for line in &mut left {
                if line.charged.is_shipping() {
                    if *with_shipping {
                        line.take_units(line.units);
                        line.take(line.net_minor, line.tax_minor);
                    }
                    continue;
                }
                let quantity = units_of(units, line);
                let (net, tax) = line.worth(quantity);
                line.take_units(quantity);
                line.take(net, tax);
            }
        }
        Credit::Amount { minor, units } => take_amount(&mut left, *minor, units)?,
    }
    to_step(&mut left, asked, step);
    let lines = left.into_iter().map(|line| line.taken);
    let lines = lines.filter(|line| line.quantity > 0 || line.gross_minor() > 0).collect::<Vec<_>>();
    (total_minor(&lines) > 0).then_some(lines)
}

/// Makes a note's total a multiple of `step`: upwards, so that the last units of a line get what is left of it, as long as
/// something is left of what was asked for; else downwards.
fn to_step(left: &mut [Left], asked: &Credit, step: i64) {
    let over = left.iter().map(|line| line.taken.gross_minor()).sum::<i64>() % step;
    if over == 0 {
        return;
    }
    let is_asked = |line: &Left| match asked {
        Credit::Goods { with_shipping, .. } => *with_shipping || !line.charged.is_shipping(),
        Credit::Rest | Credit::Amount { .. } => true,
    };
    let room = left.iter().filter(|line| is_asked(line)).map(Left::gross_minor).sum::<i64>();
    // Of the lines that this note is about first.
    let mut lines = left.iter_mut().filter(|line| is_asked(line)).collect::<Vec<_>>();
    lines.sort_by_key(|line| line.taken.gross_minor() == 0);
    let mut missing = if room >= step - over { step - over } else { -over };
    for line in lines {
        let part = missing.min(line.gross_minor()).max(-line.taken.gross_minor());
        if part > 0 {
            line.take_gross(part);
        } else {
            let tax = part.max(-line.taken.tax_minor);
            line.take(part - tax, tax);
        }
        missing -= part;
    }
}

/// The lines of a refund that was made before refunds had lines, by how it was booked. `None`: it was not booked in a
/// way that fits what is left; then it is an amount like any other.
pub fn note_of_booking(charged: &[ChargedLine], before: &[CreditLine], booked: Split) -> Option<Vec<CreditLine>> {
    let left = left_of(charged, before);
    let weight = |of: fn(&Left) -> i64| left.iter().map(of).collect::<Vec<_>>();
    let goods = weight(|line| if line.charged.is_shipping() { 0 } else { line.net_minor });
    let shipping = weight(|line| if line.charged.is_shipping() { line.net_minor } else { 0 });
    let taxes = weight(|line| line.tax_minor);
    let fits = |minor: i64, weights: &[i64]| minor <= weights.iter().sum::<i64>();
    if !fits(booked.sales_minor, &goods) || !fits(booked.shipping_minor, &shipping) || !fits(booked.tax_minor, &taxes) {
        return None;
    }
    let goods = spread(booked.sales_minor, &goods);
    let (shipping, taxes) = (spread(booked.shipping_minor, &shipping), spread(booked.tax_minor, &taxes));
    let lines = left.iter().zip(goods.iter().zip(&shipping)).zip(&taxes).map(|((line, (goods, shipping)), tax)| {
        CreditLine { net_minor: goods + shipping, tax_minor: *tax, ..line.taken }
    });
    Some(lines.filter(|line| line.gross_minor() > 0).collect())
}

fn left_of(charged: &[ChargedLine], before: &[CreditLine]) -> Vec<Left> {
    let left = |charged: &ChargedLine| {
        let credited = before.iter().filter(|line| line.line == charged.line);
        let (mut units, mut net, mut tax) = (0, 0, 0);
        for line in credited {
            units += line.quantity;
            net += line.net_minor;
            tax += line.tax_minor;
        }
        Left {
            charged: *charged,
            units: charged.quantity.saturating_sub(units),
            net_minor: charged.net_minor - net,
            tax_minor: charged.tax_minor - tax,
            taken: CreditLine {
                line: charged.line,
                quantity: 0,
                tax_basis_points: charged.tax_basis_points,
                net_minor: 0,
                tax_minor: 0,
            },
        }
    };
    charged.iter().map(left).collect()
}

/// Of the units that came back those that no note has had.
fn units_of(units: &[Units], line: &Left) -> u32 {
    let quantity =
        units.iter().filter(|units| units.line == line.charged.line).map(|units| units.quantity).sum::<u32>();
    quantity.min(line.units)
}

fn take_amount(left: &mut [Left], minor: i64, units: &[Units]) -> Option<()> {
    if !(1..=left.iter().map(Left::gross_minor).sum()).contains(&minor) {
        return None;
    }
    let mut rest = minor;
    let is_goods = |line: &Left| !line.charged.is_shipping();
    let came_back = left.iter().map(|line| match is_goods(line) {
        true => {
            let (net, tax) = line.worth(units_of(units, line));
            net + tax
        }
        false => 0,
    });
    let came_back = came_back.collect::<Vec<_>>();
    rest -= take_spread(left, rest, &came_back);
    for line in left.iter_mut().filter(|line| is_goods(line)) {
        line.take_units(units_of(units, line));
    }
    let goods = left.iter().map(|line| if is_goods(line) { line.gross_minor() } else { 0 }).collect::<Vec<_>>();
    rest -= take_spread(left, rest, &goods);
    let all = left.iter().map(Left::gross_minor).collect::<Vec<_>>();
    rest -= take_spread(left, rest, &all);
    (rest == 0).then_some(())
}

/// Takes as much of `minor` as these parts of the lines hold, from each in proportion. Answers how much that was.
fn take_spread(left: &mut [Left], minor: i64, parts: &[i64]) -> i64 {
    let minor = minor.min(parts.iter().sum());
    for (line, gross) in left.iter_mut().zip(spread(minor, parts)).filter(|(_, gross)| *gross > 0) {
        line.take_gross(gross);
    }
    minor
}

/// Cuts an amount into parts in proportion to these weights. The parts add up to it, and none exceeds its weight while
/// the amount does not exceed their sum.
fn spread(minor: i64, weights: &[i64]) -> Vec<i64> {
    let whole = weights.iter().map(|weight| i128::from(*weight)).sum::<i128>();
    if whole == 0 {
        // Nothing to go by: all of it is the first one's.
        return weights.iter().enumerate().map(|(place, _)| if place == 0 { minor } else { 0 }).collect();
    }
    let (mut sum, mut given) = (0_i128, 0_i64);
    let part = |weight: &i64| {
        sum += i128::from(*weight);
        let until_here = (i128::from(minor) * sum / whole) as i64;
        let part = until_here - given;
        given = until_here;
        part
    };
    weights.iter().map(part).collect()
}

/// `amount * part / whole`, rounded half up; of nothing it is nothing.
fn share(amount: i64, part: i64, whole: i64) -> i64 {
    match i128::from(whole) {
        0 => 0,
        whole => ((i128::from(amount) * i128::from(part) * 2 + whole) / (whole * 2)) as i64,
    }
}

/// The same, rounded up.
fn share_up(amount: i64, part: i64, whole: i64) -> i64 {
    let whole = i128::from(whole.max(1));
    ((i128::from(amount) * i128::from(part) + whole - 1) / whole) as i64
}

/// The roundest rate that makes this tax of this net amount; the nearest one, should none make it exactly.
fn implied_rate(net_minor: i64, tax_minor: i64) -> u32 {
    if net_minor <= 0 || tax_minor <= 0 {
        return 0;
    }
    let nearest = share(tax_minor, 10_000, net_minor);
    for step in [100, 50, 10, 1] {
        let rate = share(nearest, 1, step) * step;
        if share(net_minor, rate, 10_000) == tax_minor {
            return u32::try_from(rate).unwrap_or(u32::MAX);
        }
    }
    u32::try_from(nearest).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::charges;
    use crate::domain::money::Money;

    /// Two pairs at 149.00 and 19 %, shipping at 4.90 and 19 %.
    fn two_pairs() -> Vec<ChargedLine> {
        let charge = Charge {
            goods: vec![(1, 2, 14_900)],
            price_includes_tax: false,
            subtotal_minor: 29_800,
            tax_minor: 5_662 + 93,
            shipping_minor: 490,
            tax_basis_points: Some(1_900),
            shipping_tax_basis_points: Some(1_900),
        };
        charge.lines()
    }

    /// `(line, quantity, net, tax)`.
    fn note(charged: &[ChargedLine], before: &[CreditLine], asked: &Credit) -> Vec<(u32, u32, i64, i64)> {
        let lines = next_note(charged, before, asked, 1).unwrap_or_default();
        lines.iter().map(|line| (line.line, line.quantity, line.net_minor, line.tax_minor)).collect()
    }

    fn goods(quantity: u32, with_shipping: bool) -> Credit {
        Credit::Goods { units: vec![Units { line: 1, quantity }], with_shipping }
    }

    fn amount(minor: i64) -> Credit {
        Credit::Amount { minor, units: Vec::new() }
    }

    #[test]
    fn a_return_gives_back_its_goods_with_their_vat_and_shipping_only_if_asked() {
        let charged = two_pairs();
        let total = charged.iter().map(ChargedLine::gross_minor).sum::<i64>();
        let of_goods = |minor| Credit::Amount { minor, units: vec![Units { line: 1, quantity: 1 }] };
        for (asked, expected) in [
            (goods(1, false), vec![(1, 1, 14_900, 2_831)]),
            (goods(1, true), vec![(1, 1, 14_900, 2_831), (0, 1, 490, 93)]),
            (goods(2, false), vec![(1, 2, 29_800, 5_662)]),
            (goods(9, false), vec![(1, 2, 29_800, 5_662)]),
            (Credit::Rest, vec![(1, 2, 29_800, 5_662), (0, 1, 490, 93)]),
            // An amount lowers the price of goods; shipping comes last.
            (amount(5_000), vec![(1, 0, 4_202, 798)]),
            (amount(35_462), vec![(1, 0, 29_800, 5_662)]),
            (amount(35_463), vec![(1, 0, 29_800, 5_662), (0, 0, 1, 0)]),
            (amount(total), vec![(1, 0, 29_800, 5_662), (0, 0, 490, 93)]),
            (amount(total + 1), vec![]),
            (amount(0), vec![]),
            // What came back was worn: less than it is worth.
            (of_goods(10_000), vec![(1, 1, 8_403, 1_597)]),
            (of_goods(17_731), vec![(1, 1, 14_900, 2_831)]),
        ] {
            assert_eq!(note(&charged, &[], &asked), expected, "{asked:?}");
        }
    }

    #[test]
    fn what_was_credited_before_is_not_credited_again() {
        let charged = two_pairs();
        let mut before = Vec::new();
        // 50.00 for a scratch; then each pair is worth half of what is left, to the last unit.
        for (asked, expected) in [
            (amount(5_000), vec![(1, 0, 4_202, 798)]),
            (goods(1, false), vec![(1, 1, 12_799, 2_432)]),
            (goods(1, false), vec![(1, 1, 12_799, 2_432)]),
            (goods(1, false), vec![]),
            (Credit::Rest, vec![(0, 1, 490, 93)]),
            (Credit::Rest, vec![]),
        ] {
            assert_eq!(note(&charged, &before, &asked), expected, "{asked:?}");
            before.extend(next_note(&charged, &before, &asked, 1).unwrap_or_default());
        }
        // A pair for which less was given back: the other one is not worth more for it.
        let worn = Credit::Amount { minor: 10_000, units: vec![Units { line: 1, quantity: 1 }] };
        let before = next_note(&charged, &[], &worn, 1).unwrap();
        assert_eq!(note(&charged, &before, &goods(1, false)), [(1, 1, 14_900, 2_831)]);
    }

    #[test]
    fn vat_on_shipping_is_the_highest_among_the_goods_unless_the_table_says_otherwise() {
        for (by_table, goods, expected) in [
            (None, &[700, 1_900][..], 1_900),
            (None, &[0], 0),
            (None, &[], 0),
            (Some(0), &[1_900], 0),
            (Some(500), &[1_900], 500),
        ] {
            assert_eq!(shipping_rate(by_table, goods.iter().copied()), expected, "{by_table:?} {goods:?}");
        }
    }

    #[test]
    fn orders_of_older_programs_have_lines_too() {
        let charge = Charge {
            goods: vec![(1, 1, 14_900), (2, 3, 333)],
            price_includes_tax: false,
            subtotal_minor: 15_899,
            tax_minor: 3_021,
            shipping_minor: 490,
            tax_basis_points: None,
            shipping_tax_basis_points: None,
        };
        let lines = charge.lines();
        let shown = lines.iter().map(|line| (line.line, line.tax_basis_points, line.net_minor, line.tax_minor));
        assert_eq!(shown.collect::<Vec<_>>(), [(1, 1_900, 14_900, 2_831), (2, 1_900, 999, 190), (0, 0, 490, 0)]);
        // 500 was booked in the proportion of the order.
        let booked = Split { sales_minor: 410, tax_minor: 77, shipping_minor: 13 };
        let old = note_of_booking(&lines, &[], booked).unwrap();
        assert_eq!(split(&old), booked);
        let rest = next_note(&lines, &old, &Credit::Rest, 1).unwrap();
        assert_eq!(total_minor(&old) + total_minor(&rest), 15_899 + 3_021 + 490);
        assert_eq!(note_of_booking(&lines, &rest, booked).map(|lines| split(&lines)), Some(booked));
        assert_eq!(note_of_booking(&lines, &rest, Split { sales_minor: 411, ..booked }), None);
    }

    #[test]
    fn a_rate_is_read_from_its_amounts() {
        for (net, tax, rate) in [(14_900, 2_831, 1_900), (10_000, 550, 550), (100, 21, 2_100), (3, 1, 3_300), (0, 0, 0)]
        {
            assert_eq!(implied_rate(net, tax), rate, "{tax} of {net}");
        }
    }

    /// What somebody asks for, and whether the refund fails afterwards.
    type Step = (u8, i64, Vec<(u32, u32)>, bool);

    fn orders() -> impl Strategy<Value = Vec<ChargedLine>> {
        let rates = prop::sample::select(vec![0_u32, 500, 700, 1_900, 2_100, 2_550]);
        let lines = prop::collection::vec((1_u32..5, 0_i64..50_000, rates), 1..5);
        (lines, 0_i64..2_000).prop_map(|(lines, shipping)| {
            let line = |(line, (quantity, price, rate)): (u32, (u32, i64, u32))| {
                let net_minor = price * i64::from(quantity);
                let tax_minor = share(net_minor, rate.into(), 10_000);
                ChargedLine { line, quantity, tax_basis_points: rate, net_minor, tax_minor }
            };
            let mut charged = (1..).zip(lines).map(line).collect::<Vec<_>>();
            let rate = shipping_rate(None, charged.iter().map(|line| line.tax_basis_points));
            charged.push(ChargedLine {
                line: SHIPPING_LINE,
                quantity: 1,
                tax_basis_points: rate,
                net_minor: shipping,
                tax_minor: share(shipping, rate.into(), 10_000),
            });
            charged
        })
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let units = prop::collection::vec((1_u32..5, 1_u32..4), 0..3);
        prop::collection::vec((0_u8..4, 1_i64..60_000, units, prop::bool::weighted(0.2)), 0..12)
    }

    proptest! {
        #[test]
        fn notes_in_any_sequence_add_up_to_the_invoice_to_the_last_unit(charged in orders(), steps in steps()) {
            let mut standing: Vec<Vec<CreditLine>> = Vec::new();
            let total = charged.iter().map(ChargedLine::gross_minor).sum::<i64>();
            let mut never_failed = true;
            let last = (3, 0, Vec::new(), false);
            for (kind, minor, units, fails) in steps.into_iter().chain([last]) {
                let units = units.iter().map(|(line, quantity)| Units { line: *line, quantity: *quantity });
                let units = units.collect::<Vec<_>>();
                let asked = match kind {
                    0 => Credit::Amount { minor, units: Vec::new() },
                    1 => Credit::Amount { minor, units },
                    2 => Credit::Goods { units, with_shipping: minor % 2 == 0 },
                    _ => Credit::Rest,
                };
                let before = standing.concat();
                let Some(next) = next_note(&charged, &before, &asked, 1) else {
                    let left = total - total_minor(&before);
                    let is_too_much = matches!(asked, Credit::Amount { minor, .. } if minor > left);
                    let is_nothing = matches!(asked, Credit::Goods { .. }) || left == 0;
                    prop_assert!(is_too_much || is_nothing, "{asked:?} of {left}");
                    continue;
                };
                prop_assert!(next.iter().all(|line| line.net_minor >= 0 && line.tax_minor >= 0), "{next:?}");
                if let Credit::Amount { minor, .. } = asked {
                    prop_assert_eq!(total_minor(&next), minor);
                }
                let shipping_is_asked = !matches!(asked, Credit::Goods { with_shipping: false, .. });
                prop_assert!(shipping_is_asked || !next.iter().any(CreditLine::is_shipping));
                let booked = split(&next);
                prop_assert_eq!(booked.sales_minor + booked.tax_minor + booked.shipping_minor, total_minor(&next));
                never_failed &= !fails;
                standing.push(next);
                let after = standing.concat();
                for line in &charged {
                    let of_line = || after.iter().filter(|credit| credit.line == line.line);
                    let net = of_line().map(|credit| credit.net_minor).sum::<i64>();
                    let tax = of_line().map(|credit| credit.tax_minor).sum::<i64>();
                    let units = of_line().map(|credit| credit.quantity).sum::<u32>();
                    prop_assert!(net <= line.net_minor && tax <= line.tax_minor && units <= line.quantity, "{after:?}");
                    // VAT by the line's own rate, whatever else was credited.
                    let due = share(net + tax, line.tax_minor, line.gross_minor());
                    prop_assert!(!never_failed || (tax - due).abs() <= 2, "{tax} of {}, due {due}", net + tax);
                }
                if fails {
                    standing.swap_remove(standing.len() / 2);
                }
            }
            let after = standing.concat();
            if let Some(rest) = next_note(&charged, &after, &Credit::Rest, 1) {
                standing.push(rest);
            }
            let by_line = |line: u32| {
                let of_line = standing.iter().flatten().filter(|credit| credit.line == line);
                of_line.fold((0, 0), |(net, tax), credit| (net + credit.net_minor, tax + credit.tax_minor))
            };
            for line in &charged {
                prop_assert_eq!(by_line(line.line), (line.net_minor, line.tax_minor));
            }
        }

        #[test]
        fn every_note_of_three_decimals_can_be_given_back_and_all_of_them_are_the_charge(
            goods in prop::collection::vec((1_u32..5, 0_i64..5_000), 1..5),
            rate in prop::sample::select(vec![0_u32, 500, 750, 1_900]), shipping in 0_i64..200, steps in steps(),
        ) {
            const STEP: i64 = 10;
            let kwd = |minor: i64| Money::new(minor, "KWD".parse().unwrap());
            // As an order is priced: every part of it can be charged.
            let goods = (1..).zip(goods).map(|(line, (quantity, price))| (line, quantity, price * STEP)).collect::<Vec<_>>();
            let subtotal = goods.iter().map(|(_, quantity, price)| i64::from(*quantity) * price).sum::<i64>();
            let shipping = shipping * STEP;
            let tax = |minor| charges::share(kwd(minor), rate).unwrap().amount_minor;
            let charge = Charge {
                goods: goods.clone(),
                price_includes_tax: false,
                subtotal_minor: subtotal,
                tax_minor: tax(subtotal) + tax(shipping),
                shipping_minor: shipping,
                tax_basis_points: Some(rate),
                shipping_tax_basis_points: Some(rate),
            };
            let charged = charge.lines();
            let total = subtotal + charge.tax_minor + shipping;
            let mut standing: Vec<CreditLine> = Vec::new();
            let one_by_one = goods.iter().flat_map(|(line, quantity, _)| vec![(2, 1, vec![(*line, 1)], false); *quantity as usize]);
            let rest = (3, 0, Vec::new(), false);
            for (kind, minor, units, _) in steps.into_iter().chain(one_by_one).chain([rest]) {
                let units = units.iter().map(|(line, quantity)| Units { line: *line, quantity: *quantity }).collect();
                let asked = match kind {
                    0 => Credit::Amount { minor: minor * STEP, units: Vec::new() },
                    1 => Credit::Amount { minor: minor * STEP, units },
                    2 => Credit::Goods { units, with_shipping: minor % 2 == 0 },
                    // Only at the end: nothing is left behind it.
                    _ if minor > 0 => continue,
                    _ => Credit::Rest,
                };
                let Some(next) = next_note(&charged, &standing, &asked, STEP) else { continue };
                let gross = total_minor(&next);
                prop_assert_eq!(charges::check_refund(kwd(gross)), Ok(()), "{:?}: {:?}", asked, next);
                prop_assert!(next.iter().all(|line| line.net_minor >= 0 && line.tax_minor >= 0), "{asked:?}: {next:?}");
                standing.extend(next);
            }
            prop_assert_eq!(total_minor(&standing), total);
            for line in &charged {
                let of_line = standing.iter().filter(|credit| credit.line == line.line);
                let sums = of_line.fold((0, 0), |(net, tax), credit| (net + credit.net_minor, tax + credit.tax_minor));
                prop_assert_eq!(sums, (line.net_minor, line.tax_minor));
            }
        }

        #[test]
        fn the_lines_of_an_invoice_add_up_to_its_order(
            goods in prop::collection::vec((1_u32..5, 0_i64..50_000), 1..6),
            rate in 0_u32..3_000, shipping in 0_i64..2_000, is_old in any::<bool>(), is_gross in any::<bool>(),
        ) {
            // Before there were prices that include VAT, rates were not written down.
            let price_includes_tax = is_gross && !is_old;
            let goods = (1..).zip(goods).map(|(line, (quantity, price))| (line, quantity, price)).collect::<Vec<_>>();
            let worth = goods.iter().map(|(_, quantity, price)| i64::from(*quantity) * price).sum::<i64>();
            let of_goods = match price_includes_tax {
                true => share(worth, rate.into(), 10_000 + i64::from(rate)),
                false => share(worth, rate.into(), 10_000),
            };
            let subtotal = if price_includes_tax { worth - of_goods } else { worth };
            let shipping_tax = if is_old { 0 } else { share(shipping, rate.into(), 10_000) };
            let tax = of_goods + shipping_tax;
            let charge = Charge {
                goods: goods.clone(),
                price_includes_tax,
                subtotal_minor: subtotal,
                tax_minor: tax,
                shipping_minor: shipping,
                tax_basis_points: (!is_old).then_some(rate),
                shipping_tax_basis_points: (!is_old).then_some(rate),
            };
            let lines = charge.lines();
            prop_assert_eq!(lines.iter().map(ChargedLine::gross_minor).sum::<i64>(), subtotal + tax + shipping);
            for (line, (_, quantity, price)) in lines.iter().zip(&goods) {
                let asked = if price_includes_tax { line.gross_minor() } else { line.net_minor };
                prop_assert_eq!(asked, i64::from(*quantity) * price);
            }
            let split = split(&lines.iter().map(CreditLine::from).collect::<Vec<_>>());
            prop_assert_eq!((split.sales_minor, split.tax_minor, split.shipping_minor), (subtotal, tax, shipping));
        }
    }
}
