"""What Redis runs for the counters: each script is one round trip, and atomic.

Time is the server's (`TIME`), never a caller's: replicas whose clocks differ would otherwise free the same place
twice.
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
