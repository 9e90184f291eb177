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
  const at = (level) => (...values) => host.log(level, values.map(show).join(' '));
  web.show = show;
  globalThis.console = {
    error: at(0),
    warn: at(1),
    info: at(2),
    log: at(2),
    debug: at(3),
    trace: at(3),
  };
});
