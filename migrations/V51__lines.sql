-- The line of a drop: who waits, in which order, and what the rounds gave them. Redis knows nothing of it.

alter table drops drop constraint drops_state_check;
alter table drops add constraint drops_state_check
    check (state in ('draft', 'lining', 'opening', 'open', 'paused', 'closed', 'archived'));
-- How buyers come to its units. An older program knows drops of `open` only: stop the old workers before a drop with a
-- line is made, since they would open it as a sale.
alter table drops add column admission text not null default 'open' check (admission in ('open', 'queue', 'draw'));

create table lines (
    drop_id             integer primary key references drops on delete cascade,
    line_opens_at       timestamptz not null,
    seal_at             timestamptz not null,
    -- From the seal to the beacon's round.
    reveal_after_seconds integer    not null check (reveal_after_seconds > 0),
    every_seconds       integer     not null check (every_seconds between 1 and 3600),
    per_round           integer     not null check (per_round > 0),
    capacity            integer     not null check (capacity > 0),
    requires_card       boolean     not null,
    then_open           boolean     not null,
    -- Kind and parameters of the beacon.
    beacon              jsonb       not null,
    -- What the entry ids are made with, and the tickets signed. Made with the line, and never changed.
    entry_key           bytea       not null check (length(entry_key) = 32),
    ticket_key          bytea       not null check (length(ticket_key) = 32),

    -- The text whose hash is in the root and in the seed; there from when the line opens.
    rules               text,
    state               text        not null default 'PLANNED'
                        check (state in ('PLANNED', 'OPEN', 'SEALED', 'ROOTED', 'DRAWN', 'CLOSED')),
    -- The last number that belongs to the sealed list, and how many stand in that.
    sealed_number       integer,
    sealed_count        integer,
    sealed_at           timestamptz,
    root                bytea       check (length(root) = 32),
    -- The round of the beacon that decides.
    beacon_round        bigint,
    rooted_at           timestamptz,
    -- When the root was found written down: a beacon's round counts only if that was before it.
    root_seen_at        timestamptz,
    seed                bytea       check (length(seed) = 32),
    -- What the beacon said: for `drand` the signature, otherwise a text or the shop's secret.
    beacon_answer       bytea,
    drawn_at            timestamptz,

    -- The round that was begun last, from 0; null before the first.
    round               integer,
    -- Ranks that have been decided, and how many there will be when the present round is over.
    served              integer     not null default 0 check (served >= 0),
    round_to            integer     not null default 0 check (round_to >= served),
    -- Whether the present round is with those who stand by, and the last of them that it has decided.
    standing            boolean     not null default false,
    standing_after      integer,
    -- Of each variant, in order, what is left of the units with which the present round began.
    free                integer[]   not null default '{}',
    -- The number of the last chunk.
    chunk               integer     not null default 0,
    -- The drop's time is over, and the units that came back since the last round have been given to those who stand by.
    last_round_begun    boolean     not null default false,
    paused_at           timestamptz,
    -- For how long rounds have not been held: pauses, and a draw that came late.
    paused_ms           bigint      not null default 0 check (paused_ms >= 0),
    message             text        check (length(message) <= 280),
    -- Raised by every change that the board shows.
    version             bigint      not null default 0,
    check (line_opens_at < seal_at),
    check ((state in ('PLANNED', 'OPEN')) = (sealed_at is null) or state = 'CLOSED'),
    check (num_nulls(sealed_number, sealed_count, sealed_at) in (0, 3)),
    check (num_nulls(seed, beacon_answer, drawn_at) in (0, 3))
);

-- The only row that every join takes: who holds it gives the next numbers.
create table line_counters (
    drop_id integer primary key references lines on delete cascade,
    next    integer not null default 1,
    joined  integer not null default 0,
    gone    integer not null default 0
) with (fillfactor = 10);

-- What was decided about the root of a sealed list, in order. Never changed.
create table line_draws (
    drop_id      integer     not null references lines on delete cascade,
    try          integer     not null,
    kind         text        not null check (kind in ('rooted', 'postponed', 'void')),
    -- 0: the chance comes from where there are no rounds.
    beacon_round bigint      not null,
    -- Of a postponement: the round that decides instead.
    to_round     bigint,
    -- Of a void round: the root that came too late, if one did.
    root         bytea       check (length(root) = 32),
    decided_at   timestamptz not null,
    primary key (drop_id, try),
    check ((kind = 'postponed') = (to_round is not null)),
    check (kind = 'rooted' or root is null or kind = 'void')
);

-- The shop's own part of a draw without a public beacon. A gateway needs no right to read it.
create table line_secrets (
    drop_id integer primary key references lines on delete cascade,
    secret  bytea not null check (length(secret) = 32)
);

-- What people have typed as the result that a draw waits for: it counts once two of them agree.
create table line_results (
    drop_id  integer     not null references lines on delete cascade,
    typed_by text        not null check (typed_by <> ''),
    result   text        not null,
    typed_at timestamptz not null,
    primary key (drop_id, typed_by)
);

-- A place. Joining again makes a new row: the row of a place that was left keeps its key from joining once more. No foreign
-- key: whoever joins holds the counter of the line, and a check for each of them would be a third of what a join costs.
create table line_entries (
    drop_id    integer     not null,
    number     integer     not null check (number >= 1),
    buyer      text        not null,
    -- Which of the buyer's places it is.
    nth        smallint    not null check (nth between 0 and 4),
    entry_id   bytea       not null check (length(entry_id) = 16),
    -- Of the Idempotency-Key and of what was asked for under it.
    key_hash   bytea       not null check (length(key_hash) = 16),
    body_hash  bytea       not null check (length(body_hash) = 16),
    quantity   smallint    not null check (quantity between 1 and 100),
    -- Variants by number, the one they like best first, and the total of each that they accepted.
    choice1    smallint    not null,
    choice2    smallint,
    choice3    smallint    check (choice3 is null or choice2 is not null),
    accepted1  bigint,
    accepted2  bigint,
    accepted3  bigint,
    country    text,
    revision   integer     not null default 1,
    joined_at  timestamptz not null,
    -- Null while they wait. LEFT: before the seal, so it is not in the list. WITHDRAWN: later, so it keeps its rank.
    state      text        check (state in ('LEFT', 'WITHDRAWN', 'MERGED', 'AWARDED')),
    ended_at   timestamptz,
    merged_into integer,
    -- The claim of an award: the order made from it has the same id.
    claim_id   uuid,
    primary key (drop_id, number),
    unique (drop_id, buyer, nth),
    check ((state = 'AWARDED') = (claim_id is not null)),
    check ((state is null) = (ended_at is null)),
    check ((state = 'MERGED') = (merged_into is not null))
) with (fillfactor = 90);
create index line_entries_claim on line_entries (claim_id) where claim_id is not null;
create index line_entries_buyer on line_entries (buyer);

-- One row a chunk of a round: what went into its decisions and what came out, so that anybody can decide again.
create table line_chunks (
    drop_id     integer     not null references lines,
    chunk       integer     not null,
    round       integer     not null,
    -- Whether those who stand by were decided, or the next ranks.
    standing    boolean     not null,
    served      integer     not null,
    served_to   integer     not null,
    -- Of each variant, before this chunk.
    free        integer[]   not null,
    -- Ranks that were decided in it, next ranks that its round decides, and how many there were in line.
    decided     integer     not null,
    per_round   integer     not null,
    ranks       integer     not null,
    -- What was not as usual: a rank and why it was barred, or which of its choices were dearer than accepted (by bit).
    barred      integer[]   not null,
    bars        text[]      not null,
    dearer      integer[]   not null,
    dearer_bits smallint[]  not null,
    -- Rank and choice, from 0.
    awarded     integer[]   not null,
    choices     smallint[]  not null,
    at          timestamptz not null,
    primary key (drop_id, chunk),
    check (cardinality(barred) = cardinality(bars) and cardinality(dearer) = cardinality(dearer_bits)
           and cardinality(awarded) = cardinality(choices))
);

-- What was changed after the line opened, for whoever checks the rounds: pauses, a faster pace, more stock, the end.
create table line_changes (
    drop_id integer     not null references lines on delete cascade,
    at      timestamptz not null,
    what    text        not null check (what in ('paused', 'resumed', 'per_round', 'restocked', 'closed', 'opened')),
    -- Of a pace the ranks, of a restock the variant and its units.
    variant smallint,
    value   integer,
    change_id bigint generated always as identity primary key
);
