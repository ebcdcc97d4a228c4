#!lua
-- cart_hand_over: takes every line out of a guest's cart and keeps them in a parcel for one buyer.
--
-- KEYS  cart parcel
-- ARGV  now_ms ttl_s
-- REPLY code parcel
-- CODES OK REPLAYED NO_CART
--
-- parcel  HGETALL of the parcel: the lines, and the version that the cart had with them; absent with NO_CART. REPLAYED: it
--         was packed before and has not been handed back; the cart is left as it is
-- Invariant: a line is in the cart or in one parcel, so two buyers never get the same one. The cart keeps its version, which
--            grows, and its requests.
local cart, parcel = KEYS[1], KEYS[2]
local now_ms, ttl_s = tonumber(ARGV[1]), ARGV[2]
assert(#KEYS == 2 and #ARGV == 2, 'cart_hand_over: wrong number of keys or arguments')
local OK, REPLAYED, NO_CART = 0, 1, 7

-- Decide.
local packed = redis.call('HGETALL', parcel)
if #packed > 0 then return { REPLAYED, packed } end
local known = redis.call('HMGET', cart, 'v', 'k', 'o')
local version = known[1]
if not version then return { NO_CART } end
if redis.call('HLEN', cart) == 1 + (known[2] and 1 or 0) + (known[3] and 1 or 0) then return { NO_CART } end

-- Write.
redis.call('RENAME', cart, parcel)
redis.call('HDEL', parcel, 'k', 'o')
redis.call('EXPIRE', parcel, ttl_s)
redis.call('HSET', cart, 'v', string.format('%.0f', math.max(tonumber(version) + 1, now_ms)))
if known[2] then redis.call('HSET', cart, 'k', known[2]) end
if known[3] then redis.call('HSET', cart, 'o', known[3]) end
redis.call('EXPIRE', cart, ttl_s)
return { OK, redis.call('HGETALL', parcel) }
