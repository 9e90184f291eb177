import { respond } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

/** Counts the bytes of a body as it arrives, and stores none of it. */
export async function POST(request) {
  let bytes = 0;
  let pieces = 0;
  for await (const piece of request.body ?? []) {
    bytes += piece.byteLength;
    pieces += 1;
  }
  return respond({ bytes, pieces });
}
