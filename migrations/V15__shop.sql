-- The shop around the drops: what ordinary products, their stock and their orders need on top of what a drop's have.

-- How units of a product are reserved at checkout; the guide says when to take which. `version` is the ETag of edits.
alter table products
    add column reservation text not null default 'row_lock'
        check (reservation in ('row_lock', 'warehouses', 'optimistic', 'tokens')),
    add column version    bigint      not null default 1,
    add column updated_at timestamptz not null default now();

-- A variant that is not active is not sold; orders and carts that have it keep it.
alter table variants
    add column active     boolean     not null default true,
    add column version    bigint      not null default 1,
    add column updated_at timestamptz not null default now(),
    -- A payment provider's largest amount is far below: eight digits in most currencies.
    add constraint variants_price_bound check (price_minor <= 99999999999) not valid;

-- A place where ordinary stock lies has a code; a virtual warehouse of a drop has its number.
alter table warehouses
    add column code text unique check (code ~ '^[a-z0-9-]{1,32}$'),
    add check ((drop_id is null) = (code is not null)) not valid;
-- Their numbers, too, are given once each.
create sequence warehouse_numbers as smallint minvalue 0;

-- An order from a cart keeps its units unpaid until then; a drop's order goes by its drop.
alter table orders add column pay_by timestamptz;
create index orders_unpaid on orders (pay_by) where status = 'PENDING_PAYMENT' and pay_by is not null;
-- A buyer's orders, newest first.
create index orders_buyer on orders (buyer, created_at desc, order_id desc);
