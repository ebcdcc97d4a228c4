-- The stem of a payment's keys is made of its order's id, of which there is one payment: an index of random texts, larger than the
-- table's own key, kept watch over what cannot be otherwise.
alter table payments drop constraint payments_idempotency_key_key;
alter table payments add constraint payments_key_of_order check (idempotency_key = 'order-' || order_id) not valid;
