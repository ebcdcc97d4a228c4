-- A restock adds once, however often it is asked for: its id is the operator's, or was given to him.
create table restocks (
    restock_id     uuid primary key,
    drop_id        integer     not null references drops,
    variant_number smallint    not null,
    units          integer     not null check (units >= 1),
    created_at     timestamptz not null default now(),
    foreign key (drop_id, variant_number) references drop_variants (drop_id, number)
);
