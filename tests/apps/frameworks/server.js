// The same few handlers in several frameworks, to find the spellings of a path that each framework
// routes to a handler, and to move bodies in the way of each framework: `/upload`, `/download/BYTES`,
// `/stream`, `/wait/MS` and a WebSocket.
//
// `node server.js FRAMEWORK`; PORT (0 for any). Each handler sends its name in `x-handler`.
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { Readable } from 'node:stream';
import { setTimeout } from 'node:timers/promises';

import { WebSocketServer } from 'ws';

const port = Number(process.env.PORT ?? 0);
const host = '127.0.0.1';

/** Path and name of each handler; `:id` is one segment. */
const handlers = [
  ['/health', 'health'],
  ['/api/admin', 'admin'],
  ['/api/items/:id', 'item'],
  ['/api/nested/deep/thing', 'nested'],
  ['/open', 'open'],
];

/** Returns the length and a digest of what a stream of pieces has. */
async function measured(pieces) {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const piece of pieces) {
    hash.update(piece);
    bytes += piece.length;
  }
  return { bytes, digest: hash.digest('hex') };
}

const content = (bytes) => Buffer.alloc(Number(bytes), 'edgeway ');
const EVENTS = { 'content-type': 'text/event-stream' };
/** Sends four events, 150 ms apart. */
async function* events() {
  for (let sent = 0; sent < 4; sent += 1) {
    if (sent > 0) await setTimeout(150);
    yield `data: ${sent}\n\n`;
  }
}

/** Echoes messages, and ends as deploys want it: what has begun is finished. */
function serving(server) {
  const sockets = new WebSocketServer({ server, path: '/ws' });
  sockets.on('connection', (socket) => socket.on('message', (data, binary) => socket.send(data, { binary })));
  process.once('SIGTERM', () => {
    // A connection that always has a next request would keep the process.
    server.prependListener('request', (_, response) => {
      response.shouldKeepAlive = false;
    });
    server.close(() => process.exit(0));
    server.closeIdleConnections();
    for (const socket of sockets.clients) socket.close(1001);
  });
}

const frameworks = {
  async express4() {
    return express((await import('express4')).default);
  },
  async express5() {
    return express((await import('express5')).default);
  },
  async fastify() {
    return fastify({});
  },
  /** Fastify with all options that make it accept more spellings. */
  async fastify_loose() {
    return fastify({
      routerOptions: {
        caseSensitive: false,
        ignoreTrailingSlash: true,
        ignoreDuplicateSlashes: true,
        useSemicolonDelimiter: true,
      },
    });
  },
  /** Plain Node.js with the URL of the standard, which takes `//name/` for a host. */
  async url() {
    const known = (path) => handlers.find(([route]) => new RegExp(`^${route.replace(':id', '[^/]+')}$`).test(path));
    const server = createServer((request, response) => {
      let path;
      try {
        path = new URL(request.url, 'http://localhost').pathname;
      } catch {
        path = '';
      }
      const name = known(path)?.[1];
      if (name) response.setHeader('x-handler', name);
      response.statusCode = name ? 200 : 404;
      response.end(JSON.stringify({ handler: name }));
    });
    serving(server.listen(port, host));
  },
  async hono() {
    const { Hono } = await import('hono');
    const { serve } = await import('@hono/node-server');
    const app = new Hono();
    for (const [path, name] of handlers) {
      app.all(path, (c) => c.json({ handler: name }, 200, { 'x-handler': name }));
    }
    app.post('/upload', async (c) => c.json(await measured(c.req.raw.body ?? [])));
    app.get('/download/:bytes', (c) => c.body(content(c.req.param('bytes'))));
    app.get('/stream', (c) => c.body(Readable.toWeb(Readable.from(events())), 200, EVENTS));
    app.get('/wait/:time', async (c) => {
      await setTimeout(Number(c.req.param('time')));
      return c.text('waited');
    });
    serving(serve({ fetch: app.fetch, port, hostname: host }));
  },
  async koa() {
    const { default: Koa } = await import('koa');
    const { default: Router } = await import('@koa/router');
    const app = new Koa();
    const router = new Router();
    for (const [path, name] of handlers) {
      router.all(path, (context) => {
        context.set('x-handler', name);
        context.body = { handler: name };
      });
    }
    router.post('/upload', async (context) => {
      context.body = await measured(context.req);
    });
    router.get('/download/:bytes', (context) => {
      context.body = content(context.params.bytes);
    });
    router.get('/stream', (context) => {
      context.set(EVENTS);
      context.body = Readable.from(events());
    });
    router.get('/wait/:time', async (context) => {
      await setTimeout(Number(context.params.time));
      context.body = 'waited';
    });
    app.use(router.routes());
    serving(createServer(app.callback()).listen(port, host));
  },
  async nest() {
    await import('reflect-metadata');
    const { All, Controller, Get, Module, Header, HttpCode, Param, Post, Req, Sse, StreamableFile } = await import('@nestjs/common');
    const { NestFactory } = await import('@nestjs/core');
    class Handlers {}
    for (const [path, name] of handlers) {
      Handlers.prototype[name] = () => ({ handler: name });
      const about = Object.getOwnPropertyDescriptor(Handlers.prototype, name);
      All(path)(Handlers.prototype, name, about);
      Header('x-handler', name)(Handlers.prototype, name, about);
    }
    const handle = (route, name, parameter, method) => {
      Handlers.prototype[name] = method;
      const about = Object.getOwnPropertyDescriptor(Handlers.prototype, name);
      parameter?.(Handlers.prototype, name, 0);
      route(Handlers.prototype, name, about);
      HttpCode(200)(Handlers.prototype, name, about);
    };
    handle(Post('/upload'), 'upload', Req(), measured);
    handle(Get('/download/:bytes'), 'download', Param('bytes'), (bytes) => new StreamableFile(content(bytes)));
    const { from } = await import('rxjs');
    const messages = async function* () {
      for await (const event of events()) yield { data: event.slice(6).trim() };
    };
    handle(Sse('/stream'), 'stream', undefined, () => from(messages()));
    handle(Get('/wait/:time'), 'wait', Param('time'), async (time) => {
      await setTimeout(Number(time));
      return 'waited';
    });
    Controller()(Handlers);
    class App {}
    Module({ controllers: [Handlers] })(App);
    const app = await NestFactory.create(App, { logger: false });
    serving(await app.listen(port, host));
  },
};

function express(make) {
  const app = make();
  for (const [path, name] of handlers) {
    app.all(path, (_request, response) => response.set('x-handler', name).json({ handler: name }));
  }
  app.post('/upload', async (request, response) => response.json(await measured(request)));
  app.get('/download/:bytes', (request, response) => response.send(content(request.params.bytes)));
  app.get('/stream', (_request, response) => Readable.from(events()).pipe(response.set(EVENTS)));
  app.get('/wait/:time', async (request, response) => {
    await setTimeout(Number(request.params.time));
    response.send('waited');
  });
  serving(app.listen(port, host));
}

async function fastify(options) {
  const { default: make } = await import('fastify');
  const app = make(options);
  for (const [path, name] of handlers) {
    app.all(path, (_request, reply) => reply.header('x-handler', name).send({ handler: name }));
  }
  app.addContentTypeParser('*', (_request, payload, done) => done(null, payload));
  app.post('/upload', async (request) => measured(request.body ?? []));
  app.get('/download/:bytes', (request, reply) => reply.send(content(request.params.bytes)));
  app.get('/stream', (_request, reply) => reply.headers(EVENTS).send(Readable.from(events())));
  app.get('/wait/:time', async (request, reply) => {
    await setTimeout(Number(request.params.time));
    return reply.header('x-instance', port).send('waited');
  });
  // As Fastify's guides have it: requests in flight finish, others get 503.
  process.once('SIGTERM', () => app.close().then(() => process.exit(0)));
  const sockets = new WebSocketServer({ server: app.server, path: '/ws' });
  sockets.on('connection', (socket) => socket.on('message', (data, binary) => socket.send(data, { binary })));
  await app.listen({ port, host });
}

await frameworks[process.argv[2]]();
