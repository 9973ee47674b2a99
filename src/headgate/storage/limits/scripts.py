"""What Redis runs for the limits: a claim is one script, one round trip, and atomic.

Time is the server's (`TIME`), never a caller's: replicas whose clocks differ would otherwise free the same limit
twice. Where it goes back, what was taken counts as taken now: nothing is freed early, and nothing stays for ever.
Numbers are kept with 17 digits, since Lua's own conversion keeps only 14; whole numbers are kept as such.
"""

import hashlib

from msgspec import Struct

from headgate.storage.limits.meters_lua import METERS
from headgate.storage.limits.numbers import ORPHANS_MAX, WHOLE_MAX

CLOCK = """
local function clock() local t = redis.call('TIME'); return t[1] * 1000000 + t[2] end
local function milliseconds(ms) return string.format('%.0f', math.min(1e14, math.ceil(ms))) end
local function expire(key, ms) redis.call('PEXPIRE', key, milliseconds(ms)) end
local function store(key, value, ms) redis.call('SET', key, value, 'PX', milliseconds(ms)) end
"""
"""Microseconds since 1970, and how keys end. A test may bring a clock of its own."""

GIVEN_UP_MS = 120_000
"""How long a try that was given up is refused, should it arrive after all."""
_SWEEP = 1_000
"""Holds past their end moved to spent at a time. Both count against the limit, so that it does not matter when."""

_COMMON = (
    f"""
local whole_max, orphans_max, sweep_max, nobody = {WHOLE_MAX}, {ORPHANS_MAX}, {_SWEEP}, '\\0'
"""
    + """
local now = clock()
local function text(x) return string.format('%.17g', x) end
local function whole(x) return string.format('%.0f', x) end
local cursor = 0
local function next_key() cursor = cursor + 1; return KEYS[cursor] end
"""
)

_ACCOUNTS = """
-- An account is a hash: spent, held, orphans, until when the keys are kept, and what each claim (':' and its name)
-- holds; and a sorted set of the microsecond at which each hold ends: below zero once it ended, was counted as spent,
-- and is only remembered. One member at zero is nobody's: without it the set would go, and with it its time to live.
local function account_read(a, claim)
  a.key, a.ends = next_key(), next_key()
  local kept = redis.call('HMGET', a.key, 's', 'h', 'o', 'e', claim and ':' .. claim or 'e')
  if not kept[1] then return a end
  a.known, a.spent, a.held, a.orphans = true, tonumber(kept[1]), tonumber(kept[2]), tonumber(kept[3])
  a.kept_until, a.mine = tonumber(kept[4]), tonumber(kept[5] or nil)
  local due = redis.call('ZRANGEBYSCORE', a.ends, '(0', whole(now), 'WITHSCORES', 'LIMIT', 0, sweep_max)
  for i = 1, #due, 2 do
    local amount = tonumber(redis.call('HGET', a.key, ':' .. due[i])) or 0
    a.spent, a.held, a.orphans = a.spent + amount, a.held - amount, a.orphans + 1
    redis.call('ZADD', a.ends, whole(-tonumber(due[i + 1])), due[i])
  end
  if #due > 0 then redis.call('HSET', a.key, 's', whole(a.spent), 'h', whole(a.held), 'o', whole(a.orphans)) end
  return a
end

local function forget(a, claims)
  for _, claim in ipairs(claims) do
    redis.call('ZREM', a.ends, claim)
    redis.call('HDEL', a.key, ':' .. claim)
    a.orphans = a.orphans - 1
  end
end

local function account_write(a, keep_ms, field, value)
  if a.orphans > 0 then
    local old = whole(a.keep * 1000 - now)
    forget(a, redis.call('ZRANGEBYSCORE', a.ends, old, '(0', 'LIMIT', 0, sweep_max))
    if a.orphans > orphans_max then
      local over = math.min(sweep_max, a.orphans - orphans_max)
      forget(a, redis.call('ZREVRANGEBYSCORE', a.ends, '(0', '-inf', 'LIMIT', 0, over))
    end
  end
  -- Kept an eighth longer than asked, so that most writes need not say so again.
  local longer = now + keep_ms * 1000 > a.kept_until
  if longer then a.kept_until = now + keep_ms * 1125 end
  redis.call('HSET', a.key, 's', whole(a.spent), 'h', whole(a.held), 'o', whole(a.orphans),
    'e', whole(a.kept_until), field or 'e', value or whole(a.kept_until))
  if longer then
    expire(a.key, (a.kept_until - now) / 1000)
    expire(a.ends, (a.kept_until - now) / 1000)
  end
end

local function account_after(a, claim, amount)
  a.was_orphan = a.mine and tonumber(redis.call('ZSCORE', a.ends, claim) or 0) < 0
  a.before = a.mine and not a.was_orphan and a.mine or 0
  return a.spent + a.held + amount - a.before
end

local function account_hold(a, claim, amount, ttl_ms)
  if a.was_orphan then a.orphans = a.orphans - 1 end
  a.held = a.held + amount - a.before
  redis.call('ZADD', a.ends, whole(now + ttl_ms * 1000), claim)
  account_write(a, math.max(a.keep, ttl_ms), ':' .. claim, whole(amount))
end

local function account_settle(a, claim, used)
  if not a.mine then return false end
  local ends = tonumber(redis.call('ZSCORE', a.ends, claim) or 0)
  if ends < 0 then
    a.orphans = a.orphans - 1
    a.spent = a.spent + used - a.mine
  else
    a.held = a.held - a.mine
    a.spent = a.spent + used
  end
  a.spent = math.min(a.spent, whole_max - a.held)
  redis.call('ZREM', a.ends, claim)
  redis.call('HDEL', a.key, ':' .. claim)
  account_write(a, a.keep)
  return true
end
"""

_RESERVE = """
-- KEYS: exists if this try was given up; then those of each rate, place and account.
-- ARGV: the plan, the claim, milliseconds to live, tokens, nanodollars.
-- Returns code, index, retry after, delay; then remaining and reset of each rate; then spent and held of each account.
local given_up = next_key()
local plan, claim, ttl_ms = cmsgpack.unpack(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local tokens, nanos = tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('EXISTS', given_up) == 1 then return cmsgpack.pack({6, 0, 0, 0}) end
local code, index, retry = 0, 0, 0
local function refuse(why, i) if code == 0 then code, index = why, i - 1 end end

for i, r in ipairs(plan.rates) do
  r.meter = meters[r.kind]
  r.cost = r.tokens and math.min(tokens, r.most) or r.one
  r.meter.read(r)
  local wait = r.meter.wait(r, r.cost)
  if wait > retry then code, index, retry = 1, i - 1, wait end
end
for i, p in ipairs(plan.places) do
  p.key = next_key()
  redis.call('ZREMRANGEBYSCORE', p.key, '-inf', whole(now))
  if not redis.call('ZSCORE', p.key, claim) and redis.call('ZCARD', p.key) >= p.limit then refuse(2, i) end
end
for i, a in ipairs(plan.accounts) do
  if not account_read(a, claim).known then refuse(4, i) end
end
for i, a in ipairs(plan.accounts) do
  a.cost = a.tokens and tokens or nanos
  if code == 0 then
    local after = account_after(a, claim, a.cost)
    if a.hard and after > a.limit then refuse(3, i) elseif after > whole_max then refuse(5, i) end
  end
end

local delay = 0
if code == 0 then
  for _, r in ipairs(plan.rates) do delay = math.max(delay, r.meter.take(r, claim, r.cost)) end
  for _, p in ipairs(plan.places) do
    redis.call('ZADD', p.key, whole(now + ttl_ms * 1000), claim)
    expire(p.key, (redis.call('ZREVRANGE', p.key, 0, 0, 'WITHSCORES')[2] - now) / 1000)
  end
  for _, a in ipairs(plan.accounts) do account_hold(a, claim, a.cost, ttl_ms) end
end
local out = {code, index, math.ceil(retry * 1000000) / 1000000, delay}
for _, r in ipairs(plan.rates) do
  local remaining, reset = r.meter.state(r)
  out[#out + 1] = remaining
  out[#out + 1] = reset
end
for _, a in ipairs(plan.accounts) do
  out[#out + 1] = a.known and a.spent or -1
  out[#out + 1] = a.known and a.held or -1
end
return cmsgpack.pack(out)
"""

_SETTLE = (
    f"local given_up_ms = {GIVEN_UP_MS}\n"
    + """
-- KEYS: as above, rates of tokens only. ARGV: the plan, the claim, tokens held, tokens and nanodollars used, whether
-- this is surely the first try, whether the claim is given up.
local given_up = next_key()
local plan, claim, held = cmsgpack.unpack(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local tokens, nanos = tonumber(ARGV[4]), tonumber(ARGV[5])
if ARGV[7] == '1' then
  store(given_up, '1', given_up_ms)
end
local known = ARGV[6] == '1' and #plan.places == 0 and #plan.accounts == 0
for _, r in ipairs(plan.rates) do
  r.meter = meters[r.kind]
  r.meter.read(r)
end
for _, p in ipairs(plan.places) do
  local key = next_key()
  local ends = redis.call('ZSCORE', key, claim)
  redis.call('ZREM', key, claim)
  if ends and tonumber(ends) > now then known = true end
end
for _, a in ipairs(plan.accounts) do
  if account_settle(account_read(a, claim), claim, a.tokens and tokens or nanos) then known = true end
end
for _, r in ipairs(plan.rates) do
  r.meter.true_up(r, claim, math.min(held, r.most), math.min(tokens, r.most), known)
end
return 1
"""
)

_SPENT = """
-- ARGV: 'seed' makes accounts that are not known, 'raise' brings known ones up; the accounts.
for _, a in ipairs(cmsgpack.unpack(ARGV[2])) do
  account_read(a)
  if ARGV[1] == 'seed' and not a.known then
    a.spent, a.held, a.orphans, a.kept_until = a.sum, 0, 0, 0
    redis.call('ZADD', a.ends, 0, nobody)
    account_write(a, a.keep)
  elseif ARGV[1] == 'raise' and a.known and a.spent < a.sum then
    redis.call('HSET', a.key, 's', whole(math.min(a.sum, whole_max - a.held)))
  end
end
return 1
"""

_BALANCES = """
local out = {}
for i = 1, #KEYS / 2 do
  local a = account_read({})
  out[2 * i - 1], out[2 * i] = a.known and a.spent or -1, a.known and a.held or -1
end
return cmsgpack.pack(out)
"""


class Script(Struct, frozen=True):
    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> "Script":
        # The name by which Redis caches it, no secret.
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Scripts:
    """The four of them, on a clock."""

    def __init__(self, clock: str = CLOCK) -> None:
        accounts = clock + _COMMON + _ACCOUNTS
        self.reserve = Script.of(accounts + METERS + _RESERVE)
        self.settle = Script.of(accounts + METERS + _SETTLE)
        self.spent = Script.of(accounts + _SPENT)
        self.balances = Script.of(accounts + _BALANCES)
