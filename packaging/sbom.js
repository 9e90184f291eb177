// Prints a list of the libraries that the program contains in the format CycloneDX 1.5, for scanners.
// Usage: node packaging/sbom.js VERSION, in the repository.
'use strict';

const fs = require('node:fs');

const { libraries } = require('./linked');

const [version] = process.argv.slice(2);
const checksums = new Map();
for (const section of fs.readFileSync('Cargo.lock', 'utf8').split('[[package]]')) {
  const value = (key) => section.match(new RegExp(`^${key} = "(.*)"$`, 'm'))?.[1];
  checksums.set(`${value('name')} ${value('version')}`, value('checksum'));
}
const time = new Date(Number(process.env.SOURCE_DATE_EPOCH ?? 0) * 1000);
const components = libraries().map((found) => ({
  type: 'library',
  'bom-ref': `pkg:cargo/${found.name}@${found.version}`,
  name: found.name,
  version: found.version,
  purl: `pkg:cargo/${found.name}@${found.version}`,
  // Cargo's older way to write a choice.
  licenses: found.license ? [{ expression: found.license.replace(/\s*\/\s*/g, ' OR ') }] : [],
  hashes: [{ alg: 'SHA-256', content: checksums.get(`${found.name} ${found.version}`) }],
}));
const purl = `pkg:generic/edgeway@${version}`;
const document = {
  bomFormat: 'CycloneDX',
  specVersion: '1.5',
  version: 1,
  metadata: {
    timestamp: time.toISOString().replace('.000', ''),
    component: {
      type: 'application', 'bom-ref': purl, name: 'edgeway', version, purl,
      licenses: [{ expression: 'MIT OR Apache-2.0' }],
    },
  },
  components,
};
process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
