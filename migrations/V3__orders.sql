create table checkout_profiles (
    buyer          text primary key,
    payment_method text        not null,
    email          text        not null,
    ship_to        jsonb       not null,
    updated_at     timestamptz not null
);

create table orders (
    order_id       uuid primary key,
    buyer          text        not null,
    drop_id        integer references drops,
    status         text        not null check (status in ('PENDING_PAYMENT', 'CONFIRMED', 'PROCESSING', 'SHIPPED',
                                                          'DELIVERED', 'PAYMENT_FAILED', 'CANCELLED')),
    currency       text        not null,
    subtotal_minor bigint      not null check (subtotal_minor >= 0),
    tax_minor      bigint      not null check (tax_minor >= 0),
    shipping_minor bigint      not null check (shipping_minor >= 0),
    total_minor    bigint      not null check (total_minor = subtotal_minor + tax_minor + shipping_minor),
    email          text,
    ship_to        jsonb,
    created_at     timestamptz not null,
    updated_at     timestamptz not null
) with (fillfactor = 80);

alter table tokens add foreign key (order_id) references orders;

create table order_items (
    order_id         uuid    not null references orders,
    line             integer not null,
    product_id       integer not null,
    variant_id       integer not null references variants,
    warehouse_id     integer not null references warehouses,
    quantity         integer not null check (quantity >= 1),
    unit_price_minor bigint  not null check (unit_price_minor >= 0),
    -- The units of a drop, by number; null for ordinary stock. Kept after a release: what the order once held.
    serials          integer[] check (cardinality(serials) = quantity),
    primary key (order_id, line)
);

create table order_history (
    order_id   uuid        not null references orders,
    at         timestamptz not null,
    from_state text,
    to_state   text        not null,
    actor      text        not null,
    reason     text        not null,
    history_id bigint generated always as identity primary key
);
create index order_history_order on order_history (order_id);

-- Live units of a buyer in a drop, one row each: the second guard of the limit. A release deletes the row.
create table holdings (
    drop_id  integer  not null references drops,
    buyer    text     not null,
    nth      smallint not null check (nth between 1 and 100),
    order_id uuid     not null references orders,
    primary key (drop_id, buyer, nth)
);

-- Claims that settlement saw and could not make an order of. Like an order's id, such an id is never settled again.
create table rejected_claims (
    claim_id   uuid primary key,
    drop_id    integer     not null references drops,
    buyer      text        not null,
    reason     text        not null check (reason in ('token_held', 'over_limit', 'not_granted', 'unknown_variant')),
    serials    integer[]   not null,
    settled_at timestamptz not null
);
