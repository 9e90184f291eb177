// Waits up to 30 s for a 200, and prints the body. Usage: node get.js URL
'use strict';

const url = process.argv[2];
const end = Date.now() + 30_000;
(async () => {
  let last;
  while (Date.now() < end) {
    try {
      const response = await fetch(url);
      const body = await response.text();
      if (response.status === 200) {
        process.stdout.write(body);
        return;
      }
      last = `${response.status} ${body}`;
    } catch (error) {
      last = error.cause?.message ?? error.message;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  console.error(`no 200 from ${url}: ${last}`);
  process.exit(1);
})();
