#!lua
-- claim: takes tokens for a batch of claims whose buyers live in this warehouse. One atomic step for the whole batch.
--
-- KEYS  meta buyers claims / tokens spare
-- ARGV  epoch now_ms variants batch
-- REPLY code outcomes
-- CODES OK NOT_LOADED FENCED
--
-- variants  one byte for each variant that the batch names, in the order of the keys behind the slash
-- batch     cmsgpack, flat, four values a claim: buyer, tail of the claim id (12 bytes), position of its variant in
--           `variants` (from 1), quantity (1 to 100)
-- outcomes  one for each claim, in order: a status byte, then for
--           0 TAKEN, 1 REPLAYED  quantity (1 byte), serials (4 bytes each, big endian)
--           2 RELEASED, 3 KEY_REUSED, 6 NOT_OPEN, 7 CLOSED  nothing
--           4 OVER_LIMIT  units held (1 byte)
--           5 SHORT  units free here (4 bytes, big endian)
-- Invariant: a refusal writes nothing, so memory grows with what is sold and never with who asks.
local meta, buyers, claims = KEYS[1], KEYS[2], KEYS[3]
local epoch, now_ms, variants, batch = ARGV[1], ARGV[2], ARGV[3], cmsgpack.unpack(ARGV[4])
assert(#KEYS == 3 + 2 * #variants and #ARGV == 4 and #batch % 4 == 0 and #batch <= 1024, 'claim: wrong number of keys or arguments')
local OK, NOT_LOADED, FENCED = 0, 1, 2
local byte, char, sub, pack = string.byte, string.char, string.sub, struct.pack

-- Decide. Everything is read once; claims of one batch see each other through these tables.
local fields = { 'epoch', 'fence', 'state', 'limit' }
for position = 1, #variants do
    fields[4 + position] = 'first:' .. byte(variants, position)
end
local known = redis.call('HMGET', meta, unpack(fields))
if not known[1] then return { NOT_LOADED } end
-- A restart or a promotion gives the server a new replication id: it may have forgotten claims that were answered.
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if known[1] ~= epoch or known[2] ~= replid then return { FENCED } end
local state, limit = known[3], tonumber(known[4])

local names, wanted = {}, {}
for position = 1, #variants do wanted[position] = 0 end
for at = 1, #batch, 4 do
    -- A wrong call is our own bug: it must not reach the records. Not `assert`, which would cost a call for each claim.
    local tail, position, quantity = batch[at + 1], batch[at + 2], batch[at + 3]
    if not (quantity >= 1 and quantity <= 100 and quantity % 1 == 0) or #tail ~= 12 then
        error('claim: wrong quantity or tail')
    end
    names[#names + 1] = batch[at]
    wanted[position] = wanted[position] + quantity
end
local records = redis.call('HMGET', buyers, unpack(names))
local first, range, range_before, spare, spare_used = {}, {}, {}, {}, {}
for position = 1, #variants do
    first[position] = tonumber(known[4 + position])
    range[position] = tonumber(redis.call('GET', KEYS[2 + 2 * position]))
    range_before[position], spare[position], spare_used[position] = range[position], {}, 0
    if wanted[position] > range[position] then
        local serials = redis.call('LRANGE', KEYS[3 + 2 * position], 0, wanted[position] - range[position] - 1)
        -- The last element is the sentinel that keeps the list alive; serials begin at 1.
        if serials[#serials] == '0' then serials[#serials] = nil end
        spare[position] = serials
    end
end

local changed, log, outcomes = {}, {}, {}
for index = 1, #names do
    local at = 4 * index - 3
    local buyer, tail, position, quantity = batch[at], batch[at + 1], batch[at + 2], batch[at + 3]
    local record, held, outcome = changed[buyer] or records[index] or '', 0, nil
    -- A record is a row of claims: tail, variant, quantity (+ 128 once released), serials (none once released).
    local cursor = 1
    while cursor <= #record do
        local variant, units = byte(record, cursor + 12, cursor + 13)
        local size = 14
        if units < 128 then
            held, size = held + units, 14 + 4 * units
        end
        if sub(record, cursor, cursor + 11) == tail then
            if variant ~= byte(variants, position) or units % 128 ~= quantity then
                outcome = '\3'
            elseif units >= 128 then
                outcome = '\2'
            else
                outcome = '\1' .. sub(record, cursor + 13, cursor + size - 1)
            end
            break
        end
        cursor = cursor + size
    end
    if not outcome then
        local free = range[position] + #spare[position] - spare_used[position]
        if state ~= 'open' then
            outcome = state == 'closed' and '\7' or '\6'
        elseif held + quantity > limit then
            outcome = '\4' .. char(held)
        elseif free < quantity then
            outcome = '\5' .. pack('>I4', free)
        else
            local units = char(quantity)
            for _ = 1, quantity do
                local serial
                if range[position] > 0 then
                    range[position] = range[position] - 1
                    serial = first[position] + range[position]
                else
                    spare_used[position] = spare_used[position] + 1
                    serial = tonumber(spare[position][spare_used[position]])
                end
                units = units .. pack('>I4', serial)
            end
            local claim = tail .. sub(variants, position, position) .. units
            changed[buyer] = record .. claim
            log[#log + 1] = claim .. char(#buyer) .. buyer
            outcome = '\0' .. units
        end
    end
    outcomes[index] = outcome
end

-- Write. Nothing below can fail.
if #log > 0 then
    for position = 1, #variants do
        local from_range = range_before[position] - range[position]
        if from_range > 0 then redis.call('DECRBY', KEYS[2 + 2 * position], from_range) end
        if spare_used[position] > 0 then redis.call('LTRIM', KEYS[3 + 2 * position], spare_used[position], -1) end
        if from_range + spare_used[position] > 0 then redis.call('HINCRBY', meta, 'seq:' .. byte(variants, position), 1) end
    end
    local pairs_of = {}
    for buyer, record in pairs(changed) do
        pairs_of[#pairs_of + 1] = buyer
        pairs_of[#pairs_of + 1] = record
    end
    redis.call('HSET', buyers, unpack(pairs_of))
    redis.call('XADD', claims, '*', 'e', epoch, 't', now_ms, 'b', table.concat(log))
end
return { OK, table.concat(outcomes) }
