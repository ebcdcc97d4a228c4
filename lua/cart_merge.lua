#!lua
-- cart_merge: brings the lines of a guest's cart into a buyer's; of two quantities of one variant the higher one wins.
--
-- KEYS  cart
-- ARGV  now_ms ttl_s source lines max_lines max_quantity
-- REPLY code cart clamped left_out
-- CODES OK REPLAYED
--
-- source    8 bytes: hash of the guest's session and the version of his cart that was read
-- lines     for each line variant (4 bytes, big endian), quantity (2, big endian), price (8, as in cart_add)
-- cart      HGETALL after the change
-- clamped   variants that got fewer units than the guest's cart had, because of max_quantity
-- left_out  variants for which there was no place, because of max_lines. While there are any, the source is not noted: the
--           rest may come later
-- Invariant: a source that was noted changes nothing again, whatever became of its lines.
local cart = KEYS[1]
local now_ms, ttl_s, source, guest = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local max_lines, max_quantity = tonumber(ARGV[5]), tonumber(ARGV[6])
assert(#KEYS == 1 and #ARGV == 6 and #source == 8 and #guest % 14 == 0, 'cart_merge: wrong number of keys or arguments')
local OK, REPLAYED = 0, 1
local byte, sub = string.byte, string.sub

-- Decide.
local stored, fields = redis.call('HGETALL', cart), {}
for at = 1, #stored, 2 do fields[stored[at]] = stored[at + 1] end
local version, once = fields['v'], fields['o'] or ''
for at = 1, #once, 8 do
    if sub(once, at, at + 7) == source then return { REPLAYED, stored, {}, {} } end
end
local lines = #stored / 2 - (version and 1 or 0) - (fields['k'] and 1 or 0) - (fields['o'] and 1 or 0)
local changes, clamped, left_out = {}, {}, {}
for at = 1, #guest, 14 do
    local a, b, c, d, high, low = byte(guest, at, at + 5)
    local variant, quantity = string.format('%.0f', ((a * 256 + b) * 256 + c) * 256 + d), high * 256 + low
    local line = fields[variant]
    if not line and lines >= max_lines then
        left_out[#left_out + 1] = variant
    else
        if quantity > max_quantity then
            clamped[#clamped + 1] = variant
            quantity = max_quantity
        end
        if not line then lines = lines + 1 end
        if not line or quantity > 256 * byte(line, 1) + byte(line, 2) then
            changes[#changes + 1] = variant
            changes[#changes + 1] = string.char(math.floor(quantity / 256), quantity % 256) .. sub(guest, at + 6, at + 13)
        end
    end
end
if #left_out == 0 then
    changes[#changes + 1] = 'o'
    changes[#changes + 1] = sub(once .. source, -64)
end

-- Write.
version = math.max((tonumber(version) or 0) + 1, now_ms)
redis.call('HSET', cart, 'v', string.format('%.0f', version), unpack(changes))
redis.call('EXPIRE', cart, ttl_s)
return { OK, redis.call('HGETALL', cart), clamped, left_out }
