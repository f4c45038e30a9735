-- Steps to and fro, for wrk: the position, and so the work, stays what it is.
-- Arguments: the path up and the path down.  Prints the latencies that the plot needs.
local turn, requests = 0, {}

function init(args)
  requests[0] = wrk.format("GET", args[1])
  requests[1] = wrk.format("GET", args[2])
end

function request()
  turn = 1 - turn
  return requests[turn]
end

function done(summary, latency, _)
  io.write("percentiles")
  for _, p in pairs({1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99}) do
    io.write(string.format(" %g=%d", p, latency:percentile(p)))
  end
  io.write("\n")
end
