-- A gateway ends: nobody is to wait for it. ARGV[3]: the gateway.
return redis.call('HDEL', gateways, ARGV[3])
