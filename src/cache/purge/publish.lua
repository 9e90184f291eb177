-- Appends a purge. ARGV[3]: what was drawn for it; ARGV[4]: the purge; ARGV[5]: about how many
-- entries are kept.
--
-- The answer: its id, the generation and its age, and the leases that there are now.
local id = redis.call('XADD', log, 'MAXLEN', '~', ARGV[5], '*', 'n', ARGV[3], 'p', ARGV[4])
return {id, generation, age(), leases()}
