#!lua name=tradewind_trail

-- The audit trail's functions: how far exports have got, and what may be trimmed.
--
-- All keys of a call share the partition's hash tag. Redis Functions do not roll back: everything is checked before
-- the first write.

local function is_kind(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == kind or found == 'none'
end

local function sequence_of(cursor)
  return tonumber(redis.call('HGET', cursor, 'sequence') or '0')
end

-- KEYS: exports, cursor. ARGV: target, the number of the last event that it has.
-- Returns the number of the partition's last event at this moment. Always writes, so that waiting for a replica
-- afterwards covers all events up to there.
local function exported(keys, args)
  local exports, cursor = keys[1], keys[2]
  if not (is_kind(exports, 'hash') and is_kind(cursor, 'hash')) then
    return redis.error_reply('WRONGTYPE ' .. exports .. ' or ' .. cursor .. ' is not a hash')
  end
  redis.call('HSET', exports, args[1], args[2])
  return sequence_of(cursor)
end

-- Puts a checkpoint in place: from then on events up to its sequence may be trimmed.
--
-- KEYS: exports, cursor, the checkpoint as it was just made, the checkpoint in force. ARGV: the sequence; 1 to trim
-- what was not exported, too; the mark that was written into the checkpoint last; how many fields it has.
-- Errors, with nothing written: TRIM with the reason.
local function checkpoint(keys, args)
  local exports, cursor, made, in_force = unpack(keys)
  for _, key in ipairs(keys) do
    if not is_kind(key, 'hash') then
      return redis.error_reply('WRONGTYPE ' .. key .. ' is not a hash')
    end
  end
  local sequence = tonumber(args[1])
  local found = redis.call('HMGET', made, 'sequence', 'mark')
  if not sequence or found[1] ~= args[1] or found[2] ~= args[3] or redis.call('HLEN', made) ~= tonumber(args[4]) then
    return redis.error_reply('TRIM the checkpoint is not the one that was made: another trim, or a failover')
  end
  if sequence > sequence_of(cursor) then
    return redis.error_reply('TRIM the last event is ' .. sequence_of(cursor))
  end
  if sequence < tonumber(redis.call('HGET', in_force, 'sequence') or '0') then
    return redis.error_reply('TRIM the checkpoint in force is newer')
  end
  if args[2] ~= '1' then
    local targets = redis.call('HGETALL', exports)
    if #targets == 0 then
      return redis.error_reply('TRIM no export target is registered')
    end
    for position = 1, #targets, 2 do
      if tonumber(targets[position + 1]) < sequence then
        return redis.error_reply('TRIM ' .. targets[position] .. ' has events up to ' .. targets[position + 1])
      end
    end
  end
  redis.call('UNLINK', in_force)
  redis.call('RENAME', made, in_force)
  return sequence
end

redis.register_function('tradewind_exported', exported)
redis.register_function('tradewind_checkpoint', checkpoint)
