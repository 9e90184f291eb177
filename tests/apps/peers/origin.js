// Origin with Node's http module and `ws`, as a backend of the matrix. origin.py does the same with
// uvicorn.
//
// PORT, HOST. It closes connections that are idle for a second, and announces this (`Keep-Alive`).
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';

import { WebSocketServer } from 'ws';

let sockets = 0;
const numbers = new WeakMap();

/** Streams pieces at intervals: `/stream?pieces=5&every=100`. */
async function stream(url, response) {
  const [pieces, every] = [url.searchParams.get('pieces') ?? 3, url.searchParams.get('every') ?? 100];
  response.writeHead(200, { 'content-type': 'text/plain' });
  for (let piece = 0; piece < Number(pieces); piece += 1) {
    response.write(`piece ${piece}\n`);
    await new Promise((done) => setTimeout(done, Number(every)));
  }
  response.end();
}

async function upload(request, response) {
  const hash = createHash('sha256');
  let length = 0;
  for await (const piece of request) {
    hash.update(piece);
    length += piece.length;
  }
  response.writeHead(200, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ length, sha256: hash.digest('hex') }));
}

/** Begins a response and closes the connection: `/die?framing=length`, or chunked. */
function die(url, response) {
  if (url.searchParams.get('framing') === 'length') response.setHeader('content-length', '100000');
  response.write('the first of it');
  setTimeout(() => response.destroy(), 100);
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, 'http://origin.test');
  if (url.pathname === '/stream') await stream(url, response);
  else if (url.pathname === '/upload') await upload(request, response);
  else if (url.pathname === '/die') die(url, response);
  else if (url.pathname === '/fails') response.writeHead(500, { 'x-kept': '1' }).end('it failed');
  else if (url.pathname === '/connection') response.end(String(numbers.get(request.socket)));
  else response.end('plain');
});
server.keepAliveTimeout = 1000;
server.on('connection', (socket) => {
  sockets += 1;
  numbers.set(socket, sockets);
});

/** Echoes messages, except `order:close:CODE:REASON` and `order:pieces:COUNT:LENGTH`. */
const websockets = new WebSocketServer({ server, path: '/ws', maxPayload: 64 * 1024 * 1024 });
websockets.on('connection', (socket) => {
  socket.on('message', (data, isBinary) => {
    const [order, what, first, ...rest] = isBinary ? [] : data.toString().split(':');
    if (order !== 'order') socket.send(data, { binary: isBinary });
    else if (what === 'close') socket.close(Number(first), rest.join(':'));
    else {
      const length = Number(rest[0]);
      for (let piece = 1; piece <= Number(first); piece += 1) {
        socket.send('x'.repeat(length), { fin: piece === Number(first) });
      }
    }
  });
});
server.listen(Number(process.env.PORT), process.env.HOST ?? '127.0.0.1');
