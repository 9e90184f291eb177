// signed-url: admits requests with a signed URL, for a short time and for one folder.
import { keysOf, verify } from './token.js';

const MIN_LENGTH = 32;

const read = ({ secrets: written = [], secrets_from = [], max_ttl = 90, leeway = 0, param = 'token', cookie = 'playback' }, env) => {
  const secrets = [...written, ...secrets_from.map((name) => env[name])];
  if (secrets.length === 0 || secrets.some((secret) => typeof secret !== 'string' || secret.length < MIN_LENGTH)) {
    throw new Error(`invalid \`secrets\` or \`secrets_from\`: set at least one secret, each of at least ${MIN_LENGTH} characters`);
  }
  return { keys: keysOf(secrets), max_ttl, leeway, param, cookie };
};

let settings;

const refuse = (status, error) =>
  Response.json({ error }, { status, headers: { 'cache-control': 'no-store', ...(status === 401 && { 'www-authenticate': 'Bearer' }) } });

// Returns the token and the URL without it. The token is in a path segment (`/watch/~TOKEN/…`), a
// query parameter, or a cookie.
const tokenOf = (request, { param, cookie }) => {
  const url = request.nextUrl.clone();
  const folders = url.pathname.split('/');
  const at = folders.findIndex((folder) => folder.startsWith('~'));
  if (at >= 0) {
    const [folder] = folders.splice(at, 1);
    url.pathname = folders.join('/');
    return { token: folder.slice(1), url, isStripped: true };
  }
  // The rest of the query stays unchanged, byte for byte.
  const pairs = url.search.slice(1).split('&');
  const [own] = pairs.filter((pair) => pair.startsWith(`${param}=`));
  if (own !== undefined) {
    url.search = pairs.filter((pair) => !pair.startsWith(`${param}=`)).join('&');
    return { token: own.slice(param.length + 1), url, isStripped: true, isParam: true };
  }
  return { token: cookie && request.cookies.get(cookie)?.value, url };
};

export async function onRequest(request, ctx) {
  settings ??= read(ctx.config, ctx.env);
  const { max_ttl, leeway, cookie } = settings;
  // A backend may treat an encoded `/` or `\` as a separator, so a name must not contain one.
  if (/%2f|%5c/i.test(request.nextUrl.pathname)) return refuse(400, 'path_invalid');
  const { token, url, isStripped, isParam } = tokenOf(request, settings);
  if (!token) return refuse(401, 'token_missing');
  const grant = await verify(await settings.keys, token, url.pathname);
  if (grant === undefined) return refuse(401, 'token_invalid');
  const left = grant.expires - Date.now() / 1000;
  if (left + leeway <= 0) return refuse(401, 'token_expired');
  if (left > max_ttl + leeway) return refuse(401, 'token_invalid');
  // The backend gets the URL without the token, and so do its logs.
  const response = isStripped ? NextResponse.rewrite(url) : NextResponse.next();
  if (isParam && cookie) {
    // A playlist has relative URLs of its segments, without the parameter.
    response.cookies.set(cookie, token, {
      path: grant.prefix,
      maxAge: Math.max(1, Math.floor(left)),
      httpOnly: true,
      sameSite: 'lax',
      secure: url.protocol === 'https:',
    });
  }
  return response;
}
