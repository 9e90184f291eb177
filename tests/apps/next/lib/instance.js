// State of this process. Route handlers may be bundled separately, so it is stored in `globalThis`.
const state = (globalThis.edgewayTestState ??= {
  health: 'ok',
  healthHits: 0,
  openStreams: 0,
  endedStreams: 0,
  cancelledStreams: 0,
  actions: 0,
  renders: 0,
});

export default state;

/** Returns the port and id of this process, so that tests can count responses by instance. */
export function instance() {
  return { port: Number(process.env.PORT ?? 0), pid: process.pid };
}

/** Returns JSON with the instance that responded, in the body and in a header. */
export function respond(body, init = {}) {
  const headers = new Headers(init.headers);
  headers.set('x-instance', String(instance().port));
  return Response.json({ instance: instance(), ...body }, { ...init, headers });
}
