-- Claims that a process has answered and that settlement has not been seen to have, as notes of a second each. Should the process
-- die together with Redis, the others learn from them what it had answered. A process deletes its own notes once nothing of
-- them can be lost any more; those of dead processes go after the next rebuild of their warehouse, or after an hour, and the names
-- of buyers with them. No foreign key: it would lock the row of the warehouse, which a load holds.
create table answered_claims (
    note_id      bigint generated always as identity primary key,
    process      uuid        not null,
    warehouse_id integer     not null,
    -- Under which they were answered.
    epoch        bigint      not null,
    written_at   timestamptz not null,
    -- Of each claim, in the same order.
    claim_ids    uuid[]      not null,
    buyers       text[]      not null,
    variants     smallint[]  not null,
    units        smallint[]  not null,
    check (cardinality(buyers) = cardinality(claim_ids) and cardinality(variants) = cardinality(claim_ids)
           and cardinality(units) = cardinality(claim_ids))
);
create index answered_claims_warehouse on answered_claims (warehouse_id, epoch);
create index answered_claims_written on answered_claims (written_at);
