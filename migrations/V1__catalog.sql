create table products (
    product_id integer generated always as identity primary key,
    name       text        not null check (name <> ''),
    active     boolean     not null default true,
    created_at timestamptz not null default now()
);

-- What is sold: a product in one size, colour, seat category. A product without variants has one.
create table variants (
    variant_id  integer generated always as identity primary key,
    product_id  integer not null references products,
    sku         text    not null unique check (sku <> ''),
    title       text    not null,
    price_minor bigint  not null check (price_minor >= 0),
    currency    text    not null check (currency ~ '^[A-Z]{3}$')
);
create index variants_product on variants (product_id);
