// What gateways tell this instance before they purge. Only they know the token.

import { createHash, timingSafeEqual } from 'node:crypto';
import { revalidatePath, revalidateTag } from 'next/cache';

export const dynamic = 'force-dynamic';

const digest = (text) => createHash('sha256').update(text).digest();

function isGateway(request) {
  const token = process.env.EDGEWAY_FAN_OUT_TOKEN;
  const shown = request.headers.get('authorization') ?? '';
  // Digests have one length, as timingSafeEqual wants it.
  return Boolean(token) && timingSafeEqual(digest(shown), digest(`Bearer ${token}`));
}

export async function POST(request) {
  if (!isGateway(request)) return new Response(null, { status: 401 });
  const { paths = [], prefixes = [], tags = [] } = await request.json();
  for (const path of paths) revalidatePath(path);
  for (const prefix of prefixes) revalidatePath(prefix, 'layout');
  // Next 16 asks for the second argument; those before it do not look at it.
  for (const tag of tags) revalidateTag(tag, { expire: 0 });
  return Response.json({ done: true });
}
