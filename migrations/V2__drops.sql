create table drops (
    drop_id          integer generated always as identity primary key,
    name             text        not null unique check (name ~ '^[a-z0-9-]{1,32}$'),
    product_id       integer     not null references products,
    state            text        not null check (state in ('draft', 'opening', 'open', 'closed')),
    currency         text        not null check (currency ~ '^[A-Z]{3}$'),
    buyer_limit      smallint    not null check (buyer_limit between 1 and 100),
    warehouse_count  smallint    not null check (warehouse_count between 1 and 1024),
    -- Key of the hash that gives each buyer his home warehouse. Secret: who knows it can crowd one warehouse.
    home_key         bigint      not null,
    tax_basis_points integer     not null default 0 check (tax_basis_points between 0 and 10000),
    shipping_minor   bigint      not null default 0 check (shipping_minor >= 0),
    opens_at         timestamptz,
    closes_at        timestamptz,
    -- Until when an order without a payment method keeps its units.
    pay_by           timestamptz not null,
    -- Set before the first proof of "sold out" is read, and never cleared: from then on a grant that frees units waits
    -- before Redis sees it, so that no refusal overlaps a free unit.
    proof_marked_at  timestamptz,
    created_at       timestamptz not null default now(),
    check (closes_at > opens_at)
);

create table drop_variants (
    drop_id     integer  not null references drops,
    number      smallint not null check (number between 0 and 31),
    variant_id  integer  not null references variants,
    price_minor bigint   not null check (price_minor >= 0),
    stock       integer  not null check (stock >= 0),
    primary key (drop_id, number),
    unique (drop_id, variant_id)
);

-- A virtual warehouse of a drop, or (drop_id null) a place where ordinary stock lies.
create table warehouses (
    warehouse_id integer generated always as identity primary key,
    drop_id      integer references drops,
    number       smallint not null check (number >= 0),
    epoch        bigint   not null default 0,
    state        text     not null check (state in ('unloaded', 'rebuilding', 'ready')),
    last_grant   bigint   not null default 0,
    unique nulls not distinct (drop_id, number)
);

create table inventory (
    product_id         integer not null references products,
    variant_id         integer not null references variants,
    warehouse_id       integer not null references warehouses,
    quantity_available integer not null,
    quantity_reserved  integer not null default 0,
    version            bigint  not null default 0,
    primary key (product_id, variant_id, warehouse_id),
    check (quantity_reserved between 0 and quantity_available)
) with (fillfactor = 50);

-- One row per unit. A unit has one holder because a column has one value.
-- The foreign key of order_id follows in V3, where orders are made.
create table tokens (
    drop_id        integer  not null references drops,
    serial         integer  not null check (serial >= 1),
    variant_number smallint not null,
    warehouse_id   integer  not null references warehouses,
    order_id       uuid,
    primary key (drop_id, serial),
    foreign key (drop_id, variant_number) references drop_variants (drop_id, number)
) with (fillfactor = 70);

-- The only way tokens get into a warehouse. Numbered without gaps; Redis applies number n after n - 1 and never twice.
create table grants (
    warehouse_id integer     not null references warehouses,
    number       bigint      not null check (number >= 1),
    kind         text        not null check (kind in ('first_load', 'restock', 'release', 'transfer', 'return')),
    serials      integer[]   not null,
    -- A release tells the warehouse which claim is over, so that the buyer's limit comes back in the same step.
    claim_id      uuid,
    buyer         text,
    claim_variant smallint,
    claim_units   smallint,
    transfer_id  uuid unique,
    created_at   timestamptz not null default now(),
    applied_at   timestamptz,
    primary key (warehouse_id, number),
    check ((kind in ('transfer', 'return')) = (transfer_id is not null)),
    check ((kind = 'release') = (claim_id is not null)),
    check (num_nulls(claim_id, buyer, claim_variant, claim_units) in (0, 4))
);
create index grants_unapplied on grants (warehouse_id, number) where applied_at is null;
