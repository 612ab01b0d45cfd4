#!lua name=tradewind_engine

-- The engine's functions: leases of partitions, and the one commit.
--
-- All keys of a call share the partition's hash tag. Redis Functions do not roll back: everything is checked before
-- the first write, and nothing after it can fail. Times are the server's, so that workers' clocks do not matter.

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function is_kind(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == kind or found == 'none'
end

-- KEYS: owner. ARGV: worker, lease in ms.
-- Returns {1, epoch} when granted, else {0, epoch, holder, ms left}. Granting anew raises the epoch.
local function acquire(keys, args)
  local owner, worker, lease_ms = keys[1], args[1], tonumber(args[2])
  if not is_kind(owner, 'hash') then
    return redis.error_reply('WRONGTYPE ' .. owner .. ' is not a lease')
  end
  local held = redis.call('HMGET', owner, 'worker', 'epoch', 'expires_ms')
  local now, epoch = now_ms(), tonumber(held[2] or '0')
  local left = tonumber(held[3] or '0') - now
  if left > 0 and held[1] ~= worker then
    return {0, epoch, held[1], left}
  end
  epoch = epoch + 1
  redis.call('HSET', owner, 'worker', worker, 'epoch', epoch, 'expires_ms', now + lease_ms)
  return {1, epoch}
end

local function holds(owner, worker, epoch)
  local held = redis.call('HMGET', owner, 'worker', 'epoch')
  return held[1] == worker and held[2] == epoch
end

-- KEYS: owner. ARGV: worker, epoch, lease in ms. Returns 1, or 0 when the lease belongs to somebody else by now.
local function renew(keys, args)
  if not holds(keys[1], args[1], args[2]) then
    return 0
  end
  redis.call('HSET', keys[1], 'expires_ms', now_ms() + tonumber(args[3]))
  return 1
end

-- KEYS: owner. ARGV: worker, epoch. Ends the lease; the epoch stays, so that it never repeats.
local function release(keys, args)
  if not holds(keys[1], args[1], args[2]) then
    return 0
  end
  redis.call('HSET', keys[1], 'expires_ms', 0)
  return 1
end

-- KEYS: workers (sorted set: name -> expiry). ARGV: worker, lease in ms; 0 takes the worker off the list.
-- Returns the names of all live workers.
local function heartbeat(keys, args)
  local now, lease_ms = now_ms(), tonumber(args[2])
  if lease_ms > 0 then
    redis.call('ZADD', keys[1], now + lease_ms, args[1])
  else
    redis.call('ZREM', keys[1], args[1])
  end
  redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', now)
  return redis.call('ZRANGE', keys[1], 0, -1)
end

local LIST_MAX = 7000 -- strings: `unpack` hands at most 8000 to a call, and a batch must not keep the server busy

-- Reads counted lists from the arguments: a number n, then n strings. A list without a count, or too long, is nil.
local function reader(args, position)
  local take = {}
  function take.one()
    position = position + 1
    return args[position - 1]
  end
  function take.list(per_item)
    local length = (tonumber(take.one()) or -1) * (per_item or 1)
    if not (length >= 0 and length <= LIST_MAX) then -- not a number is neither
      return nil
    end
    local list = {}
    for _ = 1, length do
      list[#list + 1] = take.one()
    end
    return list
  end
  function take.is_at_end()
    return position == #args + 1
  end
  return take
end

local POISON_MAX = 10000 -- commands put aside in a partition: nothing there is dropped unless somebody says so
local FIXED_KEYS = 9 -- as `commit` unpacks them
local FIXED_KINDS = {'hash', 'hash', 'stream', 'hash', 'hash', 'hash', 'stream', 'stream', 'set'}
local SECONDS_MAX = 1000000000 -- far below what makes EXPIRE fail

local function is_below_2_to_64(digits)
  return #digits < 20 or (#digits == 20 and digits <= '18446744073709551615')
end

-- Whether XTRIM takes it, after all the writes before it.
local function is_stream_id(text)
  local milliseconds, number = string.match(text or '', '^(%d+)-(%d+)$')
  return milliseconds and is_below_2_to_64(milliseconds) and is_below_2_to_64(number)
end

-- Whether EXPIRE takes it, and keeps the key.
local function is_time_to_live(text)
  local seconds = string.match(text or '', '^%d+$') and tonumber(text)
  return seconds and seconds >= 1 and seconds <= SECONDS_MAX
end

-- The first client order id among the answers that has an answer already, or nil.
local function known_id(ids, answers)
  local fields = {}
  for position = 1, #answers, 2 do
    fields[#fields + 1] = answers[position]
  end
  for _, key in ipairs(#fields > 0 and ids or {}) do
    for position, answer in ipairs(redis.call('HMGET', key, unpack(fields))) do
      if answer then
        return fields[position]
      end
    end
  end
  return nil
end

-- Commits one batch: appends its events, keeps its answers, changes its accounts, moves the cursor.
--
-- KEYS: owner, cursor, events, ids of the day, of the day before, and of the day after (the worker before may have
--       had a clock ahead of this one's), commands, poison, index of accounts, then one key per changed account.
-- ARGV: worker, epoch, the cursor's command id and event sequence as the worker knows them, the new command id,
--       seconds to keep the ids, 1 to drop applied commands from the stream; then counted lists: events; id and
--       answer pairs; poison commands and reasons; new accounts; then for each account key the field and value pairs
--       to set, and the fields to delete.
-- Returns the new event sequence. Errors, with nothing written: FENCED (the lease is somebody else's), CURSOR (the
-- worker's view is old), KNOWN (an id was answered before), POISONED (there is no more room for poison commands).
local function commit(keys, args)
  if #keys < FIXED_KEYS then
    return redis.error_reply('ERR commit: ' .. #keys .. ' keys, at least ' .. FIXED_KEYS .. ' are needed')
  end
  local owner, cursor, events, ids, ids_before, ids_after, commands, poison, index = unpack(keys, 1, FIXED_KEYS)
  for position, kind in ipairs(FIXED_KINDS) do
    if not is_kind(keys[position], kind) then
      return redis.error_reply('WRONGTYPE ' .. keys[position] .. ' is not a ' .. kind)
    end
  end
  if not holds(owner, args[1], args[2]) then
    return redis.error_reply('FENCED ' .. owner .. ' is not held by ' .. args[1] .. ' in epoch ' .. args[2])
  end
  local at = redis.call('HMGET', cursor, 'command', 'sequence')
  if (at[1] or '0-0') ~= args[3] or (at[2] or '0') ~= args[4] then
    return redis.error_reply('CURSOR is at ' .. (at[1] or '0-0') .. ' and event ' .. (at[2] or '0'))
  end

  if not is_stream_id(args[5]) then
    return redis.error_reply('ERR commit: the new command id is not a stream id')
  end
  if not is_time_to_live(args[6]) then
    return redis.error_reply('ERR commit: the ids cannot be kept for so many seconds')
  end
  local take = reader(args, 8)
  local new_events, answers, poisoned, opened = take.list(), take.list(2), take.list(2), take.list()
  if not (new_events and answers and poisoned and opened) then
    return redis.error_reply('ERR commit: a list has no count, or is longer than ' .. LIST_MAX)
  end
  local changes = {}
  for position = FIXED_KEYS + 1, #keys do
    local change = {key = keys[position], set = take.list(2), delete = take.list()}
    if not (change.set and change.delete and is_kind(change.key, 'hash')) then
      return redis.error_reply('ERR commit: changes of ' .. change.key .. ' cannot be applied')
    end
    changes[#changes + 1] = change
  end
  if not take.is_at_end() then
    return redis.error_reply('ERR commit: the arguments do not add up')
  end
  local known = known_id({ids, ids_before, ids_after}, answers)
  if known then
    return redis.error_reply('KNOWN ' .. known)
  end

  if #poisoned > 0 and redis.call('XLEN', poison) + #poisoned / 2 > POISON_MAX then
    return redis.error_reply('POISONED ' .. poison .. ' has room for ' .. POISON_MAX .. ' commands and is full')
  end

  local sequence = tonumber(args[4])
  for _, event in ipairs(new_events) do
    sequence = sequence + 1
    redis.call('XADD', events, string.format('%.0f-0', sequence), 'event', event)
  end
  if #answers > 0 then
    redis.call('HSET', ids, unpack(answers))
    redis.call('EXPIRE', ids, args[6], 'NX')
  end
  for position = 1, #poisoned, 2 do
    redis.call('XADD', poison, '*', 'command', poisoned[position], 'reason', poisoned[position + 1])
  end
  if #opened > 0 then
    redis.call('SADD', index, unpack(opened))
  end
  for _, change in ipairs(changes) do
    if #change.set > 0 then
      redis.call('HSET', change.key, unpack(change.set))
    end
    if #change.delete > 0 then
      redis.call('HDEL', change.key, unpack(change.delete))
    end
  end
  redis.call('HSET', cursor, 'command', args[5], 'sequence', string.format('%.0f', sequence))
  if args[7] == '1' then
    redis.call('XTRIM', commands, 'MINID', '~', args[5])
  end
  return sequence
end

-- Hands a poison command in again, as it is. KEYS: poison, commands. ARGV: its stream id.
-- Returns 1, or 0 when it is not there any more.
local function replay(keys, args)
  local poison, commands = keys[1], keys[2]
  if not (is_kind(poison, 'stream') and is_kind(commands, 'stream')) then
    return redis.error_reply('WRONGTYPE ' .. poison .. ' or ' .. commands .. ' is not a stream')
  end
  local found = redis.call('XRANGE', poison, args[1], args[1])[1]
  if not found then
    return 0
  end
  for position = 1, #found[2], 2 do
    if found[2][position] == 'command' then
      redis.call('XADD', commands, '*', 'command', found[2][position + 1])
    end
  end
  redis.call('XDEL', poison, args[1])
  return 1
end

redis.register_function('tradewind_acquire', acquire)
redis.register_function('tradewind_renew', renew)
redis.register_function('tradewind_release', release)
redis.register_function('tradewind_heartbeat', heartbeat)
redis.register_function('tradewind_commit', commit)
redis.register_function('tradewind_replay', replay)
