import { respond } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

/** Returns the request after the proxy, with the response headers that `x-ask` requests. */
function echo(request) {
  const named = [...request.headers].filter(([name]) => name.startsWith('x-edge') || name === 'cookie');
  const { pathname, search } = new URL(request.url);
  const { origin = [] } = JSON.parse(request.headers.get('x-ask') ?? '{}');
  return respond(
    { method: request.method, pathname, search, headers: Object.fromEntries(named) },
    { headers: [['x-from', 'app'], ...origin] },
  );
}

export { echo as GET, echo as POST };
