// Calls of hooks by the gateway, and the promises that they wait for.
(function (host, web) {
  // Hooks of a module that exports none, such as a test file.
  web.hooks = {};
  // A map or set with copies of its methods, which a plugin cannot replace.
  const own = (collection, ...names) => {
    for (const name of names) collection[name] = collection[name];
    return collection;
  };
  const waiting = own(new Map(), 'get', 'set', 'delete', 'has');

  // Promise of an operation that the gateway runs.
  const later = (id) => new Promise((keep, reject) => waiting.set(id, [keep, reject]));
  web.later = later;

  web.settle = (id, isKept, json) => {
    const both = waiting.get(id);
    waiting.delete(id);
    if (both === undefined) return;
    if (isKept) both[0](JSON.parse(json));
    else both[1](new Error(json));
  };

  // A timer belongs to the hook that sets it, and ends with it.
  const cleared = own(new Set(), 'add', 'delete');
  // Drops the operations that ended hooks did not wait for. Nothing runs for them.
  web.forget = (ids) => {
    for (let at = 0; at < ids.length; at++) {
      waiting.delete(ids[at]);
      cleared.delete(ids[at]);
    }
  };

  globalThis.setTimeout = (callback, millis = 0, ...values) => {
    if (typeof callback !== 'function') throw new TypeError('setTimeout needs a function');
    const id = host.sleep(Number(millis) || 0);
    later(id).then(() => cleared.delete(id) || callback(...values));
    return id;
  };
  globalThis.clearTimeout = (id) => {
    if (waiting.has(id)) cleared.add(id);
  };

  const told = (json) => (json === null || json === undefined ? undefined : JSON.parse(json));

  const { fact } = host;
  const { callOf, requestOf, responseOf } = web;
  let numberOf;
  let keptOf;
  // Two private fields and no private method, like the request.
  class Context {
    // The request, or the number of the call until it is first read.
    #of;
    // Properties that few hooks read.
    #more;

    constructor(of) {
      this.#of = of;
    }

    static {
      numberOf = (ctx) => (typeof ctx.#of === 'number' ? ctx.#of : callOf(ctx.#of));
      keptOf = (ctx) => (ctx.#more ??= {});
    }

    get config() {
      return web.config;
    }

    get env() {
      return web.env;
    }

    get kv() {
      return web.kv;
    }

    get log() {
      return (keptOf(this).log ??= web.logOf(numberOf(this)));
    }

    get metrics() {
      return web.metrics;
    }

    waitUntil(promise) {
      web.waitUntil(numberOf(this), promise);
    }

    get request() {
      if (typeof this.#of === 'number') this.#of = requestOf(this.#of);
      return this.#of;
    }

    get ip() {
      return fact(numberOf(this), 2);
    }

    // Parsed once, on first use.
    get jwt() {
      const kept = keptOf(this);
      if (!('jwt' in kept)) kept.jwt = told(host.claims(numberOf(this)));
      return kept.jwt;
    }

    get geo() {
      const kept = keptOf(this);
      if (!('geo' in kept)) kept.geo = told(host.place(numberOf(this)));
      return kept.geo;
    }

    get requestId() {
      return fact(numberOf(this), 3);
    }

    get route() {
      return fact(numberOf(this), 4);
    }
  }

  // Headers that are added to the backend's headers of the same name, as in Next.js; any other
  // replaces them.
  const BESIDE = ['set-cookie', 'vary', 'www-authenticate', 'proxy-authenticate'];
  const NO_VALUE = 'a hook must return nothing or a Response';
  const answers = {
    onRequest: (call, value) => {
      if (value === undefined || value === null) return host.done(call, 0);
      if (!(value instanceof Response)) throw new TypeError(NO_VALUE);
      const then = web.thenOf(value);
      const pairs = web.pairsOf(value.headers);
      if (then.kind === 'respond') return host.respond(call, value.status, pairs.flat(), web.bodyOf(value) ?? '');
      const answer = web.headersOf(call, 1);
      if (then.url) web.tellRewrite(host.fact(call, 1), web.headersOf(call, 0), then.url, answer);
      if (then.request) {
        // Its headers are forwarded, and headers that it lacks are removed.
        const request = web.headersOf(call, 0);
        for (const [name] of web.pairsOf(request)) if (!then.request.has(name)) request.delete(name);
        for (const [name, value] of then.request) if (request.get(name) !== value) request.set(name, value);
      }
      const put = [];
      for (const [name, value] of pairs) {
        if (BESIDE.includes(name) || put.includes(name)) answer.append(name, value);
        else answer.set(name, value);
        put.push(name);
      }
      if (then.kind === 'rewrite') return host.done(call, 1, then.url);
      return host.done(call, 0);
    },
  };
  for (const name of ['onUpstreamRequest', 'onUpstreamResponse', 'onResponse']) {
    answers[name] = (call, value) => {
      if (value !== undefined && value !== null) throw new TypeError(`${name} must return nothing`);
      host.done(call, 0);
    };
  }
  for (const name of ['onCacheKey', 'onRoute']) {
    answers[name] = (call, value) => {
      if (value === undefined || value === null) return host.done(call, 0);
      if (typeof value !== 'string') throw new TypeError(`${name} must return a string or nothing`);
      host.done(call, 2, value);
    };
  }
  answers.onError = (call, value) => {
    if (value === undefined || value === null) return host.done(call, 0);
    if (!(value instanceof Response)) throw new TypeError(NO_VALUE);
    host.respond(call, value.status, web.pairsOf(value.headers).flat(), web.bodyOf(value) ?? '');
  };

  const MOST_FIELDS = 16;
  const LONGEST_FIELDS = 2048;
  const isField = (value) => value === null || ['string', 'boolean'].includes(typeof value) || Number.isFinite(value);
  answers.onLog = (call, value) => {
    if (value === undefined || value === null) return host.done(call, 0);
    if (typeof value !== 'object') throw new TypeError('onLog must return an object or nothing');
    const fields = Object.entries(value).filter(([, value]) => value !== undefined);
    for (const [name, value] of fields) {
      if (!/^\w{1,64}$/.test(name)) throw new TypeError(`invalid field name \`${name}\``);
      if (!isField(value)) throw new TypeError(`the field \`${name}\` must be a string, number, boolean or null`);
    }
    // JSON can escape half a surrogate pair, which other parsers reject.
    const whole = (value) => (typeof value === 'string' ? value.toWellFormed() : value);
    const text = JSON.stringify(Object.fromEntries(fields.map(([name, value]) => [name, whole(value)])));
    if (fields.length > MOST_FIELDS) throw new RangeError(`onLog can return at most ${MOST_FIELDS} fields`);
    if (text.length > LONGEST_FIELDS) throw new RangeError(`onLog can return at most ${LONGEST_FIELDS} characters of JSON`);
    host.done(call, 3, text);
  };

  const asked = (call, hook) => {
    const request = requestOf(call);
    return hook(request, new Context(request));
  };
  const starts = {
    onRequest: asked,
    onCacheKey: asked,
    onRoute: asked,
    onUpstreamRequest: asked,
    onError: (call, hook, status, reason) => hook({ status, reason: reason ?? '' }, new Context(call)),
    onLog: (call, hook, status, entry) => hook(JSON.parse(entry), new Context(call)),
    onUpstreamResponse: (call, hook, status) => hook(responseOf(call, status), new Context(call)),
    onResponse: (call, hook, status) => hook(responseOf(call, status), new Context(call)),
  };

  // Returns the function that starts a hook, which returns `true` if the hook ended without a value.
  web.entryOf = (name, hook) => {
    const start = starts[name];
    const answer = answers[name];
    return (call, status, told) => {
      const value = start(call, hook, status, told);
      if (value === undefined) return true;
      if (typeof value?.then !== 'function') return answer(call, value);
      value.then((value) => answer(call, value)).catch((error) => host.fail(call, error));
    };
  };
});
