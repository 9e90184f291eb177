// bot-filter: refuses clients by their `User-Agent`, or reports the match to the backend.
//
// It keeps out clients that identify themselves. A client that sends the `User-Agent` of a browser
// passes.

// Scanners, and crawlers that cause load without a benefit.
const DEFAULT_DENY = [
  'ahrefsbot', 'amazonbot', 'bytespider', 'ccbot', 'dataforseobot', 'dotbot', 'masscan', 'mj12bot', 'nikto', 'nuclei',
  'petalbot', 'scrapy', 'semrushbot', 'sqlmap', 'wpscan', 'zgrab',
];

let settings;
const read = ({ deny = DEFAULT_DENY, allow = [], action = 'refuse', empty = 'allow', header = 'x-bot', status = 403 }) => {
  if (action !== 'refuse' && action !== 'mark') throw new Error(`invalid \`action\` \`${action}\`: use \`refuse\` or \`mark\``);
  if (empty !== 'refuse' && empty !== 'allow') throw new Error(`invalid \`empty\` \`${empty}\`: use \`refuse\` or \`allow\``);
  const expressions = (list) => list.map((text) => new RegExp(text, 'i'));
  return { deny: expressions(deny), allow: expressions(allow), action, empty, header, status };
};

// Returns the matched text; `''` for a client without a `User-Agent`.
const matchOf = (agent, { deny, allow, empty }) => {
  if (agent.trim() === '') return empty === 'refuse' ? '' : undefined;
  if (allow.some((expression) => expression.test(agent))) return undefined;
  for (const expression of deny) {
    const match = expression.exec(agent);
    if (match) return match[0].toLowerCase();
  }
  return undefined;
};

export function onRequest(request, ctx) {
  settings ??= read(ctx.config);
  const { action, header, status } = settings;
  // Only the beginning is matched, so that a long header costs little.
  const agent = (request.headers.get('user-agent') ?? '').slice(0, 512);
  const bot = matchOf(agent, settings);
  if (action === 'refuse') {
    if (bot === undefined) return;
    return new Response('This site is not open to automated clients.\n', { status, headers: { 'cache-control': 'no-store' } });
  }
  // Set or removed for every request, so that no value comes from the client.
  if (bot === undefined) request.headers.delete(header);
  else request.headers.set(header, bot === '' ? 'unnamed' : bot);
}
