// The query of the visitor for whom a page was made.
//
// Next.js writes the address of a request into a page that it makes while it serves, for its router
// in the browser. A page is for everybody, and a query may be a secret: a code, a token, an address.
// `next build` writes no query either, and the router takes it from the browser's own address.

/** The address in a payload: the parts of its path between slashes, the last one with the query, and the query. */
const IN_PAYLOAD = /"c":\[(?:"(?:[^"\\]|\\.)*",?)+\](?:,"q":"(?:[^"\\]|\\.)*")?/;

/** The same in HTML, where the payload is a text in a script. */
const IN_HTML = /\\"c\\":\[(?:\\"(?:[^"\\]|\\[^"])*\\",?)+\](?:,\\"q\\":\\"(?:[^"\\]|\\[^"])*\\")?/;

/** Returns a page without the query of its address; nothing if it may still have it. */
export function withoutQuery(page: Record<string, unknown>): Record<string, unknown> | undefined {
  const { rscData, html } = page;
  // One byte is one letter, so that parts which are no text stay as they are.
  const payload = Buffer.isBuffer(rscData) ? rscData.toString('latin1') : undefined;
  const query = queryOf(IN_PAYLOAD, payload) ?? queryOf(IN_HTML, html);
  if (query === undefined) return page;
  const clean = { ...page };
  if (payload !== undefined) clean.rscData = Buffer.from(cut(IN_PAYLOAD, payload), 'latin1');
  if (typeof html === 'string') {
    clean.html = cut(IN_HTML, html);
    // The address may be divided between two scripts.
    const first = query.split('&', 1).join();
    if (first.length > 1 && (clean.html as string).includes(first)) return undefined;
  }
  return clean;
}

/** Returns the query of the address in a text, with its `?`. */
function queryOf(address: RegExp, text: unknown): string | undefined {
  const found = typeof text === 'string' ? address.exec(text)?.[0] : undefined;
  return found && /\?[^"\\]*/.exec(found)?.[0];
}

function cut(address: RegExp, text: string): string {
  return text.replace(address, (found) => found.replace(/\?(?:[^"\\]|\\[^"])*/g, ''));
}
