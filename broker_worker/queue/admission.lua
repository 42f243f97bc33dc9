-- Replay marks and rate limits for a batch of requests, in one step.
-- KEYS: replay marks and limit states.
-- ARGV[1]: msgpack [asks, rates]
--   asks:  [[key of its mark, entry id, ms to keep it, names counted, [limits], [[limits], …]], …]
--   rates: [[key, interval µs, tolerance µs], …]; limits are indices into rates, all indices from 1
-- Returns per ask: -1 for a replay; else the µs to wait for its own limits, 0 for none, and then, if it is
-- admitted, the µs to wait for each of its names.
-- The arithmetic is that of broker_worker/core/limits.py: GCRA on microseconds.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local batch = cmsgpack.unpack(ARGV[1])
local asks, rates = batch[1], batch[2]
local tats, changed = {}, {}

-- by key, since two rates of one batch may count against the same state
local function tat_of(key)
  local tat = tats[key]
  if tat == nil then
    tat = tonumber(redis.call('GET', KEYS[key]) or '0') or 0
    tats[key] = tat
  end
  return tat
end

local function wait_for(limits, count)
  local wait = 0
  for _, i in ipairs(limits) do
    local rate = rates[i]
    local excess = math.max(tat_of(rate[1]), now) + rate[2] * count - now - rate[3]
    if excess > wait then wait = excess end
  end
  return wait
end

local function count_against(limits, count)
  for _, i in ipairs(limits) do
    local key = rates[i][1]
    tats[key] = math.max(tat_of(key), now) + rates[i][2] * count
    changed[key] = true
  end
end

local out = {}
for _, ask in ipairs(asks) do
  local prior = redis.call('SET', KEYS[ask[1]], ask[2], 'NX', 'GET', 'PX', ask[3])
  if prior and prior ~= ask[2] then
    out[#out + 1] = -1
  elseif prior then
    -- the same entry again, claimed after a crash: it was counted
    out[#out + 1] = 0
    for _ = 1, #ask[6] do out[#out + 1] = 0 end
  else
    local wait = wait_for(ask[5], ask[4])
    out[#out + 1] = wait
    if wait == 0 then
      count_against(ask[5], ask[4])
      for _, limits in ipairs(ask[6]) do
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
