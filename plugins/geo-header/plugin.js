// geo-header: tells the backend where a visitor is, and leads to the pages of a country.
//
// The places come from the files that the section `geo` of the configuration names.

const KNOWN = ['country', 'continent', 'city', 'region', 'latitude', 'longitude', 'timezone', 'asn', 'organization'];
const defaults = { headers: { 'x-country': 'country' }, unknown: 'XX', redirect: {}, from: '/', cookie: 'locale' };

let settings;
const read = (config) => {
  const all = { ...defaults, ...config };
  for (const what of Object.values(all.headers)) {
    if (!KNOWN.includes(what)) throw new Error(`\`${what}\` is not known of a place: ${KNOWN.join(', ')} are`);
  }
  for (const to of Object.values(all.redirect)) {
    if (!/^\/(?![/\\])/.test(to)) throw new Error(`\`redirect\` leads to paths such as /de/, and not to ${to}`);
  }
  return { ...all, headers: Object.entries(all.headers) };
};

export function onRequest(request, ctx) {
  settings ??= read(ctx.config);
  const { headers, unknown, redirect, from, cookie } = settings;
  const place = ctx.geo ?? {};
  const { pathname, search } = request.nextUrl;
  const to = place.country !== undefined && Object.hasOwn(redirect, place.country) ? redirect[place.country] : undefined;
  // Whoever has chosen is not led about.
  if (to !== undefined && pathname === from && to !== from && !request.cookies.has(cookie)) {
    // For this visitor alone, wherever the answer may be kept.
    return new Response(null, { status: 307, headers: { location: to + search, 'cache-control': 'private, no-store' } });
  }
  for (const [name, what] of headers) {
    // Names of cities have letters that headers have not.
    request.headers.set(name, place[what] === undefined ? unknown : encodeURI(place[what]));
  }
}
