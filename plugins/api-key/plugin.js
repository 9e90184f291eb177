// api-key: lets clients pass that show a key, and tells the backend whose it is.
//
// Keys are random and long, so their SHA-256 can stand in a configuration: nobody finds a
// key by its hash.

const defaults = { header: 'x-api-key', client_header: 'x-client', plan_header: 'x-plan', keys: [] };

let settings;
const read = (config) => {
  const all = { ...defaults, ...config };
  const byHash = new Map();
  for (const key of all.keys) {
    const hash = /^sha256:([0-9a-f]{64})$/i.exec(key?.hash ?? '')?.[1];
    // The hash is not repeated: somebody may have written the key itself.
    if (!hash || !key.name) throw new Error(`each of \`keys\` has a name and a hash such as sha256:…, but \`${key?.name ?? ''}\` has not`);
    byHash.set(hash.toLowerCase(), key);
  }
  return { ...all, byHash };
};

const sha256 = async (text) => {
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  return [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
};

const refuse = (status, error) =>
  Response.json({ error }, { status, headers: { 'cache-control': 'no-store', ...(status === 401 && { 'www-authenticate': 'ApiKey' }) } });

export async function onRequest(request, ctx) {
  settings ??= read(ctx.config);
  const { header, client_header, plan_header, byHash } = settings;
  const shown = request.headers.get(header);
  if (shown === null) return refuse(401, 'api_key_missing');
  // Found by its hash: how long that takes says nothing of any key.
  const key = byHash.get(await sha256(shown));
  if (key === undefined) return refuse(401, 'api_key_invalid');
  if (key.methods && !key.methods.includes(request.method)) return refuse(403, 'api_key_method');
  request.headers.delete(header);
  request.headers.set(client_header, key.name);
  if (key.plan) request.headers.set(plan_header, key.plan);
  else request.headers.delete(plan_header);
}
