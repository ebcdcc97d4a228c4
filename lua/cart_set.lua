#!lua
-- cart_set: gives a line of the expected cart another quantity, or takes it out.
--
-- KEYS  cart
-- ARGV  now_ms ttl_s first_s may_begin expected variant quantity price max_lines
-- REPLY code cart
-- CODES OK STALE FULL NO_SUCH_LINE NO_CART BEGUN
--
-- first_s, may_begin, NO_CART, BEGUN as in cart_add
-- expected  the versions that the change was made for, with a comma before, between and behind: ',7,8,'. A cart that is not
--           there has version 0. '*' is any cart that is there
-- quantity  0 takes the line out
-- price     8 bytes, as in cart_add; kept only by a line that is new
-- cart      HGETALL after the change; absent unless the code is OK or BEGUN
-- Invariant: a change made for a cart that is over finds another version, since none ever comes again.
local cart = KEYS[1]
local now_ms, ttl_s, first_s, may_begin = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local expected, variant = ARGV[5], ARGV[6]
local quantity, price, max_lines = tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
assert(#KEYS == 1 and #ARGV == 9 and #price == 8, 'cart_set: wrong number of keys or arguments')
local OK, STALE, FULL, NO_SUCH_LINE, NO_CART, BEGUN = 0, 3, 4, 6, 7, 8

-- Decide.
local known = redis.call('HMGET', cart, 'v', 'k', 'o', variant)
local version, line = known[1], known[4]
if expected == '*' then
    if not version then return { STALE } end
elseif not string.find(expected, ',' .. (version or '0') .. ',', 1, true) then
    return { STALE }
end
if line then
    price = string.sub(line, 3)
elseif quantity == 0 then
    return { NO_SUCH_LINE }
elseif version then
    local lines = redis.call('HLEN', cart) - 1 - (known[2] and 1 or 0) - (known[3] and 1 or 0)
    if lines >= max_lines then return { FULL } end
elseif not may_begin then
    return { NO_CART }
end
local done = version and OK or BEGUN
if first_s > 0 then
    local left = redis.call('TTL', cart)
    if left < 0 then ttl_s = first_s elseif left <= first_s and 4 * left > 3 * first_s then ttl_s = left end
end
version = math.max((tonumber(version) or 0) + 1, now_ms)

-- Write.
redis.call('HSET', cart, 'v', string.format('%.0f', version))
if quantity == 0 then
    redis.call('HDEL', cart, variant)
else
    redis.call('HSET', cart, variant, string.char(math.floor(quantity / 256), quantity % 256) .. price)
end
redis.call('EXPIRE', cart, ttl_s)
return { done, redis.call('HGETALL', cart) }
