import { NextResponse } from 'next/server';

export const config = { matcher: ['/secret', '/secret/:path*'] };

/** Admits requests with the cookie `auth=ok`. */
export function middleware(request) {
  if (request.cookies.get('auth')?.value === 'ok') return NextResponse.next();
  return NextResponse.redirect(new URL('/login', request.url));
}
