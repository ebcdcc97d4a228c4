-- An attempt is open as long as it has no end. Said by that column and not by the states, going on from one open state to the next
-- changes nothing that an index knows: the row is rewritten on its page, which has the room, and three indexes are left alone.
alter table payment_attempts add constraint payment_attempts_end
    check ((state in ('PREPARED', 'DISPATCHED', 'NOT_SENT', 'UNKNOWN')) = (finished_at is null)) not valid;
drop index payment_attempts_one_open;
create unique index payment_attempts_one_open on payment_attempts (order_id) where finished_at is null;
alter table payment_attempts set (fillfactor = 60);
