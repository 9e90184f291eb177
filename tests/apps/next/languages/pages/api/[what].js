// What the matrix of clients asks of an app of the Pages Router, here and in `tests/apps/next15`.

export const config = { api: { bodyParser: false } };

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const handlers = {
  /** Counts the bytes of a body as it arrives, and stores none of it. */
  async upload(request, response) {
    let bytes = 0;
    for await (const piece of request) bytes += piece.length;
    response.json({ bytes });
  },

  /** Sends `events` events, one each 300 ms. */
  async sse({ query }, response) {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
    for (let sent = 0; sent < Number(query.events); sent += 1) {
      if (sent > 0) await pause(300);
      response.write(`data: ${sent}\n\n`);
    }
    response.end();
  },

  /** Responds after `ms` milliseconds. */
  async slow({ query }, response) {
    await pause(Number(query.ms));
    response.json({ slept: query.ms });
  },
};

export default async function handler(request, response) {
  const handle = handlers[request.query.what];
  if (handle) await handle(request, response);
  else response.status(404).end();
}
