// geo-header: passes a visitor's location to the backend, and redirects to the pages of a country.
//
// Locations come from the files that the section `geo` of the configuration names.

const VALUES = ['country', 'continent', 'city', 'region', 'latitude', 'longitude', 'timezone', 'asn', 'organization'];
const defaults = { headers: { 'x-country': 'country' }, unknown: 'XX', redirect: {}, from: '/', cookie: 'locale' };

let settings;
const read = (config) => {
  const all = { ...defaults, ...config };
  for (const value of Object.values(all.headers)) {
    if (!VALUES.includes(value)) throw new Error(`unknown value \`${value}\` in \`headers\`: use one of ${VALUES.join(', ')}`);
  }
  for (const to of Object.values(all.redirect)) {
    if (!/^\/(?![/\\])/.test(to)) throw new Error(`invalid target \`${to}\` in \`redirect\`: use a path such as /de/`);
  }
  return { ...all, headers: Object.entries(all.headers) };
};

export function onRequest(request, ctx) {
  settings ??= read(ctx.config);
  const { headers, unknown, redirect, from, cookie } = settings;
  const place = ctx.geo ?? {};
  const { pathname, search } = request.nextUrl;
  const to = place.country !== undefined && Object.hasOwn(redirect, place.country) ? redirect[place.country] : undefined;
  // Visitors who have chosen a language are not redirected.
  if (to !== undefined && pathname === from && to !== from && !request.cookies.has(cookie)) {
    // Only for this visitor: no cache may store the response.
    return new Response(null, { status: 307, headers: { location: to + search, 'cache-control': 'private, no-store' } });
  }
  for (const [name, value] of headers) {
    // Names of cities can have characters that headers cannot.
    request.headers.set(name, place[value] === undefined ? unknown : encodeURI(place[value]));
  }
}
