import { draftMode } from 'next/headers';

import { answer } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

/** Makes an editor of whoever asks. */
export async function GET() {
  (await draftMode()).enable();
  return answer({ draft: true });
}
