export const dynamic = 'force-dynamic';

/**
 * Redirects as a middleware of Next 15 does: to an absolute address on the app's own authority.
 * `to=foreign` sends elsewhere, which a gateway must leave alone; `to=relative` names no host.
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
