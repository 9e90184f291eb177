'use server';

import { revalidatePath } from 'next/cache';

/** Revalidates a page, as an action does that has changed its data. */
export async function change(path) {
  revalidatePath(typeof path === 'string' ? path : path.get('path'));
  return `changed:${path}`;
}
