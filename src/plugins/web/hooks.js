// How the gateway calls hooks, and how what they wait for comes back to them.
(function (host, web) {
  const hooks = (web.hooks = {});
  const waiting = new Map();

  // The promise of what the gateway does meanwhile.
  const later = (id) => new Promise((keep, reject) => waiting.set(id, [keep, reject]));
  web.later = later;

  web.settle = (id, isKept, json) => {
    const [keep, reject] = waiting.get(id) ?? [];
    waiting.delete(id);
    if (keep === undefined) return;
    if (isKept) keep(JSON.parse(json));
    else reject(new Error(json));
  };

  // A timer belongs to the hook that sets it, and ends with it.
  const cleared = new Set();
  globalThis.setTimeout = (callback, millis = 0, ...values) => {
    if (typeof callback !== 'function') throw new TypeError('setTimeout calls a function');
    const id = host.sleep(Number(millis) || 0);
    later(id).then(() => cleared.delete(id) || callback(...values));
    return id;
  };
  globalThis.clearTimeout = (id) => {
    if (waiting.has(id)) cleared.add(id);
  };

  class Context {
    #call;

    constructor(call) {
      this.#call = call;
    }

    get config() {
      return web.config;
    }

    get ip() {
      return host.fact(this.#call, 2);
    }

    get requestId() {
      return host.fact(this.#call, 3);
    }

    get route() {
      return host.fact(this.#call, 4);
    }
  }

  const NO_VALUE = 'a hook gives back nothing or a Response';
  const answers = {
    onRequest: (call, value) => {
      if (value === undefined || value === null) return host.done(call, 0);
      if (!(value instanceof Response)) throw new TypeError(NO_VALUE);
      const headers = web.pairsOf(value.headers).flat();
      return host.respond(call, value.status, headers, web.bodyOf(value) ?? '');
    },
  };
  for (const name of ['onUpstreamRequest', 'onUpstreamResponse', 'onResponse']) {
    answers[name] = (call, value) => {
      if (value !== undefined && value !== null) throw new TypeError(`${name} gives back nothing`);
      host.done(call, 0);
    };
  }
  web.answers = answers;

  const starts = {
    onRequest: (call, hook, ctx) => hook(web.requestOf(call), ctx),
    onUpstreamRequest: (call, hook, ctx) => hook(web.requestOf(call), ctx),
    onUpstreamResponse: (call, hook, ctx, status) => hook(web.responseOf(call, status), ctx),
    onResponse: (call, hook, ctx, status) => hook(web.responseOf(call, status), ctx),
  };
  web.starts = starts;

  web.invoke = (call, name, status) => {
    const value = starts[name](call, hooks[name], new Context(call), status);
    if (typeof value?.then !== 'function') return answers[name](call, value);
    value.then((value) => answers[name](call, value)).catch((error) => host.fail(call, error));
  };
});
