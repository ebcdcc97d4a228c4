-- Buyers at the provider. A customer is made once for each buyer, under a key made of `customer_ref`, when a card of
-- theirs is saved first. When its buyer is forgotten, the row stays without them until the provider has deleted it.
create table customers (
    customer_ref uuid        primary key default gen_random_uuid(),
    buyer        text unique,
    customer_id  text unique check (customer_id ~ '^[A-Za-z0-9_]{1,255}$'),
    -- Since when the provider may have made it: committed before the first call.
    asked_at     timestamptz,
    -- How many keys were given up because the provider kept answering them with a stored error.
    again        integer     not null default 0,
    -- When its end is looked at again; the number of tries fences a worker that slept.
    ends_at      timestamptz,
    tries        integer     not null default 0,
    check ((buyer is null) = (ends_at is not null))
);
create index customers_ending on customers (ends_at) where ends_at is not null;

-- The cards that buyers gave, by the name under which they gave them. CHECKING: not known yet whether it can be
-- saved; a charge that needs it does the rest itself. SAVED: the customer's, under `method_id`. REFUSED: it can be
-- charged once at most, without a customer.
create table cards (
    buyer       text        not null,
    given       text        not null,
    card_ref    uuid        not null default gen_random_uuid() unique,
    state       text        not null check (state in ('CHECKING', 'SAVED', 'REFUSED')),
    refusal     text,
    method_id   text,
    -- HMAC-SHA256 of the provider's fingerprint of the card: the same for the same number.
    fingerprint bytea       check (length(fingerprint) = 32),
    again       integer     not null default 0,
    due_at      timestamptz,
    tries       integer     not null default 0,
    updated_at  timestamptz not null,
    primary key (buyer, given),
    check ((state = 'REFUSED') = (refusal is not null)),
    check ((state = 'SAVED') = (method_id is not null)),
    check ((state = 'CHECKING') = (due_at is not null))
);
create index cards_due on cards (due_at) where due_at is not null;
create index cards_method on cards (method_id) where method_id is not null;

-- Profiles of before: their cards are checked too, unless an order that is being paid has one.
insert into cards (buyer, given, state, due_at, updated_at)
select c.buyer, c.payment_method, 'CHECKING', now(), now()
from checkout_profiles c
where c.payment_method ~ '^pm_'
      and not exists (select 1 from orders o join payments p using (order_id)
                      where o.buyer = c.buyer and p.payment_method = c.payment_method and p.due_at is not null);
insert into customers (buyer) select distinct buyer from cards;
