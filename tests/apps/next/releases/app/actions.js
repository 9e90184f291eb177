'use server';

import { redirect } from 'next/navigation';

/** Responds to a script. */
export async function greet(name) {
  return `${process.env.NEXT_PUBLIC_TEXT} greets ${name}`;
}

/**
 * Responds to a form without JavaScript: the page that the redirect leads to has both texts. Next.js
 * sends its path as it is, without the base path.
 */
export async function order(form) {
  redirect(`${process.env.NEXT_PUBLIC_BASE ?? ''}/shop?ordered=${process.env.NEXT_PUBLIC_TEXT}-${form.get('name')}`);
}
