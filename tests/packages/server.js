// The app behind the installed gateway.
'use strict';

const server = require('node:http').createServer((request, response) => {
  response.end('hello from an app\n');
});
server.keepAliveTimeout = 65_000;
server.listen(process.env.PORT, process.env.HOSTNAME);
process.on('SIGTERM', () => server.close(() => process.exit(0)));
