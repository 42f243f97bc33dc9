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

local function tat_of(i)
  local tat = tats[i]
  if tat == nil then
    tat = tonumber(redis.call('GET', KEYS[rates[i][1]]) or '0') or 0
    tats[i] = tat
  end
  return tat
end

local function wait_for(limits, count)
  local wait = 0
  for _, i in ipairs(limits) do
    local tat, rate = tat_of(i), rates[i]
    local excess = math.max(tat, now) + rate[2] * count - now - rate[3]
    if excess > wait then wait = excess end
  end
  return wait
end

local function count_against(limits, count)
  for _, i in ipairs(limits) do
    tats[i] = math.max(tat_of(i), now) + rates[i][2] * count
    changed[i] = true
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
for i in pairs(changed) do
  local keep = math.ceil((tats[i] - now) / 1000) + 1000
  redis.call('SET', KEYS[rates[i][1]], string.format('%.0f', tats[i]), 'PX', string.format('%.0f', keep))
end
return out
