#!lua
-- open: ends a load. The warehouse may issue from now on, if its state says so.
--
-- KEYS  meta claims
-- ARGV  epoch replid chunks state
-- REPLY code
-- CODES OK NOT_LOADED FENCED GAP
--
-- chunks  how many chunks were loaded
-- state   `ready` (not yet open), `open` or `closed`
-- Invariant: nothing in the stream is unsettled, so no unit that is loaded as free is one that a claim holds. Where a claim is
-- left, another server was read than the one that opens: FENCED, and the load begins again.
local meta, claims = KEYS[1], KEYS[2]
local epoch, replid, chunks, state = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
assert(#KEYS == 2 and #ARGV == 4, 'open: wrong number of keys or arguments')
local OK, NOT_LOADED, FENCED, GAP = 0, 1, 2, 4

local known = redis.call('HMGET', meta, 'epoch', 'state', 'chunks', 'settled')
if not (known[1] and known[2] and known[3]) then return { NOT_LOADED } end
local now = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if known[1] ~= epoch or known[2] ~= 'loading' or now ~= replid then return { FENCED } end
if known[3] ~= chunks then return { GAP } end
if #redis.call('XRANGE', claims, '(' .. (known[4] or '0-0'), '+', 'COUNT', 1) > 0 then return { FENCED } end

if redis.call('EXISTS', claims) == 0 then
    -- A stream may be empty and still exist.
    local first = redis.call('XADD', claims, '*', 'e', epoch)
    redis.call('XDEL', claims, first)
    -- The mark was one of the log that was lost; ids of this one may be lower, if a clock was set back.
    redis.call('HSET', meta, 'settled', '0-0')
end
redis.call('HSET', meta, 'fence', replid, 'state', state)
return { OK }
