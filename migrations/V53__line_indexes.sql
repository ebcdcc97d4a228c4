-- Nobody looks an entry up by its claim, and with that index each award wrote into every index of the table: now it is a
-- heap-only update. Places of a buyer, in one line or in all, are found by one index instead of two.
drop index line_entries_claim;
alter table line_entries add constraint line_entries_of_buyer unique (buyer, drop_id, nth);
alter table line_entries drop constraint line_entries_drop_id_buyer_nth_key;
drop index line_entries_buyer;
