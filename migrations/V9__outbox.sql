-- The outbox becomes a queue of deliveries, each to one destination: mails to buyers ('mail'), webhooks to the shop's own
-- systems ('webhook:{endpoint}'). The defaults are for a program that still writes rows of order, kind and time only.
alter table outbox
    add column destination  text        not null default 'mail',
    -- Tells deliveries of one kind about one order apart: a refund's id; empty where there can be only one.
    add column about        text        not null default '',
    add column detail       jsonb,
    add column state        text        not null default 'queued'
        check (state in ('queued', 'sent', 'refused', 'skipped', 'dead')),
    -- Since when it has been tried: a replay begins anew.
    add column queued_at    timestamptz not null default now(),
    add column attempts     integer     not null default 0,
    -- Work: when a worker looks at it again, and who has it. The number fences a worker that slept.
    add column next_at      timestamptz default now(),
    add column lease_number bigint      not null default 0,
    add column leased_until timestamptz,
    add column last_error   text;
update outbox set state = 'sent', next_at = null where sent_at is not null;
alter table outbox
    add check ((state = 'queued') = (next_at is not null)),
    add check (state <> 'sent' or sent_at is not null),
    drop constraint outbox_order_id_kind_key,
    add unique (order_id, kind, about, destination),
    set (fillfactor = 70);
create index outbox_due on outbox (destination, next_at) where next_at is not null;
create index outbox_unsent on outbox (outbox_id) where state in ('refused', 'skipped', 'dead');

-- What happened to orders, in the transaction in which it happened. A worker makes deliveries of it, one for each endpoint.
create table order_events (
    order_id      uuid        not null references orders,
    kind          text        not null,
    about         text        not null default '',
    detail        jsonb,
    created_at    timestamptz not null,
    fanned_out_at timestamptz,
    primary key (order_id, kind, about)
);
create index order_events_new on order_events (created_at) where fanned_out_at is null;

-- Endpoints that workers were configured with. An endpoint gets what happens from its first registration on.
create table webhook_endpoints (
    name          text primary key,
    since         timestamptz not null,
    configured_at timestamptz not null,
    disabled_at   timestamptz
);
