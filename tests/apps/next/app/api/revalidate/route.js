import { revalidatePath } from 'next/cache';

import { answer } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

/** Has this instance make the page at `path` again. */
export function POST(request) {
  const path = new URL(request.url).searchParams.get('path');
  revalidatePath(path);
  return answer({ revalidated: path });
}
