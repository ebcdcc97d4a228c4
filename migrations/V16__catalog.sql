-- What operators asked for, once each: a repeat under the same id gets the same answer, and changes nothing. Refusals leave no row.
create table operator_requests (
    request_id uuid primary key,
    actor      text        not null,
    what       text        not null,
    -- Of what was asked; the same id for something else is refused.
    digest     bytea       not null,
    answer     jsonb       not null,
    asked_at   timestamptz not null
);

-- Every change of ordinary stock that is no sale: the first count, deliveries, breakage, stocktaking, returns. So
-- quantity_available of an ordinary place is the sum of these less what is sold there; the audit compares.
create table stock_adjustments (
    adjustment_id   bigint generated always as identity primary key,
    product_id      integer     not null references products,
    variant_id      integer     not null references variants,
    warehouse_id    integer     not null references warehouses,
    delta           integer     not null check (delta <> 0),
    reason          text        not null check (reason <> ''),
    actor           text        not null,
    -- As they were once it was made.
    available_after integer     not null,
    reserved_after  integer     not null,
    adjusted_at     timestamptz not null,
    check (reserved_after between 0 and available_after)
);
create index stock_adjustments_variant on stock_adjustments (variant_id, adjustment_id);

-- Drops and imports find a product by its name.
create index products_name on products (name);
