-- Replay marks and rate limits for a batch of requests, in one step.
-- KEYS: hashes of replay marks, then limit states, then how far the clock was set back and the latest time that counted.
-- ARGV[1]: msgpack [first limit state, groups, rates], all indices from 1
--   groups: requests with one hash and the same limits, none of them twice
--     [hash, ms to keep it, how many, names counted, [limits], [[limits], …]]
--   rates: [[key, interval µs, tolerance µs], …]; limits are indices into rates
-- ARGV[2], …: request after request, group after group, its id and that of the entry that carries it.
-- Limits count by a time that goes on when the server's clock is set back, by more than two seconds: else whoever asked
-- lately would wait until the clock is where it was.
-- Returns one list of numbers, group after group: how many are new; if not all are, for each 0 for a new one, 1 for
-- the same entry again (claimed after a crash: it was counted), -1 for a replay and -2 for one that the limits refuse and
-- that leaves no mark, as there are too many; how many of the new ones the limits
-- admit, and the µs to wait for the others; then the same two for each name of the admitted ones.
-- The arithmetic is that of broker_worker/core/limits.py: GCRA on microseconds. Commands and tables are what costs
-- here, so requests that count alike are counted together, and in what nearly always comes no id is looked at.
local call, max = redis.call, math.max
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local batch = cmsgpack.unpack(ARGV[1])
local first_state, groups, rates = batch[1], batch[2], batch[3]

local tats, changed = {}, {}
for from = first_state, #KEYS, 1000 do
  local states = call('MGET', unpack(KEYS, from, math.min(from + 999, #KEYS)))
  for i = 1, #states do tats[from + i - 1] = tonumber(states[i] or '0') or 0 end
end

local back_key, latest_key = #KEYS - 1, #KEYS
for key = back_key, latest_key do -- what nobody but a stranger writes counts as nothing
  if not (tats[key] >= 0 and tats[key] < 4000000000000000) then tats[key] = 0 end
end
local back, latest = tats[back_key], tats[latest_key]
now = now + back
if now < latest - 1000000 then
  back, now = back + latest - now, latest
  call('SET', KEYS[back_key], string.format('%.0f', back))
elseif now > latest + 1000000 then
  call('SET', KEYS[latest_key], string.format('%.0f', now))
end

local out, n, at = {}, 0, 2

-- mark the next requests and say how many of them are new
local function mark(key, count)
  local ids, known = {}, nil
  if count == 1 then
    if call('HSETNX', key, ARGV[at], ARGV[at + 1]) == 1 then return 1 end
    known = {call('HGET', key, ARGV[at])}
  else
    for i = 1, count do ids[i] = ARGV[at + 2 * i - 2] end
    known = call('HMGET', key, unpack(ids))
  end
  local first = 1
  while first <= count and not known[first] do first = first + 1 end
  if first > count then
    call('HSET', key, unpack(ARGV, at, at + 2 * count - 1))
    return count
  end
  local new = {}
  for i = 1, count do
    local entry = ARGV[at + 2 * i - 1]
    if not known[i] then
      new[#new + 1] = ids[i]
      new[#new + 1] = entry
      out[n + 1 + i] = 0
    else
      out[n + 1 + i] = known[i] == entry and 1 or -1
    end
  end
  if #new > 0 then call('HSET', key, unpack(new)) end
  return #new / 2
end

-- how many of `wanted` arrivals of `count` names each are within all limits, and the wait of the one after them
local function admit(limits, count, wanted)
  local admitted = wanted
  for i = 1, #limits do
    local rate = rates[limits[i]]
    local room = rate[3] - (max(tats[rate[1]], now) - now)
    local fits = max(math.floor(room / (rate[2] * count)), 0)
    if fits < admitted then admitted = fits end
  end
  local wait = 0
  for i = 1, #limits do
    local rate = rates[limits[i]]
    local key = rate[1]
    local tat = max(tats[key], now) + rate[2] * count * admitted
    if admitted > 0 then
      tats[key] = tat
      changed[key] = true
    end
    if admitted < wanted then wait = max(wait, tat + rate[2] * count - now - rate[3]) end
  end
  return admitted, wait
end

-- whether a hash has more marks than what its limits admit within twice the time of one hash, and many besides
local function is_full(key, limits)
  local most = 0
  for i = 1, #limits do
    local rate = rates[limits[i]]
    most = max(most, (30000000 + rate[3]) / rate[2])
  end
  return call('HLEN', key) > 4096 + most
end

-- forget the marks of those new ones that come after the admitted ones, and say so of each
local function drop(key, first, count, new, admitted)
  local ids, seen = {}, 0
  for i = 1, count do
    local state = new == count and 0 or out[first + 1 + i]
    if state == 0 then
      seen = seen + 1
      if seen > admitted then
        ids[#ids + 1] = ARGV[at + 2 * i - 2]
        state = -2
      end
    end
    out[first + 1 + i] = state
  end
  call('HDEL', key, unpack(ids))
end

for g = 1, #groups do
  local group = groups[g]
  local key, count, first = KEYS[group[1]], group[3], n
  local new = mark(key, count)
  call('PEXPIRE', key, group[2])
  local admitted, wait = admit(group[5], group[4], new)
  if admitted < new and is_full(key, group[5]) then
    drop(key, first, count, new, admitted)
    new, wait = admitted, 0
  end
  out[first + 1] = new
  n = first + (new == count and 3 or count + 3)
  at = at + 2 * count
  out[n - 1], out[n] = admitted, wait
  local names = group[6]
  for i = 1, #names do
    n = n + 2
    out[n - 1], out[n] = admit(names[i], 1, admitted)
  end
end
for key in pairs(changed) do
  local keep = math.ceil((tats[key] - now) / 1000) + 1000
  call('SET', KEYS[key], string.format('%.0f', tats[key]), 'PX', string.format('%.0f', keep))
end
return out
