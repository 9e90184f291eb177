// Reads three headers, tests the path and sets two headers, for `plugin-3h` and similar workloads.
const PATH = /^\/(\d)[a-z]+$/;

export function onRequest(request) {
  const { headers } = request;
  const isPage = headers.get('accept') === 'text/html';
  const language = headers.get('accept-language') ?? 'en';
  const isGold = headers.get('cookie') === 'plan=gold';
  const path = PATH.exec(request.url.slice(request.url.indexOf('/', 8)));
  if (path === null || !isPage) return;
  headers.set('x-plan', isGold ? 'gold' : 'none');
  headers.set('x-language', language);
}
