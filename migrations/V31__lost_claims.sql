-- Claims that were answered, that Redis forgot before settlement saw them, and that a gateway remembered. A row is written once
-- for each claim, in the transaction that puts its buyer first in line and tells them; it stays when the claim comes back.
create table lost_claims (
    claim_id       uuid        primary key,
    drop_id        integer     not null references drops,
    warehouse_id   integer     not null references warehouses,
    buyer          text        not null,
    variant_number smallint    not null,
    units          smallint    not null check (units between 1 and 100),
    -- Under which the claim was answered.
    epoch          bigint      not null,
    found_at       timestamptz not null,
    foreign key (drop_id, variant_number) references drop_variants (drop_id, number)
);
create index lost_claims_drop on lost_claims (drop_id);
create index lost_claims_buyer on lost_claims (buyer);

-- Settlement looks for the places of lost claims in every batch. A drop has next to none.
create index standby_places_lost on standby_places (drop_id) where lost_claim is not null;

-- A lost claim that came back, or the award in its place: of the two, the one that settlement saw second.
alter table rejected_claims drop constraint rejected_claims_reason_check;
alter table rejected_claims add constraint rejected_claims_reason_check
    check (reason in ('token_held', 'over_limit', 'not_granted', 'unknown_variant', 'made_good'));
