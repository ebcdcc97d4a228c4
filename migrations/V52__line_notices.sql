-- What a line tells: its buyers by mail, the shop's systems by webhook.

-- The drop of a notice that is about no order: about a whole drop, or a place in its line.
alter table order_events add column drop_id integer;
alter table outbox add column drop_id integer;

-- How far the mails to everybody in a line have been written: the last number whose buyer has been told that they stand in
-- line, and that it is over. In a table of their own, so that writing them holds up no round.
create table line_mails (
    drop_id   integer primary key references lines on delete cascade,
    joined_to integer not null default 0,
    ended_to  integer not null default 0
);
-- Nobody is told late of what was before.
insert into line_mails (drop_id, joined_to, ended_to)
select c.drop_id, c.next - 1, case when l.state = 'CLOSED' then c.next - 1 else 0 end
from line_counters c join lines l using (drop_id);

-- Units that a chunk gave.
alter table line_chunks add column units integer not null default 0 check (units >= 0);

-- When somebody ended a line before its drop's time.
alter table lines add column ends_at timestamptz;
