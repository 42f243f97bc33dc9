-- How many approvals a run has waiting, counted over all workers in one step.
-- KEYS[1]: the sorted set of them: id, and until when it counts, ms
-- ARGV: now, how many may wait, until when a new one counts, how many are known,
--   then id and time of each known one, then the ids of the new ones
-- Returns how many of the new ones, from the first on, count from now on. The times are those of the workers' clocks,
-- as those of the approvals are.
local key, now, until_ = KEYS[1], tonumber(ARGV[1]), ARGV[3]
if redis.call('TYPE', key).ok ~= 'zset' then redis.call('DEL', key) end
redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
local known = 4 + 2 * tonumber(ARGV[4])
for i = 5, known, 2 do redis.call('ZADD', key, ARGV[i + 1], ARGV[i]) end

local room, opened = tonumber(ARGV[2]) - redis.call('ZCARD', key), 0
for i = known + 1, #ARGV do
  if not redis.call('ZSCORE', key, ARGV[i]) then
    if room <= 0 then break end
    room = room - 1
  end
  redis.call('ZADD', key, 'GT', until_, ARGV[i])
  opened = opened + 1
end

local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
if last[2] then redis.call('PEXPIRE', key, string.format('%.0f', last[2] - now + 1000)) end
return opened
