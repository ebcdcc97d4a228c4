#!lua
-- cart_add: adds units of one variant to a cart, once for each request.
--
-- KEYS  cart
-- ARGV  now_ms ttl_s first_s may_begin variant quantity price request max_lines max_quantity
-- REPLY code cart
-- CODES OK REPLAYED KEY_REUSED FULL OVER_LIMIT NO_CART BEGUN
--
-- first_s   0 for a buyer. A guest's cart lives so long at first; a change that comes a quarter of it later, or after that, is
--           a second visit and gives it ttl_s
-- may_begin 1 unless no cart may begin now: NO_CART if there is none
-- price     8 bytes: minor units (5, big endian), currency (3). Kept only by a line that is new
-- request   8 bytes: hash of the idempotency key (6), hash of what is asked under it (2)
-- cart      HGETALL after the change; absent unless the code is OK, BEGUN (there was no cart) or REPLAYED
-- Invariant: a request is added once, as long as fewer than 8 others come in between; two at once are both added.
local cart = KEYS[1]
local now_ms, ttl_s, first_s, may_begin = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local variant, added, price, request = ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
local max_lines, max_quantity = tonumber(ARGV[9]), tonumber(ARGV[10])
assert(#KEYS == 1 and #ARGV == 10 and #price == 8 and #request == 8, 'cart_add: wrong number of keys or arguments')
local OK, REPLAYED, KEY_REUSED, FULL, OVER_LIMIT, NO_CART, BEGUN = 0, 1, 2, 4, 5, 7, 8
local byte, sub = string.byte, string.sub

-- Decide.
local known = redis.call('HMGET', cart, 'v', 'k', 'o', variant)
local version, requests, once, line = known[1], known[2] or '', known[3], known[4]
local done = version and OK or BEGUN
if not version and not may_begin then return { NO_CART } end
for at = 1, #requests, 8 do
    if sub(requests, at, at + 5) == sub(request, 1, 6) then
        if sub(requests, at + 6, at + 7) ~= sub(request, 7, 8) then return { KEY_REUSED } end
        return { REPLAYED, redis.call('HGETALL', cart) }
    end
end
local quantity = added
if line then
    quantity = quantity + 256 * byte(line, 1) + byte(line, 2)
    price = sub(line, 3)
elseif version then
    local lines = redis.call('HLEN', cart) - 1 - (known[2] and 1 or 0) - (once and 1 or 0)
    if lines >= max_lines then return { FULL } end
end
if quantity > max_quantity then return { OVER_LIMIT } end
if first_s > 0 then
    local left = redis.call('TTL', cart)
    if left < 0 then ttl_s = first_s elseif left <= first_s and 4 * left > 3 * first_s then ttl_s = left end
end
version = math.max((tonumber(version) or 0) + 1, now_ms)

-- Write.
redis.call('HSET', cart, 'v', string.format('%.0f', version), 'k', sub(requests .. request, -64),
    variant, string.char(math.floor(quantity / 256), quantity % 256) .. price)
redis.call('EXPIRE', cart, ttl_s)
return { done, redis.call('HGETALL', cart) }
