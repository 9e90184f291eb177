// api-key: admits clients with a valid key, and passes the key's name to the backend.
//
// Keys are long and random, so the configuration can contain their SHA-256: a key cannot be found
// from its hash.

const defaults = { header: 'x-api-key', client_header: 'x-client', plan_header: 'x-plan', keys: [] };

let settings;
const read = (config) => {
  const all = { ...defaults, ...config };
  const byHash = new Map();
  for (const key of all.keys) {
    const hash = /^sha256:([0-9a-f]{64})$/i.exec(key?.hash ?? '')?.[1];
    // The message does not repeat the hash: it may be the key itself, written by mistake.
    if (!hash || !key.name) throw new Error(`invalid entry \`${key?.name ?? ''}\` in \`keys\`: it needs a name and a hash such as sha256:…`);
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
  const sent = request.headers.get(header);
  if (sent === null) return refuse(401, 'api_key_missing');
  // Looked up by hash: the time that it takes reveals nothing about a key.
  const key = byHash.get(await sha256(sent));
  if (key === undefined) return refuse(401, 'api_key_invalid');
  if (key.methods && !key.methods.includes(request.method)) return refuse(403, 'api_key_method');
  request.headers.delete(header);
  request.headers.set(client_header, key.name);
  if (key.plan) request.headers.set(plan_header, key.plan);
  else request.headers.delete(plan_header);
}
