-- Who sells, as documents name it. What was said before stays: a document keeps the seller of its day.
create table sellers (
    seller_id integer generated always as identity primary key,
    name      text        not null check (name <> ''),
    address   text[]      not null,
    country   text        not null,
    tax_id    text,
    set_by    text        not null,
    set_at    timestamptz not null
);

-- Where the goods went, which stays when their buyer is forgotten. Documents that an older program has written have
-- neither: the country is then the order's, and the seller the first one that was set.
alter table invoices
    add column country   text,
    add column seller_id integer references sellers;
alter table credit_notes
    add column seller_id integer references sellers;
update invoices i set country = o.ship_to ->> 'country' from orders o where o.order_id = i.order_id;

-- In which zone the days of the books begin and end; null is UTC. The first closed day decides for all of them.
alter table closed_days add column time_zone text;
