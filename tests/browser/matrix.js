// Chromium as a client of the matrix in `tests/it/clients.rs`: the argument is the plan as JSON, with
// the URL of an empty page.
import { stop, visit } from './bench.js';

const plan = JSON.parse(process.argv[2]);
const { page, leave } = await visit(plan.page, { ignoreHTTPSErrors: true }, async () => {});
const failed = await page.evaluate(async (plan) => {
  const made = new Map();
  const content = (length) => {
    if (!made.has(length)) made.set(length, new TextEncoder().encode('edgeway '.repeat(length / 8 + 1)).subarray(0, length));
    return made.get(length);
  };
  const isSame = (data, length) => indexedDB.cmp(data, content(length)) === 0;
  const hex = (data) => [...new Uint8Array(data)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const must = (holds, what) => {
    if (!holds) throw new Error(String(what));
  };
  const scenarios = {
    async upload(app, length) {
      const response = await fetch(app.upload, { method: 'POST', body: content(length) });
      const came = await response.json();
      must(came.bytes === length, JSON.stringify(came));
      const digest = hex(await crypto.subtle.digest('SHA-256', content(length)));
      must((came.digest ?? digest) === digest, 'another body');
    },
    async download(app, length) {
      const response = await fetch(app.download.replace('BYTES', length));
      must(isSame(new Uint8Array(await response.arrayBuffer()), length), response.status);
    },
    async refusal(app, [path, length, expected]) {
      const { status } = await fetch(app.at + path, { method: 'POST', body: content(length) });
      must(status === expected, status);
    },
    async stream(app) {
      const reader = (await fetch(app.stream)).body.getReader();
      const times = [];
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        const text = new TextDecoder().decode(piece.value);
        for (let count = text.split('data:').length - 1; count > 0; count -= 1) times.push(performance.now());
      }
      must(times.length === 4 && times[3] - times[0] > 50, times);
    },
    async socket(app, length) {
      const socket = new WebSocket(app.ws);
      socket.binaryType = 'arraybuffer';
      const back = await new Promise((done, failed) => {
        socket.onopen = () => socket.send(content(length));
        socket.onmessage = ({ data }) => done(new Uint8Array(data));
        socket.onerror = failed;
      });
      must(isSame(back, length), back.length);
      socket.close();
    },
  };
  const wrong = [];
  const attempt = (app, scenario, value) =>
    scenarios[scenario](app, value).catch((error) => wrong.push({ check: `${app.name} ${scenario} ${value}`, why: error.message, console: [] }));
  for (const app of plan.apps) {
    for (const length of plan.lengths) {
      await attempt(app, 'upload', length);
      if (app.download) await attempt(app, 'download', length);
      if (app.ws) await attempt(app, 'socket', length);
    }
    for (const refusal of plan.refusals) await attempt(app, 'refusal', refusal);
    await attempt(app, 'stream');
  }
  return wrong;
}, plan);
await leave();
await stop();
console.log(JSON.stringify({ passed: plan.apps.map((app) => app.name), failed }));
process.exit(0);
