#!lua
-- settled: notes how far the claim stream has been settled, and trims what is older than the retention.
--
-- KEYS  meta claims
-- ARGV  epoch settled trim_before
-- REPLY code trimmed
-- CODES OK NOT_LOADED FENCED
--
-- settled      id of the last stream entry whose claims Postgres has committed; a mark only ever moves forward
-- trim_before  stream id; entries before it go, but never one behind the mark
-- The mark lies in the same slot as the stream, so a failover takes both back together and nothing is skipped. It stays at or
-- before the last entry that the stream has: a worker that comes late may name one that was lost, and a new primary whose
-- clock is behind gives such ids to new entries.
local meta, claims = KEYS[1], KEYS[2]
local epoch, settled, trim_before = ARGV[1], ARGV[2], ARGV[3]
assert(#KEYS == 2 and #ARGV == 3, 'settled: wrong number of keys or arguments')
local OK, NOT_LOADED, FENCED = 0, 1, 2

local function is_before(left, right)
    local left_ms, left_seq = string.match(left, '(%d+)-(%d+)')
    local right_ms, right_seq = string.match(right, '(%d+)-(%d+)')
    if left_ms ~= right_ms then return tonumber(left_ms) < tonumber(right_ms) end
    return tonumber(left_seq) < tonumber(right_seq)
end

local known = redis.call('HMGET', meta, 'epoch', 'settled')
if not known[1] then return { NOT_LOADED, 0 } end
if known[1] ~= epoch then return { FENCED, 0 } end
-- Fenced for its first load, which has not brought a mark yet.
if not known[2] then return { NOT_LOADED, 0 } end
local last = redis.call('XREVRANGE', claims, '+', '-', 'COUNT', 1)[1]
if not last and redis.call('EXISTS', claims) == 0 then return { NOT_LOADED, 0 } end
if not last or is_before(last[1], settled) then settled = last and last[1] or known[2] end
if is_before(settled, known[2]) then settled = known[2] end
if is_before(settled, trim_before) then trim_before = settled end

redis.call('HSET', meta, 'settled', settled)
return { OK, redis.call('XTRIM', claims, 'MINID', trim_before) }
