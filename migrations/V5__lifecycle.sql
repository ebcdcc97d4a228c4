-- A sale may pause, and ends in the archive.
alter table drops drop constraint drops_state_check;
alter table drops add constraint drops_state_check
    check (state in ('draft', 'opening', 'open', 'paused', 'closed', 'archived'));
