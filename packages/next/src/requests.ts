// The request that code runs for, and the moment at which its response is sent.

import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import type { ServerResponse } from 'node:http';

const current = new AsyncLocalStorage<ServerResponse>();

// A cache handler gets no response from Next.js, and no call when a render fails.
subscribe('http.server.request.start', (message) => {
  current.enterWith((message as { response: ServerResponse }).response);
});

/** Calls a function once the response of the current request is sent; never if it is aborted. */
export function whenSent(act: () => void): void {
  const response = current.getStore();
  if (response?.writableFinished) act();
  else response?.once('finish', act);
}
