-- History is read order by order: one index that says both instead of two.
alter table order_history drop constraint order_history_pkey, add primary key (order_id, history_id);
drop index order_history_order;
