"""The sums of `meters.py` in Lua, each meter with its state in keys of its own. Times are microseconds."""

METERS = """
local meters = {}

-- Token bucket and leaky bucket: the level and the time at which it was so.
local level = {}
function level.read(r)
  r.key = next_key()
  local kept = redis.call('GET', r.key)
  r.level = 0
  if not kept then return end
  local was, at = string.match(kept, '^(%S+) (%S+)$')
  r.level = math.max(0, tonumber(was) - math.max(0, now - tonumber(at)) / 1000000 * r.leak)
  if tonumber(at) > now then level.write(r) end
end
function level.wait(r, cost)
  local over = r.level + (r.paced and 1 or cost) - r.full
  return cost > 0 and over > r.slack and over / r.leak or 0
end
function level.write(r)
  if r.level > 0 then
    store(r.key, text(r.level) .. ' ' .. whole(now), r.level / r.leak * 1000 + 1)
  else
    redis.call('DEL', r.key)
  end
end
function level.take(r, claim, cost)
  if cost <= 0 then return 0 end
  local behind = r.level
  r.level = behind + cost
  level.write(r)
  return r.paced and behind / r.leak or 0
end
function level.state(r) return r.full - r.level, r.level / r.leak end
function level.true_up(r, claim, held, used, known)
  if not known or held == used then return end
  r.level = math.max(0, r.level + used - held)
  level.write(r)
end
meters.level = level

-- Sliding log: a sorted set of 'cost:claim' by time, and the sum of the costs.
local log = {}
local function cost_of(member) return tonumber(string.match(member, '^[^:]+')) end
local function log_newest(r)
  r.newest = tonumber(redis.call('ZREVRANGE', r.key, 0, 0, 'WITHSCORES')[2])
  return r.newest
end
local function log_write(r)
  if not r.newest then return redis.call('DEL', r.sum) end
  local ms = (r.newest + r.window - now) / 1000 + 1
  store(r.sum, text(r.total), ms)
  expire(r.key, ms)
end
function log.read(r)
  r.key, r.sum, r.total = next_key(), next_key(), 0
  if not log_newest(r) then return end
  if r.newest > now then
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', r.key, '(' .. whole(now), '+inf')) do
      redis.call('ZADD', r.key, whole(now), member)
    end
    r.newest = now
  end
  local total = redis.call('GET', r.sum)
  if total then
    r.total = tonumber(total)
  else
    for _, member in ipairs(redis.call('ZRANGE', r.key, 0, -1)) do r.total = r.total + cost_of(member) end
  end
  local edge = whole(now - r.window)
  local gone = redis.call('ZRANGEBYSCORE', r.key, '-inf', edge)
  if #gone == 0 then return end
  for _, member in ipairs(gone) do r.total = r.total - cost_of(member) end
  redis.call('ZREMRANGEBYSCORE', r.key, '-inf', edge)
  if r.newest <= now - r.window then r.newest, r.total = nil, 0 end
  log_write(r)
end
function log.wait(r, cost)
  local over = r.total + cost - r.full
  if cost <= 0 or over <= r.slack then return 0 end
  local first = 0
  while true do
    local part = redis.call('ZRANGE', r.key, first, first + 99, 'WITHSCORES')
    if #part == 0 then return r.window / 1000000 end
    for i = 1, #part, 2 do
      over = over - cost_of(part[i])
      if over <= r.slack then return (tonumber(part[i + 1]) + r.window - now) / 1000000 end
    end
    first = first + 100
  end
end
function log.take(r, claim, cost)
  if cost > 0 then
    local member = text(cost) .. ':' .. claim
    local before = redis.call('ZSCORE', r.key, member)
    if before then redis.call('ZADD', r.key, before, member .. '\\0' .. before) end  -- a name used again counts again
    redis.call('ZADD', r.key, whole(now), member)
    r.total, r.newest = r.total + cost, now
    log_write(r)
  end
  return 0
end
function log.state(r) return r.full - r.total, r.newest and (r.newest + r.window - now) / 1000000 or 0 end
function log.true_up(r, claim, held, used, known)
  if held <= 0 then
    if known and r.total < r.full then log.take(r, claim, used) end
    return
  end
  local member = text(held) .. ':' .. claim
  local at = redis.call('ZSCORE', r.key, member)
  if not at or used == held then return end
  redis.call('ZREM', r.key, member)
  if used > 0 then redis.call('ZADD', r.key, at, text(used) .. ':' .. claim) end
  r.total = r.total + used - held
  log_newest(r)
  log_write(r)
end
meters.log = log

-- Sliding counter: the window's length and start, what was taken in it and in the one before; and of each of the two
-- a hash of what claims that may still be trued up took. The two take turns.
local windows = {}
local function claims_of(r, start) return r.claims[math.fmod(start / r.window, 2) + 1] end
function windows.write(r)
  local kept = whole(r.window) .. ' ' .. whole(r.start) .. ' ' .. text(r.current) .. ' ' .. text(r.previous)
  store(r.key, kept, (r.start + 2 * r.window - now) / 1000 + 1)
end
function windows.read(r)
  r.key, r.claims = next_key(), {next_key(), next_key()}
  local kept = redis.call('GET', r.key)
  r.start, r.current, r.previous = now - math.fmod(now, r.window), 0, 0
  if not kept then return end
  local length, start, current, previous = string.match(kept, '^(%S+) (%S+) (%S+) (%S+)$')
  start, current, previous = tonumber(start), tonumber(current), tonumber(previous)
  if tonumber(length) ~= r.window or start > r.start then
    -- Another length, or the server's clock went back: all that counted counts on, as if it were taken now.
    r.current = current + previous
    redis.call('DEL', r.claims[1], r.claims[2])
    windows.write(r)
  elseif start == r.start then
    r.current, r.previous = current, previous
  elseif start + r.window == r.start then
    r.previous = current
    redis.call('DEL', claims_of(r, r.start))
    windows.write(r)
  else
    redis.call('DEL', r.key, r.claims[1], r.claims[2])
  end
end
local function over_of(r) return (now - r.start) / r.window end
function windows.wait(r, cost)
  local over, free = over_of(r), r.full - cost
  if cost <= 0 or r.previous * (1 - over) + r.current - free <= r.slack then return 0 end
  local at = r.current <= free and 1 - (free - r.current) / r.previous or 2 - free / r.current
  return (at - over) * r.window / 1000000
end
function windows.take(r, claim, cost)
  if cost > 0 then
    r.current = r.current + cost
    windows.write(r)
    if r.tokens then
      local claims = claims_of(r, r.start)
      redis.call('HSET', claims, claim, text(cost))
      expire(claims, (r.start + 2 * r.window - now) / 1000 + 1)
    end
  end
  return 0
end
function windows.state(r)
  local over = over_of(r)
  local left = r.current > 0 and 2 or r.previous > 0 and 1 or over
  return r.full - r.previous * (1 - over) - r.current, (left - over) * r.window / 1000000
end
function windows.true_up(r, claim, held, used, known)
  if held <= 0 then
    if known and used > 0 then
      r.current = r.current + used
      windows.write(r)
    end
    return
  end
  for _, name in ipairs({'current', 'previous'}) do
    local claims = claims_of(r, name == 'current' and r.start or r.start - r.window)
    local taken = redis.call('HGET', claims, claim)
    if taken then
      redis.call('HDEL', claims, claim)
      if used ~= held then
        r[name] = math.max(0, r[name] + used - tonumber(taken))
        windows.write(r)
      end
      return
    end
  end
end
meters.windows = windows
"""
