// An app that takes TIME milliseconds for each request. `/most` returns the number of requests in
// flight, and its maximum.
'use strict';

const time = Number(process.env.TIME);
let now = 0;
let most = 0;

require('node:http')
  .createServer((request, response) => {
    if (request.url === '/most') {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ most, now }));
      most = now;
      return;
    }
    most = Math.max(most, ++now);
    let isOver = false;
    const over = () => {
      if (!isOver) now--;
      isOver = true;
    };
    response.on('close', over);
    setTimeout(() => {
      over();
      response.end('done');
    }, time);
  })
  .listen(Number(process.env.PORT), '127.0.0.1');
// Ends with the process that started this one.
process.stdin.on('end', () => process.exit()).resume();
