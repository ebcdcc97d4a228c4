-- What is due, in turn (engine/src/domain/turns.rs). An intent to be canceled has the turn -2 here, whatever the column
-- says: a program that knows no such turn writes -1, and still finds what it wrote. It sorts what this index holds.
create index payments_lane on payments ((case when state = 'CANCEL_REQUESTED' then -2 else turn end), due_at)
    where due_at is not null;
drop index payments_turn;
