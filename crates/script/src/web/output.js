// Outputs of a plugin in `ctx`: `log`, `metrics` and `waitUntil`.
(function (host, web) {
  // Returns names and values as a flat list of strings; other values are converted to JSON.
  const pairsOf = (object, label) => {
    if (object === undefined || object === null) return [];
    if (typeof object !== 'object') throw new TypeError(`${label} must be an object`);
    const flat = [];
    for (const [name, value] of Object.entries(object)) {
      if (value !== undefined) flat.push(name, web.show(value));
    }
    return flat;
  };

  web.logOf = (call) => {
    const logAt = (level) => (message, fields) => host.logLine(call, level, web.show(message), pairsOf(fields, 'fields'));
    return Object.freeze({ error: logAt(0), warn: logAt(1), info: logAt(2), debug: logAt(3) });
  };

  const metric = (kind) => (name, labels) => {
    const pairs = pairsOf(labels, 'labels');
    const count = (value) => host.countMetric(kind, String(name), pairs, Number(value));
    return Object.freeze(kind === 0 ? { inc: (by = 1) => count(by) } : { observe: count });
  };
  web.metrics = Object.freeze({ counter: metric(0), histogram: metric(1) });

  web.waitUntil = (call, promise) => {
    host.addPromise(call);
    Promise.resolve(promise).then(
      () => host.promiseFulfilled(call),
      (error) => host.promiseRejected(call, error),
    );
  };
});
