import { respond } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

/** Returns the request as it reached the app. */
async function echo(request) {
  const body = await request.arrayBuffer();
  return respond({
    method: request.method,
    url: request.url,
    headers: Object.fromEntries(request.headers),
    length: body.byteLength,
  });
}

export { echo as GET, echo as POST, echo as PUT, echo as PATCH, echo as DELETE };
