'use server';

import state from '../../lib/instance.js';

/** Counts its calls; a form without JavaScript and a fetch with `Next-Action` both end here. */
export async function greet(form) {
  state.actions += 1;
  const name = typeof form?.get === 'function' ? form.get('name') : form;
  return `greeted:${name ?? 'nobody'}`;
}

/** As a form with a state calls it. */
export async function greetAgain(_before, form) {
  return greet(form);
}
