// bot-filter: refuses clients by their `User-Agent`, or tells the backend what they are.
//
// It stops those that say who they are. A browser's name is written as easily, so this keeps
// out what is polite or careless, and nothing else.

// Programs that nobody browses with: scanners, and crawlers that give nothing back.
const KNOWN = [
  'ahrefsbot', 'amazonbot', 'bytespider', 'ccbot', 'dataforseobot', 'dotbot', 'masscan', 'mj12bot', 'nikto', 'nuclei',
  'petalbot', 'scrapy', 'semrushbot', 'sqlmap', 'wpscan', 'zgrab',
];

let settings;
const read = ({ deny = KNOWN, allow = [], action = 'refuse', empty = 'allow', header = 'x-bot', status = 403 }) => {
  if (action !== 'refuse' && action !== 'mark') throw new Error('`action` is `refuse` or `mark`');
  if (empty !== 'refuse' && empty !== 'allow') throw new Error('`empty` is `refuse` or `allow`');
  const expressions = (list) => list.map((text) => new RegExp(text, 'i'));
  return { deny: expressions(deny), allow: expressions(allow), action, empty, header, status };
};

// The part of the name that was recognised; `''` of a client without a name.
const found = (agent, { deny, allow, empty }) => {
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
  // Whoever wants to be long is not read to the end.
  const agent = (request.headers.get('user-agent') ?? '').slice(0, 512);
  const bot = found(agent, settings);
  if (action === 'refuse') {
    if (bot === undefined) return;
    return new Response('This site is not open to automated clients.\n', { status, headers: { 'cache-control': 'no-store' } });
  }
  // Always, so that it is never the client's own word.
  if (bot === undefined) request.headers.delete(header);
  else request.headers.set(header, bot === '' ? 'unnamed' : bot);
}
