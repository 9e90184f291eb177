// Opens a URL over TLS, with whatever CAs the browser of this user trusts.
// `tests/it/first_minute/ca.rs` passes the URL. It prints `{"status"}` or `{"error"}`.
import { stop, visit } from './bench.js';

const [url] = process.argv.slice(2);
const seen = await visit(url).then(
  ({ response }) => ({ status: response.status() }),
  (error) => ({ error: String(error.message).split('\n')[0] }),
);
await stop();
console.log(JSON.stringify(seen));
process.exit(0);
