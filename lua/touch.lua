#!lua
-- touch: writes once, so that a WAIT on the same connection waits for everything that this warehouse wrote before.
--
-- KEYS  meta
-- ARGV  epoch
-- REPLY code
-- CODES OK NOT_LOADED FENCED
--
-- WAIT promises no more than what its own connection has written. (Redis 7.0 waits for everything that was written before
-- the connection's last command, of whatever kind; that is not documented.) The fence makes sure that this server is the one
-- that took the claims: another one's replicas prove nothing about them.
local meta = KEYS[1]
local epoch = ARGV[1]
assert(#KEYS == 1 and #ARGV == 1, 'touch: wrong number of keys or arguments')
local OK, NOT_LOADED, FENCED = 0, 1, 2

local known = redis.call('HMGET', meta, 'epoch', 'fence')
if not (known[1] and known[2]) then return { NOT_LOADED } end
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if known[1] ~= epoch or known[2] ~= replid then return { FENCED } end

-- The same value again is a write too, and is replicated.
redis.call('HSET', meta, 'epoch', epoch)
return { OK }
