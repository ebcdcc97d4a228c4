-- One payment per order. `idempotency_key` is the stem every key of this payment is derived from.
create table payments (
    order_id           uuid primary key references orders,
    state              text        not null check (state in (
                           'REQUIRED', 'IN_FLIGHT', 'ACTION_REQUIRED', 'PROCESSING', 'UNKNOWN', 'SUCCEEDED', 'FAILED',
                           'CANCEL_REQUESTED', 'CANCELED', 'REFUND_PENDING', 'PARTIALLY_REFUNDED', 'REFUNDED',
                           'MANUAL_REVIEW')),
    amount_minor       bigint      not null check (amount_minor >= 0),
    currency           text        not null,
    idempotency_key    text        not null unique,
    payment_method     text,
    intent_id          text unique,
    provider_charge_id text,
    -- Work: when the charge worker looks at it again, and who has it. The number fences a worker that slept.
    due_at             timestamptz,
    lease_number       bigint      not null default 0,
    leased_until       timestamptz,
    tries              integer     not null default 0,
    failure            text,
    updated_at         timestamptz not null
) with (fillfactor = 60);
create index payments_due on payments (due_at) where due_at is not null;

-- Every call that may move money, committed before it is made, with its exact bytes.
create table payment_attempts (
    order_id        uuid        not null references payments,
    number          integer     not null check (number >= 1),
    operation       text        not null check (operation in ('create', 'confirm', 'cancel', 'refund')),
    idempotency_key text        not null unique,
    path            text        not null,
    body            text        not null,
    state           text        not null check (state in ('PREPARED', 'DISPATCHED', 'SUCCEEDED', 'DECLINED',
                                                          'ACTION_REQUIRED', 'PROCESSING', 'NOT_SENT', 'UNKNOWN',
                                                          'REJECTED')),
    detail          text,
    prepared_at     timestamptz not null,
    dispatched_at   timestamptz,
    finished_at     timestamptz,
    primary key (order_id, number),
    -- What is sent has been dispatched; what is over has an end.
    check ((state = 'PREPARED') = (dispatched_at is null)),
    check ((state in ('SUCCEEDED', 'DECLINED', 'REJECTED')) <= (finished_at is not null))
);
create unique index payment_attempts_one_open on payment_attempts (order_id)
    where state in ('PREPARED', 'DISPATCHED', 'NOT_SENT', 'UNKNOWN');

-- Double entry: a row debits one account and credits another, so every currency sums to zero by construction.
create table journal (
    source         text primary key,
    order_id       uuid        not null references orders,
    debit_account  text        not null,
    credit_account text        not null check (credit_account <> debit_account),
    amount_minor   bigint      not null check (amount_minor > 0),
    currency       text        not null,
    booked_at      timestamptz not null
);
create index journal_order on journal (order_id);

create table outbox (
    outbox_id  bigint generated always as identity primary key,
    order_id   uuid        not null references orders,
    kind       text        not null,
    created_at timestamptz not null,
    sent_at    timestamptz,
    unique (order_id, kind)
);
