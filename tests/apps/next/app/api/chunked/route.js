export const dynamic = 'force-dynamic';

/** Sends JSON in two pieces, 800 ms apart. */
export function GET() {
  const encoder = new TextEncoder();
  const body = new ReadableStream({
    async start(controller) {
      controller.enqueue(encoder.encode('{"first":1,'));
      await new Promise((resolve) => setTimeout(resolve, 800));
      controller.enqueue(encoder.encode('"last":2}'));
      controller.close();
    },
  });
  return new Response(body, { headers: { 'content-type': 'application/json' } });
}
