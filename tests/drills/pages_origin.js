// Pages as Next.js serves them: each takes BUSY milliseconds of CPU time to render, and is fresh
// for a second. `/counts` returns the number of requests in flight by kind, and its maximum.
'use strict';

const busy = Number(process.env.BUSY);
const kinds = {};

const kind = (url) => {
  const name = url.split('/')[1];
  return (kinds[name] ??= { now: 0, most: 0, made: 0 });
};

require('node:http')
  .createServer((request, response) => {
    if (request.url === '/counts') {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(kinds));
      for (const counts of Object.values(kinds)) counts.most = counts.now;
      return;
    }
    const counts = kind(request.url);
    counts.most = Math.max(counts.most, ++counts.now);
    let isOver = false;
    const over = () => {
      if (!isOver) counts.now--;
      isOver = true;
    };
    response.on('close', over);
    // Rendering waits for data, then blocks the process.
    setTimeout(() => {
      const until = performance.now() + busy;
      while (performance.now() < until);
      counts.made++;
      over();
      response.setHeader('cache-control', 's-maxage=1, stale-while-revalidate=31536000');
      response.setHeader('x-nextjs-cache', 'HIT');
      response.setHeader('content-type', 'text/html; charset=utf-8');
      response.end(`<p>${request.url}</p>`);
    }, 40);
  })
  .listen(Number(process.env.PORT), '127.0.0.1');
// Ends with the process that started this one.
process.stdin.on('end', () => process.exit()).resume();
