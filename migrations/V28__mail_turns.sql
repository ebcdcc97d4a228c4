-- How many mails went to one address within a clock hour, so that nobody can make us write to somebody without end. The address is
-- a hash, and a row goes when its hour is over.
create table mail_turns (
    recipient bytea       not null,
    hour      timestamptz not null,
    mails     integer     not null check (mails >= 0),
    primary key (recipient, hour)
);
create index mail_turns_hour on mail_turns (hour);
