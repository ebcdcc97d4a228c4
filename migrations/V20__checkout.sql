-- What an order to a country costs beside its goods. `*` is everywhere that has no row of its own; where neither is, nobody is
-- served in that currency.
create table rates (
    country                  text    not null check (country ~ '^([A-Z]{2}|[*])$'),
    currency                 text    not null check (currency ~ '^[A-Z]{3}$'),
    tax_basis_points         integer not null check (tax_basis_points between 0 and 10000),
    shipping_minor           bigint  not null check (shipping_minor >= 0),
    -- From this subtotal on shipping costs nothing.
    free_shipping_from_minor bigint check (free_shipping_from_minor >= 0),
    primary key (country, currency)
);

-- Carts that were ordered. What lies on shelves is an order of this transaction; units of a drop are claimed after it, under a
-- key made of the checkout's id, and until that has ended the order of the goods asks nobody for money.
create table checkouts (
    checkout_id   uuid primary key,
    buyer         text        not null,
    -- The request's idempotency key, and what was asked under it.
    key           text        not null,
    digest        bytea       not null,
    cart_version  bigint      not null,
    -- What leaves the cart.
    variants      integer[]   not null,
    quantities    integer[]   not null check (cardinality(quantities) = cardinality(variants)),
    currency      text        not null,
    total_minor   bigint      not null check (total_minor > 0),
    -- The order is made behind this row, in the same transaction.
    order_id      uuid unique references orders deferrable initially deferred,
    claim_id      uuid unique,
    drop_id       integer references drops,
    claim_variant smallint,
    claim_units   smallint,
    claim_state   text check (claim_state in ('PENDING', 'TAKEN', 'REFUSED')),
    -- Who finds out how the claim ends; the number fences one who slept.
    lease_number  bigint      not null default 0,
    leased_until  timestamptz,
    created_at    timestamptz not null,
    -- Nothing is left to do: the cart has been told, and the order of the goods charged or cancelled.
    ended_at      timestamptz,
    check (num_nulls(claim_id, drop_id, claim_variant, claim_units, claim_state) in (0, 5)),
    check (order_id is not null or claim_id is not null),
    check (claim_state <> 'PENDING' or ended_at is null)
);
-- A checkout whose claim was refused has sold nothing: its key and its cart may be used again.
create unique index checkouts_key on checkouts (buyer, key) where claim_state is distinct from 'REFUSED';
create unique index checkouts_cart on checkouts (buyer, cart_version) where claim_state is distinct from 'REFUSED';
create index checkouts_unfinished on checkouts (created_at) where ended_at is null;
create index checkouts_refused on checkouts (created_at) where claim_state = 'REFUSED';

-- A product that only drops have sold so far has nothing on shelves.
update products p set reservation = 'tokens'
where exists (select 1 from drops d where d.product_id = p.product_id)
      and not exists (select 1 from inventory i join warehouses w using (warehouse_id)
                      where i.product_id = p.product_id and w.code is not null);
