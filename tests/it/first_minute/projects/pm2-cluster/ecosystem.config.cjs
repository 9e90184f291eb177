const path = require('node:path');
module.exports = { apps: [
  { name: 'shop-api', script: './src/index.js', instances: 'max', exec_mode: 'cluster', max_memory_restart: '512M', env: { NODE_ENV: 'development', PORT: 8080 }, env_production: { NODE_ENV: 'production', PORT: 8080 }, kill_timeout: 5000, wait_ready: true, listen_timeout: 10000, node_args: '--max-old-space-size=384', out_file: path.join(__dirname, 'logs/out.log') },
  { name: 'worker', script: './src/worker.js', cron_restart: '0 3 * * *', autorestart: false },
] };
