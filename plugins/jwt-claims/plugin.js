// jwt-claims: passes claims of a verified token to the backend in headers that clients cannot send.
//
// The filter `jwt` verifies the token; this plugin only reads its claims. A reader must get each
// value of a claim as one value: a value that a reader would split is left out.

const defaults = { headers: { 'x-user-id': 'sub' }, separator: ',', require: {}, anonymous: 'pass' };

let settings;
const read = (config) => {
  const all = { ...defaults, ...config };
  if (all.anonymous !== 'pass' && all.anonymous !== 'refuse') throw new Error(`invalid \`anonymous\` \`${all.anonymous}\`: use \`pass\` or \`refuse\``);
  if (typeof all.separator !== 'string' || all.separator === '') throw new Error('invalid `separator`: use a text that is not empty');
  return { ...all, headers: Object.entries(all.headers), require: Object.entries(all.require) };
};

// Returns a claim by its name, or by a path into it: `realm_access.roles`.
const own = (value, name) => (typeof value === 'object' && value !== null && Object.hasOwn(value, name) ? value[name] : undefined);
const claim = (claims, path) => own(claims, path) ?? path.split('.').reduce(own, claims);

const isSingle = (value) => ['string', 'number', 'boolean'].includes(typeof value);

// Returns the UTF-8 bytes of a text, each as one character, as headers need them.
const bytes = (text) => Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join('');

const asHeader = (value, separator) => {
  const values = (Array.isArray(value) ? value : [value]).filter(isSingle).map(String);
  const isWhole = (text) => text !== '' && text.trim() === text && !/[\x00-\x1f\x7f]/.test(text) && !(Array.isArray(value) && text.includes(separator));
  const whole = values.filter(isWhole);
  return whole.length > 0 ? bytes(whole.join(separator)) : undefined;
};

const refuse = (status, error) =>
  Response.json({ error }, { status, headers: { 'cache-control': 'no-store', ...(status === 401 && { 'www-authenticate': 'Bearer' }) } });

export function onRequest(request, ctx) {
  settings ??= read(ctx.config);
  const { headers, separator, require, anonymous } = settings;
  // Removes forged headers of clients first.
  for (const [name] of headers) request.headers.delete(name);
  const claims = ctx.jwt;
  if (claims === undefined) {
    if (anonymous === 'refuse' || require.length > 0) return refuse(401, 'token_missing');
    return;
  }
  for (const [path, wanted] of require) {
    const value = claim(claims, path);
    const has = Array.isArray(value) ? value : [value];
    if (![wanted].flat().some((one) => has.includes(one))) return refuse(403, 'claim_missing');
  }
  for (const [name, path] of headers) {
    const value = asHeader(claim(claims, path), separator);
    if (value !== undefined) request.headers.set(name, value);
  }
}
