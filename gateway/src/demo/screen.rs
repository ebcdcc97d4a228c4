//! What a person sees: steps and live bars on stderr, the table on stdout.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use doorbuster_sandbox::crowd::{Crowd, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

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

    pub fn show(&self, report: &DemoReport) {
        if !self.is_silent {
            print(table(report));
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
