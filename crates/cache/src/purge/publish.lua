-- Appends a purge. ARGV[3]: its nonce; ARGV[4]: the purge; ARGV[5]: approximate number of entries
-- that the log keeps.
--
-- Returns the id of the entry, the generation and its age, and the current leases.
local id = redis.call('XADD', log, 'MAXLEN', '~', ARGV[5], '*', 'n', ARGV[3], 'p', ARGV[4])
return {id, generation, age(), leases()}
