// ab-split: assigns each visitor to one of several variants, and always to the same one.
//
// A cookie stores the variant. The backend reads it from a header, which clients cannot send, and
// the cache stores a response for each variant.

const defaults = { cookie: 'ab', header: 'x-variant', max_age: 30 * 24 * 3600, variants: { a: 50, b: 50 } };

const read = (config) => {
  const all = { ...defaults, ...config };
  const variants = Object.entries(all.variants);
  const total = variants.reduce((sum, [, weight]) => sum + weight, 0);
  if (!(total > 0) || variants.some(([, weight]) => !(weight >= 0))) {
    throw new Error('`variants` needs a weight of 0 or more for each variant, and one above 0: { a: 90, b: 10 }');
  }
  return { ...all, weights: variants, total };
};

// Each instance reads the configuration once; two hooks of one request may run in two instances.
let settings;
const settingsOf = (ctx) => (settings ??= read(ctx.config));

const choose = ({ weights, total }) => {
  const [random] = crypto.getRandomValues(new Uint32Array(1));
  let left = (random / 2 ** 32) * total;
  for (const [name, weight] of weights) {
    left -= weight;
    if (left < 0) return name;
  }
  // Rounding may make the sum of the weights smaller than the total.
  return weights.findLast(([, weight]) => weight > 0)[0];
};

export function onRequest(request, ctx) {
  const settings = settingsOf(ctx);
  const { cookie, header, max_age, variants } = settings;
  const stored = request.cookies.get(cookie)?.value;
  const isValid = stored !== undefined && Object.hasOwn(variants, stored) && variants[stored] > 0;
  const variant = isValid ? stored : choose(settings);
  request.headers.set(header, variant);
  if (isValid) return;
  const response = NextResponse.next();
  response.cookies.set(cookie, variant, { maxAge: max_age, sameSite: 'lax', secure: request.nextUrl.protocol === 'https:' });
  return response;
}

// Responses depend on the variant, and on nothing else that this plugin sets.
export function onCacheKey(request, ctx) {
  return request.headers.get(settingsOf(ctx).header);
}

// Caches between the gateway and the visitor need the header too.
export function onResponse(response) {
  response.headers.append('vary', 'Cookie');
}
