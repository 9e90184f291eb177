export const dynamic = 'force-dynamic';

/**
 * Redirects as a middleware of Next.js 15 does: to an absolute URL with the app's host and port.
 * `to=foreign` redirects to another host, which a gateway must not change; `to=relative` has none.
 */
export function GET(request) {
  const port = process.env.PORT;
  const to = new URL(request.url).searchParams.get('to') ?? 'localhost';
  const location = {
    localhost: `http://localhost:${port}/login?from=redirect`,
    loopback: `http://127.0.0.1:${port}/login?from=redirect`,
    foreign: `http://accounts.test:${port}/login`,
    relative: '/login?from=redirect',
  }[to];
  return new Response(null, { status: 307, headers: { location } });
}
