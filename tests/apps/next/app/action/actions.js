'use server';

import state from '../../lib/instance.js';

/** Counts its calls, from forms without JavaScript and from fetches with `Next-Action`. */
export async function greet(form) {
  state.actions += 1;
  const name = typeof form?.get === 'function' ? form.get('name') : form;
  return `greeted:${name ?? 'nobody'}`;
}

/** The same action for a form with state (`useActionState`). */
export async function greetAgain(_before, form) {
  return greet(form);
}
