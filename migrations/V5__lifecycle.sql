-- A sale may pause, and ends in the archive.
alter table drops drop constraint drops_state_check;
alter table drops add constraint drops_state_check
    check (state in ('draft', 'opening', 'open', 'paused', 'closed', 'archived'));

-- The key under which the buyer gave a payment method later on: stored with the effect, so that a repeat is recognised.
alter table payments add column method_key text;
