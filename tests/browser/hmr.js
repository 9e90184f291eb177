// Edits a file of a Next.js app while a page of it is open. `tests/it/first_minute/dev.rs` passes the
// URL, the file, and the text to replace.
//
// It prints `{"sockets": [urls], "isAlive", "isChanged", "clicks", "isSame", "problems"}`.
import { readFileSync, writeFileSync } from 'node:fs';

import { isAlive, stop, visit } from './bench.js';

const { url, file, from, to, patience } = JSON.parse(process.argv[2]);

const sockets = [];
const { page, problems, leave } = await visit(url, {}, async (page) => {
  page.setDefaultTimeout(patience);
  page.setDefaultNavigationTimeout(90_000);
  page.on('websocket', (socket) => sockets.push(socket.url()));
});
const works = (promise) => promise.then(
  () => true,
  () => false,
);
const alive = await works(isAlive(page, 'button'));
if (alive) {
  await page.click('button');
  await page.waitForSelector('text=clicks:1');
}
await page.evaluate(() => {
  window.isSame = true;
});
writeFileSync(file, readFileSync(file, 'utf8').replace(from, to));
const isChanged = await works(page.waitForSelector(`text=${to}`));
const clicks = await page.textContent('button');
const isSame = await page.evaluate(() => window.isSame === true);
await leave();
await stop();
console.log(JSON.stringify({ sockets, isAlive: alive, isChanged, clicks, isSame, problems }));
// The parent holds standard input open, which would keep this process alive.
process.exit(0);
