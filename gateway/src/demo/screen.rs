//! What a person sees: steps and live bars on stderr, the table on stdout.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use doorbuster_sandbox::crowd::{Crowd, LineProgress, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use super::line::LineStanding;
use super::line_report::LineReport;
use super::report::DemoReport;
use super::sale::Standing;
use super::timeline::{Event, Timeline};
use crate::commands::print;

const REDRAW_EVERY: Duration = Duration::from_millis(200);
const REDRAWS_PER_S: u8 = 5;
const BAR: &str = "  {prefix:<18} {bar:36} {pos:>7}/{len} {msg}";

/// Draws only on a terminal; elsewhere the steps are lines.
pub struct Screen {
    bars: MultiProgress,
    is_silent: bool,
}

pub(super) struct ProfilesBar {
    bar: ProgressBar,
    crowd: Crowd,
    watching: JoinHandle<()>,
}

pub(super) struct SaleBars {
    clicked: ProgressBar,
    claimed: ProgressBar,
    confirmed: ProgressBar,
}

pub(super) struct LineBars {
    joined: ProgressBar,
    decided: ProgressBar,
    confirmed: ProgressBar,
}

impl Screen {
    pub fn on_terminal() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_S);
        Self { bars: MultiProgress::with_draw_target(target), is_silent: false }
    }

    pub fn silent() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        Self { bars, is_silent: true }
    }

    pub(super) fn step(&self, text: &str) {
        self.say(format_args!("→ {text}"));
    }

    /// What happens to the sale, while it happens.
    pub(super) fn tell(&self, event: &Event) {
        self.say(format_args!("{event}"));
    }

    fn say(&self, line: std::fmt::Arguments<'_>) {
        if !self.is_silent {
            // The sale goes on, whether anybody reads along or not.
            let _ = self.bars.suspend(|| writeln!(std::io::stderr(), "{line}"));
        }
    }

    fn bar(&self, name: &'static str, length: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(BAR).expect("the template is a constant that works");
        let bar = ProgressBar::new(length).with_style(style.progress_chars("█▌ ")).with_prefix(name);
        self.bars.add(bar)
    }

    /// Draws how many profiles are saved, until what it answers is dropped.
    pub(super) fn watch_profiles(&self, crowd: &Crowd, buyers: usize) -> ProfilesBar {
        let bar = self.bar("checkout profiles", buyers as u64);
        let watching = tokio::spawn({
            let (bar, crowd) = (bar.clone(), crowd.clone());
            async move {
                loop {
                    bar.set_position(crowd.progress().profiles_saved);
                    tokio::time::sleep(REDRAW_EVERY).await;
                }
            }
        });
        ProfilesBar { bar, crowd: crowd.clone(), watching }
    }

    pub(super) fn sale(&self, buyers: usize, stock: u32) -> SaleBars {
        SaleBars {
            clicked: self.bar("buyers clicked", buyers as u64),
            claimed: self.bar("units claimed", u64::from(stock)),
            confirmed: self.bar("orders confirmed", u64::from(stock)),
        }
    }

    pub(super) fn line(&self, buyers: usize, stock: u32) -> LineBars {
        LineBars {
            joined: self.bar("buyers in line", buyers as u64),
            decided: self.bar("ranks decided", buyers as u64),
            confirmed: self.bar("orders confirmed", u64::from(stock)),
        }
    }

    pub fn show_line(&self, report: &LineReport) {
        if !self.is_silent {
            print(line_table(report));
        }
    }

    pub fn show(&self, report: &DemoReport) {
        if !self.is_silent {
            print(table(report));
        }
    }
}

impl LineBars {
    pub(super) fn show(&self, progress: &LineProgress, standing: &LineStanding) {
        self.joined.set_position(progress.joined);
        self.joined.set_message(format!("{} left, {} looks at the board", progress.left, progress.looks));
        let line = &standing.board.line;
        let served = line.position.served;
        self.decided.set_length(u64::from(served + standing.undecided).max(1));
        self.decided.set_position(served.into());
        self.decided
            .set_message(line.round.map_or_else(|| line.state.to_string(), |round| format!("round {}", round + 1)));
        self.confirmed.set_position(standing.confirmed);
        self.confirmed.set_message(format!("{} to charge, {} declined", standing.pending, standing.failed));
    }
}

impl Drop for LineBars {
    fn drop(&mut self) {
        for bar in [&self.joined, &self.decided, &self.confirmed] {
            bar.abandon();
        }
    }
}

impl Drop for ProfilesBar {
    fn drop(&mut self) {
        self.watching.abort();
        self.bar.set_position(self.crowd.progress().profiles_saved);
        self.bar.abandon();
    }
}

impl SaleBars {
    pub(super) fn show(&self, progress: &Progress, standing: &Standing) {
        self.clicked.set_position(progress.clicked);
        self.clicked.set_message(format!("{} sold out, {} clicked twice", progress.sold_out, progress.replayed));
        let stock = self.claimed.length().unwrap_or_default();
        self.claimed.set_position(stock.saturating_sub(standing.free));
        self.claimed.set_message(format!("{} to settle", standing.unsettled));
        self.confirmed.set_position(standing.confirmed);
        self.confirmed.set_message(format!("{} to charge, {} declined", standing.pending, standing.failed));
    }
}

impl Drop for SaleBars {
    fn drop(&mut self) {
        for bar in [&self.clicked, &self.claimed, &self.confirmed] {
            bar.abandon();
        }
    }
}

fn timeline(timeline: &Timeline) -> String {
    let mut text = "  what happened, in seconds since the buyers were let in\n".to_owned();
    for event in &timeline.events {
        let _ = writeln!(text, "{event}");
    }
    let kills = timeline.kills.iter().map(|(target, times)| format!("{target} {times} times"));
    let kills = kills.collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "  killed: {kills}; provider cut off {} times\n", timeline.provider_cuts);
    text
}

fn table(report: &DemoReport) -> String {
    let verdict = &report.verdict;
    let latency = &report.claim_latency_ms;
    let mut text = report.timeline.as_ref().map(timeline).unwrap_or_default();
    let mut row = |name: &str, value: String| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {name:<32} {value:>14}");
    };
    row("buyers", report.buyers.to_string());
    row("units for sale", format!("{} in {} warehouses", report.stock, report.warehouses));
    row("claims accepted", verdict.claims_accepted.to_string());
    row("clicks answered again", verdict.replayed_clicks.to_string());
    row("told sold out", verdict.sold_out_answers.to_string());
    row("asked to come back", format!("{}, {} by a 503", report.asked_to_come_back, report.unavailable));
    row("all clicks p50 / p99 / max", format!("{:.1} / {:.1} / {:.1} ms", latency.p50, latency.p99, latency.max));
    row("of them above 250 ms", format!("{:.1} %", report.share_over_250ms * 100.0));
    row("claims per second", format!("{:.0}", report.claims_per_s));
    row(
        "settled per second of settling",
        report.settle_per_s.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")),
    );
    row("orders confirmed", verdict.orders_confirmed.to_string());
    row("units confirmed", verdict.units_confirmed.to_string());
    row("orders whose card was declined", verdict.orders_payment_failed.to_string());
    row("mails delivered", report.mails.mails_delivered.to_string());
    if let Some(wait) = &report.decline_to_on_sale_s {
        let units = report.declined_units_on_sale;
        row("declined units on sale again", units.to_string());
        row("after p50 / p99 / max", format!("{:.1} / {:.1} / {:.1} s", wait.p50, wait.p99, wait.max));
    }
    row("units free again", verdict.tokens_free.to_string());
    row("elapsed", format!("{:.1} s", report.elapsed_s));
    row("Redis / Postgres", format!("{} / {}", report.redis_version, report.postgres_version));
    let _ = writeln!(text, "  audit, from the buyers' log, the stores and the provider's ledger");
    let mut check = |name: &str, found: u64, allowed: u64| {
        let mark = if found <= allowed { "✓" } else { "✗" };
        let _ = writeln!(text, "  {mark} {name:<40} {found:>4}");
    };
    check("units oversold", verdict.oversold, 0);
    check("refused while stock remained", verdict.refused_while_stock_remained, 0);
    check("captures of one order, at most", verdict.captures_per_order_max, 1);
    check("claims lost", verdict.lost_claims, 0);
    check("buyers over the limit", verdict.over_limit, 0);
    check("repeated clicks answered differently", verdict.answers_that_differ, 0);
    check("orders and captures that do not match", verdict.capture_mismatches, 0);
    check("mails missing or unexpected", report.mails.mails_missing + report.mails.mails_unexpected, 0);
    check("violations found by the audit", report.audit_violations as u64, 0);
    for finding in &verdict.findings {
        let _ = writeln!(text, "    {finding}");
    }
    for violation in &report.audit.violations {
        let _ = writeln!(text, "    {}: {}", violation.rule, violation.detail);
    }
    if !report.audit.drops.iter().all(|drop| drop.is_quiet) {
        let _ = writeln!(text, "    the stores did not stand still for the audit");
    }
    text
}

fn line_table(report: &LineReport) -> String {
    let (line, stages) = (&report.line, &report.stages);
    let mut text = report.timeline.as_ref().map(timeline).unwrap_or_default();
    let mut row = |name: &str, value: String| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {name:<32} {value:>14}");
    };
    row("admission", report.admission.to_owned());
    row("buyers who came", report.waiters.to_string());
    row("units for sale", format!("{} in three sizes", report.stock));
    row("joined", format!("{}, {:.0} a second", line.joined, report.joins_per_s));
    row("left", line.left.to_string());
    row("sealed, and behind", format!("{}, {}", report.sealed, report.behind));
    row("looks at the board", format!("{} by {}", line.looks, line.watchers));
    row("rounds", format!("{} of {} ranks", report.rounds, report.per_round));
    row("given units", report.awarded.to_string());
    row("units confirmed", report.confirmed.to_string());
    row("orders whose card was declined", report.orders_payment_failed.to_string());
    row("units nobody wants", report.units_free.to_string());
    row("mails delivered", report.mails.mails_delivered.to_string());
    row("profiles saved", format!("{:.1} s", stages.profiles_s));
    row("line open", format!("{:.1} s", stages.joining_s));
    row("seal to draw", format!("{:.1} s", stages.reveal_s));
    row("draw to first round", format!("{:.1} s", stages.until_opening_s));
    row("first round to the end", format!("{:.1} s", stages.rounds_s));
    row("Postgres", report.postgres_version.clone());
    let _ = writeln!(text, "  audit, from the waiters' log, the stores, and what is published of the draw");
    let mut check = |name: &str, found: u64, allowed: u64| {
        let mark = if found <= allowed { "✓" } else { "✗" };
        let _ = writeln!(text, "  {mark} {name:<40} {found:>4}");
    };
    check("units oversold", report.oversold, 0);
    check("later ranks served first", report.inversions as u64, 0);
    check("draws that are not as anybody computes", u64::from(!report.draw_verified), 0);
    check("awards that are not as published", report.awards_that_differ, 0);
    check("waiters whose wish was free at the end", report.in_vain as u64, 0);
    check("looks that reached a store", line.looks_that_reached_a_store, 0);
    check("waits that rose", line.waits_that_rose, 0);
    check("buyers who did not get into the line", line.not_joined, 0);
    check("places lost, doubled or told otherwise", line.places_lost + line.places_doubled + line.told_otherwise, 0);
    check("wishes lost", line.wishes_lost, 0);
    check("buyers given something after leaving", line.given_after_leaving, 0);
    check("captures of one order, at most", report.captures_per_order_max, 1);
    check("orders and captures that do not match", report.capture_mismatches, 0);
    check("mails missing or unexpected", report.mails.mails_missing + report.mails.mails_unexpected, 0);
    check("violations found by the audit", report.audit_violations as u64, 0);
    let refusals = report.refusals.iter().map(|(why, count)| format!("{count} did not join: {why}"));
    for finding in line.line_findings.iter().chain(&report.findings).chain(&report.draw_wrong).cloned().chain(refusals)
    {
        let _ = writeln!(text, "    {finding}");
    }
    for violation in &report.audit.violations {
        let _ = writeln!(text, "    {}: {}", violation.rule, violation.detail);
    }
    text
}
