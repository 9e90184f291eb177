import { draftMode } from 'next/headers';

import { respond } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

/** Enables draft mode for the client. */
export async function GET() {
  (await draftMode()).enable();
  return respond({ draft: true });
}
