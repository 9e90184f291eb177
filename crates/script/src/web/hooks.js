// Calls of hooks by the gateway, and the promises that hooks wait for.
(function (host, web) {
  // Hooks of modules that export none, such as a test file.
  web.hooks = {};
  // Returns the map or set with own copies of its methods, which a plugin cannot replace.
  const withOwnMethods = (collection, ...names) => {
    for (const name of names) collection[name] = collection[name];
    return collection;
  };
  const waiting = withOwnMethods(new Map(), 'get', 'set', 'delete', 'has');

  // Returns the promise of an operation that the gateway runs.
  const operation = (id) => new Promise((resolve, reject) => waiting.set(id, [resolve, reject]));
  web.operation = operation;

  web.settle = (id, isFulfilled, json) => {
    const functions = waiting.get(id);
    waiting.delete(id);
    if (functions === undefined) return;
    if (isFulfilled) functions[0](JSON.parse(json));
    else functions[1](new Error(json));
  };

  // Timers that were cleared. A timer belongs to the hook that sets it, and ends with it.
  const cleared = withOwnMethods(new Set(), 'add', 'delete');
  // Drops the operations that ended hooks did not wait for. No code runs for them.
  web.forget = (ids) => {
    for (let at = 0; at < ids.length; at++) {
      waiting.delete(ids[at]);
      cleared.delete(ids[at]);
    }
  };

  globalThis.setTimeout = (callback, millis = 0, ...values) => {
    if (typeof callback !== 'function') throw new TypeError('setTimeout needs a function');
    const id = host.sleep(Number(millis) || 0);
    operation(id).then(() => cleared.delete(id) || callback(...values));
    return id;
  };
  globalThis.clearTimeout = (id) => {
    if (waiting.has(id)) cleared.add(id);
  };

  const parseIfPresent = (json) => (json === null || json === undefined ? undefined : JSON.parse(json));

  const { fact } = host;
  const { callOf, requestOf, responseOf } = web;
  let callNumberOf;
  let cachedOf;
  // Two private fields and no private method, like the request.
  class Context {
    // The request, or the number of the call until it is first read.
    #requestOrCall;
    // Properties that few hooks read.
    #cached;

    constructor(requestOrCall) {
      this.#requestOrCall = requestOrCall;
    }

    static {
      callNumberOf = (ctx) => (typeof ctx.#requestOrCall === 'number' ? ctx.#requestOrCall : callOf(ctx.#requestOrCall));
      cachedOf = (ctx) => (ctx.#cached ??= {});
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
      return (cachedOf(this).log ??= web.logOf(callNumberOf(this)));
    }

    get metrics() {
      return web.metrics;
    }

    waitUntil(promise) {
      web.waitUntil(callNumberOf(this), promise);
    }

    get request() {
      if (typeof this.#requestOrCall === 'number') this.#requestOrCall = requestOf(this.#requestOrCall);
      return this.#requestOrCall;
    }

    get ip() {
      return fact(callNumberOf(this), 2);
    }

    // Parsed once, on first use.
    get jwt() {
      const cached = cachedOf(this);
      if (!('jwt' in cached)) cached.jwt = parseIfPresent(host.claims(callNumberOf(this)));
      return cached.jwt;
    }

    get geo() {
      const cached = cachedOf(this);
      if (!('geo' in cached)) cached.geo = parseIfPresent(host.location(callNumberOf(this)));
      return cached.geo;
    }

    get requestId() {
      return fact(callNumberOf(this), 3);
    }

    get route() {
      return fact(callNumberOf(this), 4);
    }
  }

  // Headers that are added to the backend's headers of the same name, as in Next.js; any other
  // replaces them.
  const APPENDED = ['set-cookie', 'vary', 'www-authenticate', 'proxy-authenticate'];
  const INVALID_RESULT = 'a hook must return nothing or a Response';
  // Functions that pass the value of each hook to the gateway.
  const finishers = {
    onRequest: (call, value) => {
      if (value === undefined || value === null) return host.finish(call, 0);
      if (!(value instanceof Response)) throw new TypeError(INVALID_RESULT);
      const outcome = web.outcomeOf(value);
      const pairs = web.pairsOf(value.headers);
      if (outcome.kind === 'respond') return host.respond(call, value.status, pairs.flat(), web.bodyOf(value) ?? '');
      const response = web.headersOf(call, 1);
      if (outcome.url) web.setRewriteHeaders(host.fact(call, 1), web.headersOf(call, 0), outcome.url, response);
      if (outcome.request) {
        // These headers are forwarded, and all others are removed.
        const request = web.headersOf(call, 0);
        for (const [name] of web.pairsOf(request)) if (!outcome.request.has(name)) request.delete(name);
        for (const [name, value] of outcome.request) if (request.get(name) !== value) request.set(name, value);
      }
      const written = [];
      for (const [name, value] of pairs) {
        if (APPENDED.includes(name) || written.includes(name)) response.append(name, value);
        else response.set(name, value);
        written.push(name);
      }
      if (outcome.kind === 'rewrite') return host.finish(call, 1, outcome.url);
      return host.finish(call, 0);
    },
  };
  for (const name of ['onUpstreamRequest', 'onUpstreamResponse', 'onResponse']) {
    finishers[name] = (call, value) => {
      if (value !== undefined && value !== null) throw new TypeError(`${name} must return nothing`);
      host.finish(call, 0);
    };
  }
  for (const name of ['onCacheKey', 'onRoute']) {
    finishers[name] = (call, value) => {
      if (value === undefined || value === null) return host.finish(call, 0);
      if (typeof value !== 'string') throw new TypeError(`${name} must return a string or nothing`);
      host.finish(call, 2, value);
    };
  }
  finishers.onError = (call, value) => {
    if (value === undefined || value === null) return host.finish(call, 0);
    if (!(value instanceof Response)) throw new TypeError(INVALID_RESULT);
    if (web.outcomeOf(value).kind !== 'respond') throw new TypeError('onError can respond, not continue or rewrite: return a Response or nothing');
    host.respond(call, value.status, web.pairsOf(value.headers).flat(), web.bodyOf(value) ?? '');
  };

  const MAX_FIELDS = 16;
  const MAX_FIELDS_LENGTH = 2048;
  const isField = (value) => value === null || ['string', 'boolean'].includes(typeof value) || Number.isFinite(value);
  finishers.onLog = (call, value) => {
    if (value === undefined || value === null) return host.finish(call, 0);
    if (typeof value !== 'object') throw new TypeError('onLog must return an object or nothing');
    const fields = Object.entries(value).filter(([, value]) => value !== undefined);
    for (const [name, value] of fields) {
      if (!/^\w{1,64}$/.test(name)) throw new TypeError(`invalid field name \`${name}\``);
      if (!isField(value)) throw new TypeError(`the field \`${name}\` must be a string, number, boolean or null`);
    }
    // JSON can escape half a surrogate pair, which other parsers reject.
    const wellFormed = (value) => (typeof value === 'string' ? value.toWellFormed() : value);
    const text = JSON.stringify(Object.fromEntries(fields.map(([name, value]) => [name, wellFormed(value)])));
    if (fields.length > MAX_FIELDS) throw new RangeError(`onLog can return at most ${MAX_FIELDS} fields, and this object has ${fields.length}`);
    if (text.length > MAX_FIELDS_LENGTH) throw new RangeError(`onLog can return at most ${MAX_FIELDS_LENGTH} characters of JSON, and this object has ${text.length}`);
    host.finish(call, 3, text);
  };

  const startWithRequest = (call, hook) => {
    const request = requestOf(call);
    return hook(request, new Context(request));
  };
  const starters = {
    onRequest: startWithRequest,
    onCacheKey: startWithRequest,
    onRoute: startWithRequest,
    onUpstreamRequest: startWithRequest,
    onError: (call, hook, status, reason) => hook({ status, reason: reason ?? '' }, new Context(call)),
    onLog: (call, hook, status, entry) => hook(JSON.parse(entry), new Context(call)),
    onUpstreamResponse: (call, hook, status) => hook(responseOf(call, status), new Context(call)),
    onResponse: (call, hook, status) => hook(responseOf(call, status), new Context(call)),
  };

  // Returns the function that starts a hook. It returns `true` if the hook ended without a value.
  web.entryOf = (name, hook) => {
    const start = starters[name];
    const finish = finishers[name];
    return (call, status, detail) => {
      const value = start(call, hook, status, detail);
      if (value === undefined) return true;
      if (typeof value?.then !== 'function') return finish(call, value);
      value.then((value) => finish(call, value)).catch((error) => host.fail(call, error));
    };
  };
});
