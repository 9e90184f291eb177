// `edgeway:test`, the module that tests of plugins import.
(function (host, web) {
  const HOOKS = ['onRequest', 'onCacheKey', 'onRoute', 'onUpstreamRequest', 'onUpstreamResponse', 'onResponse', 'onError', 'onLog'];

  // A request that a test creates.
  class Request {
    #url;
    #method;
    #headers;
    #body;

    constructor(input, init = {}) {
      const from = input instanceof Request ? input : undefined;
      this.#url = new URL(from?.url ?? input).href;
      this.#method = String(init?.method ?? from?.method ?? 'GET');
      this.#headers = new Headers(init?.headers ?? from?.headers);
      const body = init?.body ?? from?.body ?? null;
      this.#body = body === null ? null : String(body);
      if (body !== null && !this.#headers.has('content-type')) {
        const form = body instanceof URLSearchParams;
        this.#headers.set('content-type', form ? 'application/x-www-form-urlencoded;charset=UTF-8' : 'text/plain;charset=UTF-8');
      }
    }

    get url() {
      return this.#url;
    }

    get method() {
      return this.#method;
    }

    get headers() {
      return this.#headers;
    }

    // As text: tests have no other bodies.
    get body() {
      return this.#body;
    }
  }
  globalThis.Request ??= Request;

  // A response that the plugin made, for the test to read.
  const pluginResponse = ({ status, headers, body }) =>
    web.fetched(status, headers, Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0)));

  const asRequest = (request) => (typeof request === 'string' || request instanceof URL ? new globalThis.Request(request) : request);

  const call = async (number, hook, subject, context = {}) => {
    const hasResponse = hook === 'onResponse' || hook === 'onUpstreamResponse';
    const isError = hook === 'onError';
    const isLog = hook === 'onLog';
    const source = hasResponse || isError || isLog ? (context.request ?? 'http://localhost/') : subject;
    const request = asRequest(source);
    if (typeof request?.url !== 'string') throw new TypeError(`${hook} must be called with a Request or a URL`);
    if ((hasResponse || isError) && !Number.isInteger(subject?.status)) throw new TypeError(`${hook} must be called with an object that has a status`);
    const headers = web.pairsOf(request.headers);
    if (!request.headers.has('host')) headers.unshift(['host', new URL(request.url).host]);
    const input = {
      hook,
      method: request.method,
      url: request.url,
      headers,
      body: request.body ?? null,
      ip: context.ip ?? '127.0.0.1',
      requestId: context.requestId ?? 'test',
      route: context.route ?? 'test',
      jwt: context.jwt ?? null,
      geo: context.geo ?? null,
      status: hasResponse || isError ? subject.status : null,
      responseHeaders: hasResponse && subject.headers ? web.pairsOf(subject.headers) : [],
      entry: isLog ? JSON.stringify(subject ?? {}) : null,
      reason: isError ? (subject.reason ?? null) : null,
    };
    const result = await web.operation(host.pluginCall(number, JSON.stringify(input)));
    if (result.failure) {
      const { kind, message, stack } = result.failure;
      const error = new Error(message);
      Object.defineProperty(error, 'name', { value: 'PluginFailure', configurable: true });
      Object.defineProperty(error, 'stack', { value: stack, configurable: true });
      throw Object.assign(error, { kind, console: result.console });
    }
    return {
      response: result.response && pluginResponse(result.response),
      rewrite: result.rewrite,
      value: result.value,
      request: new globalThis.Request(request, { headers: result.request }),
      status: result.status ?? undefined,
      headers: new Headers(result.responseHeaders),
      console: result.console,
      cpu: result.cpu,
      wall: result.wall,
    };
  };

  // Responses for `fetch`, with headers as pairs.
  const fixturesOf = (fetch) => {
    const one = (fixture) => ({ ...fixture, headers: web.pairsOf(new Headers(fixture?.headers)) });
    const all = Object.entries(fetch).map(([url, fixtures]) => [url, Array.isArray(fixtures) ? fixtures.map(one) : one(fixtures)]);
    return JSON.stringify(Object.fromEntries(all));
  };

  const plugin = ({ file = './plugin.js', config = {}, env = {}, fetch } = {}) => {
    const fixtures = fetch === undefined ? null : fixturesOf(fetch);
    const [number, ...has] = host.pluginLoad(String(file), JSON.stringify(config), JSON.stringify(env), fixtures);
    const loaded = { hooks: has };
    for (const hook of HOOKS) {
      loaded[hook] = (subject, context) => {
        if (!has.includes(hook)) throw new TypeError(`the plugin exports no ${hook}`);
        return call(Number(number), hook, subject, context);
      };
    }
    return loaded;
  };

  class AssertionError extends Error {
    get name() {
      return 'AssertionError';
    }
  }

  const show = (value) => {
    if (typeof value === 'string') return JSON.stringify(value);
    if (typeof value === 'bigint') return `${value}n`;
    if (value instanceof RegExp || typeof value === 'function' || typeof value === 'symbol') return String(value);
    if (value instanceof Map) return `Map ${show([...value])}`;
    if (value instanceof Set) return `Set ${show([...value])}`;
    return web.show(value);
  };
  const fail = (message, otherwise) => {
    if (message instanceof Error) throw message;
    throw new AssertionError(message ?? otherwise);
  };

  const isDeepEqual = (a, b, seen = new Map()) => {
    if (Object.is(a, b)) return true;
    if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
    if (Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) return false;
    if (seen.get(a) === b) return true;
    seen.set(a, b);
    if (a instanceof Date) return a.getTime() === b.getTime();
    if (a instanceof RegExp) return String(a) === String(b);
    if (a instanceof Error && (a.message !== b.message || a.name !== b.name)) return false;
    if (a instanceof Map) {
      return a.size === b.size && [...a].every(([key, value]) => b.has(key) && isDeepEqual(value, b.get(key), seen));
    }
    if (a instanceof Set) {
      const others = [...b];
      return a.size === b.size && [...a].every((value) => b.has(value) || others.some((other) => isDeepEqual(value, other, seen)));
    }
    if (a instanceof ArrayBuffer) return isDeepEqual(new Uint8Array(a), new Uint8Array(b), seen);
    if (a instanceof Headers || a instanceof URLSearchParams) return isDeepEqual([...a], [...b], seen);
    if (a instanceof URL) return a.href === b.href;
    const keys = Object.keys(a);
    return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && isDeepEqual(a[key], b[key], seen));
  };

  // Compares a thrown value with the expected class, expression, function or properties.
  const isExpected = (thrown, expected) => {
    if (expected === undefined) return true;
    if (expected instanceof RegExp) return expected.test(String(thrown));
    if (typeof expected === 'function') {
      if (expected.prototype !== undefined && thrown instanceof expected) return true;
      if (expected === Error || Error.isPrototypeOf(expected)) return false;
      return expected(thrown) === true;
    }
    return Object.keys(expected).every((key) =>
      expected[key] instanceof RegExp ? expected[key].test(String(thrown?.[key])) : isDeepEqual(thrown?.[key], expected[key]),
    );
  };
  const check = (thrown, expected, message) => {
    if (typeof expected === 'string') return;
    if (!isExpected(thrown, expected)) fail(message, `it threw ${show(thrown)}, which is not what was expected`);
  };

  const assert = (value, message) => {
    if (!value) fail(message, `expected something true, got ${show(value)}`);
  };
  assert.AssertionError = AssertionError;
  assert.ok = (value, message) => {
    if (!value) fail(message, `expected something true, got ${show(value)}`);
  };
  assert.equal = (actual, expected, message) => {
    if (!Object.is(actual, expected)) fail(message, `expected ${show(expected)}, got ${show(actual)}`);
  };
  assert.notEqual = (actual, expected, message) => {
    if (Object.is(actual, expected)) fail(message, `expected anything but ${show(expected)}`);
  };
  assert.deepEqual = (actual, expected, message) => {
    if (!isDeepEqual(actual, expected)) fail(message, `expected ${show(expected)}, got ${show(actual)}`);
  };
  assert.match = (text, expression, message) => {
    if (typeof text !== 'string' || !expression.test(text)) fail(message, `expected ${show(text)} to match ${expression}`);
  };
  assert.throws = (what, expected, message) => {
    let thrown;
    try {
      what();
    } catch (error) {
      thrown = [error];
    }
    if (thrown === undefined) fail(typeof expected === 'string' ? expected : message, 'expected it to throw');
    check(thrown[0], expected, message);
  };
  assert.rejects = async (what, expected, message) => {
    let thrown;
    try {
      await (typeof what === 'function' ? what() : what);
    } catch (error) {
      thrown = [error];
    }
    if (thrown === undefined) fail(typeof expected === 'string' ? expected : message, 'expected it to be rejected');
    check(thrown[0], expected, message);
  };

  const tests = [];
  let isRunning = false;
  const test = (name, run) => {
    if (typeof name === 'function') [name, run] = [name.name || '<anonymous>', name];
    if (typeof run !== 'function') throw new TypeError('a test needs a name and a function');
    if (isRunning) throw new Error('tests must be declared while the file is loaded, not within a test');
    tests.push(run);
    host.testNamed(String(name));
  };

  globalThis[Symbol.for('edgeway:test')] = { assert, plugin, test };
  web.hooks.onRequest = async () => {
    isRunning = true;
    for (const run of tests) {
      host.testBegun();
      try {
        await run();
        host.testEnded();
      } catch (error) {
        if (error instanceof Error) {
          const name = error.name === 'PluginFailure' ? '' : `${error.name}: `;
          host.testEnded(`${name}${error.message}`, error.stack ?? '');
        }
        else host.testEnded(`it threw ${show(error)}`);
      }
    }
  };
});
