import { NextResponse } from 'next/server';

export const config = { matcher: ['/account/:path*'] };

export function proxy(request) {
  if (request.headers.get('x-key') === 'ok') return NextResponse.next();
  const url = request.nextUrl.clone();
  url.pathname = '/other';
  return NextResponse.redirect(url);
}
