#!lua
-- clear: forgets what was set aside for a transfer. Called only after Postgres has committed the grant of its tokens.
--
-- KEYS  meta out
-- ARGV  epoch transfer_id
-- REPLY code
-- CODES OK NOT_LOADED FENCED
local meta, out = KEYS[1], KEYS[2]
local epoch, transfer_id = ARGV[1], ARGV[2]
assert(#KEYS == 2 and #ARGV == 2, 'clear: wrong number of keys or arguments')
local OK, NOT_LOADED, FENCED = 0, 1, 2

local known = redis.call('HMGET', meta, 'epoch', 'fence')
if not (known[1] and known[2]) then return { NOT_LOADED } end
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if known[1] ~= epoch or known[2] ~= replid then return { FENCED } end

local aside = redis.call('HMGET', out, '', transfer_id)
if not aside[1] then return { NOT_LOADED } end
if not aside[2] then return { OK } end
local seq = 'seq:' .. cmsgpack.unpack(aside[2])[1]

redis.call('HDEL', out, transfer_id)
redis.call('HINCRBY', meta, seq, 1)
return { OK }
