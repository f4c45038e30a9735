-- Requests with headers, for wrk.  Arguments: a number that no other run has, the body of all
-- requests (with one they are POSTs), then for each head its path and its header lines; "|"
-- begins the next head, and they take turns.  In a
-- line, {id}, {key} and {address} stand for what differs from request to request.
-- Prints the latencies that the plots need.
local heads, turn, count = {}, 0, 0

local holes = {
  id = function()
    count = count + 1
    return string.format("%d", count)
  end,
  -- As random as clients make their keys.
  key = function()
    local r = math.random
    return string.format("%08x-%04x-4%03x-a%03x-%06x%06x", r(0, 0x7fffffff),
      r(0, 0xffff), r(0, 0xfff), r(0, 0xfff), r(0, 0xffffff), r(0, 0xffffff))
  end,
  address = function()
    count = count + 1
    return string.format("10.0.%d.%d", math.floor(count / 250) % 250, count % 250)
  end,
}

-- Texts and functions in turns.
local function split(head)
  local pieces, at = {}, 1
  while true do
    local first, last, name = string.find(head, "{(%l+)}", at)
    if first == nil then break end
    pieces[#pieces + 1] = string.sub(head, at, first - 1)
    pieces[#pieces + 1] = holes[name]
    at = last + 1
  end
  pieces[#pieces + 1] = string.sub(head, at)
  return pieces
end

function init(args)
  local seed, body, lines = tonumber(args[1]), args[2], nil
  local method = "GET "
  if body ~= "" then method = "POST " end
  math.randomseed(seed)
  count = seed
  for index = 3, #args + 1 do
    local arg = args[index]
    if arg == nil or arg == "|" then
      if body ~= "" then lines[#lines + 1] = "Content-Length: " .. #body end
      heads[#heads + 1] = split(table.concat(lines, "\r\n") .. "\r\n\r\n" .. body)
      lines = nil
    elseif lines == nil then
      lines = {method .. arg .. " HTTP/1.1", "Host: " .. wrk.headers["Host"]}
    else
      lines[#lines + 1] = arg
    end
  end
end

function request()
  turn = turn % #heads + 1
  local head = heads[turn]
  local text = head[1]
  for index = 2, #head, 2 do
    text = text .. head[index]() .. head[index + 1]
  end
  return text
end

function done(summary, latency, _)
  io.write("percentiles")
  for _, p in pairs({1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99}) do
    io.write(string.format(" %g=%d", p, latency:percentile(p)))
  end
  io.write("\n")
end
