// The same few handlers in several frameworks, to find the spellings of a path that each framework
// routes to a handler.
//
// `node server.js FRAMEWORK`; PORT (0 for any). Each handler sends its name in `x-handler`.
import { createServer } from 'node:http';
import { setTimeout } from 'node:timers/promises';

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
  async hono() {
    const { Hono } = await import('hono');
    const { serve } = await import('@hono/node-server');
    const app = new Hono();
    for (const [path, name] of handlers) {
      app.all(path, (c) => c.json({ handler: name }, 200, { 'x-handler': name }));
    }
    serve({ fetch: app.fetch, port, hostname: host });
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
    app.use(router.routes());
    createServer(app.callback()).listen(port, host);
  },
  async nest() {
    await import('reflect-metadata');
    const { All, Controller, Module, Header } = await import('@nestjs/common');
    const { NestFactory } = await import('@nestjs/core');
    class Handlers {}
    for (const [path, name] of handlers) {
      Handlers.prototype[name] = () => ({ handler: name });
      const about = Object.getOwnPropertyDescriptor(Handlers.prototype, name);
      All(path)(Handlers.prototype, name, about);
      Header('x-handler', name)(Handlers.prototype, name, about);
    }
    Controller()(Handlers);
    class App {}
    Module({ controllers: [Handlers] })(App);
    const app = await NestFactory.create(App, { logger: false });
    await app.listen(port, host);
  },
};

function express(make) {
  const app = make();
  for (const [path, name] of handlers) {
    app.all(path, (_request, response) => response.set('x-handler', name).json({ handler: name }));
  }
  app.listen(port, host);
}

async function fastify(options) {
  const { default: make } = await import('fastify');
  const app = make(options);
  for (const [path, name] of handlers) {
    app.all(path, (_request, reply) => reply.header('x-handler', name).send({ handler: name }));
  }
  app.get('/wait/:time', async (request, reply) => {
    await setTimeout(Number(request.params.time));
    return reply.header('x-instance', port).send('waited');
  });
  // As Fastify's guides have it: requests in flight finish, others get 503.
  process.once('SIGTERM', () => app.close().then(() => process.exit(0)));
  await app.listen({ port, host });
}

await frameworks[process.argv[2]]();
