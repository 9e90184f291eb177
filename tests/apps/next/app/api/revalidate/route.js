import { revalidatePath } from 'next/cache';

import { respond } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

/** Revalidates the page at `path` in this instance. */
export function POST(request) {
  const path = new URL(request.url).searchParams.get('path');
  revalidatePath(path);
  return respond({ revalidated: path });
}
