-- Rows that are written only in the transaction that makes or locks the order they belong to had a foreign key, which looked
-- the order up once more for each of them: fourteen looks and locks an order. Such a row cannot be without its parent:
-- whoever writes it holds the parent's lock, and whoever deletes a parent takes that lock first. The audit compares by
-- identity (engine/src/ledger/audit.rs, `orphans`). Keys that are looked at less often than once an order stay.
alter table orders drop constraint orders_drop_id_fkey;
alter table tokens drop constraint tokens_order_id_fkey;
alter table order_items
    drop constraint order_items_order_id_fkey,
    drop constraint order_items_variant_id_fkey,
    drop constraint order_items_warehouse_id_fkey;
alter table order_history drop constraint order_history_order_id_fkey;
alter table holdings
    drop constraint holdings_order_id_fkey,
    drop constraint holdings_drop_id_fkey;
alter table payments drop constraint payments_order_id_fkey;
alter table payment_attempts drop constraint payment_attempts_order_id_fkey;
alter table journal drop constraint journal_order_id_fkey;

-- The key of a call begins with its order's id, so no two orders share one; within an order attempts are numbered under the
-- lock of its payment, and their keys are numbered with them. An index of long texts, written twice for each attempt, kept
-- watch over what cannot be otherwise; the audit compares the keys of each order.
alter table payment_attempts
    drop constraint payment_attempts_idempotency_key_key,
    add constraint payment_attempts_key_of_order
        check (starts_with(idempotency_key, 'order-' || order_id)) not valid;
