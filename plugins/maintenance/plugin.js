// maintenance: responds with 503 to all clients except those of the people who do the maintenance.
import { networks } from './address.js';

let settings;
const read = ({ on = false, retry_after = 600, bypass = [], open = [], title = 'Back soon', message = 'We are working on this site, and will be back soon.' }) => ({
  on,
  retry_after: String(retry_after),
  isBypassed: networks(bypass),
  open,
  title,
  message,
});

const escape = (text) => text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);

const page = ({ title, message }) => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escape(title)}</title>
<body style="font: 1.1rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 20vh auto; padding: 0 1rem">
<h1>${escape(title)}</h1>
<p>${escape(message)}</p>
`;

export function onRequest(request, ctx) {
  settings ??= read(ctx.config);
  const { on, open, isBypassed, message, retry_after } = settings;
  if (!on || isBypassed(ctx.ip)) return;
  const { pathname } = request.nextUrl;
  if (open.some((prefix) => pathname === prefix || (prefix.endsWith('/') && pathname.startsWith(prefix)))) return;
  const headers = { 'retry-after': retry_after, 'cache-control': 'no-store' };
  if ((request.headers.get('accept') ?? '').includes('text/html')) {
    return new Response(page(settings), { status: 503, headers: { ...headers, 'content-type': 'text/html; charset=utf-8' } });
  }
  return Response.json({ error: 'maintenance', message }, { status: 503, headers });
}
