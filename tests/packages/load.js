// Load on the gateway from new and from kept connections, until SIGTERM; then prints what happened
// as JSON. Writes the file READY once each of its lanes has had a response.
// Usage: node load.js PORT READY
'use strict';

const fs = require('node:fs');
const http = require('node:http');

const port = Number(process.argv[2]);
const ready = process.argv[3];
const tally = { requests: 0, failed: 0, sentAgain: 0, failures: [], longest: 0 };
let stopped = false;

function once(agent) {
  const begun = Date.now();
  return new Promise((resolve) => {
    const done = (failure) => {
      tally.requests += 1;
      tally.longest = Math.max(tally.longest, Date.now() - begun);
      if (failure) {
        tally.failed += 1;
        if (tally.failures.length < 10) tally.failures.push(failure);
      }
      resolve();
    };
    const request = http.get({ host: '127.0.0.1', port, path: '/', agent }, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (text) => { body += text; });
      response.on('error', (error) => done(`body: ${error.message}`));
      response.on('end', () => {
        const isWhole = response.statusCode === 200 && body === 'hello from an app\n';
        done(isWhole ? null : `${response.statusCode}: ${body.slice(0, 100)}`);
      });
    });
    request.on('error', (error) => {
      // RFC 9112, 9.3.1: a server may close an idle connection at the moment when a request is
      // sent on it; the client sends that again. Anything else is a failure.
      if (request.reusedSocket && error.code === 'ECONNRESET') {
        tally.sentAgain += 1;
        once(agent).then(resolve);
      } else {
        done(error.message);
      }
    });
  });
}

let begun = 0;

async function lane(agent) {
  await once(agent);
  begun += 1;
  if (begun === lanes.length) fs.writeFileSync(ready, '');
  while (!stopped) {
    await once(agent);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const lanes = [];
for (let i = 0; i < 4; i += 1) {
  lanes.push(lane(new http.Agent({ keepAlive: false })));
  lanes.push(lane(new http.Agent({ keepAlive: true, maxSockets: 1 })));
}
process.on('SIGTERM', async () => {
  stopped = true;
  await Promise.all(lanes);
  console.log(JSON.stringify(tally));
  process.exit(0);
});
