// Patterns of `images` in a configuration, as `next build` writes them into `images-manifest.json`:
// `node manifest.mjs JSON`.
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(join(process.cwd(), 'package.json'));
const { makeRe } = require('next/dist/compiled/picomatch');
const path = (pattern) => makeRe(pattern.pathname ?? '**', { dot: true }).source;

export function written(images) {
  const remotePatterns = (images.remotePatterns ?? []).map((pattern) => ({
    protocol: pattern.protocol?.replace(/:$/, ''),
    hostname: makeRe(pattern.hostname).source,
    port: pattern.port,
    pathname: path(pattern),
    search: pattern.search,
  }));
  return { ...images, remotePatterns };
}

if (process.argv[1] === import.meta.filename) {
  console.log(JSON.stringify(written(JSON.parse(process.argv[2]))));
}
