const path = require('path');

module.exports = {
  apps: [
    { name: 'worker', script: 'jobs.js', instances: 2 },
    { name: 'Shop API', cwd: path.join(__dirname, 'api'), script: 'server.js', instances: 2, exec_mode: 'cluster', env: { PORT: 5005 } },
    { name: 'web', script: 'node_modules/next/dist/bin/next', args: 'start', instances: 2, increment_var: 'PORT', env: { PORT: 3000 } },
    { name: 'mailer', script: 'mail.js', env: { PORT: 6000 } },
  ],
};
