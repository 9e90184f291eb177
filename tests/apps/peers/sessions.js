// Socket.IO and tus. `sessions.js serve FOLDER` prints its port; `sessions.js ask URL` connects six
// clients of each kind through a gateway, and prints what went wrong.
import { createServer } from 'node:http';

import { FileStore } from '@tus/file-store';
import { Server as Tus } from '@tus/server';
import { Server } from 'socket.io';
import { io } from 'socket.io-client';
import { Upload } from 'tus-js-client';

const CLIENTS = 6;
const LENGTH = 300_000;

function serve(directory) {
  const tus = new Tus({ path: '/files', datastore: new FileStore({ directory }), respectForwardedHeaders: true });
  const server = createServer((request, response) => tus.handle(request, response));
  new Server(server).on('connection', (socket) => socket.on('echo', (data, done) => done(data)));
  server.listen(0, '127.0.0.1', () => console.log(server.address().port));
}

function connect(url, number) {
  // As a browser does: long polling first, with cookies, then a WebSocket.
  const socket = io(url, { forceNew: true, reconnection: false, withCredentials: true });
  return new Promise((done, failed) => {
    setTimeout(failed, 15000, new Error('no response')).unref();
    socket.on('connect_error', failed);
    socket.on('disconnect', (reason) => failed(new Error(reason)));
    socket.on('connect', () => {
      const { engine } = socket.io;
      const echo = () => socket.emit('echo', number, done);
      if (engine.transport.name === 'websocket') echo();
      else engine.once('upgrade', echo);
    });
  }).finally(() => socket.close());
}

function upload(url) {
  const body = Buffer.alloc(LENGTH, 'edgeway ');
  return new Promise((done, failed) => {
    const upload = new Upload(body, {
      endpoint: `${url}/files`,
      chunkSize: 64 * 1024,
      retryDelays: null,
      onError: failed,
      onSuccess: () => done(upload.url),
    });
    upload.start();
  });
}

async function ask(url) {
  const wrong = [];
  const attempts = Array.from({ length: CLIENTS }, async (_, number) => {
    await connect(url, number).catch((error) => wrong.push(`socket.io: ${error.message}`));
    await upload(url).catch((error) => wrong.push(`tus: ${error.message}`));
  });
  await Promise.all(attempts);
  console.log(JSON.stringify(wrong));
  process.exit(0);
}

if (process.argv[2] === 'serve') serve(process.argv[3]);
else await ask(process.argv[3]);
