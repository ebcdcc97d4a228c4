#!lua
-- grant: puts the tokens of one grant into the warehouse, once, and only after the grant before it.
--
-- KEYS  meta buyers / spare
-- ARGV  epoch number variants serials released
-- REPLY code granted
-- CODES OK NOT_LOADED FENCED ALREADY GAP
--
-- variants  one byte for each variant of which the grant has tokens
-- serials   cmsgpack: for each of these variants an array of serials (decimal strings)
-- released  empty, or cmsgpack { buyer, tail of the claim id, variant, quantity }: the claim that is over; its units
--           count no longer against the buyer's limit, its id stays so that a replay is told how it ended
-- granted   number of the last grant applied
-- Invariant: whoever applies a grant, however often, its tokens come in once.
local meta, buyers = KEYS[1], KEYS[2]
local epoch, number, variants, serials = ARGV[1], tonumber(ARGV[2]), ARGV[3], cmsgpack.unpack(ARGV[4])
local released = ARGV[5] ~= '' and cmsgpack.unpack(ARGV[5]) or nil
assert(#KEYS == 2 + #variants and #ARGV == 5 and #serials == #variants, 'grant: wrong number of keys or arguments')
local OK, NOT_LOADED, FENCED, ALREADY, GAP = 0, 1, 2, 3, 4
local byte, char, sub = string.byte, string.char, string.sub

-- Decide.
local known = redis.call('HMGET', meta, 'epoch', 'fence', 'granted')
if not (known[1] and known[2]) then return { NOT_LOADED } end
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if known[1] ~= epoch or known[2] ~= replid then return { FENCED } end
local granted = tonumber(known[3])
local records = redis.call('HMGET', buyers, '', released and released[1] or '')
if not (granted and records[1]) then return { NOT_LOADED } end
for position = 1, #variants do
    if redis.call('LINDEX', KEYS[2 + position], -1) ~= '0' then return { NOT_LOADED } end
end
if granted >= number then return { ALREADY, known[3] } end
if granted ~= number - 1 then return { GAP, known[3] } end

local changed, record = variants, nil
if released then
    local tail, quantity = released[2], released[4]
    local variant = char(released[3])
    local over = tail .. variant .. char(quantity + 128)
    record = records[2] or ''
    local cursor, found = 1, false
    while cursor <= #record and not found do
        local units = byte(record, cursor + 13)
        local size = units < 128 and 14 + 4 * units or 14
        if sub(record, cursor, cursor + 11) == tail then
            record = sub(record, 1, cursor - 1) .. over .. sub(record, cursor + size)
            found = true
        end
        cursor = cursor + size
    end
    if not found then
        record = record .. over
        -- A new record of a variant must not be missed by a lease (flows/readings.rs); one that was there is known.
        if not string.find(variants, variant, 1, true) then changed = variants .. variant end
    end
end

-- Write.
for position = 1, #variants do
    -- In front of the sentinel, which stays last.
    for at = 1, #serials[position], 500 do
        redis.call('LPUSH', KEYS[2 + position], unpack(serials[position], at, math.min(at + 499, #serials[position])))
    end
end
if released then redis.call('HSET', buyers, released[1], record) end
redis.call('HSET', meta, 'granted', ARGV[2])
for position = 1, #changed do redis.call('HINCRBY', meta, 'seq:' .. byte(changed, position), 1) end
return { OK, ARGV[2] }
