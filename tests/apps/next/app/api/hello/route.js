import { answer } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

export function GET() {
  return answer({ hello: 'world' });
}
