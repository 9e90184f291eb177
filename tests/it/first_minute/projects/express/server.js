const express = require('express');
const { createServer } = require('node:http');
const { Server } = require('socket.io');

const app = express();
app.get('/health', (_request, response) => response.json({ status: 'ok' }));
const server = createServer(app);
new Server(server);
server.listen(process.env.PORT || 4000);
