// Prints the libraries that the program contains, with the texts of their licences: nearly all of
// them ask for that. Usage: node packaging/third-party.js, in the repository.
'use strict';

const fs = require('node:fs');
const path = require('node:path');

const { libraries } = require('./linked');

const texts = new Map();
const names = [];
for (const found of libraries()) {
  const name = `${found.name} ${found.version}`;
  names.push(`${name}: ${found.license ?? 'see the texts below'}`);
  const folder = path.dirname(found.manifest_path);
  for (const file of fs.readdirSync(folder).sort()) {
    const full = path.join(folder, file);
    if (!/^(licen[cs]e|copying|notice|copyright|unlicense)/i.test(file) || !fs.statSync(full).isFile()) continue;
    const text = fs.readFileSync(full, 'utf8').replace(/\r\n/g, '\n').trim();
    if (!texts.has(text)) texts.set(text, []);
    texts.get(text).push(name);
  }
}
const line = '-'.repeat(80);
const sections = [...texts].map(([text, users]) => `${line}\n${users.join('\n')}\n\n${text}\n`);
process.stdout.write(`Edgeway contains these libraries:\n\n${names.join('\n')}\n\n${sections.join('\n')}`);
