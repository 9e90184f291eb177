import { respond } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

let next = 0;

/** Starts a new session with each request. */
export function GET() {
  next += 1;
  return respond({ sid: next }, { headers: { 'set-cookie': `sid=${next}; Path=/; HttpOnly` } });
}
