// `fetch`, and `ctx.kv`.
(function (host, web) {
  globalThis.fetch = async (resource, init = {}) => {
    const url = String(resource?.url ?? resource);
    const headers = new Headers(init?.headers ?? resource?.headers);
    let [body, type] = web.bodyFrom(init?.body);
    if (type !== undefined && !headers.has('content-type')) headers.set('content-type', type);
    // The body of the current request, which is forwarded; an error if it is not buffered.
    if (body === null && resource instanceof NextRequest && !['GET', 'HEAD'].includes(resource.method)) body = await resource.arrayBuffer();
    const method = String(init?.method ?? resource?.method ?? 'GET').toUpperCase();
    const id = host.fetch(method, url, web.pairsOf(headers).flat(), body ?? '');
    let response;
    try {
      response = await web.operation(id);
    } catch (error) {
      throw new TypeError(`fetch failed: ${error.message}`);
    }
    const pairs = [];
    for (let at = 0; at < response.headers.length; at += 2) pairs.push([response.headers[at], response.headers[at + 1]]);
    return web.fetched(response.status, pairs, response.body);
  };

  const checkedKey = (key) => {
    if (typeof key !== 'string' || key === '') throw new TypeError('a key must be a non-empty string');
    return key;
  };
  // Returns `ttl` in milliseconds; plugins write seconds, as for other stores.
  const ttlMillis = (options) => {
    const ttl = options?.ttl;
    if (ttl === undefined) return 0;
    if (typeof ttl !== 'number' || !(ttl > 0)) throw new TypeError('`ttl` must be a number of seconds above 0');
    return ttl * 1000;
  };
  web.kv = Object.freeze({
    async get(key) {
      const text = await web.operation(host.kv('get', checkedKey(key)));
      return text === null ? undefined : JSON.parse(text);
    },

    async put(key, value, options) {
      const text = JSON.stringify(value);
      if (text === undefined) throw new TypeError('the value cannot be stored: it cannot be converted to JSON');
      await web.operation(host.kv('put', checkedKey(key), text, 0, ttlMillis(options)));
    },

    async delete(key) {
      await web.operation(host.kv('delete', checkedKey(key)));
    },

    async increment(key, by = 1, options = undefined) {
      if (!Number.isSafeInteger(by)) throw new TypeError('the increment must be an integer');
      return await web.operation(host.kv('increment', checkedKey(key), undefined, by, ttlMillis(options)));
    },
  });
});
