-- How an order travels: one parcel, one carrier. Its times stand in the order's history.
create table shipments (
    order_id        uuid primary key references orders,
    carrier         text        not null check (carrier <> ''),
    tracking_number text        not null check (tracking_number <> ''),
    shipped_at      timestamptz not null
);

-- What came back of a line, whoever counts: never more than was ordered.
alter table order_items
    add column returned_quantity integer not null default 0,
    add constraint order_items_returned check (returned_quantity between 0 and quantity) not valid;

-- Goods that came back after they had shipped. The id is chosen by who takes them, so that a repeat is recognised, and `asked`
-- is what was asked under it. An order's state knows nothing of returns.
create table returns (
    return_id  uuid primary key,
    order_id   uuid        not null references orders,
    asked      jsonb       not null,
    reason     text        not null check (reason <> ''),
    taken_by   text        not null,
    -- The money that went back with it, if any did.
    refund_id  uuid unique references refunds,
    created_at timestamptz not null
);
create index returns_order on returns (order_id);

create table return_lines (
    return_id uuid    not null references returns,
    order_id  uuid    not null,
    line      integer not null,
    quantity  integer not null check (quantity >= 1),
    -- The units of a drop, by number; null for ordinary stock.
    serials   integer[] check (cardinality(serials) = quantity),
    -- Whether they are available again. Units of a drop that sells no longer never are.
    restocked boolean not null,
    primary key (return_id, line),
    foreign key (order_id, line) references order_items
);
create index return_lines_item on return_lines (order_id, line);

-- The operators' list, newest first, and their work: what is paid and not yet with its buyer.
create index orders_created on orders (created_at desc, order_id desc);
create index orders_to_fulfil on orders (status, created_at desc, order_id desc)
    where status in ('CONFIRMED', 'PROCESSING', 'SHIPPED');

-- Buyers who wanted to be forgotten. Where the books or a limit need somebody, the pseudonym stands in his place; while a drop
-- is not archived its rows keep him, and so does this one. Without a buyer the row is done, and tells nobody who it was.
create table erasures (
    pseudonym  text primary key,
    buyer      text unique,
    asked_at   timestamptz not null,
    ended_at   timestamptz,
    check ((buyer is null) = (ended_at is not null))
);
create index grants_buyer on grants (buyer) where buyer is not null;
create index rejected_claims_buyer on rejected_claims (buyer);
