-- Pages of the provider's on which a buyer saves a card, one for each request that asked for one. ASKED: the provider
-- has not said where it is. OPEN: the buyer may be there. SAVED: its card is the customer's. EXPIRED: nobody can save
-- one there.
create table card_setups (
    setup_ref  uuid        primary key default gen_random_uuid(),
    buyer      text        not null,
    -- The request's idempotency key.
    key        text        not null,
    -- Where the buyer comes back to: part of the bytes that are sent.
    return_url text        not null,
    state      text        not null check (state in ('ASKED', 'OPEN', 'SAVED', 'EXPIRED')),
    session_id text unique,
    url        text,
    method_id  text,
    due_at     timestamptz,
    tries      integer     not null default 0,
    created_at timestamptz not null,
    unique (buyer, key),
    check ((state in ('ASKED', 'OPEN')) = (due_at is not null)),
    check ((state = 'SAVED') = (method_id is not null))
);
create index card_setups_due on card_setups (due_at) where due_at is not null;
