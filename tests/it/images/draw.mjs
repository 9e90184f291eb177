// Draws images with sharp, from a seed: `node draw.mjs FOLDER SEED [COUNT]`, at least COUNT of them.
// Writes their names, one a line.
import { createRequire } from 'node:module';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const [folder, seed, count] = process.argv.slice(2);
const sharp = createRequire(join(process.cwd(), 'package.json'))('sharp');
mkdirSync(folder, { recursive: true });

let state = Number(seed) >>> 0;
const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;

/** Noise in octaves, as of clouds. */
function clouds(width, height) {
  const sums = new Float32Array(width * height);
  for (let octave = 0; octave < 6; octave++) {
    const cells = 4 << octave;
    const side = cells + 2;
    const grid = Float32Array.from({ length: side * side }, () => random() - 0.5);
    for (let y = 0; y < height; y++) {
      const fy = (y / height) * cells, iy = fy | 0, ty = fy - iy;
      for (let x = 0; x < width; x++) {
        const fx = (x / width) * cells, ix = fx | 0, tx = fx - ix;
        const at = iy * side + ix;
        const above = grid[at] * (1 - tx) + grid[at + 1] * tx;
        const below = grid[at + side] * (1 - tx) + grid[at + side + 1] * tx;
        sums[y * width + x] += (above * (1 - ty) + below * ty) / 1.7 ** octave;
      }
    }
  }
  return sums;
}

/** A scene with soft and hard edges and grain. */
function scene(width, height, channels = 3) {
  const [a, b, c] = [clouds(width, height), clouds(width, height), clouds(width, height)];
  const shapes = Array.from({ length: 9 }, () => ({
    x: random() * width, y: random() * height, r: (random() * width) / 7, round: random() < 0.5,
    colour: [random() * 255, random() * 255, random() * 255],
  }));
  const pixels = Buffer.alloc(width * height * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      let colour = [a[at], a[at] * 0.7 + b[at] * 0.4, a[at] * 0.6 + c[at] * 0.5].map((it) => 128 + it * 170);
      for (const { x: cx, y: cy, r, round, colour: own } of shapes) {
        const [dx, dy] = [x - cx, y - cy];
        if (round ? dx * dx + dy * dy < r * r : Math.abs(dx) < r && Math.abs(dy) < r / 2) colour = colour.map((it, k) => it * 0.35 + own[k] * 0.65);
      }
      for (let k = 0; k < 3; k++) pixels[at * channels + k] = Math.max(0, Math.min(255, colour[k] + (random() - 0.5) * 10));
      if (channels === 4) pixels[at * 4 + 3] = Math.max(0, Math.min(255, 330 - Math.hypot(x / width - 0.5, y / height - 0.5) * 560));
    }
  }
  return sharp(pixels, { raw: { width, height, channels } });
}

let saved = 0;
const save = async (name, image) => {
  saved += 1;
  const bytes = Buffer.isBuffer(image) ? image : await image.toBuffer();
  writeFileSync(join(folder, name), bytes);
  console.log(name);
  return bytes;
};
const size = (from, to) => Math.round(from + random() * (to - from));

for (let n = 0; n < 3; n++) {
  const own = scene(size(40, 1400), size(40, 900));
  await save(`scene-${n}.jpg`, own.clone().jpeg({ quality: size(40, 95), chromaSubsampling: random() < 0.5 ? '4:2:0' : '4:4:4', progressive: random() < 0.5 }));
  await save(`scene-${n}.png`, own.clone().png());
  await save(`scene-${n}.webp`, own.clone().webp({ quality: size(40, 95) }));
}
const image = scene(size(700, 1200), size(400, 700));
for (let orientation = 1; orientation <= 8; orientation++) await save(`turned-${orientation}.jpg`, image.clone().withExif({}).withMetadata({ orientation }).jpeg());
await save('turned.png', image.clone().withMetadata({ orientation: 6 }).png());
await save('turned.webp', image.clone().withMetadata({ orientation: 8 }).webp());
await save('restarts.jpg', image.clone().jpeg({ mozjpeg: true }));
await save('grey.jpg', image.clone().greyscale().jpeg());
await save('grey.png', image.clone().greyscale().png());
await save('grey-alpha.png', scene(400, 300, 4).greyscale().png());
await save('print.jpg', image.clone().toColourspace('cmyk').jpeg());
await save('wide-gamut.jpg', image.clone().withIccProfile('p3').jpeg());
await save('wide-gamut.png', image.clone().withIccProfile('p3').png());
await save('plain-gamut.jpg', image.clone().withIccProfile('srgb').jpeg());
const clear = scene(size(300, 900), size(300, 900), 4);
await save('alpha.png', clear.clone().png());
await save('alpha-palette.png', clear.clone().png({ palette: true, effort: 1 }));
await save('palette.png', image.clone().png({ palette: true, colours: 64, effort: 1 }));
await save('interlaced.png', image.clone().png({ progressive: true }));
await save('sixteen.png', image.clone().toColourspace('rgb16').png());
await save('alpha.webp', clear.clone().webp());
await save('lossless.webp', image.clone().webp({ lossless: true }));
await save('lossless-alpha.webp', clear.clone().webp({ lossless: true }));
await save('still.avif', image.clone().avif({ effort: 0 }));
await save('still.gif', image.clone().gif({ effort: 1 }));
await save('still.tiff', image.clone().tiff());
const frames = await Promise.all([1, 2, 3].map(() => scene(80, 60).raw().toBuffer()));
const film = sharp(Buffer.concat(frames), { raw: { width: 80, height: 180, channels: 3, pageHeight: 60 } });
await save('film.gif', film.clone().gif({ effort: 1 }));
await save('film.webp', film.clone().webp());
await save('drawing.svg', Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'));
await save('text.png', Buffer.from('this is no image at all, and has more than a few bytes\n'));
await save('empty.png', Buffer.alloc(0));
await save('icon.ico', Buffer.concat([Buffer.from([0, 0, 1, 0, 1, 0]), Buffer.alloc(40)]));
await save('bitmap.bmp', Buffer.concat([Buffer.from('BM'), Buffer.alloc(60)]));

// Broken images: cut off, with damaged bytes, and with sizes that are not theirs.
const whole = await image.clone().jpeg().toBuffer();
await save('cut.jpg', whole.subarray(0, whole.length >> 1));
await save('noisy-end.jpg', Buffer.concat([whole.subarray(0, whole.length - 2), Buffer.alloc(20, 7), whole.subarray(-2)]));
const png = await image.clone().png().toBuffer();
await save('cut.png', png.subarray(0, png.length >> 1));
const webp = await image.clone().webp().toBuffer();
await save('cut.webp', webp.subarray(0, webp.length >> 1));
for (let n = 0; n < 6; n++) {
  const damaged = Buffer.from([whole, png, webp][n % 3]);
  for (let i = 0; i < 3; i++) damaged[size(30, damaged.length - 1)] ^= 1 << size(0, 7);
  await save(`damaged-${n}.${['jpg', 'png', 'webp'][n % 3]}`, damaged);
}
// Bombs: few bytes that say that they are very large.
const grey = (width, height) => sharp(Buffer.alloc(width * height, 86), { raw: { width, height, channels: 1 } }).toColourspace('b-w');
await save('bomb.png', await grey(11000, 11000).png({ compressionLevel: 6 }).toBuffer());
const tall = Buffer.from(png);
tall.writeUInt32BE(0x7fffffff, 16);
tall.writeUInt32BE(0x7fffffff, 20);
await save('bomb-header.png', tall);
const lied = Buffer.from(whole);
lied.writeUInt32BE(0xffffffff, lied.indexOf(Buffer.from([0xff, 0xc0])) + 5);
await save('bomb-header.jpg', lied);
await save('bomb.jpg', await grey(16000, 7000).jpeg({ quality: 1 }).toBuffer());
await save('bomb.webp', await sharp({ create: { width: 9000, height: 9000, channels: 3, background: '#aa4321' } }).webp({ lossless: true, effort: 0 }).toBuffer());

// More, of drawn kinds, until there are enough.
const pick = (...choices) => choices[Math.floor(random() * choices.length)];
const kinds = {
  jpg: (own) => {
    const turned = random() < 0.3 ? own.withMetadata({ orientation: size(1, 8) }) : own;
    const coloured = pick(turned, turned, turned, turned.greyscale(), turned.toColourspace('cmyk'));
    return coloured.jpeg({ quality: size(20, 100), progressive: random() < 0.5, chromaSubsampling: pick('4:2:0', '4:4:4'), mozjpeg: random() < 0.2 });
  },
  png: (own) => {
    const deep = random() < 0.2 ? own.toColourspace('rgb16') : own;
    return deep.png({ progressive: random() < 0.3, ...(random() < 0.3 && { palette: true, colours: size(2, 256) }) });
  },
  webp: (own) => own.webp(pick({ quality: size(20, 100) }, { quality: size(20, 100) }, { lossless: true }, { nearLossless: true })),
  avif: (own) => own.avif({ effort: 0 }),
  gif: (own) => own.gif(),
};
const endings = ['jpg', 'jpg', 'jpg', 'png', 'png', 'png', 'webp', 'webp', 'webp', 'avif', 'gif'];
for (let n = 0; saved < Number(count ?? 0); n++) {
  const ending = pick(...endings);
  const own = scene(size(1, 900), size(1, 700), random() < 0.4 && ending !== 'jpg' ? 4 : 3);
  const bytes = await kinds[ending](own).toBuffer();
  const isDamaged = random() < 0.1;
  if (isDamaged) for (let i = size(1, 4); i > 0; i--) bytes[size(0, bytes.length - 1)] ^= 1 << size(0, 7);
  await save(`${isDamaged ? 'damaged-more' : 'more'}-${n}.${ending}`, random() < 0.05 ? bytes.subarray(0, size(1, bytes.length)) : bytes);
}
