-- What comes back of ordinary goods to be sold again is a change of stock that is no sale, and stands in its history. Lines that an
-- older program has written have no row there; the audit counts those by themselves.
alter table return_lines add column adjustment_id bigint unique references stock_adjustments;
