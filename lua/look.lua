#!lua
-- look: what the warehouse holds at this instant, for pulls, for the proof of "sold out" and for the audit. Writes nothing.
--
-- KEYS  meta out / tokens spare
-- ARGV  epoch variants
-- REPLY code granted state leaving free seq
-- CODES OK NOT_LOADED FENCED
--
-- leaving  transfers set aside in `out`: { transfer id, cmsgpack { variant, destination, serials }, ... }
-- free     for each byte of `variants` the number of free tokens
-- seq      for each byte of `variants` a number that grows with every change to its free or leaving tokens and its buyers'
--          records: equal in two readings, nothing happened to the variant in between, whatever happened to others
local meta, out = KEYS[1], KEYS[2]
local epoch, variants = ARGV[1], ARGV[2]
assert(#KEYS == 2 + 2 * #variants and #ARGV == 2, 'look: wrong number of keys or arguments')
local OK, NOT_LOADED, FENCED = 0, 1, 2

local fields = { 'epoch', 'fence', 'granted', 'state' }
for position = 1, #variants do
    fields[4 + position] = 'seq:' .. string.byte(variants, position)
end
local known = redis.call('HMGET', meta, unpack(fields))
if not known[1] then return { NOT_LOADED } end
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if known[1] ~= epoch or known[2] ~= replid then return { FENCED } end
local leaving, free, seq = {}, {}, {}
for index, value in ipairs(redis.call('HGETALL', out)) do leaving[index] = value end
-- Every fixed key keeps a sentinel, so that "empty" and "lost" never look alike. In `out` it is the field of no name.
for index = 1, #leaving, 2 do
    if leaving[index] == '' then
        table.remove(leaving, index)
        table.remove(leaving, index)
        break
    end
end
for position = 1, #variants do
    free[position] = tonumber(redis.call('GET', KEYS[1 + 2 * position])) + redis.call('LLEN', KEYS[2 + 2 * position]) - 1
    -- None: loaded by a version that counted for all variants together, and not changed since.
    seq[position] = known[4 + position] or '0'
end
return { OK, known[3], known[4], leaving, free, seq }
