// Prints each link of a page in FOLDER that leads nowhere, and each file that a page names and that is
// not there: `node links.js FOLDER`. Ends with 1 if there is one.
'use strict';

const { existsSync, readFileSync, readdirSync } = require('node:fs');
const { dirname, join, normalize } = require('node:path');

const folder = process.argv[2];
const pages = readdirSync(folder, { recursive: true }).filter((name) => name.endsWith('.md'));
const missing = [];
for (const page of pages) {
  // A change log tells of files that have gone.
  if (page === 'CHANGELOG.md') continue;
  const text = readFileSync(join(folder, page), 'utf8');
  const isThere = (path) => existsSync(join(folder, path)) || missing.push(`${page}: ${path}`);
  for (const [, to] of text.matchAll(/\]\(([^)\s#]+)/g)) {
    if (!/^\w+:/.test(to)) isThere(normalize(join(dirname(page), to)));
  }
  for (const [, path] of text.matchAll(/`((?:conf\/examples|dashboards|deploy|examples|plugins|systemd)\/[a-z\d_./@-]+)`/g)) isThere(path);
}
for (const line of missing) console.log(line);
if (pages.length < 20) console.log(`only ${pages.length} pages`);
process.exit(missing.length > 0 || pages.length < 20 ? 1 : 0);
