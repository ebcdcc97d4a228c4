#!lua
-- set_state: opens or closes a loaded warehouse for new claims. Known claims are answered in every state.
--
-- KEYS  meta
-- ARGV  epoch state
-- REPLY code
-- CODES OK NOT_LOADED FENCED
--
-- state  `ready`, `open` or `closed`
local meta = KEYS[1]
local epoch, state = ARGV[1], ARGV[2]
assert(#KEYS == 1 and #ARGV == 2, 'set_state: wrong number of keys or arguments')
local OK, NOT_LOADED, FENCED = 0, 1, 2

local known = redis.call('HMGET', meta, 'epoch', 'fence', 'state')
if not (known[1] and known[2] and known[3]) then return { NOT_LOADED } end
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if known[1] ~= epoch or known[2] ~= replid then return { FENCED } end

if known[3] ~= state then redis.call('HSET', meta, 'state', state) end
return { OK }
