//! Metrics: one Prometheus recorder a process, every metric with a description, every histogram with buckets.
//!
//! Without buckets the recorder makes summaries, which cannot be added up over processes; without upkeep it keeps every
//! sample since the last scrape.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// From a claim in memory (100 µs) to the longest wait that is configured (30 s), about two steps a decade and more where
/// claims are answered.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// Powers of two up to the largest batch.
const BATCH: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// From continuous settlement (50 ms) over its interval (30 s) to an hour without Postgres.
const SETTLED_AFTER: [f64; 13] = [0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 30.0, 45.0, 60.0, 300.0, 900.0, 3_600.0];

/// Name, and what it counts. Counters without labels begin at zero here, so that a rule about them has something to read.
const COUNTERS: &[(&str, &str)] = &[
    ("doorbuster_http_requests_total", "Requests to the public listener, by declared route, method and status"),
    ("doorbuster_claims_total", "Answered claims, by outcome"),
    ("doorbuster_checkouts_total", "Answered checkouts, by outcome"),
    ("doorbuster_checkout_conflicts_total", "Checkouts begun again because others had changed the stock"),
    ("doorbuster_claim_batches_resent_total", "Batches of claims sent again because Redis gave no answer"),
    ("doorbuster_claims_shed_total", "Claims told to come back because too many were waiting"),
    ("doorbuster_latched_refusals_total", "Refusals under a lease, without a word with Redis"),
    ("doorbuster_pulled_units_total", "Units moved between warehouses because a buyer's home had too few"),
    ("doorbuster_sold_out_proofs_total", "Readings that were kept: leases that no more units can be had"),
    (
        "doorbuster_pending_claims_total",
        "Claims answered before they were as safe as their drop promises, by that level",
    ),
    ("doorbuster_settled_claims_total", "Claims that became orders"),
    ("doorbuster_rejected_claims_total", "Claims that could not become orders; each one needs an explanation"),
    ("doorbuster_readings_total", "Readings of all warehouses and Postgres for those whose home has too few units"),
    ("doorbuster_grants_applied_total", "Grants that a worker brought to Redis"),
    ("doorbuster_searches_outwaited_total", "Claims that ended before their search for units did"),
    ("doorbuster_unwatched_claims_total", "Claims that a process could not remember until Postgres had them"),
    ("doorbuster_lost_claims_total", "Claims that were answered and then lost; their buyers go first in standby"),
    (
        "doorbuster_standby_awards_total",
        "Units that came back and were given to standby buyers, by what their homes said",
    ),
    ("doorbuster_line_joins_total", "Places in line that were taken"),
    (
        "doorbuster_line_decided_total",
        "Ranks that rounds have decided, and how often those who stand by were looked at",
    ),
    ("doorbuster_line_awarded_total", "Places in line that were given units"),
    ("doorbuster_line_bundles_made_total", "Bundles of lines made to be sent, by drop: once for each state of a line"),
    ("doorbuster_line_board_reads_total", "Boards of lines read from Postgres, by drop: at most one a second for each"),
    ("doorbuster_rebuilds_total", "Warehouses rebuilt in Redis after it may have forgotten something"),
    ("doorbuster_orders_confirmed_total", "Orders paid"),
    ("doorbuster_orders_payment_failed_total", "Orders whose payment failed; their units went back"),
    ("doorbuster_payments_review_total", "Payments that need a person"),
    ("doorbuster_refunds_total", "Refunds that the provider carried out"),
    ("doorbuster_refunds_failed_total", "Refunds that the provider could not carry out; each needs a person"),
    ("doorbuster_cards_checked_total", "Cards of buyers that the provider has saved or refused"),
    ("doorbuster_provider_calls_total", "Calls to the payment provider, by operation and outcome"),
    ("doorbuster_outbox_deliveries_total", "Attempts to send a mail or a webhook, by destination and outcome"),
    ("doorbuster_webhook_events_total", "Deliveries of the payment provider's, by what was done with them"),
    ("doorbuster_webhook_events_dealt_total", "Events dealt with, by what they led to; kept ones come again"),
    (
        "doorbuster_reconcile_findings_total",
        "What the payment provider's list and our payments disagreed about, by kind",
    ),
    ("doorbuster_tx_retries_total", "Transactions run again after a conflict, by name"),
    ("doorbuster_log_lines_lost_total", "Lines of the log that could not be written"),
    (
        "doorbuster_log_lines_held_back_total",
        "Lines of the log that came as a count: each place says each cause once a second",
    ),
    (
        "doorbuster_anonymous_refused_total",
        "Requests of nobody in particular, such as pages of the catalog, that found no place for their statement",
    ),
    ("doorbuster_connections_total", "Connections accepted by the public listener"),
    (
        "doorbuster_connections_refused_total",
        "Connections closed at once because their peer had its share of the places",
    ),
];
const LABELLED: &[&str] = &[
    "doorbuster_pending_claims_total",
    "doorbuster_http_requests_total",
    "doorbuster_claims_total",
    "doorbuster_checkouts_total",
    "doorbuster_standby_awards_total",
    "doorbuster_line_bundles_made_total",
    "doorbuster_line_board_reads_total",
    "doorbuster_cards_checked_total",
    "doorbuster_provider_calls_total",
    "doorbuster_outbox_deliveries_total",
    "doorbuster_webhook_events_total",
    "doorbuster_webhook_events_dealt_total",
    "doorbuster_reconcile_findings_total",
    "doorbuster_tx_retries_total",
];
const HISTOGRAMS: &[(&str, &str)] = &[
    ("doorbuster_http_request_seconds", "Time from a request's header to its answer, by declared route"),
    ("doorbuster_claim_batch_size", "Claims sent to Redis in one call"),
    ("doorbuster_claim_queue_seconds", "Time from a claim's arrival at its batcher to its answer"),
    ("doorbuster_acknowledge_seconds", "Time from a claim's taking until it is as safe as its drop promises, by level"),
    ("doorbuster_settled_after_seconds", "Time from a claim's taking to its order"),
    ("doorbuster_settle_seconds", "Time one settlement of one drop takes"),
    ("doorbuster_ledger_group_size", "Calls to the ledger that shared one transaction, by what they did"),
    ("doorbuster_tx_seconds", "Time one transaction takes, by name and status"),
];
/// Not begun at zero: nobody has counted before the first reading.
const GAUGES: &[(&str, &str)] = &[
    ("doorbuster_remembered_claims", "Claims that this process has answered and Postgres has not been found to have"),
    ("doorbuster_configuration_problems", "Settings of the stores that can lose claims or orders"),
    ("doorbuster_audit_violations", "What the last audit of this process found wrong"),
    ("doorbuster_finance_differences", "What did not agree in the last day whose books this process closed"),
    ("doorbuster_settlement_backlog_claims", "Claims that wait to become orders, by drop"),
    ("doorbuster_settlement_oldest_seconds", "Age of the oldest claim that waits to become an order, by drop"),
    (
        "doorbuster_poisoned_claims",
        "Claims and log entries that settlement had to set aside, by drop; each one needs an operator",
    ),
    ("doorbuster_standby_waiting", "Buyers who wait in standby for units that come back, by drop"),
    ("doorbuster_outbox_waiting", "Mails and webhooks that wait for their first or next attempt, by destination"),
    ("doorbuster_provider_circuit_open", "1 while the payment provider refuses our credential and nothing is charged"),
    ("doorbuster_charge_backlog_seconds", "How long charging every order of now takes at the payment provider's limit"),
    (
        "doorbuster_charge_leases_owed",
        "Payments that wait for Postgres to be given back by the worker that had leased them",
    ),
    ("doorbuster_payments_open", "Payments that are not over, by state"),
    ("doorbuster_webhook_events_waiting", "Events of the payment provider's that wait to be dealt with"),
    ("doorbuster_reconcile_findings_open", "Disagreements with the payment provider that nobody has settled"),
    (
        "doorbuster_reconcile_strangers",
        "Payments and refunds of others on the same account of the payment provider, as the last sweep saw them",
    ),
    ("doorbuster_connections_open", "Open connections of the public listener"),
];

/// The process's recorder, installed on first use: a process can have only one, and tests start many gateways in one.
pub fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Full("doorbuster_claim_batch_size".to_owned()), &BATCH)
            })
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Full("doorbuster_ledger_group_size".to_owned()), &BATCH)
            })
            .and_then(|builder| {
                let name = Matcher::Full("doorbuster_settled_after_seconds".to_owned());
                builder.set_buckets_for_metric(name, &SETTLED_AFTER)
            });
        let recorder = builder.expect("the lists of buckets above are not empty").build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("this process has a metrics recorder of its own, so /metrics is empty");
        }
        describe();
        handle
    })
}

/// Keeps the recorder small until `stop`.
pub async fn keep_up(stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(UPKEEP_EVERY)).await.is_some() {
        recorder().run_upkeep();
    }
}

fn describe() {
    for &(name, text) in COUNTERS {
        metrics::describe_counter!(name, text);
        if !LABELLED.contains(&name) {
            metrics::counter!(name).increment(0);
        }
    }
    for &(name, text) in HISTOGRAMS {
        metrics::describe_histogram!(name, text);
    }
    for &(name, text) in GAUGES {
        metrics::describe_gauge!(name, text);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Every `doorbuster_…` in a source file that emits metrics.
    fn names_in(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                names_in(&path, names);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.split("metrics::").skip(1) {
                let Some((_, rest)) = line.split_once("!(\"") else { continue };
                let name = rest.split('"').next().unwrap_or_default();
                if name.starts_with("doorbuster_") {
                    names.insert(name.to_owned());
                }
            }
        }
    }

    #[test]
    fn every_metric_is_described_and_every_description_is_a_metric() {
        let mut emitted = BTreeSet::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        names_in(&root.join("src"), &mut emitted);
        names_in(&root.join("../engine/src"), &mut emitted);
        let described = COUNTERS.iter().chain(HISTOGRAMS).chain(GAUGES).map(|(name, _)| (*name).to_owned());
        assert_eq!(described.collect::<BTreeSet<_>>(), emitted);
    }
}
