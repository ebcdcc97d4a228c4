-- Only what a worker can still do something about is due. A payment that had ended while its worker was away was put back with
-- a due time, counted as backlog for ever.
update payments set due_at = null
where state not in ('IN_FLIGHT', 'UNKNOWN', 'CANCEL_REQUESTED', 'PROCESSING', 'ACTION_REQUIRED', 'REFUND_PENDING');

alter table payments add constraint payments_due_check
    check (due_at is null or state in ('IN_FLIGHT', 'UNKNOWN', 'CANCEL_REQUESTED', 'PROCESSING', 'ACTION_REQUIRED',
                                       'REFUND_PENDING'));
