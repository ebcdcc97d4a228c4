#!lua
-- cart_add: adds units of one variant to a cart, once for each request.
--
-- KEYS  cart
-- ARGV  now_ms ttl_s variant quantity price request max_lines max_quantity
-- REPLY code cart
-- CODES OK REPLAYED KEY_REUSED FULL OVER_LIMIT
--
-- price     8 bytes: minor units (5, big endian), currency (3). Kept only by a line that is new
-- request   8 bytes: hash of the idempotency key (6), hash of what is asked under it (2)
-- cart      HGETALL after the change; absent unless the code is OK or REPLAYED
-- Invariant: a request is added once, as long as fewer than 8 others come in between; two at once are both added.
local cart = KEYS[1]
local now_ms, ttl_s, variant, added, price = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local request, max_lines, max_quantity = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
assert(#KEYS == 1 and #ARGV == 8 and #price == 8 and #request == 8, 'cart_add: wrong number of keys or arguments')
local OK, REPLAYED, KEY_REUSED, FULL, OVER_LIMIT = 0, 1, 2, 4, 5
local byte, sub = string.byte, string.sub

-- Decide.
local known = redis.call('HMGET', cart, 'v', 'k', 'o', variant)
local version, requests, once, line = known[1], known[2] or '', known[3], known[4]
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
version = math.max((tonumber(version) or 0) + 1, now_ms)

-- Write.
redis.call('HSET', cart, 'v', string.format('%.0f', version), 'k', sub(requests .. request, -64),
    variant, string.char(math.floor(quantity / 256), quantity % 256) .. price)
redis.call('EXPIRE', cart, ttl_s)
return { OK, redis.call('HGETALL', cart) }
