#!lua
-- cart_hand_back: ends a parcel whose lines have come into its buyer's cart; those for which there was no place go back.
--
-- KEYS  cart parcel
-- ARGV  now_ms ttl_s packed left_out max_quantity
-- REPLY code
-- CODES OK NO_CART
--
-- packed    the version of the cart when the parcel was packed, in decimal: another parcel is left alone
-- left_out  variants that go back, 4 bytes each, big endian; on top of what the cart has of them now
-- Invariant: a parcel ends once. NO_CART: it has ended before.
local cart, parcel = KEYS[1], KEYS[2]
local now_ms, ttl_s, packed, left_out, max_quantity = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
assert(#KEYS == 2 and #ARGV == 5 and #left_out % 4 == 0, 'cart_hand_back: wrong number of keys or arguments')
local OK, NO_CART = 0, 7
local byte, sub = string.byte, string.sub

-- Decide.
if redis.call('HGET', parcel, 'v') ~= packed then return { NO_CART } end
local changes = {}
for at = 1, #left_out, 4 do
    local a, b, c, d = byte(left_out, at, at + 3)
    local variant = string.format('%.0f', ((a * 256 + b) * 256 + c) * 256 + d)
    local back, line = redis.call('HGET', parcel, variant), redis.call('HGET', cart, variant)
    if back then
        local quantity = 256 * byte(back, 1) + byte(back, 2)
        if line then quantity = math.min(quantity + 256 * byte(line, 1) + byte(line, 2), max_quantity) end
        changes[#changes + 1] = variant
        changes[#changes + 1] = string.char(math.floor(quantity / 256), quantity % 256) .. sub(line or back, 3)
    end
end

-- Write.
if #changes > 0 then
    local version = math.max((tonumber(redis.call('HGET', cart, 'v')) or 0) + 1, tonumber(packed) + 1, now_ms)
    redis.call('HSET', cart, 'v', string.format('%.0f', version), unpack(changes))
    redis.call('EXPIRE', cart, ttl_s)
end
redis.call('DEL', parcel)
return { OK }
