-- Refunds are compared with the provider's too, and disputes wait for a person. `intent_id` is the provider's id of
-- what a finding is about: an intent, a refund, a dispute; of a refund that the provider has refused it is our own.
alter table reconcile_findings drop constraint reconcile_findings_kind_check;
alter table reconcile_findings add constraint reconcile_findings_kind_check
    check (kind in ('unknown_intent', 'amount_differs', 'captured_not_settled', 'canceled_not_settled',
                    'paid_not_captured', 'missing_at_provider', 'refund_failed', 'refund_differs', 'unknown_refund',
                    'refund_missing', 'disputed'));

-- A paid order has no reason why it was not paid.
update payments set failure = null where state = 'SUCCEEDED' and failure is not null;
