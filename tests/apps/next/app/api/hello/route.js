import { respond } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

export function GET() {
  return respond({ hello: 'world' });
}
