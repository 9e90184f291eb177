import state, { respond } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

export function GET() {
  state.healthHits += 1;
  return respond(
    { status: state.health, hits: state.healthHits, renders: state.renders, uptime: process.uptime() },
    { status: state.health === 'down' ? 503 : 200, headers: { 'cache-control': 'no-store' } },
  );
}

/** Sets the result of further health checks: `{"status": "ok" | "degraded" | "down"}`. */
export async function PUT(request) {
  const { status } = await request.json();
  if (!['ok', 'degraded', 'down'].includes(status)) {
    return respond({ error: 'status is ok, degraded or down' }, { status: 422 });
  }
  state.health = status;
  return respond({ status });
}
