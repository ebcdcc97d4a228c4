#!lua
-- award: makes the units of one numbered grant a claim of a standby buyer who lives here, in one step: they are never free.
--
-- KEYS  meta buyers claims
-- ARGV  epoch number now_ms buyer request serials
-- REPLY code granted is_taken
-- CODES OK NOT_LOADED FENCED ALREADY GAP
--
-- buyer     whose home this is
-- request   14 bytes: tail of the claim id (12), variant (1), quantity (1, from 1 to 100), as claim.lua has them
-- serials   4 bytes each, big endian, as many as the quantity
-- granted   number of the last grant applied
-- is_taken  1: the claim is his, and logged; 0: he would hold more than the limit, and the units are in no place until
--           Postgres, which is told, grants them anew. A repeat is answered as the first call was
-- The state of the warehouse does not matter: the award was decided while the drop was selling.
-- Invariant: whoever applies a grant, however often, its claim is made or refused once.
local meta, buyers, claims = KEYS[1], KEYS[2], KEYS[3]
local epoch, number, now_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local buyer, request, serials = ARGV[4], ARGV[5], ARGV[6]
assert(#KEYS == 3 and #ARGV == 6 and number, 'award: wrong number of keys or arguments')
assert(#request == 14 and #buyer >= 1 and #buyer <= 64, 'award: a request or a buyer of another length')
local byte, sub = string.byte, string.sub
local variant, quantity = byte(request, 13, 14)
assert(quantity >= 1 and quantity <= 100 and #serials == 4 * quantity, 'award: not as many serials as the quantity')
local OK, NOT_LOADED, FENCED, ALREADY, GAP = 0, 1, 2, 3, 4

-- Decide.
local known = redis.call('HMGET', meta, 'epoch', 'fence', 'granted', 'limit', 'first:' .. variant)
if not (known[1] and known[2]) then return { NOT_LOADED } end
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if known[1] ~= epoch or known[2] ~= replid then return { FENCED } end
local granted, limit = tonumber(known[3]), tonumber(known[4])
local records = redis.call('HMGET', buyers, '', buyer)
if not (granted and limit and known[5] and records[1]) then return { NOT_LOADED } end

local record = records[2] or ''
local tail, held, cursor, found = sub(request, 1, 12), 0, 1, false
while cursor <= #record do
    local units = byte(record, cursor + 13)
    found = found or sub(record, cursor, cursor + 11) == tail
    if units < 128 then held, cursor = held + units, cursor + 4 * units end
    cursor = cursor + 14
end
-- Nothing of a record goes while the epoch lasts, so it tells how this grant ended.
if granted >= number then return { ALREADY, known[3], found and 1 or 0 } end
if granted ~= number - 1 then return { GAP, known[3], 0 } end
local is_taken = not found and held + quantity <= limit

-- Write.
if is_taken then
    -- Where there is no log, it was lost, and nothing is written.
    local entry = redis.call('XADD', claims, 'NOMKSTREAM', '*', 'e', epoch, 't', now_ms, 'n', cmsgpack.pack(buyer),
        'r', request, 's', serials)
    if not entry then return { NOT_LOADED } end
    redis.call('HSET', buyers, buyer, record .. request .. serials)
    -- A new record of the variant must not be missed by a lease (flows/readings.rs).
    redis.call('HINCRBY', meta, 'seq:' .. variant, 1)
end
redis.call('HSET', meta, 'granted', ARGV[2])
return { OK, ARGV[2], is_taken and 1 or 0 }
