"""What Redis runs for the counters: each script is one round trip, and atomic.

Time is the server's (`TIME`), never a caller's: replicas whose clocks differ would otherwise refill the same bucket
twice. Numbers are stored with 17 digits, since Lua's own conversion keeps only 14.
"""

import hashlib

from msgspec import Struct


class Script(Struct, frozen=True):
    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> "Script":
        # The name by which Redis caches it, no secret.
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_NOW = "local t = redis.call('TIME'); local now = t[1] * 1000000 + t[2]\n"

TAKE = Script.of(
    _NOW
    + """
-- KEYS: buckets. ARGV: force, slack, then cost, capacity, refill per second of each. The sums of bucket.py.
-- Returns level and wait of each bucket, as text; a wait above zero anywhere means that nothing was taken.
local function text(x) return string.format('%.17g', x) end
local levels, waits, refused = {}, {}, false
for i, key in ipairs(KEYS) do
  local cost, capacity = tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local refill = tonumber(ARGV[3 * i + 2])
  local kept = redis.call('HMGET', key, 'l', 't')
  local level = 0
  if kept[1] then
    local elapsed = math.max(0, now - tonumber(kept[2])) / 1000000
    level = math.max(0, tonumber(kept[1]) - elapsed * refill)
  end
  local over, wait = level + cost - capacity, 0
  if ARGV[1] == '0' and cost > 0 and over > capacity * tonumber(ARGV[2]) then
    wait = cost > capacity * (1 + ARGV[2]) and math.huge or over / refill
    refused = true
  end
  levels[i], waits[i] = level, wait
end
local out = {}
for i, key in ipairs(KEYS) do
  if not refused then
    local refill = tonumber(ARGV[3 * i + 2])
    levels[i] = math.max(0, levels[i] + tonumber(ARGV[3 * i]))
    if levels[i] > 0 then
      redis.call('HSET', key, 'l', text(levels[i]), 't', text(now))
      redis.call('PEXPIRE', key, string.format('%.0f', math.min(1e14, math.ceil(levels[i] / refill * 1000) + 1)))
    else
      redis.call('DEL', key)
    end
  end
  out[2 * i - 1], out[2 * i] = text(levels[i]), text(waits[i])
end
return out
"""
)

ACQUIRE = Script.of(
    _NOW
    + """
-- KEYS: a sorted set of holders by the microsecond their place ends. ARGV: holder, limit, milliseconds to live.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3] * 1000), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
"""
)

RELEASE = Script.of(
    _NOW
    + """
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return ends and tonumber(ends) > now and 1 or 0
"""
)

COUNT = Script.of(
    _NOW
    + """
return redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
"""
)

INCR = Script.of(
    """
-- ARGV: by, milliseconds to live. Only what has no end yet gets one.
local sum = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return redis.call('GET', KEYS[1])
"""
)
