-- In which format a call to the provider was written (engine/src/provider/request.rs): its bytes, and the version of
-- the provider's API that they are sent under. 1 is 2024-06-20; 2 is 2026-10-28.endive and names the buyer's
-- customer. An order keeps the format of its first call, and a program that knows one format writes 1.
alter table payment_attempts add column format smallint not null default 1 check (format in (1, 2));

-- The newest lease that was given by a program that knows both formats: it writes the lease's number here too.
alter table payments add column formats_lease bigint;

-- A program that knows format 1 only would repeat a call of format 2 under the wrong version, or charge a card that
-- is a customer's without naming the customer; the provider refuses both. So it gets no lease of such a payment: for
-- its UPDATE the row is not there. It may still settle what the provider tells, cancel what was not sent, and erase.
-- Who leases with both numbers does not come here at all.
create function payments_of_newer_format() returns trigger language plpgsql as $$
begin
    if exists (select 1 from payment_attempts a where a.order_id = new.order_id and a.format > 1)
       or exists (select 1 from orders o join cards c on c.buyer = o.buyer
                  where o.order_id = new.order_id and c.given = new.payment_method and c.state <> 'REFUSED') then
        return null;
    end if;
    return new;
end $$;
create trigger payments_of_newer_format before update of lease_number on payments for each row
    when (new.lease_number <> old.lease_number and new.leased_until is distinct from old.leased_until
          and new.formats_lease is distinct from new.lease_number)
    execute function payments_of_newer_format();

-- One row: the name under which this shop's intents and customers are known at the provider, whose account others may
-- use too, and the key with which fingerprints of cards are hashed.
create table shop (
    one     boolean primary key default true check (one),
    shop_id text    not null check (shop_id ~ '^[a-z0-9-]{1,64}$'),
    pepper  bytea   not null check (length(pepper) = 32)
);
insert into shop (shop_id, pepper)
values ('shop-' || replace(gen_random_uuid()::text, '-', ''),
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
