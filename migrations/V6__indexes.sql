-- Questions asked all the time, which must not grow with everything ever sold.
create index payments_required on payments (order_id) where state in ('REQUIRED', 'ACTION_REQUIRED');
create index orders_drop on orders (drop_id, status);
create index order_items_warehouse on order_items (warehouse_id);
create index tokens_free on tokens (warehouse_id) where order_id is null;
