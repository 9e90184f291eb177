// Clients of the matrix in Node: `matrix.js undici|undici-h2|fetch`, used like matrix.py.
import { createHash } from 'node:crypto';
import { createInterface } from 'node:readline';

import { Agent, fetch, request } from 'undici';
import WebSocket from 'ws';

process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
process.removeAllListeners('warning');
const name = process.argv[2];
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const plan = JSON.parse((await lines.next()).value);
const dispatcher = new Agent({ allowH2: name === 'undici-h2', connect: { rejectUnauthorized: false } });
/** Remembers the result for each length. */
const once = (make, made = new Map()) => (length) => {
  if (!made.has(length)) made.set(length, make(length));
  return made.get(length);
};
const content = once((length) => Buffer.alloc(length, 'edgeway '));
const digest = once((length) => createHash('sha256').update(content(length)).digest('hex'));

async function send(method, path, body) {
  const url = plan.base + path;
  if (name === 'fetch') {
    const response = await fetch(url, { method, body, dispatcher });
    return [response.status, Buffer.from(await response.arrayBuffer())];
  }
  const response = await request(url, { method, body, dispatcher });
  return [response.statusCode, Buffer.from(await response.body.arrayBuffer())];
}

function must(holds, what) {
  if (!holds) throw new Error(String(what));
}

const scenarios = {
  async upload(app, length) {
    const [status, body] = await send('POST', app.upload, content(length));
    must(status === 200, status);
    const came = JSON.parse(body);
    must(came.bytes === length, JSON.stringify(came));
    must((came.digest ?? digest(length)) === digest(length), 'another body');
  },
  async download(app, length) {
    const [status, body] = await send('GET', app.download.replace('BYTES', length));
    must(status === 200 && body.equals(content(length)), `${status} ${body.length}`);
  },
  async refusal(app, [path, length, expected]) {
    const [status] = await send('POST', app.at + path, content(length));
    must(status === expected, status);
  },
  async stream(app) {
    const response = await request(plan.base + app.stream, { dispatcher });
    const times = [];
    for await (const piece of response.body) {
      for (let count = piece.toString().split('data:').length - 1; count > 0; count -= 1) times.push(Date.now());
    }
    must(times.length === 4 && times[3] - times[0] > 50, times);
  },
  async socket(app, length) {
    const socket = new WebSocket(plan.base.replace('https', 'wss') + app.ws, { rejectUnauthorized: false });
    const back = await new Promise((done, failed) => {
      socket.on('open', () => socket.send(content(length)));
      socket.on('message', done);
      socket.on('error', failed);
    });
    must(back.equals(content(length)), back.length);
    socket.close();
  },
};

async function attempt(app, scenario, value) {
  try {
    await scenarios[scenario](app, value);
  } catch (error) {
    console.log(`${name} ${app.name} ${scenario} ${value}: ${error.code ?? ''} ${error.message} ${error.cause ?? ''}`);
  }
}

let stopped = false;
async function waits(app) {
  while (!stopped) {
    try {
      const [status, body] = await send('GET', app.wait);
      must(status === 200, `${status} ${body}`);
    } catch (error) {
      console.log(`${name} ${app.name} stop: ${error.message} ${error.cause ?? ''}`);
      return;
    }
  }
}

await Promise.all(
  plan.apps.map(async (app) => {
    for (const length of plan.lengths) {
      await attempt(app, 'upload', length);
      if (app.download) await attempt(app, 'download', length);
      if (app.ws && name === 'undici') await attempt(app, 'socket', length);
    }
    for (const refusal of plan.refusals) await attempt(app, 'refusal', refusal);
    await attempt(app, 'stream');
  }),
);
console.log('ready');
await lines.next();
console.log('ready');
const asking = plan.apps.map(waits);
await lines.next();
stopped = true;
await Promise.all(asking);
process.exit(0);
