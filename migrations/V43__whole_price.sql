-- What a drop costs in each country, whether its prices include tax, and what a buyer has agreed to pay.

-- Whether the prices of a drop include the tax on its goods, and whether it takes the shop's rates when it opens. Drops
-- that are there already, and those that an older program makes, have their own terms, in `drops`, as they had.
alter table drops
    add column price_includes_tax boolean not null default false,
    add column rates_of_shop      boolean not null default false;

-- The shop's rates as a drop found them when it opened: they stay as they are, whatever becomes of `rates`.
create table drop_rates (
    drop_id                   integer not null references drops on delete cascade,
    -- ISO 3166-1 alpha-2, or * for every country that has no row of its own.
    country                   text    not null check (country ~ '^([A-Z]{2}|[*])$'),
    tax_basis_points          integer not null check (tax_basis_points between 0 and 10000),
    shipping_tax_basis_points integer check (shipping_tax_basis_points between 0 and 10000),
    shipping_minor            bigint  not null check (shipping_minor >= 0),
    free_shipping_from_minor  bigint check (free_shipping_from_minor >= 0),
    primary key (drop_id, country)
);

-- The total that a buyer was shown and agreed to. An order that costs more than that waits for a new agreement, under
-- the key with which it came. Null: nobody has asked, and the order is charged what it costs.
alter table orders
    add column price_includes_tax   boolean not null default false,
    add column accepted_total_minor bigint check (accepted_total_minor >= 0),
    add column accept_key           text;

-- What a checkout's claim was told, and what a claim that is set aside was told.
alter table checkouts
    add column claim_country     text,
    add column claim_total_minor bigint,
    drop constraint checkouts_total_minor_check,
    add constraint checkouts_total_minor_check check (total_minor >= 0);
alter table poisoned_claims
    add column accepted_country     text,
    add column accepted_total_minor bigint;
