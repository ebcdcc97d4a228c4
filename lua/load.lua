#!lua
-- load: one chunk of what Postgres knows of the warehouse. Chunk 0 empties it first (the claim stream stays).
--
-- KEYS  meta buyers out / tokens spare
-- ARGV  epoch replid chunk granted limit variants ranges serials holders
-- REPLY code
-- CODES OK NOT_LOADED FENCED GAP
--
-- chunk    number of this chunk, from 0; each is applied once and in order
-- granted  number of the last grant that the loaded state contains
-- ranges   cmsgpack: for each byte of `variants` first serial and length of one unbroken run of free serials (chunk 0), else empty
-- serials  cmsgpack: for each byte of `variants` an array of further free serials (decimal strings)
-- holders  cmsgpack, flat, two values a buyer: buyer, record (see claim.lua); appended to what the buyer has
local meta, buyers, out = KEYS[1], KEYS[2], KEYS[3]
local epoch, replid, chunk, granted, limit, variants = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local ranges, serials, holders = cmsgpack.unpack(ARGV[7]), cmsgpack.unpack(ARGV[8]), cmsgpack.unpack(ARGV[9])
assert(#KEYS == 3 + 2 * #variants and #ARGV == 9 and #serials == #variants, 'load: wrong number of keys or arguments')
assert(#holders % 2 == 0 and (chunk ~= '0' or #ranges == 2 * #variants), 'load: a holder without a record, or no ranges')
local OK, NOT_LOADED, FENCED, GAP = 0, 1, 2, 4

local known = redis.call('HMGET', meta, 'epoch', 'state', 'chunks')
if not (known[1] and known[2] and known[3]) then return { NOT_LOADED } end
local now = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if known[1] ~= epoch or known[2] ~= 'loading' or now ~= replid then return { FENCED } end
if known[3] ~= chunk then return { GAP } end

if chunk == '0' then
    redis.call('UNLINK', buyers, out)
    -- Sentinels: an empty hash or list would vanish, and "empty" would look like "lost".
    redis.call('HSET', buyers, '', '')
    redis.call('HSET', out, '', '')
    redis.call('HSET', meta, 'granted', granted, 'limit', limit)
    redis.call('HSETNX', meta, 'settled', '0-0')
    for position = 1, #variants do
        local tokens, spare = KEYS[2 + 2 * position], KEYS[3 + 2 * position]
        redis.call('UNLINK', spare)
        redis.call('RPUSH', spare, '0')
        redis.call('HSET', meta, 'first:' .. string.byte(variants, position), string.format('%d', ranges[2 * position - 1]))
        redis.call('SET', tokens, string.format('%d', ranges[2 * position]))
    end
end
for position = 1, #variants do
    redis.call('HINCRBY', meta, 'seq:' .. string.byte(variants, position), 1)
    for at = 1, #serials[position], 500 do
        redis.call('LPUSH', KEYS[3 + 2 * position], unpack(serials[position], at, math.min(at + 499, #serials[position])))
    end
end
for at = 1, #holders, 2 do
    redis.call('HSET', buyers, holders[at], (redis.call('HGET', buyers, holders[at]) or '') .. holders[at + 1])
end
redis.call('HINCRBY', meta, 'chunks', 1)
return { OK }
