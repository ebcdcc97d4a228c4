-- In which turn a payment is charged (engine/src/domain/turns.rs): -1 what the provider was asked about before, 0 a
-- drop's order, n the n-th unpaid order of goods of its buyer. A program that does not know the column writes 1.
alter table payments add column turn smallint not null default 1;

with waiting as (
    select p.order_id, o.drop_id, p.state, p.tries,
           row_number() over (partition by o.buyer, o.drop_id is null order by o.created_at, o.order_id) as nth
    from payments p join orders o using (order_id)
    where p.state not in ('SUCCEEDED', 'FAILED', 'CANCELED', 'PARTIALLY_REFUNDED', 'REFUNDED')
)
update payments p
set turn = case when waiting.state not in ('REQUIRED', 'IN_FLIGHT') or waiting.tries > 0 then -1
                when waiting.drop_id is not null then 0
                else least(waiting.nth, 32767) end
from waiting where p.order_id = waiting.order_id;

-- What is due, in turn. A program that still asks by time alone sorts what this index holds.
create index payments_turn on payments (turn, due_at) where due_at is not null;
drop index payments_due;

-- How many orders of goods a buyer has not paid: asked at every checkout, and no larger than what is unpaid.
create index orders_unpaid_of_buyer on orders (buyer) where status = 'PENDING_PAYMENT' and drop_id is null;
