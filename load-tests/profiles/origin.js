// The origin of the load profiles: an app that responds at once or after a delay, and counts
// orders. GET /block/MS blocks its event loop for some milliseconds.
// ORDERS_DROP=N closes every Nth order's connection without a response, after it was counted.
// CONTROL=errors, CONTROL=cuts and CONTROL=slow are the negative controls: one response in ten to a
// GET is a 500, or is cut off with its connection, or each second adds 5 ms to every response.
'use strict';
const http = require('node:http');

const [port] = process.argv.slice(2).map(Number);
const drop = Number(process.env.ORDERS_DROP || 0);
const control = process.env.CONTROL || '';
const page = Buffer.alloc(8192, 'A page of the shop. ');
const large = Buffer.alloc(65536, 'A large page of the shop. ');
const tasks = Buffer.from(JSON.stringify(Array.from({ length: 12 }, (_, id) => ({
  id, title: `Task number ${id}`, done: id % 3 === 0, note: 'text '.repeat(8),
}))));

const orders = new Map();
let requests = 0;
let pages = 0;
let dropped = 0;
let inFlight = 0;
let mostInFlight = 0;
const began = Date.now();

// A delay between 500 and 999 ms that depends only on the number, so every run has the same.
const slow = (number) => 500 + ((number * 2654435761) >>> 0) % 500;

function send(response, status, type, body, cache) {
  response.writeHead(status, {
    'content-type': type, 'content-length': body.length, 'cache-control': cache,
  });
  response.end(body);
}

function respond(request, response) {
  const [, kind, rest = ''] = request.url.split('/');
  const number = Number.parseInt(rest, 10) || 0;
  switch (kind) {
    case 'api': return send(response, 200, 'application/json', tasks, 'no-store');
    case 'products': return send(response, 200, 'text/plain', page, 'public, max-age=60');
    case 'deals': return send(response, 200, 'text/plain', page, '');
    case 'long': return send(response, 200, 'text/plain', page, 'public, max-age=3600');
    case 'large': return send(response, 200, 'text/plain', large, 'no-store');
    case 'work': return void setTimeout(
      () => send(response, 200, 'text/plain', page, 'no-store'), 100);
    case 'block':
      response.on('finish', () => setImmediate(() => {
        // As a synchronous call that waits: a loop would take the CPU of the other apps.
        const nobody = new Int32Array(new SharedArrayBuffer(4));
        Atomics.wait(nobody, 0, 0, Math.min(number, 60_000));
      }));
      return send(response, 200, 'text/plain', Buffer.from('blocked'), 'no-store');
    case 'slow': return void setTimeout(
      () => send(response, 200, 'text/plain', page, 'public, max-age=3600'), slow(number));
    default: return send(response, 404, 'text/plain', Buffer.from('not found'), 'no-store');
  }
}

const server = http.createServer((request, response) => {
  if (request.url === '/stats') {
    const ids = [...orders.values()];
    const text = JSON.stringify({
      requests, dropped, mostInFlight, orders: orders.size,
      duplicates: ids.reduce((sum, times) => sum + times - 1, 0),
    });
    return send(response, 200, 'application/json', Buffer.from(text), 'no-store');
  }
  requests += 1;
  inFlight += 1;
  mostInFlight = Math.max(mostInFlight, inFlight);
  response.on('close', () => { inFlight -= 1; });
  if (request.method === 'POST') {
    request.resume();
    request.on('end', () => {
      orders.set(request.url, (orders.get(request.url) || 0) + 1);
      if (drop && orders.size % drop === 0) {
        dropped += 1;
        request.socket.destroy();
        return;
      }
      send(response, 201, 'application/json', Buffer.from('{"ok":true}'), 'no-store');
    });
    return undefined;
  }
  const warms = (request.headers['user-agent'] || '').startsWith('edgeway-warm');
  if (!warms) pages += 1;
  if (control === 'errors' && !warms && pages % 10 === 0) {
    return send(response, 500, 'text/plain', Buffer.from('control'), 'no-store');
  }
  if (control === 'cuts' && !warms && pages % 10 === 0) {
    response.writeHead(200, { 'content-type': 'text/plain', 'content-length': page.length });
    response.write(page.subarray(0, 100));
    return void setTimeout(() => request.socket.destroy(), 10);
  }
  if (control === 'slow') {
    return void setTimeout(() => respond(request, response), (Date.now() - began) / 200);
  }
  return respond(request, response);
});
server.keepAliveTimeout = 120_000;
server.requestTimeout = 0;
server.listen({ port, host: '127.0.0.1', backlog: 4096 });
