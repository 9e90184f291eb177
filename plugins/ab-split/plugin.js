// ab-split: each visitor sees one of several variants, and keeps seeing it.
//
// A cookie says which one. The backend reads it from a header, which clients cannot send,
// and the cache keeps an answer for each.

const defaults = { cookie: 'ab', header: 'x-variant', max_age: 30 * 24 * 3600, variants: { a: 50, b: 50 } };

const read = (config) => {
  const all = { ...defaults, ...config };
  const variants = Object.entries(all.variants);
  const total = variants.reduce((sum, [, weight]) => sum + weight, 0);
  if (!(total > 0) || variants.some(([, weight]) => !(weight >= 0))) {
    throw new Error('`variants` has a weight for each variant: { a: 90, b: 10 }');
  }
  return { ...all, weights: variants, total };
};

// Each instance reads the configuration once; two hooks of a request may meet two instances.
let settings;
const settingsOf = (ctx) => (settings ??= read(ctx.config));

const choose = ({ weights, total }) => {
  const [random] = crypto.getRandomValues(new Uint32Array(1));
  let left = (random / 2 ** 32) * total;
  for (const [name, weight] of weights) {
    left -= weight;
    if (left < 0) return name;
  }
  // Sums of fractions may fall short of the whole.
  return weights.findLast(([, weight]) => weight > 0)[0];
};

export function onRequest(request, ctx) {
  const settings = settingsOf(ctx);
  const { cookie, header, max_age, variants } = settings;
  const known = request.cookies.get(cookie)?.value;
  const keeps = known !== undefined && Object.hasOwn(variants, known) && variants[known] > 0;
  const variant = keeps ? known : choose(settings);
  request.headers.set(header, variant);
  if (keeps) return;
  const response = NextResponse.next();
  response.cookies.set(cookie, variant, { maxAge: max_age, sameSite: 'lax', secure: request.nextUrl.protocol === 'https:' });
  return response;
}

// Answers differ by the variant, and by nothing else that this plugin does.
export function onCacheKey(request, ctx) {
  return request.headers.get(settingsOf(ctx).header);
}

// A cache on the way to the visitor is told as well.
export function onResponse(response) {
  response.headers.append('vary', 'Cookie');
}
