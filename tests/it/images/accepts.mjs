// Draws values of `Accept`, and writes as JSON which format Next.js chooses by each, for each list of
// formats; `null` where it fails: `node accepts.mjs SEED COUNT`.
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(join(process.cwd(), 'package.json'));
const { mediaType } = require('next/dist/compiled/@hapi/accept');
const [seed, count] = process.argv.slice(2).map(Number);
let state = seed >>> 0;
const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
const one = (list) => list[Math.floor(random() ** 2 * list.length)];

const FORMATS = [['image/webp'], ['image/avif'], ['image/avif', 'image/webp'], ['image/webp', 'image/avif']];
const MEDIA = ['image/webp', 'image/avif', 'image/*', '*/*', 'image/png', 'IMAGE/WEBP', 'image/Avif', 'text/html', '*/webp', 'image/w ebp', 'IMAGE/*', 'image/webpx', 'x/image/webp', '* / *', 'image', 'image/*x', ''];
const PARAMETERS = ['', '', '', '', ';q=0.5', ';q=0.9', ';q=1', ';q=0', ';Q=0.50', '; q=0.8', ';q=0.', ';q=.5', ';q=1.5', ';q=0.0005', ';q=0.5x', ';q=1e-1', ';v=1', ';v=1;q=0.2', ';q=0.3;v=1', ';', ';q', ';q= 0.7', ';a="x"', ';a=",image/webp,"'];
const SEPARATORS = [',', ', ', ' ,', ',,', '\t,', ';'];

/** As `getSupportedMimeType` of its optimizer. */
function chosen(formats, accept) {
  try {
    const type = mediaType(accept, formats);
    return accept.includes(type) ? type : '';
  } catch {
    return null;
  }
}

for (let number = 0; number < count; number++) {
  let accept = '';
  for (let left = 1 + Math.floor(random() * 4); left > 0; left--) {
    accept += one(MEDIA) + one(PARAMETERS) + (left > 1 ? one(SEPARATORS) : '');
  }
  accept = accept.trim();
  console.log(JSON.stringify({ accept, chosen: FORMATS.map((formats) => chosen(formats, accept)) }));
}
