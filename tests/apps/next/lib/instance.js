// What one process knows about itself. Route handlers may be bundled apart, so the state hangs on the process.
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

/** Names the process that answered, so that a test can count who served what. */
export function instance() {
  return { port: Number(process.env.PORT ?? 0), pid: process.pid };
}

/** JSON that says who answered, in the body and in a header. */
export function answer(body, init = {}) {
  const headers = new Headers(init.headers);
  headers.set('x-instance', String(instance().port));
  return Response.json({ instance: instance(), ...body }, { ...init, headers });
}
