import { revalidateTag } from 'next/cache';

/** Revalidates a tag with the function of Next.js. */
export async function POST(request) {
  // Next.js 16 requires the second argument; earlier versions ignore it.
  revalidateTag(new URL(request.url).searchParams.get('tag'), { expire: 0 });
  return new Response('done');
}
