-- Somebody wants this order ended before it ships; if its charge is under way, the provider's word comes first.
alter table orders
    add column cancel_asked_by text,
    add column cancel_reason   text,
    add check ((cancel_asked_by is null) = (cancel_reason is null));

-- What was asked to be given back and has not failed: never more than was paid.
alter table payments
    add column refund_minor bigint not null default 0,
    add check (refund_minor between 0 and amount_minor);

-- Money on its way back to the buyer. The id is chosen by who asks, so that a repeat is recognised.
create table refunds (
    refund_id          uuid primary key,
    order_id           uuid        not null references payments,
    amount_minor       bigint      not null check (amount_minor > 0),
    currency           text        not null,
    reason             text        not null check (reason <> ''),
    asked_by           text        not null,
    state              text        not null check (state in ('PENDING', 'SUCCEEDED', 'FAILED')),
    provider_refund_id text unique,
    failure            text,
    created_at         timestamptz not null,
    settled_at         timestamptz,
    check ((state = 'PENDING') = (settled_at is null))
);
create index refunds_order on refunds (order_id);
create index refunds_day on refunds (settled_at);

-- An attempt may be given up before it was sent: the order was cancelled first.
alter table payment_attempts drop constraint payment_attempts_state_check;
alter table payment_attempts add constraint payment_attempts_state_check
    check (state in ('PREPARED', 'WITHDRAWN', 'DISPATCHED', 'SUCCEEDED', 'DECLINED', 'ACTION_REQUIRED', 'PROCESSING',
                     'NOT_SENT', 'UNKNOWN', 'REJECTED'));
alter table payment_attempts drop constraint payment_attempts_check;
alter table payment_attempts add constraint payment_attempts_sent_check
    check ((state in ('PREPARED', 'WITHDRAWN')) = (dispatched_at is null));

-- Fees, payouts and disputes belong to the account, not always to an order.
alter table journal alter column order_id drop not null;
create index journal_day on journal (booked_at);
