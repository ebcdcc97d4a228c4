-- What the provider told us by itself, each event once, without its body: the money is read back, so nothing else is needed.
create table webhook_events (
    event_id    text        primary key,
    kind        text        not null,
    object      text        not null,
    object_id   text        not null,
    intent_id   text,
    livemode    boolean     not null,
    happened_at timestamptz not null,
    received_at timestamptz not null,
    state       text        not null check (state in ('WAITING', 'DONE', 'IGNORED')),
    -- Taking an event moves due_at behind its lease; `tries` fences a worker that slept.
    due_at      timestamptz,
    tries       integer     not null default 0,
    detail      text,
    ended_at    timestamptz,
    check ((state = 'WAITING') = (due_at is not null)),
    check ((state = 'WAITING') = (ended_at is null))
);
create index webhook_events_due on webhook_events (due_at) where due_at is not null;
create index webhook_events_ended on webhook_events (ended_at) where ended_at is not null;

-- What the buyer has to do before his payment goes on, as the provider says.
alter table payments add column next_action jsonb;

-- Counted all the time, so it must not grow with everything ever sold.
create index payments_open on payments (state)
    where state not in ('SUCCEEDED', 'FAILED', 'CANCELED', 'PARTIALLY_REFUNDED', 'REFUNDED');

-- Where the provider's list of intents and our payments disagreed. Settled: by what the provider says of the intent.
create table reconcile_findings (
    finding_id bigint generated always as identity primary key,
    kind       text        not null check (kind in ('unknown_intent', 'amount_differs', 'captured_not_settled',
                                                    'canceled_not_settled', 'paid_not_captured', 'missing_at_provider')),
    intent_id  text        not null,
    order_id   uuid,
    detail     text        not null,
    found_at   timestamptz not null,
    seen_at    timestamptz not null,
    settled_at timestamptz,
    unique (kind, intent_id)
);

-- One row: when a sweep was begun last, and up to which moment one has been finished.
create table sweeps (
    one        boolean primary key default true check (one),
    started_at timestamptz,
    swept_to   timestamptz
);
insert into sweeps default values;
