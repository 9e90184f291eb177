import { NextResponse } from 'next/server';

export const config = { matcher: ['/secret', '/secret/:path*', '/edge/:path*'] };

/** Admits requests with the cookie `auth=ok`; below `/edge` it does everything that a proxy can. */
export function proxy(request) {
  const [, first, kind] = request.nextUrl.pathname.split('/');
  if (first === 'edge') return edge[kind]?.(request);
  if (request.cookies.get('auth')?.value === 'ok') return NextResponse.next();
  return NextResponse.redirect(new URL('/login', request.url));
}

const edge = {
  // Redirects.
  login(request) {
    const url = new URL('/login', request.url);
    url.searchParams.set('from', request.nextUrl.pathname + request.nextUrl.search);
    return NextResponse.redirect(url);
  },
  moved(request) {
    const url = request.nextUrl.clone();
    url.pathname = url.pathname.replace('/edge/moved', '/blog');
    return NextResponse.redirect(url, 308);
  },
  see: (request) => NextResponse.redirect(new URL('/isr?seen=1#top', request.url), { status: 303, headers: { 'x-edge': 'see' } }),
  away: () => NextResponse.redirect('https://elsewhere.test/path?a=1&b=%20', 301),
  plain: (request) => Response.redirect(new URL('/login', request.url), 302),
  leave(request) {
    const response = NextResponse.redirect(new URL('/', request.url));
    response.cookies.delete('auth');
    response.cookies.set('left', 'at the door; really', { maxAge: 60, httpOnly: true, sameSite: 'lax' });
    return response;
  },
  // Rewrites.
  rewrite(request) {
    const url = request.nextUrl.clone();
    url.pathname = url.pathname.replace('/rewrite', '/seen');
    return NextResponse.rewrite(url);
  },
  post: (request) => NextResponse.rewrite(new URL('/blog/edge', request.url)),
  gone: (request) => NextResponse.rewrite(new URL('/nowhere', request.url)),
  variant(request) {
    const variant = request.cookies.get('variant')?.value === 'b' ? 'b' : 'a';
    const headers = new Headers(request.headers);
    headers.set('x-edge-part', variant);
    const response = NextResponse.rewrite(new URL(`/edge/seen/${variant}?from=variant`, request.url), { request: { headers } });
    if (!request.cookies.has('variant')) response.cookies.set('variant', variant, { path: '/edge', secure: true });
    response.headers.set('x-edge-part', variant);
    return response;
  },
  // Headers and cookies.
  headers(request) {
    const headers = new Headers(request.headers);
    headers.set('x-edge-path', request.nextUrl.pathname);
    headers.set('x-edge-query', request.nextUrl.searchParams.get('q') ?? 'none');
    headers.set('x-edge-language', request.headers.get('accept-language') ?? 'none');
    headers.delete('x-edge-forged');
    const response = NextResponse.next({ request: { headers } });
    response.headers.set('x-edge', 'seen');
    response.headers.append('vary', 'accept-language');
    return response;
  },
  // Changes that the request lists: `[method, name, value]` for request and response headers.
  many(request) {
    const { sent, answered = [], cookies = [] } = JSON.parse(request.headers.get('x-ask') ?? '{}');
    const work = (headers, list) => {
      for (const [how, ...what] of list) headers[how](...what);
      return headers;
    };
    const response = NextResponse.next(sent && { request: { headers: work(new Headers(request.headers), sent) } });
    work(response.headers, answered);
    for (const [name, value] of cookies) response.cookies.set(name, value);
    return response;
  },
  init: () => NextResponse.next({ headers: { 'x-edge': 'init', 'x-from': 'proxy' } }),
  cookies(request) {
    const response = NextResponse.next();
    const count = Number(request.cookies.get('count')?.value ?? 0) + 1;
    response.cookies.set('count', String(count));
    response.cookies.set({ name: 'words', value: 'ä b=c', path: '/edge', expires: new Date(1893456000000) });
    response.headers.set('x-edge-cookies', request.cookies.getAll().map(({ name, value }) => `${name}:${encodeURIComponent(value)}`).join(',') || 'none');
    return response;
  },
  url(request) {
    const { pathname, search, searchParams } = request.nextUrl;
    const all = [request.method, pathname, search, [...searchParams.keys()].join('.')];
    return NextResponse.next({ headers: { 'x-edge-url': encodeURI(all.join(' ')) } });
  },
  // Responses of the proxy itself.
  json: (request) => NextResponse.json({ error: 'no', path: request.nextUrl.pathname }, { status: 401, headers: { 'x-edge': 'json' } }),
  text: () => new Response('not here\n', { status: 410, headers: { 'content-type': 'text/plain', 'x-edge': 'text' } }),
  empty: () => new NextResponse(null, { status: 204 }),
  async later(request) {
    await Promise.resolve();
    if (request.method === 'POST') return NextResponse.json({ posted: true }, { status: 405, headers: { allow: 'GET' } });
    return NextResponse.next({ headers: { 'x-edge': 'later' } });
  },
};
