// A small Express app for tests of the gateway: a JSON store, event streams, slow responses, large
// bodies, WebSockets.
//
// PORT (0 for any), HOST, KEEP_ALIVE_MS (Node's default of 5000 if absent), LATENCY_MS (delay of
// each response of `/api`). It prints one line `listening PORT` when it is ready, and exits on
// SIGTERM once its requests have ended.
import { once } from 'node:events';
import { createServer } from 'node:http';

import express from 'express';
import { WebSocketServer } from 'ws';

const MIB = 1024 * 1024;
const latency = Number(process.env.LATENCY_MS ?? 0);

const counts = {
  requests: 0,
  writes: 0,
  openFeeds: 0,
  endedFeeds: 0,
  cancelledFeeds: 0,
  uploadedBytes: 0,
  cutUploads: 0,
  cutDownloads: 0,
  openSockets: 0,
  closedSockets: 0,
  connections: 0,
};
/** Number of writes by `x-request-mark`: above one, a request arrived twice. */
const writesByMark = new Map();
const items = new Map();
let nextId = 1;
let health = 'ok';

const app = express();
app.set('etag', 'strong');
app.use((request, response, next) => {
  counts.requests += 1;
  response.set('x-instance', String(server.address().port));
  next();
});

app.get('/health', (_request, response) => {
  response.status(health === 'down' ? 503 : 200).json({ status: health });
});
app.put('/health', express.json(), (request, response) => {
  health = request.body.status;
  response.json({ status: health });
});
app.get('/stats', (_request, response) => {
  response.json({ ...counts, pid: process.pid, port: server.address().port, rss: process.memoryUsage().rss });
});
app.get('/stats/marks', (_request, response) => {
  response.json(Object.fromEntries(writesByMark));
});

// The item store.
const api = express.Router();
api.use(express.json({ limit: '2mb' }));
api.use((request, _response, next) => {
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    counts.writes += 1;
    const mark = request.get('x-request-mark');
    if (mark) writesByMark.set(mark, (writesByMark.get(mark) ?? 0) + 1);
  }
  if (latency > 0) setTimeout(next, latency);
  else next();
});
api.get('/items', (_request, response) => {
  response.set('cache-control', 'public, max-age=5').json([...items.values()]);
});
api.post('/items', (request, response) => {
  const item = { ...request.body, id: nextId };
  nextId += 1;
  items.set(item.id, item);
  response.status(201).location(`/api/items/${item.id}`).json(item);
});
api
  .route('/items/:id')
  .all((request, response, next) => {
    if (items.has(Number(request.params.id))) next();
    else response.status(404).json({ error: 'no such item' });
  })
  .get((request, response) => {
    response.json(items.get(Number(request.params.id)));
  })
  .put((request, response) => {
    const id = Number(request.params.id);
    const item = { ...request.body, id };
    items.set(id, item);
    response.json(item);
  })
  .delete((request, response) => {
    items.delete(Number(request.params.id));
    response.status(204).end();
  });
app.use('/api', api);

/** Returns the request as it reached the app. */
app.all('/echo', async (request, response) => {
  let length = 0;
  for await (const piece of request) length += piece.length;
  response.json({
    method: request.method,
    url: request.originalUrl,
    headers: request.headers,
    rawHeaders: request.rawHeaders,
    length,
    remote: request.socket.remoteAddress,
  });
});

app.get('/redirect', (request, response) => {
  const { port } = server.address();
  const to = { localhost: `http://localhost:${port}/echo`, loopback: `http://127.0.0.1:${port}/echo` };
  response.redirect(302, to[request.query.to] ?? String(request.query.to ?? '/echo'));
});

app.get('/slow', (request, response) => {
  const ms = Number(request.query.ms ?? 1000);
  setTimeout(() => response.json({ slept: ms }), ms);
});

app.get('/status/:code', (request, response) => {
  response.status(Number(request.params.code)).json({ code: Number(request.params.code) });
});

/** Sends an event every `every` ms (300): `events` of them, or without end if absent. */
app.get('/sse', (request, response) => {
  const every = Number(request.query.every ?? 300);
  const events = Number(request.query.events ?? Infinity);
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
  counts.openFeeds += 1;
  let sent = 0;
  const send = () => {
    response.write(`id: ${sent}\ndata: {"event":${sent},"at":${Date.now()}}\n\n`);
    sent += 1;
    if (sent >= events) response.end();
  };
  const timer = setInterval(send, every);
  response.on('close', () => {
    clearInterval(timer);
    counts.openFeeds -= 1;
    if (response.writableFinished) counts.endedFeeds += 1;
    else counts.cancelledFeeds += 1;
  });
  send();
});

/** Counts the bytes of a body as it arrives, and stores none of it. */
app.post('/upload', async (request, response) => {
  let bytes = 0;
  let pieces = 0;
  try {
    for await (const piece of request) {
      bytes += piece.length;
      pieces += 1;
      counts.uploadedBytes += piece.length;
    }
  } catch {
    counts.cutUploads += 1;
    return;
  }
  response.json({ bytes, pieces, chunked: request.get('transfer-encoding') === 'chunked' });
});

/** Sends `bytes` bytes at the speed of the client; `chunked` leaves out `Content-Length`. */
app.get('/download', async (request, response) => {
  let left = Number(request.query.bytes ?? MIB);
  response.type('application/octet-stream');
  if (request.query.chunked === undefined) response.set('content-length', String(left));
  const piece = Buffer.alloc(64 * 1024, 'edgeway ');
  response.on('close', () => {
    if (!response.writableFinished) counts.cutDownloads += 1;
  });
  while (left > 0 && !response.destroyed) {
    const part = left < piece.length ? piece.subarray(0, left) : piece;
    left -= part.length;
    if (!response.write(part)) await Promise.race([once(response, 'drain'), once(response, 'close')]);
  }
  response.end();
});

const server = createServer(app);
if (process.env.KEEP_ALIVE_MS) server.keepAliveTimeout = Number(process.env.KEEP_ALIVE_MS);
server.on('connection', () => {
  counts.connections += 1;
});

const sockets = new WebSocketServer({ server, path: '/ws', maxPayload: 64 * MIB });
sockets.on('connection', (socket) => {
  counts.openSockets += 1;
  socket.on('message', (data, binary) => socket.send(data, { binary }));
  socket.on('close', () => {
    counts.openSockets -= 1;
    counts.closedSockets += 1;
  });
  socket.on('error', () => socket.terminate());
});

process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
  for (const socket of sockets.clients) socket.close(1001, 'going away');
});

server.listen(Number(process.env.PORT ?? 0), process.env.HOST ?? '127.0.0.1', () => {
  console.log(`listening ${server.address().port}`);
});
