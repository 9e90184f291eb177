import { revalidate } from '@edgeway/next';

/** Revalidates a tag, and responds with the receipt. */
export async function POST(request) {
  const tag = new URL(request.url).searchParams.get('tag');
  return Response.json(await revalidate({ tags: [tag] }));
}
