'use strict';

// Reports the load of this process to the gateway Edgeway, in a header of its responses:
//
//   x-edgeway-node: 1 UTILISATION DELAY HEAP RSS
//
// a version, then four whole numbers: thousandths of the time in which the event loop was busy,
// its longest delay in milliseconds, both since the last report to this gateway, and the bytes of
// the heap in use and of the process. The gateway removes the header.

const { ServerResponse } = require('node:http');
const { performance } = require('node:perf_hooks');

const HEADER = 'x-edgeway-node';
const VERSION = 1;
/** Shortest time between two reports to one gateway, in milliseconds. */
const INTERVAL = 100;
/** Maximum number of gateways that are told apart; the others share their reports. */
const MAX_GATEWAYS = 64;
/** Time without a report after which a gateway makes room for another one, in milliseconds. */
const GONE = 60_000;
/** Interval of the timer whose delay is measured, in milliseconds. */
const TICK = 20;
/** Marks a process in which the module is loaded, so that a second copy adds nothing. */
const LOADED = Symbol.for('edgeway-node');

/** Addresses of this machine and of private networks, IPv4 also as an IPv6 address. */
const PRIVATE_4 =
  /^(?:::ffff:)?(?:127|10|192\.168|169\.254|172\.(?:1[6-9]|2\d|3[01])|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7]))\./i;
const PRIVATE_6 = /^(?:::1$|f[cd][0-9a-f]{2}:|fe[89ab][0-9a-f]:)/i;

/**
 * Measurements by the addresses of gateways, each since the last report to that gateway: one that
 * sends few requests would seldom get a report that any other one may take.
 */
const measurements = new Map();
let tickedAt;

/** Notes how late the timer is. Perf_hooks' own histogram loses a delay that a reset falls into. */
function tick() {
  const now = performance.now();
  const delay = now - tickedAt - TICK;
  for (const measured of measurements.values()) {
    measured.longestDelay = Math.max(measured.longestDelay, delay);
  }
  tickedAt = now;
}

/** Returns the measurement for an address, which begins with the first response to it. */
function measurementFor(address, now) {
  const known = measurements.get(address);
  if (known) return known;
  if (tickedAt === undefined) {
    // A process that serves nothing measures nothing.
    tickedAt = now;
    setInterval(tick, TICK).unref();
  }
  if (measurements.size >= MAX_GATEWAYS) {
    for (const [other, { reportedAt }] of measurements) {
      if (now - reportedAt > GONE) measurements.delete(other);
    }
  }
  const key = measurements.size < MAX_GATEWAYS ? address : undefined;
  if (!measurements.has(key)) {
    const utilisation = performance.eventLoopUtilization();
    measurements.set(key, { reportedAt: now, utilisation, longestDelay: 0 });
  }
  return measurements.get(key);
}

/** Returns the report on the time since the last one to this address, if there is one to send. */
function report(address) {
  const now = performance.now();
  const measured = measurementFor(address, now);
  if (now - measured.reportedAt < INTERVAL) return undefined;
  measured.reportedAt = now;
  // The timer has not run yet if this very request blocks the loop.
  tick();
  const current = performance.eventLoopUtilization();
  const busy = performance.eventLoopUtilization(current, measured.utilisation).utilization;
  measured.utilisation = current;
  const { heapUsed, rss } = process.memoryUsage();
  const numbers = [Math.min(busy, 1) * 1000, measured.longestDelay, heapUsed, rss];
  measured.longestDelay = 0;
  return [VERSION, ...numbers.map((number) => Math.max(0, Math.round(number) || 0))].join(' ');
}

/** Returns whether the peer may know: a gateway beside the app, not anyone on the internet. */
function mayKnow(socket) {
  if (process.env.EDGEWAY_NODE === 'any') return true;
  // A unix socket has no address. Neither has a closed socket, and nobody reads from that.
  const address = socket?.remoteAddress;
  return address === undefined || PRIVATE_4.test(address) || PRIVATE_6.test(address);
}

/** Returns the arguments of `writeHead` with the report, which changes nothing else in them. */
function withReport(response, args) {
  if (response.headersSent || !mayKnow(response.socket)) return args;
  const text = report(response.socket?.remoteAddress);
  if (text === undefined) return args;
  const at = typeof args[1] === 'string' ? 2 : 1;
  const headers = args[at];
  const changed = [...args];
  if (Array.isArray(headers)) {
    // `setHeader` would make Node merge the list, and keep one of several cookies.
    changed[at] = [...headers, ...(Array.isArray(headers[0]) ? [[HEADER, text]] : [HEADER, text])];
  } else if (headers) {
    changed[at] = { ...headers, [HEADER]: text };
  } else {
    response.setHeader(HEADER, text);
  }
  return changed;
}

if (process.env.EDGEWAY_NODE !== 'off' && !ServerResponse.prototype[LOADED]) {
  Object.defineProperty(ServerResponse.prototype, LOADED, { value: true });
  // Every way to begin a response leads through here: `end`, `write` and `flushHeaders` too.
  const { writeHead } = ServerResponse.prototype;
  ServerResponse.prototype.writeHead = function (...args) {
    let changed = args;
    try {
      changed = withReport(this, args);
    } catch {
      // No report is worth a response.
    }
    return writeHead.apply(this, changed);
  };
}
