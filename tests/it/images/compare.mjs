// Compares images of two encoders: reads lines with both files, their width and the file of their
// source, and writes as JSON for each the structural similarity of both. Where it is less than the
// argument, also how much less the first one is like the source than the second one: the source made
// smaller without loss.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const sharp = createRequire(join(process.cwd(), 'package.json'))('sharp');

/** Luminance on grey, so that alpha counts too. */
async function luminance(image) {
  const { data, info } = await image.toColourspace('srgb').ensureAlpha().raw().toBuffer({ resolveWithObject: true });
  const pixels = new Float64Array(info.width * info.height);
  for (let at = 0; at < pixels.length; at++) {
    const [from, a] = [at * 4, data[at * 4 + 3]];
    pixels[at] = ((0.299 * data[from] + 0.587 * data[from + 1] + 0.114 * data[from + 2]) * a + 128 * (255 - a)) / 255;
  }
  return { pixels, width: info.width, height: info.height };
}

/** Mean over blocks of 8 × 8 pixels, each half of its size from the next. */
function similarity(a, b) {
  const { width, height } = a;
  const side = Math.min(8, width, height);
  let [sum, count] = [0, 0];
  for (let top = 0; top + side <= height; top += 4) {
    for (let left = 0; left + side <= width; left += 4) {
      let [x, y, xx, yy, xy] = [0, 0, 0, 0, 0];
      for (let row = top; row < top + side; row++) {
        for (let at = row * width + left, end = at + side; at < end; at++) {
          const p = a.pixels[at], q = b.pixels[at];
          x += p; y += q; xx += p * p; yy += q * q; xy += p * q;
        }
      }
      const n = side * side;
      const [mx, my] = [x / n, y / n];
      const [vx, vy, cov] = [xx / n - mx * mx, yy / n - my * my, xy / n - mx * my];
      sum += ((2 * mx * my + 6.5025) * (2 * cov + 58.5225)) / ((mx * mx + my * my + 6.5025) * (vx + vy + 58.5225));
      count++;
    }
  }
  return sum / count;
}

/** Similarity of images of the same size; 0 for others. */
const likeness = (a, b) => (a.width === b.width && a.height === b.height ? similarity(a, b) : 0);

for await (const line of createInterface({ input: process.stdin })) {
  const [one, other, width, ...rest] = line.split(' ');
  const source = rest.join(' ');
  const [a, b] = await Promise.all([one, other].map((file) => luminance(sharp(file))));
  const alike = likeness(a, b);
  let loss = alike < Number(process.argv[2]) ? 1 : 0;
  if (loss && source !== '-') {
    const small = await luminance(sharp(source).rotate().resize(Number(width), undefined, { withoutEnlargement: true }));
    loss = likeness(b, small) - likeness(a, small);
  }
  console.log(JSON.stringify({ similarity: alike, loss }));
}
