// `console`, which writes to the gateway's log.
(function (host, web) {
  const show = (value) => {
    if (typeof value === 'string') return value;
    if (value instanceof Error) return `${value.name}: ${value.message}\n${value.stack ?? ''}`.trimEnd();
    if (typeof value === 'object' && value !== null) {
      try {
        return JSON.stringify(value) ?? String(value);
      } catch {
        return String(value);
      }
    }
    return String(value);
  };
  const logAt = (level) => (...values) => host.consoleLine(level, values.map(show).join(' '));
  web.show = show;
  globalThis.console = {
    error: logAt(0),
    warn: logAt(1),
    info: logAt(2),
    log: logAt(2),
    debug: logAt(3),
    trace: logAt(3),
  };
});
