-- Waiting that HAProxy's own rules cannot express. Session keys are in txn.sid; docs/balancer.md says more.
local PAUSE = 5 -- milliseconds between two looks

local HANDOVER = 1 -- seconds within which the process before a reload has handed its sessions over
local born = core.now()

local function since(start)
  local now = core.now()
  return (now.sec - start.sec) + (now.usec - start.usec) / 1e6
end

-- HAProxy gives Lua its booleans as numbers, or as booleans where it is told so.
local function yes(value) return value == 1 or value == true end

local function wait(seconds, done)
  local start = core.now()
  repeat
    core.msleep(PAUSE)
  until done() or since(start) > seconds
end

-- Just before a reload the save-state script writes the time into a row of `jobs`. From then on requests wait
-- until this process stops, and are passed on to its successor. A reload that does not come is not waited for
-- again.
local HOLD = 2 -- seconds
local order, ordered

core.register_action("await_reload", { "http-req" }, function(txn)
  local now = txn.c:table_gpt0("fleet-reload", "jobs")
  if now ~= order then order, ordered = now, core.now() end
  local left = HOLD - since(ordered)
  if left > 0 then wait(left, function() return yes(txn.f:stopping()) end) end
end)

-- Right after a reload a session that looks new may just not have been handed over yet.
core.register_action("await_handover", { "http-req" }, function(txn)
  local left = HANDOVER - since(born)
  if left <= 0 then return end
  local session = txn:get_var("txn.sid")
  local function known() return yes(txn.c:in_table(session, "joins")) end
  if not known() then wait(left, known) end
end)

-- Holds a join back while the first join of its session is still being answered: only the answer tells
-- which server owns the session, and both must meet the same one.
core.register_action("await_answer", { "http-req" }, function(txn)
  local session = txn:get_var("txn.sid")
  wait(5, function() return txn.c:table_gpt0(session, "joins") % 4 ~= 1 end)
end)

-- Holds the answer to a join back for a moment while an event stream of its session is open: one that was just
-- ending has then ended, and one still open will bring this job's events.
core.register_action("await_end", { "http-res" }, function(txn)
  local session = txn:get_var("txn.sid")
  wait(0.1, function() return txn.c:table_conn_cur(session, "jobs") == 0 end)
end)

-- The events of a session whose join another balancer answered: waits for that balancer's word.
core.register_action("await_joined", { "http-req" }, function(txn)
  local session = txn:get_var("txn.sid")
  local function joined()
    return txn.c:table_gpt0(session, "joins") % 4 >= 2 or txn.c:table_conn_cur(session, "jobs") > 0
  end
  if not joined() then wait(0.5, joined) end
end)

-- Gives another balancer, or the process before a reload, a moment to tell whose this session is.
core.register_action("await_owner", { "http-req" }, function(txn)
  local session = txn:get_var("txn.sid")
  wait(0.5, function() return yes(txn.c:in_table(session, "owner")) end)
end)

-- Jobs that were let in a moment ago and whose events nobody fetches yet, by owner (a key, an address, `all`):
-- the open streams alone would let any number in between a join and its stream. A client that never comes
-- back for its events is forgotten after GRACE.
local GRACE = 1 -- second
local pending = {}

local function fresh(owner)
  local times = pending[owner]
  if not times then return nil end
  while times[1] and since(times[1]) > GRACE do table.remove(times, 1) end
  if not times[1] then pending[owner], times = nil, nil end
  return times
end

-- `all` is an owner itself; any other word names the variable that holds the owner.
local function owner_of(txn, word)
  if word == "all" then return word end
  local owner = txn:get_var(word)
  return owner and word .. " " .. tostring(owner)
end

core.register_fetches("pending", function(txn, word)
  local owner = owner_of(txn, word)
  local times = owner and fresh(owner)
  return times and #times or 0
end)

core.register_action("job_begins", { "http-res" }, function(txn, word)
  local owner = owner_of(txn, word)
  if not owner then return end
  local times = fresh(owner) or {}
  times[#times + 1] = core.now()
  pending[owner] = times
end, 1)

core.register_action("job_opens", { "http-req" }, function(txn, word)
  local owner = owner_of(txn, word)
  local times = owner and fresh(owner)
  if times then table.remove(times, 1) end
end, 1)

-- The folder of the first file that a job's body names: Gradio calls it by the hash of the file.
local FILE = '"path"%s*:%s*"[^"]*/(' .. ("%x"):rep(40) .. '%x*)/[^"/]*"'
core.register_fetches("file_in_body", function(txn)
  local body = txn.sf:req_body()
  return body and body:match(FILE) or nil
end)
