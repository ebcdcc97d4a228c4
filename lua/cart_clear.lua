#!lua
-- cart_clear: takes every line out of the expected cart.
--
-- KEYS  cart
-- ARGV  now_ms ttl_s first_s expected
-- REPLY code cart
-- CODES OK STALE
--
-- first_s   as in cart_add
-- expected  as in cart_set
-- cart      HGETALL after the change; absent unless the code is OK
-- Invariant: version, requests and what was done once stay, so that nothing that was done before is done again.
local cart = KEYS[1]
local now_ms, ttl_s, first_s, expected = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4]
assert(#KEYS == 1 and #ARGV == 4, 'cart_clear: wrong number of keys or arguments')
local OK, STALE = 0, 3

-- Decide.
local known = redis.call('HMGET', cart, 'v', 'k', 'o')
local version = known[1]
if expected == '*' then
    if not version then return { STALE } end
elseif not string.find(expected, ',' .. (version or '0') .. ',', 1, true) then
    return { STALE }
end
if not version then return { OK, {} } end
if first_s > 0 then
    local left = redis.call('TTL', cart)
    if left < 0 then ttl_s = first_s elseif left <= first_s and 4 * left > 3 * first_s then ttl_s = left end
end

-- Write.
redis.call('DEL', cart)
redis.call('HSET', cart, 'v', string.format('%.0f', math.max(tonumber(version) + 1, now_ms)))
if known[2] then redis.call('HSET', cart, 'k', known[2]) end
if known[3] then redis.call('HSET', cart, 'o', known[3]) end
redis.call('EXPIRE', cart, ttl_s)
return { OK, redis.call('HGETALL', cart) }
