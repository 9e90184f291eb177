// `fetch`, and `kv` of the context.
(function (host, web) {
  globalThis.fetch = async (resource, init = {}) => {
    const url = String(resource?.url ?? resource);
    const headers = new Headers(init?.headers ?? resource?.headers);
    let [body, type] = web.bodyFrom(init?.body);
    if (type !== undefined && !headers.has('content-type')) headers.set('content-type', type);
    // The current request, forwarded: refused if its body is not buffered.
    if (body === null && resource instanceof NextRequest && !['GET', 'HEAD'].includes(resource.method)) body = await resource.arrayBuffer();
    const method = String(init?.method ?? resource?.method ?? 'GET').toUpperCase();
    const id = host.fetch(method, url, web.pairsOf(headers).flat(), body ?? '');
    let answer;
    try {
      answer = await web.later(id);
    } catch (error) {
      throw new TypeError(`fetch failed: ${error.message}`);
    }
    const pairs = [];
    for (let at = 0; at < answer.headers.length; at += 2) pairs.push([answer.headers[at], answer.headers[at + 1]]);
    return web.fetched(answer.status, pairs, answer.body);
  };

  const keyOf = (key) => {
    if (typeof key !== 'string' || key === '') throw new TypeError('a key must be a string');
    return key;
  };
  // In seconds, like `ttl` of other stores.
  const millis = (options) => {
    const ttl = options?.ttl;
    if (ttl === undefined) return 0;
    if (typeof ttl !== 'number' || !(ttl > 0)) throw new TypeError('`ttl` must be a number of seconds');
    return ttl * 1000;
  };
  web.kv = Object.freeze({
    async get(key) {
      const text = await web.later(host.kv('get', keyOf(key)));
      return text === null ? undefined : JSON.parse(text);
    },

    async put(key, value, options) {
      const text = JSON.stringify(value);
      if (text === undefined) throw new TypeError('this value cannot be stored: it is not JSON');
      await web.later(host.kv('put', keyOf(key), text, 0, millis(options)));
    },

    async delete(key) {
      await web.later(host.kv('delete', keyOf(key)));
    },

    async increment(key, by = 1, options = undefined) {
      if (!Number.isSafeInteger(by)) throw new TypeError('the increment must be an integer');
      return await web.later(host.kv('increment', keyOf(key), undefined, by, millis(options)));
    },
  });
});
