#!lua
-- claim: takes tokens for a batch of claims whose buyers live in this warehouse. One atomic step for the whole batch.
--
-- KEYS  meta buyers claims / tokens spare
-- ARGV  epoch now_ms variants names requests told
-- REPLY code statuses details
-- CODES OK NOT_LOADED FENCED
--
-- variants  one byte for each variant that the batch names, in the order of the keys behind the slash
-- names     cmsgpack: the buyer of each claim, one behind the other without an array around them
-- requests  14 bytes a claim: tail of the claim id (12), variant (1), quantity (1, from 1 to 100)
-- told      10 bytes a claim, logged as they come: the country that its buyer named (2), and the total that they were
--           told (8, big endian), or ten zeros; empty if that is so of every claim. A repeat is not held against it
-- statuses  one byte for each claim, in order
-- details   for each claim, in order, what its status brings, one behind the other:
--           0 TAKEN, 1 REPLAYED  serials (4 bytes each, big endian), as many as the quantity
--           2 RELEASED, 3 KEY_REUSED, 6 NOT_OPEN, 7 CLOSED, 8 TOO_MANY_RELEASED  nothing
--           4 OVER_LIMIT  units held (1 byte)
--           5 SHORT  units free here (4 bytes, big endian)
-- Invariant: a refusal writes nothing, so memory grows with what is sold and never with who asks. Nor with one who claims and
-- gives back, again and again: after 50 of them (contract.rs, MAX_RELEASED) a buyer claims no more of this drop.
--
-- Lua hashes every byte of every string that it makes: that was a tenth of the time. So nothing is put together that is not
-- stored or answered, and a batch of which every claim is taken is logged as it came.
local meta, buyers, claims = KEYS[1], KEYS[2], KEYS[3]
local epoch, now_ms, variants, names, requests = ARGV[1], ARGV[2], ARGV[3], { cmsgpack.unpack(ARGV[4]) }, ARGV[5]
local told = ARGV[6]
assert(#KEYS == 3 + 2 * #variants and #ARGV == 6, 'claim: wrong number of keys or arguments')
assert(#names <= 256 and #requests == 14 * #names, 'claim: too many claims, or not as many requests as names')
assert(told == '' or #told == 10 * #names, 'claim: not as many told totals as names')
local OK, NOT_LOADED, FENCED = 0, 1, 2
local count = #names
local byte, char, find, sub, pack, concat = string.byte, string.char, string.find, string.sub, struct.pack, table.concat

-- Decide. Everything is read once; claims of one batch see each other through these tables.
local fields = { 'epoch', 'fence', 'state', 'limit' }
for position = 1, #variants do
    fields[4 + position] = 'first:' .. byte(variants, position)
end
local known = redis.call('HMGET', meta, unpack(fields))
if not (known[1] and known[2]) then return { NOT_LOADED } end
-- A restart or a promotion gives the server a new replication id: it may have forgotten claims that were answered.
local at_opening = 'master_replid:' .. known[2] .. '\r'
if known[1] ~= epoch or not find(redis.call('INFO', 'replication'), at_opening, 1, true) then return { FENCED } end
local state, limit = known[3], tonumber(known[4])
if not (state and limit) then return { NOT_LOADED } end

local position_of, first, range, range_before, spare, spare_used = {}, {}, {}, {}, {}, {}
for position = 1, #variants do
    position_of[byte(variants, position)] = position
    first[position] = tonumber(known[4 + position])
    range[position] = tonumber(redis.call('GET', KEYS[2 + 2 * position]))
    if not (first[position] and range[position]) then return { NOT_LOADED } end
    range_before[position], spare_used[position] = range[position], 0
end
-- Behind the buyers the sentinel: without it their records were lost, and so was what they hold.
names[count + 1] = ''
local records = redis.call('HMGET', buyers, unpack(names))
if not records[count + 1] then return { NOT_LOADED } end
records[count + 1] = nil

local changed, written, details, taken = {}, {}, {}, 0
for index = 1, count do
    local buyer, at = names[index], 14 * index - 13
    local variant, quantity = byte(requests, at + 12, at + 13)
    local position = position_of[variant]
    -- A wrong call is our own bug: it must not reach the records. Not `assert`, which would cost a call for each claim.
    if not position or quantity < 1 or quantity > 100 or #buyer > 64 then
        error('claim: wrong variant, quantity or buyer')
    end
    local record, held, released, status, detail = changed[buyer] or records[index], 0, 0, nil, ''
    if record then
        -- A row of claims: tail, variant, quantity (+ 128 once released), serials (none once released).
        local tail, cursor = sub(requests, at, at + 11), 1
        local found = find(record, tail, 1, true)
        while cursor <= #record do
            local its_variant, units = byte(record, cursor + 12, cursor + 13)
            local size = 14
            if units < 128 then
                held, size = held + units, 14 + 4 * units
            else
                released = released + 1
            end
            if found == cursor then
                if its_variant ~= variant or units % 128 ~= quantity then
                    status = '\3'
                elseif units >= 128 then
                    status = '\2'
                else
                    status, detail = '\1', sub(record, cursor + 14, cursor + size - 1)
                end
                break
            end
            cursor = cursor + size
            -- The same bytes across the border of two claims are not the tail of one.
            if found and found < cursor then found = find(record, tail, cursor, true) end
        end
    end
    if not status then
        if state ~= 'open' then
            status = state == 'closed' and '\7' or '\6'
        elseif held + quantity > limit then
            status, detail = '\4', char(held)
        elseif released >= 50 then
            status = '\8'
        else
            local free = range[position]
            if free < quantity then
                if not spare[position] then
                    -- As many as this claim and those behind it may need.
                    local wanted = -free
                    for later = at, #requests, 14 do
                        if byte(requests, later + 12) == variant then wanted = wanted + byte(requests, later + 13) end
                    end
                    local serials = redis.call('LRANGE', KEYS[3 + 2 * position], 0, wanted - 1)
                    -- The last element is the sentinel that keeps the list alive; serials begin at 1.
                    if not serials[1] then return { NOT_LOADED } end
                    if serials[#serials] == '0' then serials[#serials] = nil end
                    spare[position] = serials
                end
                free = free + #spare[position] - spare_used[position]
            end
            if free < quantity then
                status, detail = '\5', pack('>I4', free)
            else
                local serials
                for _ = 1, quantity do
                    local serial
                    if range[position] > 0 then
                        range[position] = range[position] - 1
                        serial = first[position] + range[position]
                    else
                        spare_used[position] = spare_used[position] + 1
                        serial = tonumber(spare[position][spare_used[position]])
                    end
                    serials = serials and serials .. pack('>I4', serial) or pack('>I4', serial)
                end
                local claim = sub(requests, at, at + 13) .. serials
                if record then claim = record .. claim end
                changed[buyer] = claim
                -- A buyer who is here twice is written twice; his newest record comes last.
                written[2 * taken + 1], written[2 * taken + 2], taken = buyer, claim, taken + 1
                status, detail = '\0', serials
            end
        end
    end
    -- The record has been read: its place in the table is as good as a new one.
    records[index], details[index] = status, detail
end

local all_names, all_requests, all_serials, all_told = ARGV[4], requests, concat(details), told
local reply = { OK, concat(records), all_serials }
if taken > 0 and taken < count then
    local log_names, log_requests, log_serials, log_told = {}, {}, {}, {}
    for index = 1, count do
        if records[index] == '\0' then
            log_names[#log_names + 1] = cmsgpack.pack(names[index])
            log_requests[#log_requests + 1] = sub(requests, 14 * index - 13, 14 * index)
            log_serials[#log_serials + 1] = details[index]
            log_told[#log_told + 1] = sub(told, 10 * index - 9, 10 * index)
        end
    end
    all_names, all_requests, all_serials = concat(log_names), concat(log_requests), concat(log_serials)
    all_told = concat(log_told)
end

-- Write. Nothing behind the log can fail; where there is none, it was lost, and nothing is written.
if taken > 0 then
    -- The field that only some entries have is the last: an older program finds all that it knows.
    local fields_of_entry = { 'e', epoch, 't', now_ms, 'n', all_names, 'r', all_requests, 's', all_serials }
    if all_told ~= '' then fields_of_entry[11], fields_of_entry[12] = 'a', all_told end
    local entry = redis.call('XADD', claims, 'NOMKSTREAM', '*', unpack(fields_of_entry))
    if not entry then return { NOT_LOADED } end
    for position = 1, #variants do
        local from_range = range_before[position] - range[position]
        if from_range > 0 then redis.call('DECRBY', KEYS[2 + 2 * position], from_range) end
        if spare_used[position] > 0 then redis.call('LTRIM', KEYS[3 + 2 * position], spare_used[position], -1) end
        if from_range + spare_used[position] > 0 then redis.call('HINCRBY', meta, 'seq:' .. byte(variants, position), 1) end
    end
    redis.call('HSET', buyers, unpack(written))
end
return reply
