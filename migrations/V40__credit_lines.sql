-- What of an order goes back with a refund, line by line: net amount and VAT. Refunds that an older program has asked
-- for have no lines; what they are for is taken from how they were booked.
create table refund_lines (
    refund_id        uuid    not null references refunds,
    -- The order's line; 0 is shipping.
    line             integer not null check (line >= 0),
    -- Units that came back; 0 where only the price was lowered.
    quantity         integer not null check (quantity >= 0),
    tax_basis_points integer not null check (tax_basis_points >= 0),
    net_minor        bigint  not null check (net_minor >= 0),
    tax_minor        bigint  not null check (tax_minor >= 0),
    primary key (refund_id, line)
);

-- At which rates an order was taxed, so that a later change of the table does not change its documents. Orders without
-- them are an older program's, which charged no VAT on shipping.
alter table orders
    add column tax_basis_points          integer check (tax_basis_points >= 0),
    add column shipping_tax_basis_points integer check (shipping_tax_basis_points >= 0);

-- VAT on shipping; null is the highest rate among the goods. Tables and drops that are there already, and those that an
-- older program makes, keep what they said until now: none.
alter table rates
    add column shipping_tax_basis_points integer default 0 check (shipping_tax_basis_points between 0 and 10000);
alter table drops
    add column shipping_tax_basis_points integer default 0 check (shipping_tax_basis_points between 0 and 10000);
