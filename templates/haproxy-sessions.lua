-- Waiting that HAProxy's own rules cannot express. Session keys are in txn.sid; docs/balancer.md says more.
local PAUSE = 5 -- milliseconds between two looks

local function wait(seconds, done)
  local start = core.now()
  repeat
    core.msleep(PAUSE)
    local now = core.now()
  until done() or (now.sec - start.sec) + (now.usec - start.usec) / 1e6 > seconds
end

-- Holds a join back while the first join of its session is still being answered: only the answer tells
-- which server owns the session, and both must meet the same one.
core.register_action("await_answer", { "http-req" }, function(txn)
  local session = txn:get_var("txn.sid")
  wait(5, function() return txn.c:table_gpt0(session, "joins") ~= 1 end)
end)

-- Gives another balancer, or the process before a reload, a moment to tell whose this session is.
core.register_action("await_owner", { "http-req" }, function(txn)
  local session = txn:get_var("txn.sid")
  wait(0.5, function() return txn.c:in_table(session, "owner") end)
end)
