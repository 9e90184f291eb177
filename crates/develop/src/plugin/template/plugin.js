// NAME: says hello at /hello, and marks every other response.

export function onRequest(request, ctx) {
  if (request.nextUrl.pathname === '/hello') {
    return new Response(`${ctx.config.greeting ?? 'hello'}, ${ctx.ip}\n`);
  }
  // What is set here reaches the backend.
  request.headers.set('x-plugin', 'NAME');
}

export function onResponse(response) {
  response.headers.set('x-plugin', 'NAME');
}
