// Purges pages and data from every cache: those of all instances of this app, then those of all
// gateways. Call it instead of revalidatePath or revalidateTag.

const ADMIN = process.env.EDGEWAY_ADMIN_URL ?? 'http://127.0.0.1:9900';
const TOKEN = process.env.EDGEWAY_ADMIN_TOKEN;

/**
 * @param {{ paths?: string[], tags?: string[] }} targets
 * @returns the receipt, which lists the results. `others` is `waiting` if a gateway has not
 *   confirmed the purge yet.
 * @throws if the purge was refused, or did not reach every gateway and every instance.
 */
export async function revalidate({ paths = [], tags = [] }) {
  const purges = [...paths.map((url) => ({ url })), ...tags.map((tag) => ({ tag }))];
  if (purges.length === 0) return null;
  const headers = { 'content-type': 'application/json' };
  if (TOKEN) headers.authorization = `Bearer ${TOKEN}`;
  const response = await fetch(new URL('/v1/purge', ADMIN), {
    method: 'POST',
    headers,
    body: JSON.stringify({ purges, fan_out: true }),
    cache: 'no-store',
    signal: AbortSignal.timeout(30_000),
  });
  const receipt = await response.json();
  if (!response.ok) {
    const reason = receipt.error?.message ?? `others: ${receipt.others}, instances: ${JSON.stringify(receipt.instances ?? [])}`;
    throw new Error(`purge failed (${response.status}): ${reason}`);
  }
  return receipt;
}
