#!lua
-- pull: sets free tokens of one variant aside for another warehouse. They wait in `out` until Postgres has granted them.
--
-- KEYS  meta out / tokens spare
-- ARGV  epoch variants transfer_id destination units
-- REPLY code serials
-- CODES OK NOT_LOADED FENCED
--
-- variants     one byte: the variant
-- destination  number of the warehouse that pulls
-- units        how many at the most; fewer are set aside when fewer are free, nothing is written when none is
-- serials      decimal strings; a transfer id that is known already gets what was set aside for it
-- Invariant: a token is in `out` or free here, never both.
local meta, out, tokens, spare = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch, variants, transfer_id, destination, units = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
assert(#KEYS == 4 and #ARGV == 5 and #variants == 1 and destination and units, 'pull: wrong number of keys or arguments')
local OK, NOT_LOADED, FENCED = 0, 1, 2
local variant = string.byte(variants)

-- Decide.
local known = redis.call('HMGET', meta, 'epoch', 'fence', 'first:' .. variant)
if not (known[1] and known[2]) then return { NOT_LOADED } end
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if known[1] ~= epoch or known[2] ~= replid then return { FENCED } end
local aside = redis.call('HMGET', out, '', transfer_id)
local range, first, serials = tonumber(redis.call('GET', tokens)), tonumber(known[3]), {}
if not (aside[1] and range and first) or redis.call('LINDEX', spare, -1) ~= '0' then return { NOT_LOADED } end
if aside[2] then return { OK, cmsgpack.unpack(aside[2])[3] } end

local from_range = math.min(range, units)
for taken = 1, from_range do serials[taken] = string.format('%d', first + range - taken) end
local from_spare = 0
if from_range < units then
    local rest = redis.call('LRANGE', spare, 0, units - from_range - 1)
    if rest[#rest] == '0' then rest[#rest] = nil end
    from_spare = #rest
    for index = 1, from_spare do serials[from_range + index] = rest[index] end
end
if #serials == 0 then return { OK, serials } end

-- Write.
if from_range > 0 then redis.call('DECRBY', tokens, from_range) end
if from_spare > 0 then redis.call('LTRIM', spare, from_spare, -1) end
redis.call('HSET', out, transfer_id, cmsgpack.pack({ variant, destination, serials }))
redis.call('HINCRBY', meta, 'seq:' .. variant, 1)
return { OK, serials }
