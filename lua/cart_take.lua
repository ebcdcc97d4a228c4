#!lua
-- cart_take: takes out of a cart what was ordered from it, once for each checkout; what was added since stays.
--
-- KEYS  cart
-- ARGV  now_ms ttl_s checkout lines
-- REPLY code
-- CODES OK REPLAYED NO_CART
--
-- checkout  8 bytes: hash of the checkout's id
-- lines     for each line that was ordered, each variant once: variant (4 bytes, big endian), quantity (2, big endian)
-- Invariant: a checkout takes once, as long as fewer than 8 other checkouts and merges of this cart come in between.
local cart = KEYS[1]
local now_ms, ttl_s, checkout, ordered = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
assert(#KEYS == 1 and #ARGV == 4 and #checkout == 8 and #ordered % 6 == 0, 'cart_take: wrong number of keys or arguments')
local OK, REPLAYED, NO_CART = 0, 1, 7
local byte, sub = string.byte, string.sub

-- Decide.
local known = redis.call('HMGET', cart, 'v', 'o')
local version, once = known[1], known[2] or ''
if not version then return { NO_CART } end
for at = 1, #once, 8 do
    if sub(once, at, at + 7) == checkout then return { REPLAYED } end
end
local kept, gone = {}, {}
for at = 1, #ordered, 6 do
    local a, b, c, d, high, low = byte(ordered, at, at + 5)
    local variant = string.format('%.0f', ((a * 256 + b) * 256 + c) * 256 + d)
    local line = redis.call('HGET', cart, variant)
    if line then
        local rest = 256 * byte(line, 1) + byte(line, 2) - (high * 256 + low)
        if rest > 0 then
            kept[#kept + 1] = variant
            kept[#kept + 1] = string.char(math.floor(rest / 256), rest % 256) .. sub(line, 3)
        else
            gone[#gone + 1] = variant
        end
    end
end

-- Write.
version = string.format('%.0f', math.max(tonumber(version) + 1, now_ms))
redis.call('HSET', cart, 'v', version, 'o', sub(once .. checkout, -64), unpack(kept))
if #gone > 0 then redis.call('HDEL', cart, unpack(gone)) end
redis.call('EXPIRE', cart, ttl_s)
return { OK }
