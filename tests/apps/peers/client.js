// WebSocket client with `ws`: `client.js URL SEED SOCKETS`. Draws messages, fragments and closes at
// random; exits with status 1 if anything unexpected is received.
import WebSocket from 'ws';

const [url, seed, count] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
let state = seed >>> 0;
/** Returns a random integer below `below` (mulberry32). */
function random(below) {
  state = (state + 0x6d2b79f5) >>> 0;
  let mixed = Math.imul(state ^ (state >>> 15), state | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
}
const pick = (...all) => all[random(all.length)];
const length = () => pick(0, 1, 125, 126, 127, 65535, 65536, random(2000), random(300000));
let step = 'nothing';

function next(socket, name) {
  return new Promise((done, failed) => {
    const timer = setTimeout(() => failed(new Error(`no ${name} after ${step}`)), 20000);
    const over = (act) => (...values) => {
      clearTimeout(timer);
      socket.removeAllListeners();
      act(values);
    };
    socket.once(name, over(done));
    socket.once('error', over(([error]) => failed(error)));
    if (name !== 'close') socket.once('close', over(([code]) => failed(new Error(`closed with ${code} after ${step}`))));
  });
}

function must(holds, what) {
  if (!holds) throw new Error(`${what} after ${step}`);
}

async function echo(socket) {
  const isBinary = random(2) === 0;
  const size = length();
  const data = Buffer.alloc(size, isBinary ? random(256) : 97 + random(26));
  const pieces = pick(1, 1, 2, 5);
  step = `${size} bytes in ${pieces}`;
  const came = next(socket, 'message');
  for (let piece = 0; piece < pieces; piece += 1) {
    const part = data.subarray(Math.floor((size * piece) / pieces), Math.floor((size * (piece + 1)) / pieces));
    socket.send(part, { binary: isBinary, fin: piece === pieces - 1 });
  }
  const [back, wasBinary] = await came;
  must(wasBinary === isBinary && data.equals(back), 'another message');
}

async function ordered(socket) {
  const [pieces, size] = [1 + random(5), random(40000)];
  step = `an order of ${pieces} pieces of ${size}`;
  const came = next(socket, 'message');
  socket.send(`order:pieces:${pieces}:${size}`);
  const [back] = await came;
  must(back.length === pieces * size, `${back.length} bytes`);
}

async function talk() {
  const socket = new WebSocket(url, { perMessageDeflate: random(2) === 0, maxPayload: 2 ** 26 });
  step = 'the handshake';
  await next(socket, 'open');
  for (let left = random(8); left > 0; left -= 1) await pick(echo, echo, ordered)(socket);
  const [code, reason] = pick([1000, ''], [1000, 'done'], [1001, 'away'], [3000 + random(2000), 'mine']);
  const ended = next(socket, 'close');
  if (random(2) === 0) {
    step = `our close ${code}`;
    socket.close(code, reason);
    must((await ended)[0] === code, 'another code');
  } else {
    step = `an order to close with ${code}`;
    socket.send(`order:close:${code}:${reason}`);
    const [received, why] = await ended;
    must(received === code && why.toString() === reason, `${received} ${why}`);
  }
}

for (let done = 0; done < count; done += 1) await talk();
console.log(`${count} sockets`);
