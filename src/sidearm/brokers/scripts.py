"""What is done in Redis in one step (EVAL): nobody else's command comes between.

The log is a Stream, at the key ``{KEY}:log``; beside it a hash, ``{KEY}:state``, with the log's
epoch, its newest id and its size. The braces keep all keys in one slot of a Cluster.

An entry's id is Redis's own time to the microsecond, moved on where two would be equal or the
clock has gone back: milliseconds, and a sequence number below a million. So ids grow whatever the
clock does, and read as nanoseconds since 1970 with nothing lost.
"""

from __future__ import annotations

# Begins a log where there is none: its epoch and its Stream are there together, or it is a new one.
_OPEN = """
local function open(epoch)
  local state = redis.call('HMGET', KEYS[2], 'epoch', 'last', 'bytes')
  if state[1] and state[2] and redis.call('EXISTS', KEYS[1]) == 1 then
    local ms, seq = string.match(state[2], '^(%d+)-(%d+)$')
    return {epoch = state[1], last = state[2], ms = tonumber(ms), seq = tonumber(seq),
            bytes = tonumber(state[3]) or 0}
  end
  redis.call('DEL', KEYS[1], KEYS[2])
  return {epoch = epoch, last = '0-0', ms = 0, seq = 0, bytes = 0, new = true}
end

local function now()
  local time = redis.call('TIME')
  local micros = tonumber(time[2])
  return tonumber(time[1]) * 1000 + math.floor(micros / 1000), (micros % 1000) * 1000
end

local function add(log, kind, name, body)
  local ms, seq = now()
  if ms < log.ms or (ms == log.ms and seq <= log.seq) then
    ms, seq = log.ms, log.seq + 1
    if seq >= 1000000 then ms, seq = ms + 1, 0 end
  end
  local id = string.format('%.0f-%.0f', ms, seq)
  redis.call('XADD', KEYS[1], id, 'kind', kind, 'name', name, 'body', body, 'after', log.last)
  log.last, log.ms, log.seq = id, ms, seq
  log.bytes = log.bytes + #name + #body + 100
end

-- Entries that are older, or too many; never the given one, or what was added after it: who waits
-- for those has not read them yet. Versions before 6.2 know no range without its end.
local function trim(log, first, age, size, count)
  local oldest = now() - tonumber(age)
  for _ = 1, count do
    local entry = redis.call('XRANGE', KEYS[1], '-', first, 'COUNT', 1)[1]
    if not entry or entry[1] == first then break end
    local ms = tonumber(string.match(entry[1], '^%d+'))
    if ms >= oldest and log.bytes <= tonumber(size) then break end
    redis.call('XDEL', KEYS[1], entry[1])
    log.bytes = log.bytes - #entry[2][4] - #entry[2][6] - 100
  end
end

local function save(log)
  redis.call('HSET', KEYS[2], 'epoch', log.epoch, 'last', log.last,
             'bytes', string.format('%.0f', log.bytes))
end
"""

#: Keys: log, state, sender. Arguments: an epoch for a new log, the call's number, for how long the
#: sender is remembered (s), the largest age (ms) and size (bytes), then kind, name and body of each
#: item.
APPEND = f"""{_OPEN}
local seen = redis.call('GET', KEYS[3])
if seen and tonumber(seen) >= tonumber(ARGV[2]) then return 0 end
local log = open(ARGV[1])
if log.new then add(log, 'begin', '', '') end
local first = log.last
for item = 6, #ARGV, 3 do
  add(log, ARGV[item], ARGV[item + 1], ARGV[item + 2])
end
trim(log, first, ARGV[4], ARGV[5], 100 + #ARGV)
save(log)
redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[3])
return 1
"""

#: Keys: log, state. Arguments: an epoch for a new log, the silence after which the time is marked
#: (ms), the largest age (ms) and size (bytes).
HEAD = f"""{_OPEN}
local log = open(ARGV[1])
if log.new then
  add(log, 'begin', '', '')
  save(log)
elseif now() - log.ms >= tonumber(ARGV[2]) then
  local first = log.last
  add(log, 'mark', '', '')
  trim(log, first, ARGV[3], ARGV[4], 100)
  save(log)
end
return {{log.epoch, log.last}}
"""

#: Keys: log, state. Arguments: the epoch that the log has lost entries of, the new one.
RENEW = f"""{_OPEN}
local log = open(ARGV[2])
if log.new then
  add(log, 'begin', '', '')
elseif log.epoch == ARGV[1] then
  log.epoch = ARGV[2]
  add(log, 'begin', '', '')
else
  return 0
end
save(log)
return 1
"""
