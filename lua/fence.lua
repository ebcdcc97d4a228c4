#!lua
-- fence: begins a load. From here on the warehouse issues nothing until `open` with the same epoch.
--
-- KEYS  meta
-- ARGV  epoch
-- REPLY code replid
-- CODES OK STALE
--
-- replid  the server's replication id; every chunk and the opening name it, so that a failover in between starts the load again
local meta = KEYS[1]
local epoch = tonumber(ARGV[1])
assert(#KEYS == 1 and #ARGV == 1, 'fence: wrong number of keys or arguments')
local OK, STALE = 0, 5

local before = redis.call('HGET', meta, 'epoch')
if before and tonumber(before) > epoch then return { STALE, '' } end
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')

redis.call('HSET', meta, 'epoch', ARGV[1], 'fence', '', 'state', 'loading', 'chunks', '0')
return { OK, replid }
