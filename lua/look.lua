#!lua
-- look: what the warehouse holds at this instant, for pulls, for readings that find a drop sold out and for the audit. Writes nothing.
--
-- KEYS  meta buyers claims out / tokens spare
-- ARGV  epoch variants
-- REPLY code granted state leaving free seq
-- CODES OK NOT_LOADED FENCED
--
-- leaving  transfers set aside in `out`: { transfer id, cmsgpack { variant, destination, serials }, ... }
-- free     for each byte of `variants` the number of free tokens
-- seq      for each byte of `variants` a number that grows with every change to its free or leaving tokens and its buyers'
--          records: equal in two readings, nothing happened to the variant in between, whatever happened to others
-- NOT_LOADED: something of the warehouse is lost, be it one key of many. Who watches looks at all of them, and rebuilds it.
local meta, buyers, claims, out = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch, variants = ARGV[1], ARGV[2]
assert(#KEYS == 4 + 2 * #variants and #ARGV == 2, 'look: wrong number of keys or arguments')
local OK, NOT_LOADED, FENCED = 0, 1, 2

local fields = { 'epoch', 'fence', 'granted', 'state', 'limit', 'settled', 'chunks' }
for position = 1, #variants do
    fields[6 + 2 * position] = 'seq:' .. string.byte(variants, position)
    fields[7 + 2 * position] = 'first:' .. string.byte(variants, position)
end
local known = redis.call('HMGET', meta, unpack(fields))
if not (known[1] and known[2]) then return { NOT_LOADED } end
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if known[1] ~= epoch or known[2] ~= replid then return { FENCED } end
for field = 1, #fields do
    if not known[field] then return { NOT_LOADED } end
end
-- Every key keeps a sentinel, so that "empty" and "lost" never look alike. In the hashes it is the field of no name; a log
-- may be empty and still exist.
if redis.call('HEXISTS', buyers, '') == 0 or redis.call('EXISTS', claims) == 0 then return { NOT_LOADED } end
local leaving, free, seq, is_whole = redis.call('HGETALL', out), {}, {}, false
for index = 1, #leaving, 2 do
    if leaving[index] == '' then
        table.remove(leaving, index)
        table.remove(leaving, index)
        is_whole = true
        break
    end
end
if not is_whole then return { NOT_LOADED } end
for position = 1, #variants do
    local tokens, spare = KEYS[3 + 2 * position], KEYS[4 + 2 * position]
    local range = tonumber(redis.call('GET', tokens))
    if not range or redis.call('LINDEX', spare, -1) ~= '0' then return { NOT_LOADED } end
    free[position], seq[position] = range + redis.call('LLEN', spare) - 1, known[6 + 2 * position]
end
return { OK, known[3], known[4], leaving, free, seq }
