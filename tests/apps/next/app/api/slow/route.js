import { respond } from '../../../lib/instance.js';

export const dynamic = 'force-dynamic';

/** Responds after `ms` milliseconds. */
export async function GET(request) {
  const ms = Number(new URL(request.url).searchParams.get('ms') ?? 1000);
  await new Promise((resolve) => setTimeout(resolve, ms));
  return respond({ slept: ms });
}
