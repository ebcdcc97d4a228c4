-- A payment whose card was declined waits for another one: METHOD_REQUIRED. Its intent stays at the provider, so its expiry
-- and its cancel go there first. A program that does not know the state cannot read such an order: it is replaced first.
alter table payments drop constraint payments_state_check;
alter table payments add constraint payments_state_check check (state in (
    'REQUIRED', 'METHOD_REQUIRED', 'IN_FLIGHT', 'ACTION_REQUIRED', 'PROCESSING', 'UNKNOWN', 'SUCCEEDED', 'FAILED',
    'CANCEL_REQUESTED', 'CANCELED', 'REFUND_PENDING', 'PARTIALLY_REFUNDED', 'REFUNDED', 'MANUAL_REVIEW')) not valid;

-- How long each order of a drop waits for its payment, and how long for another card after a decline. Drops made before
-- wait until their end to pay, and end at the first decline, as they did.
alter table drops add column pay_within_seconds integer check (pay_within_seconds > 0),
                  add column decline_grace_seconds integer not null default 0 check (decline_grace_seconds >= 0);
