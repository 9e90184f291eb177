// Receives purges from gateways, before they purge themselves. Only gateways have the token.

import { createHash, timingSafeEqual } from 'node:crypto';
import { revalidatePath, revalidateTag } from 'next/cache';

const digest = (text) => createHash('sha256').update(text).digest();

function isGateway(request) {
  const token = process.env.EDGEWAY_FAN_OUT_TOKEN;
  const sent = request.headers.get('authorization') ?? '';
  // Digests have the same length, which timingSafeEqual requires.
  return Boolean(token) && timingSafeEqual(digest(sent), digest(`Bearer ${token}`));
}

export async function POST(request) {
  if (!isGateway(request)) return new Response(null, { status: 401 });
  const { paths = [], prefixes = [], tags = [] } = await request.json();
  for (const path of paths) revalidatePath(path);
  for (const prefix of prefixes) revalidatePath(prefix, 'layout');
  // Next.js 16 requires the second argument; earlier versions ignore it.
  for (const tag of tags) revalidateTag(tag, { expire: 0 });
  return Response.json({ done: true });
}
