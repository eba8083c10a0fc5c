-- What wrk found, as one line of JSON.
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"bytes": %d, "seconds": %.6f, "requests": %d, "errors": %d}\n', summary.bytes, summary.duration / 1e6, summary.requests,
    e.connect + e.read + e.write + e.status + e.timeout))
end
