-- Standby: buyers who were refused and chose to wait, in line for units that come back.

-- One row a place. The line of a variant is what waits, in the order of (precedence, place_id).
create table standby_places (
    place_id       bigint generated always as identity primary key,
    drop_id        integer     not null references drops,
    variant_number smallint    not null,
    buyer          text        not null,
    -- All or nothing: served by one return of units that covers it.
    quantity       smallint    not null check (quantity between 1 and 100),
    -- The buyer's home, where an award goes; fixed for the drop's life.
    warehouse_id   integer     not null references warehouses,
    -- 0: before everybody else, for a claim that was answered and then lost.
    precedence     smallint    not null default 1 check (precedence in (0, 1)),
    -- A lost claim puts its buyer first once.
    lost_claim     uuid        unique,
    -- The Idempotency-Key under which he joined; null where the place was given to him.
    request_key    text,
    state          text        not null check (state in ('WAITING', 'AWARDED', 'TAKEN', 'REFUSED', 'LEFT', 'EXPIRED')),
    -- The claim that the award makes, and the order made from it.
    claim_id       uuid        unique,
    -- Why his home refused the award.
    outcome        text,
    joined_at      timestamptz not null,
    awarded_at     timestamptz,
    ended_at       timestamptz,
    unique (drop_id, buyer, request_key),
    foreign key (drop_id, variant_number) references drop_variants (drop_id, number),
    check ((state in ('AWARDED', 'TAKEN', 'REFUSED')) = (claim_id is not null)),
    check ((claim_id is null) = (awarded_at is null)),
    check ((state in ('WAITING', 'AWARDED')) = (ended_at is null)),
    check ((state = 'REFUSED') = (outcome is not null))
);
create unique index standby_places_live on standby_places (drop_id, variant_number, buyer)
    where state in ('WAITING', 'AWARDED');
create index standby_places_line on standby_places (drop_id, variant_number, precedence, place_id)
    where state = 'WAITING';
create index standby_places_buyer on standby_places (buyer);
create index standby_places_awarded on standby_places (drop_id) where state = 'AWARDED';

-- A unit on its way to a standby buyer: no order has it yet, and it must not look free to anybody.
alter table tokens add column awarded_claim uuid;
alter table tokens drop constraint tokens_one_holder;
alter table tokens add constraint tokens_one_holder
    check (num_nonnulls(order_id, poisoned_claim, awarded_claim) <= 1) not valid;
create index tokens_awarded on tokens (warehouse_id) where awarded_claim is not null;

-- An award makes its units a claim in one step; the columns of a release's claim name it. A program from before this
-- migration would put the units on sale instead: let nobody join a line until every worker and gateway is of this version.
alter table grants drop constraint grants_kind_check;
alter table grants add constraint grants_kind_check
    check (kind in ('first_load', 'restock', 'release', 'transfer', 'return', 'award'));
alter table grants drop constraint grants_check1;
alter table grants add constraint grants_claim_check check ((kind in ('release', 'award')) = (claim_id is not null));

-- What a rejected claim had asked for, to tell its buyer; null in rows of before.
alter table rejected_claims
    add column variant_number smallint,
    add column units          smallint;

-- A buyer is told of a claim that was lost, too, and it has no order: `order_id` is the id that its order would have had.
alter table order_events drop constraint order_events_order_id_fkey;
alter table outbox drop constraint outbox_order_id_fkey;
