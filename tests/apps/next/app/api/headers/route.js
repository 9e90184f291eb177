import { respond } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

/** Sends a response with about `bytes` of headers, in values of 4 kB like long preload lists. */
export function GET(request) {
  const bytes = Number(new URL(request.url).searchParams.get('bytes') ?? 1024);
  const headers = new Headers();
  for (let left = bytes, at = 0; left > 0; left -= 4000, at += 1) {
    headers.set(`x-long-${at}`, 'x'.repeat(Math.min(left, 4000)));
  }
  return respond({ bytes }, { headers });
}
