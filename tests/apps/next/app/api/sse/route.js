import state, { respond } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

/**
 * Sends an event every 300 ms: `events` of them, or ten if absent.
 * With `stats`, returns the numbers of open, ended and cancelled streams instead.
 */
export function GET(request) {
  const query = new URL(request.url).searchParams;
  if (query.has('stats')) {
    const { openStreams: open, endedStreams: ended, cancelledStreams: cancelled } = state;
    return respond({ open, ended, cancelled });
  }

  const events = Number(query.get('events') ?? 10);
  const encoder = new TextEncoder();
  let timer;
  const feed = new ReadableStream({
    start(controller) {
      state.openStreams += 1;
      let sent = 0;
      const send = () => {
        controller.enqueue(encoder.encode(`id: ${sent}\ndata: {"event":${sent},"at":${Date.now()}}\n\n`));
        sent += 1;
        if (sent < events) return;
        clearInterval(timer);
        state.openStreams -= 1;
        state.endedStreams += 1;
        controller.close();
      };
      timer = setInterval(send, 300);
      send();
    },
    cancel() {
      clearInterval(timer);
      state.openStreams -= 1;
      state.cancelledStreams += 1;
      console.log('sse-cancelled');
    },
  });
  const headers = { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' };
  return new Response(feed, { headers });
}
