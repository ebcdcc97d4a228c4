-- Units that come back rest for a moment before they are granted, so that no refusal overlaps a unit that is on sale. While a
-- unit rests it stands in no warehouse and in no log: its row alone says so.

-- By the clock of Postgres, in the transaction that took it from its holder.
alter table tokens add column rested_at timestamptz;
alter table tokens drop constraint tokens_one_holder;
alter table tokens add constraint tokens_one_holder
    check (num_nonnulls(order_id, poisoned_claim, awarded_claim, rested_at) <= 1) not valid;
create index tokens_resting on tokens (drop_id, variant_number, rested_at) where rested_at is not null;

-- A program from before this migration goes on putting units that come back into their warehouse's log; who applies such a
-- grant waits as it always did. It must not rebuild a warehouse while units rest, since it would load them as free: stop the
-- old workers before the new ones start.
alter table grants drop constraint grants_kind_check;
alter table grants add constraint grants_kind_check
    check (kind in ('first_load', 'restock', 'release', 'transfer', 'return', 'award', 'rested'));

-- The warehouses of an archived drop are in no Redis. Nobody waits for what is granted to them.
update grants g set applied_at = now()
from warehouses w join drops d using (drop_id)
where g.applied_at is null and w.warehouse_id = g.warehouse_id and d.state = 'archived';
