package polargateredis

import (
	"crypto/fips140"

	"github.com/redis/rueidis"
)

// The scripts. All of a script's keys are in one slot. No number that could have more
// than 14 digits is turned into text by Lua, nor joined into one: that would lose its end.
// Times of facts are never numbers at all; the server's own time in milliseconds has 13
// digits and is only calculated with. Texts are compared byte by byte, since Lua's own
// comparison follows the server's locale.

// script makes one. Its SHA-1 is a name and protects nothing, which is why a policy that
// forbids SHA-1 need not forbid it here.
func script(text string) (lua *rueidis.Lua) {
	fips140.WithoutEnforcement(func() { lua = rueidis.NewLuaScript(text) })
	return lua
}

const (
	// luaGet reads a text; false if there is none, or something else.
	luaGet = `
local function get(key)
  local is = redis.pcall('GET', key)
  return type(is) == 'string' and is
end
`
	// luaOrder compares records, negative if a is older, and tells records from texts
	// that do not begin with a time.
	luaOrder = `
local function order(a, b)
  if a == b then return 0 end
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x - y end
  end
  return #a - #b
end
local function valid(is)
  if not is or #is < 19 then return false end
  local at = string.sub(is, 1, 19)
  return not string.find(at, '%D') and order(at, '9223372036854775807') <= 0 and is
end
`
	// luaTake takes units of a budget, whose key has a field for each sixtieth of the
	// window: which one it is, and how many units were taken in it. It gives 1 if they
	// were taken, 2 in a pause and 0 otherwise; how many are left; and for how many
	// milliseconds to wait.
	luaTake = `
local function take(key, pause, limit, window, units, keep)
  limit, window, units, keep = tonumber(limit), tonumber(window), tonumber(units), tonumber(keep)
  local paused = redis.call('PTTL', pause)
  if paused > 0 then return 2, 0, paused end
  local all = redis.pcall('HGETALL', key)
  if all.err or redis.call('PTTL', key) == -1 then -- another program's
    redis.call('DEL', key)
    all = {}
  end
  local time = redis.call('TIME')
  local ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local length = math.max(math.floor(window / 60), 1)
  local part = math.floor(ms / length)
  local used, here, parts = 0, 0, {}
  for i = 2, #all, 2 do
    local at, n = string.match(all[i], '^(%d+) (%d+)$')
    at, n = tonumber(at), tonumber(n)
    -- Parts of the future are of a clock that was set back, and count for as long.
    if at and math.abs(part - at) <= 60 then
      used = used + n
      parts[#parts + 1] = {at, n}
      if at == part then here = here + n end
    end
  end
  if used + units + keep <= limit then
    redis.call('HSET', key, string.format('%d', part % 61), string.format('%d %d', part, here + units))
    redis.call('PEXPIRE', key, string.format('%d', 3 * window))
    return 1, limit - used - units, 0
  end
  table.sort(parts, function(a, b) return a[1] < b[1] end)
  local free, wait = limit - used, window
  for _, p in ipairs(parts) do
    free = free + p[2]
    if free >= units + keep then
      wait = (p[1] + 61) * length - ms
      break
    end
  end
  return 0, math.max(limit - used, 0), wait
end
`
)

var (
	// KEYS: claim, budget, pause, records. ARGV: not before, holder, milliseconds of the
	// claim, then those of take.
	lookupScript = script(luaGet + luaOrder + luaTake + `
local best, index = '', 0
for i = 4, #KEYS do
  local is = valid(get(KEYS[i]))
  if is and (index == 0 or order(is, best) > 0) then best, index = is, i - 3 end
end
if index > 0 and order(string.sub(best, 1, 19), ARGV[1]) >= 0 then return {'found', index, best} end
local holder = get(KEYS[1])
if holder and holder ~= ARGV[2] then
  local rest = redis.call('PTTL', KEYS[1])
  if rest >= 0 then return {'busy', index, best, math.max(rest, 1)} end
end
local taken, left, wait = 1, 0, 0
if tonumber(ARGV[4]) > 0 then
  taken, left, wait = take(KEYS[2], KEYS[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
  if taken ~= 1 then return {'refused', index, best, taken, left, wait} end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {'claimed', index, best, taken, left, wait}
`)

	// KEYS: texts.
	getScript = script(luaGet + `
local all = {}
for i = 1, #KEYS do all[i] = get(KEYS[i]) end
return all
`)

	// KEYS: a record and its claim, for each. ARGV: channel, holder, and for each the
	// key, milliseconds and the record.
	putScript = script(luaGet + luaOrder + `
local younger, changed = {}, {}
for i = 1, #KEYS / 2 do
  local key, life, put = ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2]
  local is = valid(get(KEYS[2 * i - 1]))
  local newer = is and order(put, is) or 1
  if newer > 0 then
    redis.call('SET', KEYS[2 * i - 1], put, 'PX', life)
    changed[#changed + 1] = key
  elseif newer == 0 then
    redis.call('PEXPIRE', KEYS[2 * i - 1], life)
  else
    younger[#younger + 1] = i
    younger[#younger + 1] = is
  end
  if ARGV[2] ~= '' and get(KEYS[2 * i]) == ARGV[2] then redis.call('DEL', KEYS[2 * i]) end
end
if #changed > 0 then redis.call('PUBLISH', ARGV[1], table.concat(changed, ' ')) end
return younger
`)

	// KEYS: texts. ARGV: what each must be to be removed.
	removeScript = script(luaGet + `
for i = 1, #KEYS do
  if get(KEYS[i]) == ARGV[i] then redis.call('DEL', KEYS[i]) end
end
return 0
`)

	// KEYS: budget, pause. ARGV: those of take.
	takeScript = script(luaTake + `
return {take(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4])}
`)

	// KEYS: pause. ARGV: milliseconds.
	pauseScript = script(`
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]) end
return 0
`)

	// KEYS: replicas. ARGV: the replica, milliseconds.
	beatScript = script(`
local time = redis.call('TIME')
local ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then redis.call('DEL', KEYS[1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', ms))
redis.call('ZADD', KEYS[1], string.format('%d', ms + tonumber(ARGV[2])), ARGV[1])
redis.call('PEXPIRE', KEYS[1], '86400000')
return redis.call('ZCARD', KEYS[1])
`)

	// KEYS: value. ARGV: the version to replace, the new value with its version in front
	// or nothing, milliseconds.
	swapScript = script(luaGet + `
local is = get(KEYS[1]) or ''
if #is < 26 then is = '' end
if string.sub(is, 1, 26) ~= ARGV[1] then return {0, is} end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return {1, ''}
`)
)
