-- Documents of the books, numbered without gaps: the number is taken in the transaction that writes the document.
create table document_series (
    series      text   primary key check (series in ('invoice', 'credit_note')),
    last_number bigint not null default 0
);
insert into document_series (series) values ('invoice'), ('credit_note');

create table invoices (
    number         bigint      primary key,
    order_id       uuid        not null unique references orders,
    charged_at     timestamptz not null,
    issued_at      timestamptz not null,
    currency       text        not null,
    subtotal_minor bigint      not null,
    tax_minor      bigint      not null,
    shipping_minor bigint      not null,
    total_minor    bigint      not null check (total_minor = subtotal_minor + tax_minor + shipping_minor)
);
create index invoices_charged on invoices (charged_at);

create table credit_notes (
    number       bigint      primary key,
    refund_id    uuid        not null unique references refunds,
    settled_at   timestamptz not null,
    issued_at    timestamptz not null,
    currency     text        not null,
    amount_minor bigint      not null check (amount_minor > 0)
);

-- A day whose books were compared with the provider's, last time with so many differences.
create table closed_days (
    day         date        primary key,
    closed_at   timestamptz not null,
    differences integer     not null,
    report      jsonb       not null
);
