import { answer } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

/** Counts a body as it comes and keeps none of it. */
export async function POST(request) {
  let bytes = 0;
  let pieces = 0;
  for await (const piece of request.body ?? []) {
    bytes += piece.byteLength;
    pieces += 1;
  }
  return answer({ bytes, pieces });
}
