-- Removes a gateway that stops, so that no purge waits for it. ARGV[3]: the gateway.
return redis.call('HDEL', gateways, ARGV[3])
