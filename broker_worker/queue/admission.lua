-- Replay marks and rate limits for a batch of requests, in one step.
-- KEYS: hashes of replay marks, then limit states.
-- ARGV[1]: msgpack [first limit state, groups, rates], all indices from 1
--   groups: requests with one hash and the same limits
--     [hash, ms to keep it, [request ids], [entry ids], names counted, [limits], [[limits], …]]
--   rates: [[key, interval µs, tolerance µs], …]; limits are indices into rates
-- Returns one list of numbers, group after group: per request -1 for a replay, 1 for the same entry again (claimed
-- after a crash: it was counted), 0 for a new one; how many of the new ones the limits admit, and the µs to wait for
-- the others; then the same two for each name of the admitted ones.
-- The arithmetic is that of broker_worker/core/limits.py: GCRA on microseconds. Commands and tables are what costs
-- here, so requests that count alike are counted together.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local batch = cmsgpack.unpack(ARGV[1])
local first_state, groups, rates = batch[1], batch[2], batch[3]

local tats, changed = {}, {}
for from = first_state, #KEYS, 1000 do
  local states = redis.call('MGET', unpack(KEYS, from, math.min(from + 999, #KEYS)))
  for i = 1, #states do tats[from + i - 1] = tonumber(states[i] or '0') or 0 end
end

-- which entry each request came in before; a copy within the group counts as before
local function mark(key, ids, entries)
  if #ids == 1 then
    if redis.call('HSETNX', key, ids[1], entries[1]) == 1 then return {false} end
    return {redis.call('HGET', key, ids[1])}
  end
  local known = redis.call('HMGET', key, unpack(ids))
  local new, first = {}, {}
  for i = 1, #ids do
    local id = ids[i]
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

-- how many of `wanted` arrivals of `count` names each are within all limits, and the wait of the one after them
local function admit(limits, count, wanted)
  local admitted = wanted
  for i = 1, #limits do
    local rate = rates[limits[i]]
    local room = rate[3] - (math.max(tats[rate[1]], now) - now)
    local fits = math.max(math.floor(room / (rate[2] * count)), 0)
    if fits < admitted then admitted = fits end
  end
  local wait = 0
  for i = 1, #limits do
    local rate = rates[limits[i]]
    local key = rate[1]
    local tat = math.max(tats[key], now) + rate[2] * count * admitted
    if admitted > 0 then
      tats[key] = tat
      changed[key] = true
    end
    if admitted < wanted then wait = math.max(wait, tat + rate[2] * count - now - rate[3]) end
  end
  return admitted, wait
end

local out, n = {}, 0
for g = 1, #groups do
  local group = groups[g]
  local ids, entries = group[3], group[4]
  local known, new = mark(KEYS[group[1]], ids, entries), 0
  redis.call('PEXPIRE', KEYS[group[1]], group[2])
  for i = 1, #ids do
    local prior = known[i]
    if not prior then
      new = new + 1
      out[n + i] = 0
    elseif prior == entries[i] then
      out[n + i] = 1
    else
      out[n + i] = -1
    end
  end
  n = n + #ids + 2
  out[n - 1], out[n] = admit(group[6], group[5], new)
  local admitted, names = out[n - 1], group[7]
  for i = 1, #names do
    n = n + 2
    out[n - 1], out[n] = admit(names[i], 1, admitted)
  end
end
for key in pairs(changed) do
  local keep = math.ceil((tats[key] - now) / 1000) + 1000
  redis.call('SET', KEYS[key], string.format('%.0f', tats[key]), 'PX', string.format('%.0f', keep))
end
return out
