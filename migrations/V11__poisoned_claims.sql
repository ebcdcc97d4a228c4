-- What settlement could neither settle nor reject, set aside so that the rest goes on: entries of the claim log that cannot
-- be read, and claims that make the transaction fail. Their units stay held: not free, not on sale, until an operator has
-- mended the cause and has them settled after all. One row a claim; an entry of which no claim could be made out is one row.
create table poisoned_claims (
    poison_id      bigint generated always as identity primary key,
    drop_id        integer     not null references drops,
    warehouse_id   integer     not null references warehouses,
    epoch          bigint      not null,
    -- The entry's id in the claim stream of its warehouse. May repeat after a failover, so it is no key.
    log_entry      text        not null,
    taken_at       timestamptz not null,
    claim_id       uuid unique,
    buyer          text,
    variant_number smallint,
    serials        integer[]   not null default '{}',
    -- The entry's bytes, where they could not be read.
    raw            bytea,
    error          text        not null,
    tries          integer     not null default 1 check (tries >= 1),
    poisoned_at    timestamptz not null,
    resolved_at    timestamptz,
    check (num_nulls(claim_id, buyer, variant_number) in (0, 3)),
    check (claim_id is not null or raw is not null),
    check ((claim_id is null) = (serials = '{}'))
);
create index poisoned_claims_open on poisoned_claims (warehouse_id) where resolved_at is null;
create unique index poisoned_claims_entry on poisoned_claims (warehouse_id, log_entry, md5(raw)) where claim_id is null;

-- A unit that a poisoned claim holds. It has no order yet, and must not look free.
alter table tokens add column poisoned_claim uuid;
alter table tokens add constraint tokens_one_holder check (order_id is null or poisoned_claim is null) not valid;
