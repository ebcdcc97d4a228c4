-- How safe a claim must be before its buyer is told: on the Redis primary, on so many replicas too, or committed here.
alter table drops
    add column acknowledgement text not null default 'accepted'
        check (acknowledgement in ('accepted', 'replicated', 'settled')),
    -- Replicas of each Redis primary that must have a claim; all that there are, or a promoted one may have missed it.
    add column replicas smallint not null default 0 check (replicas between 0 and 16),
    add check ((acknowledgement = 'replicated') = (replicas > 0));
