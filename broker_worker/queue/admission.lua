-- Replay marks and rate limits for a batch of requests, in one step.
-- KEYS: hashes of replay marks, then limit states.
-- ARGV[1]: msgpack [marks, asks, rates]
--   marks: per hash [ms to keep it, [request ids], [entry ids]]
--   asks:  [[hash, place in its lists, names counted, [limits], [[limits], …]], …]
--   rates: [[key, interval µs, tolerance µs], …]; limits are indices into rates, all indices from 1
-- Returns per ask: -1 for a replay; else the µs to wait for its own limits, 0 for none, and then, if it is
-- admitted, the µs to wait for each of its names.
-- The arithmetic is that of broker_worker/core/limits.py: GCRA on microseconds. A command costs several times as much
-- here as what it does, so marks and states are read and written together.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local batch = cmsgpack.unpack(ARGV[1])
local marks, asks, rates = batch[1], batch[2], batch[3]

-- which entry each request came in before; a copy within the batch counts as before
local function mark(key, ids, entries)
  if #ids == 1 then
    if redis.call('HSETNX', key, ids[1], entries[1]) == 1 then return {false} end
    return {redis.call('HGET', key, ids[1])}
  end
  local known = redis.call('HMGET', key, unpack(ids))
  local new, first = {}, {}
  for i, id in ipairs(ids) do
    if not known[i] then
      if first[id] then
        known[i] = first[id]
      else
        first[id] = entries[i]
        new[#new + 1] = id
        new[#new + 1] = entries[i]
      end
    end
  end
  if #new > 0 then redis.call('HSET', key, unpack(new)) end
  return known
end

local before = {}
for i, hash in ipairs(marks) do
  before[i] = mark(KEYS[i], hash[2], hash[3])
  redis.call('PEXPIRE', KEYS[i], hash[1])
end

local tats, changed = {}, {}
for from = #marks + 1, #KEYS, 1000 do
  local states = redis.call('MGET', unpack(KEYS, from, math.min(from + 999, #KEYS)))
  for i, state in ipairs(states) do tats[from + i - 1] = tonumber(state or '0') or 0 end
end

local function wait_for(limits, count)
  local wait = 0
  for _, i in ipairs(limits) do
    local rate = rates[i]
    local excess = math.max(tats[rate[1]], now) + rate[2] * count - now - rate[3]
    if excess > wait then wait = excess end
  end
  return wait
end

local function count_against(limits, count)
  for _, i in ipairs(limits) do
    local key = rates[i][1]
    tats[key] = math.max(tats[key], now) + rates[i][2] * count
    changed[key] = true
  end
end

local out = {}
for _, ask in ipairs(asks) do
  local prior, entry = before[ask[1]][ask[2]], marks[ask[1]][3][ask[2]]
  if prior and prior ~= entry then
    out[#out + 1] = -1
  elseif prior then
    -- the same entry again, claimed after a crash: it was counted
    out[#out + 1] = 0
    for _ = 1, #ask[5] do out[#out + 1] = 0 end
  else
    local wait = wait_for(ask[4], ask[3])
    out[#out + 1] = wait
    if wait == 0 then
      count_against(ask[4], ask[3])
      for _, limits in ipairs(ask[5]) do
        local name_wait = wait_for(limits, 1)
        if name_wait == 0 then count_against(limits, 1) end
        out[#out + 1] = name_wait
      end
    end
  end
end
for key in pairs(changed) do
  local keep = math.ceil((tats[key] - now) / 1000) + 1000
  redis.call('SET', KEYS[key], string.format('%.0f', tats[key]), 'PX', string.format('%.0f', keep))
end
return out
